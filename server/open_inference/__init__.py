"""The Open Inference Protocol, version 2: the field's own messages, on the same repository and batcher."""
