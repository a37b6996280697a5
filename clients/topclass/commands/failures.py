"""How a command ends early."""

from __future__ import annotations


class Failed(Exception):  # noqa: N818
    """The command cannot go on; the words say why, and what to do."""


class ReaderGone(Exception):  # noqa: N818
    """Whoever read standard output has closed it."""
