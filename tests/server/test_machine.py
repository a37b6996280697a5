"""What the server finds out about the machine: processors granted, the device, and how a picture is read."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server import cpus, device, images
from server.batching import Batcher
from server.errors import DeviceUnavailable
from server.model import InputSpec

LIMITS = images.Limits(10**6, 10**6)
GREY = InputSpec("image", np.dtype(np.uint8), (4, 6))
COLOUR = InputSpec("image", np.dtype(np.uint8), (4, 6, 3))


def put(root: Path, name: str, text: str) -> None:
    """A file of a made-up /proc or /sys."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_a_cgroup_v2_quota_is_found_on_the_way_up(tmp_path: Path) -> None:
    """The tightest limit between the process's own cgroup and the root counts."""
    put(tmp_path, "proc/self/cgroup", "0::/pods/one\n")
    put(tmp_path, "sys/fs/cgroup/pods/cpu.max", "150000 100000\n")
    put(tmp_path, "sys/fs/cgroup/pods/one/cpu.max", "max 100000\n")
    assert cpus.cgroup_quota(tmp_path) == 1.5
    assert cpus.granted(tmp_path) == min(2, len(os.sched_getaffinity(0)))


def test_a_cgroup_v1_quota_is_found(tmp_path: Path) -> None:
    """Version 1 keeps quota and period in two files; -1 is no limit."""
    put(tmp_path, "proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n")
    put(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1")
    put(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000")
    assert cpus.cgroup_quota(tmp_path) is None
    put(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "50000")
    put(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000")
    assert cpus.cgroup_quota(tmp_path) == 0.5
    assert cpus.granted(tmp_path) == 1


def test_no_cgroup_grants_what_the_affinity_mask_says(tmp_path: Path) -> None:
    """Without any limit the affinity mask counts; a broken file is no limit."""
    assert cpus.granted(tmp_path) == len(os.sched_getaffinity(0))
    put(tmp_path, "sys/fs/cgroup/cpu.max", "rubbish")
    assert cpus.cgroup_quota(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads can be pinned on Linux only")
def test_pinned_workers_stay_on_a_processor_each() -> None:
    """With pin, each worker may run on one processor, and the process as a whole on all of them as before."""
    before, seen = os.sched_getaffinity(0), dict[str, set[int]]()

    def compute(rows: np.ndarray) -> np.ndarray:
        seen[threading.current_thread().name] = os.sched_getaffinity(0)
        time.sleep(0.01)
        return rows

    async def main() -> None:
        batcher = Batcher(workers=2, max_rows=1000, max_bytes=10**6, pin=True)
        await batcher.lane(compute, 1, 1).submit(np.zeros((20, 1), np.float32))
        batcher.close()

    asyncio.run(main())
    wanted = sorted(before)
    assert seen == {"worker-0": {wanted[0]}, "worker-1": {wanted[1 % len(wanted)]}}
    assert os.sched_getaffinity(0) == before


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_cuda_says_why_not() -> None:
    """auto is cpu here; cuda and cuda:1 raise with the cause and the cure."""
    if device.choose("auto").names != ("cpu",):
        pytest.skip("this machine has a usable GPU")
    for wanted in ("cuda", "cuda:1", "cuda:0,cuda:1"):
        with pytest.raises(DeviceUnavailable, match=f"--device {wanted[:6].strip(':')}.* but .*onnxruntime-gpu"):
            device.choose(wanted)


def saved(picture: Image.Image, kind: str, **how: object) -> bytes:
    """A picture file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def test_lossless_files_of_the_right_size_come_through_unchanged() -> None:
    """PNG, BMP, GIF and lossless WebP of the model's own size and colours give the very same values."""
    random = np.random.default_rng(0)
    grey, colour = random.integers(0, 256, (4, 6), np.uint8), random.integers(0, 256, (4, 6, 3), np.uint8)
    for kind in ("PNG", "BMP", "GIF"):
        assert (images.decode([saved(Image.fromarray(grey), kind)], GREY, LIMITS)[0] == grey).all(), kind
    for kind, how in (("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})):
        assert (images.decode([saved(Image.fromarray(colour), kind, **how)], COLOUR, LIMITS)[0] == colour).all(), kind


def test_a_picture_is_turned_upright_as_its_exif_says() -> None:
    """A photograph taken on its side is read upright."""
    upright = np.zeros((4, 6), np.uint8)
    upright[:2] = 255
    lying = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to see it upright
    assert (images.decode([saved(lying, "PNG", exif=exif)], GREY, LIMITS)[0] == upright).all()


def test_colour_becomes_grey_and_grey_becomes_colour() -> None:
    """The model's number of channels decides."""
    red = Image.new("RGB", (6, 4), (255, 0, 0))
    assert (images.decode([saved(red, "PNG")], GREY, LIMITS) == 76).all()  # ITU-R 601-2: 0.299 of full
    grey = Image.new("L", (6, 4), 9)
    assert (images.decode([saved(grey, "PNG")], COLOUR, LIMITS) == 9).all()


def test_transparency_is_laid_on_white() -> None:
    """What a viewer shows as paper is paper to the model too, in RGBA and in palette pictures."""
    clear = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    assert (images.decode([saved(clear, "PNG")], GREY, LIMITS) == 255).all()
    palette = Image.new("P", (6, 4), 0)
    assert (images.decode([saved(palette, "PNG", transparency=0)], GREY, LIMITS) == 255).all()


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    """A 16-bit picture is scaled to 8 bits, not clipped to white."""
    deep = Image.fromarray(np.full((4, 6), 0x8040, np.uint16))
    assert (images.decode([saved(deep, "PNG")], GREY, LIMITS) == 0x80).all()


def test_other_sizes_are_stretched() -> None:
    """A larger picture is shrunk over all its area; its left half stays the left half."""
    large = np.zeros((40, 60), np.uint8)
    large[:, :30] = 200
    small = images.decode([saved(Image.fromarray(large), "PNG")], GREY, LIMITS)[0]
    assert (small[:, :2] == 200).all()
    assert (small[:, 4:] == 0).all()
