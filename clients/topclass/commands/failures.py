"""How a command ends early."""

from __future__ import annotations


class Failed(Exception):
    """The command cannot go on; the words say why, and what to do."""


class ReaderGone(Exception):
    """Whoever read standard output has closed it."""
