"""Generated from proto/open_inference by scripts/stubs; nothing here is written by hand."""
