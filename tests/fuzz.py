"""Fuzzing guided by coverage, for as long as wanted: `make fuzz`, or `make fuzz TARGET=pictures SECONDS=600`.

Not a test that pytest collects: atheris has its own loop and ends the process at the first fault, leaving the input in
`crash-…`. What it finds becomes a case in tests/server/test_fuzz.py or test_card.py.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["server", "PIL"]):
    from server import card, images
    from server.batching import Batcher
    from server.config import Config
    from server.errors import InvalidInput, ModelRefused, ServingError
    from server.interceptor import Call
    from server.repository import Repository
    from server.service import InferenceService
    from tests import fuzz_field

from tests import models
from tests.server.test_fuzz import CALLERS, COLOUR, FILES, GREY, SEEDS

Target = Callable[[bytes], None]


def pictures() -> Target:
    """The picture decoder."""

    def target(data: bytes) -> None:
        for spec in (GREY, COLOUR):
            try:
                images.decode([data], spec, images.Limits(1 << 20, 1 << 24))
            except InvalidInput:
                continue

    return target


def cards() -> Target:
    """The reader of cards, and the hash of files."""

    def target(data: bytes) -> None:
        for read in (lambda: card.read(data.decode("utf-8", "surrogateescape")), lambda: card.graph_sha256(data)):
            try:
                read()
            except ModelRefused:
                continue

    return target


def requests() -> Target:
    """The four methods, by the first byte."""
    loop = asyncio.new_event_loop()
    service = loop.run_until_complete(_service(Path(tempfile.mkdtemp())))

    async def one(method: int, message: bytes) -> None:
        async def messages():  # type: ignore[no-untyped-def]
            yield message

        if method == 3:
            async for _ in service.predict_stream(messages(), Call("")):
                pass
        else:
            await (service.predict, service.get_model, service.list_models)[method](message, Call(""))

    def target(data: bytes) -> None:
        try:
            loop.run_until_complete(one(data[0] % 4 if data else 0, data[1:]))
        except ServingError as error:
            if error.code not in CALLERS:
                raise

    return target


async def _service(folder: Path) -> InferenceService:
    models.put(folder, "pets", 1, models.with_card(models.classifier()))
    config = Config(models=folder)
    repository = Repository(config, "cpu", Batcher(workers=1, max_rows=1 << 20, max_bytes=1 << 30))
    await repository.refresh()
    return InferenceService(repository, config, ThreadPoolExecutor(1))


GOOD_CARD = models.with_card(models.classifier()).metadata_props[0].value.encode()
TARGETS = {
    "pictures": (pictures, FILES),
    "cards": (cards, [GOOD_CARD, models.classifier().SerializeToString()]),
    "open_inference": (fuzz_field.open_inference, fuzz_field.MESSAGES),
    "http": (fuzz_field.http, fuzz_field.BODIES),
    "requests": (requests, [bytes([method]) + seed for method in range(4) for seed in SEEDS]),
}


def main(name: str, seconds: str) -> None:
    """Fuzzes one target, from its good inputs on."""
    make, seeds = TARGETS[name]
    corpus = Path(tempfile.mkdtemp())
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    flags = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], make())
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
