"""Keras training scripts, one readable file per model family."""
