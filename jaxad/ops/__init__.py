"""Pure array functions that the methods share."""
