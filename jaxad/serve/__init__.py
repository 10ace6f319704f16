"""A detector behind HTTP: photos in, decisions out (docs/serve.md)."""
