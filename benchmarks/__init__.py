"""Measurements of the server under load, each a command that prints what it found and fails below its bar."""
