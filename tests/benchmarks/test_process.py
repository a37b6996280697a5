from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import process

BUSY = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
PARENT = (
    "import subprocess, sys, time; "
    "subprocess.run([sys.executable, '-c', {!r}]); print('done', flush=True); time.sleep(60)"
)


@pytest.mark.parametrize("ends", [True, False], ids=["a child that has ended", "a child that lives"])
def test_processor_time_of_a_tree_counts_children(ends: bool) -> None:
    """A parent that idles while its child is busy for 0.5 s has used about 0.5 s."""
    child = BUSY.format(0.5) + ("" if ends else "print('done', flush=True); time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(child)], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"done\n"
        assert len(process.tree(parent.pid)) == (1 if ends else 2)
        assert 0.45 <= process.cpu_seconds(parent.pid) <= 0.9
        assert process.rss_bytes(parent.pid) > 4e6
    finally:
        for pid in reversed(process.tree(parent.pid)):
            os.kill(pid, 9)
        parent.wait(10)
        assert parent.stdout is not None
        parent.stdout.close()


def test_what_this_process_and_its_children_do_is_not_foreign() -> None:
    """A child that is busy all the time adds less to the foreign load than it uses."""
    quiet = process.foreign_load(0.5)
    foreign = process.Foreign()
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", BUSY.format(0.5)], check=True)
    used = 0.5 / (time.monotonic() - began)
    assert foreign.processors() < quiet + used or quiet > 0.5


def test_what_others_do_is_foreign() -> None:
    """A busy process that is no child of ours, here a grandchild given away, counts."""
    away = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BUSY.format(2)!r}])"
    subprocess.run([sys.executable, "-c", away], check=True)
    time.sleep(0.3)
    assert process.foreign_load(1) > 0.2


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    """The status and what it wrote stand in the message."""
    command = [sys.executable, "-c", "raise SystemExit('no such port')"]
    with pytest.raises(SystemExit, match=r"status 1; its log:\nno such port"), process.started(command, tmp_path / "r"):
        pass


def test_a_process_that_is_gone_has_used_nothing() -> None:
    """No error: processes end while they are counted."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(10)
    assert process.cpu_seconds(gone.pid) == process.rss_bytes(gone.pid) == 0
