"""Keras training scripts, one readable file per model family; `python -m training` lists them."""
