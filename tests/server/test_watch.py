"""How soon a change in the repository is noticed, and that nothing keeps the server from noticing."""

from __future__ import annotations

import builtins
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.conftest import LiveServer
from tests.server.test_neighbours import until
from tests.server.test_repository import listed, predict

SLOW = 600.0  # seconds between looks: what is noticed before that is noticed by a notice of the system
notices = pytest.mark.skipif(sys.platform != "linux", reason="the notices tested here are those of inotify")


def seconds_until(condition: Callable[[], bool]) -> float:
    """How long it takes until a condition holds."""
    started = time.monotonic()
    until(condition)
    return time.monotonic() - started


@pytest.fixture
def watching(repository: Path, serve: Callable[..., LiveServer]) -> LiveServer:
    """A server that has begun to watch, and hardly ever looks by itself."""
    pytest.importorskip("watchfiles", reason="watchfiles, of server/requirements.txt, is not installed")
    server = serve(models=repository, watch="auto", watch_seconds=SLOW)
    models.put(repository, "begun", 1, b"")
    until(lambda: ("begun", 1) in listed(server) or _touch(repository))
    return server


def _touch(repository: Path) -> bool:
    os.utime(repository)
    time.sleep(0.05)
    return False


@notices
def test_a_published_version_is_live_within_half_a_second(watching: LiveServer) -> None:
    """From the rename of the finished folder to the first answer of the new version: 0.5 s, warm-up apart."""
    models.put(watching.models, "pets", 2, models.classifier(seed=2))
    taken = seconds_until(lambda: predict(watching).version == 2)
    warm_up = 0.25  # of model.MEASURE_SECONDS, and of the two cores that tests share
    assert taken < 0.5 + warm_up


@notices
def test_every_kind_of_change_is_noticed(watching: LiveServer) -> None:
    """A model that is new, aliases, a deleted version and a file rewritten in place: each is noticed by itself."""
    models.put(watching.models, "birds", 1, models.classifier())
    until(lambda: ("birds", 1) in listed(watching))
    file = models.put(watching.models, "birds", 2, b"rubbish")
    until(lambda: ("birds", 2) in listed(watching))
    file.write_bytes(models.classifier(seed=2).SerializeToString())
    until(lambda: predict(watching, "birds").version == 2)
    (watching.models / "birds" / "aliases.json").write_text('{"champion": 1}')
    until(lambda: predict(watching, "birds").version == 1)
    file.unlink()
    file.parent.rmdir()
    until(lambda: ("birds", 2) not in listed(watching))


@notices
def test_a_folder_that_is_swapped_is_watched_in_its_new_place(
    repository: Path, serve: Callable[..., LiveServer]
) -> None:
    """After the repository's folder was moved away and another put in its place, changes are noticed there."""
    pytest.importorskip("watchfiles", reason="watchfiles, of server/requirements.txt, is not installed")
    server = serve(models=repository, watch="auto", watch_seconds=0.3)
    repository.rename(repository.with_name("old"))
    time.sleep(0.5)
    assert predict(server).version == 1
    other = repository.with_name("new")
    models.put(other, "pets", 5, models.classifier(seed=5))
    other.rename(repository)
    until(lambda: predict(server).version == 5)
    models.put(repository, "pets", 6, models.classifier(seed=6))
    until(lambda: predict(server).version == 6)


def test_polling_notices_what_the_system_gives_no_notice_of(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """With --watch poll the server looks every watch_seconds, as network file systems need it."""
    server = serve(models=repository, watch="poll", watch_seconds=0.05)
    models.put(repository, "pets", 2, models.classifier(seed=2))
    until(lambda: predict(server).version == 2)


def test_without_notices_the_server_polls_and_says_so_once(
    repository: Path,
    serve: Callable[..., LiveServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the system gives no notices, watch=auto looks every watch_seconds and logs why, one line."""
    real = builtins.__import__

    def without_watchfiles(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "watchfiles":
            raise OSError(28, "inotify watch limit reached")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without_watchfiles)
    server = serve(models=repository, watch="auto", watch_seconds=0.05)
    models.put(repository, "pets", 2, models.classifier(seed=2))
    until(lambda: predict(server).version == 2)
    time.sleep(0.2)
    told = [record.getMessage() for record in caplog.records if "no notices of changes" in record.getMessage()]
    assert len(told) == 1
    assert "inotify watch limit reached" in told[0]


def test_a_server_that_watches_stops_at_once(watching: LiveServer) -> None:
    """Stopping does not wait for the next look."""
    started = time.monotonic()
    watching.stop_async().result(30)
    assert time.monotonic() - started < 2
