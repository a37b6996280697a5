import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export.errors import PublishError
from export.publish import UNFINISHED, publish, write_file

ROOT = Path(__file__).parents[2]


def left_over(repository: Path) -> list[Path]:
    """Give every entry of the repository that starts with a dot."""
    return list(repository.glob(".*"))


def test_versions_count_up(tmp_path: Path) -> None:
    """Versions start at 1 and go on behind the largest, whether that one holds a model or not."""
    assert publish(b"a", tmp_path / "models", "m") == tmp_path / "models/m/1/model.onnx"
    (tmp_path / "models/m/7").mkdir()
    (tmp_path / "models/m/latest").mkdir()
    (tmp_path / "models/m/9.bak").mkdir()
    path = publish(b"b", tmp_path / "models", "m")
    assert (path, path.read_bytes()) == (tmp_path / "models/m/8/model.onnx", b"b")
    assert left_over(tmp_path / "models") == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    """A file named like a version is counted, not overwritten."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/1").write_text("mine")
    assert publish(b"a", tmp_path, "m") == tmp_path / "m/2/model.onnx"


def test_others_may_read(tmp_path: Path) -> None:
    """The server, another user, may read what was published: the modes are the umask's."""
    old = os.umask(0o022)
    try:
        path = publish(b"a", tmp_path, "m")
    finally:
        os.umask(old)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)] == [
        0o644,
        0o755,
        0o755,
    ]


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "é", "x" * 129, "a\n"])
def test_unfit_names(name: str, tmp_path: Path) -> None:
    """A name that could leave the repository, or that a server could not show, is refused."""
    with pytest.raises(PublishError, match="expected 1 to 128 letters"):
        publish(b"a", tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def publish_many(repository: Path, mark: bytes) -> None:
    """Publish ten versions, as one of several processes."""
    for _ in range(10):
        publish(mark, repository, "m")


def test_many_at_once(tmp_path: Path) -> None:
    """Four publishers at once get forty different versions, each whole."""
    context = multiprocessing.get_context("spawn")
    marks = [bytes([65 + i]) * 10_000 for i in range(4)]
    workers = [context.Process(target=publish_many, args=(tmp_path, mark)) for mark in marks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = {int(path.parent.name): path.read_bytes() for path in tmp_path.glob("m/*/model.onnx")}
    assert sorted(found) == list(range(1, 41))
    assert sorted(found.values()) == sorted(marks * 10)
    assert left_over(tmp_path) == []


def start_python(code: str, repository: Path) -> "subprocess.Popen[str]":
    """Run code in another process, with the repository as its argument."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(repository)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


KILLED = """
import os, pathlib, signal, sys
from export import publish as module
real = module._sync_folder
def stop(folder):
    real(folder)
    if folder.name.startswith(module.UNFINISHED):
        print("written", flush=True)
        signal.pause()
module._sync_folder = stop
module.publish(b"x" * 100_000, pathlib.Path(sys.argv[1]), "m")
"""


def test_killed_before_the_rename(tmp_path: Path) -> None:
    """kill -9 with all bytes written leaves no version; what it leaves is hidden, and removed after an hour."""
    process = start_python(KILLED, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (tmp_path / "m").exists()
    (unfinished,) = left_over(tmp_path)
    assert unfinished.name.startswith(UNFINISHED)

    assert publish(b"a", tmp_path, "m") == tmp_path / "m/1/model.onnx"
    assert unfinished.exists()  # it might have been another publisher's, at work
    long_ago = time.time() - 3700
    for path in (unfinished / "model.onnx", unfinished):
        os.utime(path, (long_ago, long_ago))
    publish(b"a", tmp_path, "m")
    assert left_over(tmp_path) == []


FULL = """
import pathlib, resource, signal, sys
from export.errors import PublishError
from export.publish import publish, write_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
folder = pathlib.Path(sys.argv[1])
for attempt in (lambda: publish(b"x" * 100_000, folder, "m"), lambda: write_file(b"x" * 100_000, folder / "out.onnx")):
    try:
        attempt()
    except PublishError as error:
        print(error)
"""


def test_full_disk(tmp_path: Path) -> None:
    """A disk that takes only half the file gets the system's reason, and keeps no half version."""
    assert resource.RLIMIT_FSIZE
    (tmp_path / "out.onnx").write_bytes(b"old")
    out, err = start_python(FULL, tmp_path).communicate(timeout=60)
    assert (
        out == f"cannot publish 'm' to {tmp_path}: File too large\ncannot write {tmp_path}/out.onnx: File too large\n"
    ), err
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_bytes() == b"old"


def test_repository_is_a_file(tmp_path: Path) -> None:
    """A repository that cannot be a folder is refused with the system's reason."""
    (tmp_path / "models").write_text("")
    with pytest.raises(PublishError, match=r"cannot publish 'm' to .*models: File exists"):
        publish(b"a", tmp_path / "models", "m")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_repository_not_writable(tmp_path: Path) -> None:
    """A repository without permission is refused with the system's reason."""
    tmp_path.chmod(0o555)
    with pytest.raises(PublishError, match="Permission denied"):
        publish(b"a", tmp_path, "m")


def test_write_file_replaces_whole(tmp_path: Path) -> None:
    """-o FILE replaces a file at once, and a missing folder is named."""
    write_file(b"one", tmp_path / "out.onnx")
    write_file(b"two", tmp_path / "out.onnx")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.onnx", b"two")]
    with pytest.raises(PublishError, match=r"cannot write .*nowhere/out\.onnx: No such file or directory"):
        write_file(b"one", tmp_path / "nowhere" / "out.onnx")
