"""Programs that measure; never imported by jaxad."""
