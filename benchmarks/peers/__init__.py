"""What the comparison with another library runs: each side in an environment of its own."""
