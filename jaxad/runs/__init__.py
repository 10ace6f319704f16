"""The jobs of the command line, and the folder that they read and write."""
