"""How a job ends early."""

from __future__ import annotations


class Failed(Exception):
    """The job cannot go on; the words say why, and what to do."""


class ReaderGone(Exception):
    """Whoever read standard output has closed it."""
