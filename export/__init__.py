"""Keras to ONNX: convert, verify, describe, publish. Run it with `python -m export RUN`."""
