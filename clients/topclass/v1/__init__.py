"""The generated stubs of `topclass.v1`."""
