"""Labels are asked for once for each model file, and never mixed up between two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests import models
from tests.clients.fake import Fake, answer

ROW = np.random.default_rng(5).integers(0, 256, (1, 4, 4), np.uint8)


def test_asked_once(connect: Callable[..., Any], fake: Fake) -> None:
    """Only the first call asks for the labels; the later results have them all the same."""
    client = connect(fake.address)
    results = [client.predict(ROW, "pets") for _ in range(3)]
    assert [request.include_labels for request in fake.requests] == [True, False, False]
    assert [result.labels for result in results] == [("cat", "dog", "owl")] * 3


def test_asked_for_each_model(connect: Callable[..., Any], fake: Fake) -> None:
    """Another model or version is asked for its labels once."""
    client = connect(fake.address)
    for model, version in (("pets", 0), ("pets", 1), ("cars", 0), ("pets", 1), ("cars", 0)):
        client.predict(ROW, model, version=version)
    assert [request.include_labels for request in fake.requests] == [True, True, True, False, False]


def test_swap_in_the_middle(connect: Callable[..., Any], fake: Fake) -> None:
    """When another file answers without labels, the request is sent once more, and labels and file agree."""
    client = connect(fake.address)
    client.predict(ROW, "pets")
    fake.behave = lambda request, _: answer(request, ("red", "green"), model_sha256="cd" * 32, version=2)
    result = client.predict(ROW, "pets")
    assert [request.include_labels for request in fake.requests] == [True, False, True]
    assert fake.requests[1].tensor == fake.requests[2].tensor
    assert (result.labels, result.version, result.probabilities.shape) == (("red", "green"), 2, (1, 2))
    client.predict(ROW, "pets")
    assert len(fake.requests) == 4


def test_real_swap(client: Any, server: Any) -> None:
    """A new version with other labels goes live: the next result has its labels and its probabilities."""
    before = client.predict(ROW, "pets")
    other = models.classifier(classes=4, seed=9)
    models.put(server.models, "pets", 2, models.with_card(other, ("a", "b", "c", "d"), golden=None))
    server.refresh()
    after = client.predict(ROW, "pets")
    assert (before.version, before.labels) == (1, ("cat", "dog", "emu"))
    assert (after.version, after.labels) == (2, ("a", "b", "c", "d"))
    np.testing.assert_allclose(after.probabilities, models.expected(ROW, 4, 9), atol=1e-6)
    assert client.predict(ROW, "pets", version=1).labels == before.labels


def test_many_swaps(connect: Callable[..., Any], fake: Fake) -> None:
    """A client that lives through many versions keeps few sets of labels, and still gives each result its own."""
    client = connect(fake.address)
    for number in range(70):
        fake.behave = lambda request, _, n=number: answer(request, (f"a{n}", f"b{n}"), model_sha256=f"{n:064x}")
        assert client.predict(ROW, "pets").labels == (f"a{number}", f"b{number}")
    store = client._store if hasattr(client, "_store") and not callable(client._store) else client._client._store
    assert len(store._labels) <= 64
