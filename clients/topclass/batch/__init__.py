"""Batch prediction: files in, one table out, every row exactly once, whatever happens in between.

sources → pictures (decoded where the server does not) → answers (by the servers) → sinks, kept by a journal. Nothing
here knows the command line; sources and sinks know no server.
"""
