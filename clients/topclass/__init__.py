"""Client of the topclass server."""
