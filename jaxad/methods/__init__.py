"""Detection methods, one paper a file."""
