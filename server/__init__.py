"""The gRPC server: one ONNX file in, batches answered. Run it with `python -m server`."""
