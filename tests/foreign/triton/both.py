"""Triton's two Python clients behind one face, for the tests that ask the same of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from tests.foreign.here import address

PROTOCOLS = ("grpc", "http")


def module(protocol: str) -> ModuleType:
    """tritonclient.grpc or tritonclient.http; skips where it is not installed."""
    return pytest.importorskip(
        f"tritonclient.{protocol}", reason="tritonclient has pins of its own: make test-clients"
    )  # fmt: skip


@contextmanager
def connected(protocol: str) -> Iterator[Any]:
    """A client of the server that tests.foreign.serve started."""
    client = module(protocol).InferenceServerClient(address(protocol))
    try:
        yield client
    finally:
        client.close()


def plain(answer: Any) -> Any:
    """An answer as JSON has it, whichever client gave it."""
    if isinstance(answer, (dict, list)):
        return answer
    from google.protobuf import json_format

    return json_format.MessageToDict(answer, preserving_proto_field_name=True)
