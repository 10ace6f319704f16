"""Datasets on disk to batches of arrays; none of it imports jax (though grain itself does)."""
