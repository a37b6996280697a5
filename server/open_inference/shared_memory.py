"""The extension "system_shared_memory": tensors in files of /dev/shm that callers registered. Copies; maps nothing.

A mapped file that its owner cuts short kills whoever touches the lost pages with SIGBUS, and what was checked in it can
change before it is computed. So a tensor is copied by pread when its request arrives, and an answer goes out by pwrite.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path

from server.errors import InvalidInput, QueueFull, RegionExists, UnknownRegion, Unsupported, first_line
from server.open_inference import parameters
from server.open_inference.stubs import grpc_service_pb2 as pb

FOLDER = Path("/dev/shm")
MOST_REGIONS = 256  # each is an open file
MOST_NAME = 256  # characters
KEY = re.compile(r"/?([^/\0]{1,255})")  # as shm_open has it; "." and ".." are folders, which is told of them
_AT_ONCE = 1 << 20  # bytes that are copied in the event loop; more are copied in a thread
REGION, OFFSET, SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"


class Region:
    """A part of a file in shared memory. The file stays open as long as somebody holds this, registered or not."""

    def __init__(self, name: str, key: str, offset: int, byte_size: int):
        """Opens the file; the errors say why it cannot be a region."""
        self.name, self.key, self.offset, self.byte_size = name, key, offset, byte_size
        self._file = _open(key)
        weakref.finalize(self, os.close, self._file)
        size = os.fstat(self._file).st_size
        if byte_size < 1 or offset + byte_size > size:
            raise InvalidInput(
                f"the region is bytes {offset} to {offset + byte_size} of {key!r}, which has {size}; it must be 1 or "
                "more bytes inside it"
            )

    def read(self, offset: int, size: int) -> bytearray:
        """A copy of bytes of the region; InvalidInput where its file has become too short for that."""
        data, done = bytearray(size), 0
        view = memoryview(data)
        while done < size:
            count = os.preadv(self._file, [view[done:]], self.offset + offset + done)
            if not count:
                raise self._too_short()
            done += count
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Overwrites bytes of the region; InvalidInput where its file has become too short, or has no room for them."""
        if os.fstat(self._file).st_size < self.offset + offset + len(data):
            raise self._too_short()  # pwrite would make it longer
        view, done = memoryview(data), 0
        try:
            while done < len(data):
                done += os.pwrite(self._file, view[done:], self.offset + offset + done)
        except OSError as error:  # a file with holes, and no memory left to fill them
            raise InvalidInput(f"region {self.name!r} cannot be written: {error.strerror}") from error

    def _too_short(self) -> InvalidInput:
        size = os.fstat(self._file).st_size
        return InvalidInput(
            f"the file of region {self.name!r}, {self.key!r}, was cut to {size} bytes; register it again"
        )


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: bytes of a region."""

    region: Region
    offset: int
    size: int


class Regions:
    """What callers registered. Used on one event loop."""

    def __init__(self, most_tensor: int, most_copying: int):
        """most_tensor: bytes of one tensor that is read; most_copying: of all that are read at the same time."""
        self._regions: dict[str, Region] = {}
        self._most_tensor, self._most_copying, self._copying = most_tensor, most_copying, 0

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Makes bytes of the file `key` known as `name`; the errors say why not."""
        if not 1 <= len(name) <= MOST_NAME:
            raise InvalidInput(f"a region's name has 1 to {MOST_NAME} characters; this one has {len(name)}")
        if name in self._regions:
            raise RegionExists(f"there is a region {name[:64]!r} already; unregister it first")
        if len(self._regions) >= MOST_REGIONS:
            raise QueueFull(f"there are {MOST_REGIONS} regions, which is the most; unregister some")
        if offset < 0:
            raise InvalidInput(f"the region starts at byte {offset}; it must be 0 or more")
        self._regions[name] = Region(name, key, offset, byte_size)

    def unregister(self, name: str) -> None:
        """Forgets a region, or all of them where name is empty. One that is not there is no error, as in Triton.

        Requests that use it are answered.
        """
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def known(self, name: str) -> list[Region]:
        """The region of that name, all of them where it is empty; UnknownRegion where there is none."""
        return [self._find(name)] if name else list(self._regions.values())

    def place(self, given: parameters.Parameters) -> Place:
        """Where a tensor's parameters say that it lies; the errors say what is wrong with them."""
        region = self._find(parameters.text(given, REGION))
        offset, size = parameters.whole(given, OFFSET), parameters.whole(given, SIZE)
        if size < 1 or offset < 0 or offset + size > region.byte_size:
            raise InvalidInput(
                f"the tensor is bytes {offset} to {offset + size} of region {region.name[:64]!r}, which has "
                f"{region.byte_size}; it must be 1 or more bytes inside it ({OFFSET!r}, {SIZE!r})"
            )
        return Place(region, offset, size)

    async def read(self, place: Place) -> bytes | bytearray:
        """A copy of what lies there; QueueFull where too much is being copied."""
        if place.size > self._most_tensor:
            raise InvalidInput(
                f"the tensor in shared memory has {place.size} bytes; the server takes at most {self._most_tensor}"
            )
        if self._copying + place.size > self._most_copying:
            raise QueueFull(
                f"the queue is full: {self._copying} bytes of shared memory are being copied, and {place.size} more "
                f"would exceed {self._most_copying}",
                retry_after_ms=100,
            )
        if place.size <= _AT_ONCE:
            return place.region.read(place.offset, place.size)
        self._copying += place.size
        try:
            return await asyncio.to_thread(place.region.read, place.offset, place.size)
        finally:
            self._copying -= place.size

    async def write(self, place: Place, data: bytes) -> None:
        """Puts an answer there, which must fit."""
        fits(place, len(data))
        if len(data) <= _AT_ONCE:
            place.region.write(place.offset, data)
        else:
            await asyncio.to_thread(place.region.write, place.offset, data)

    def _find(self, name: str) -> Region:
        if name not in self._regions:
            there = ", ".join(repr(known[:64]) for known in sorted(self._regions)[:10]) or "none"
            raise UnknownRegion(f"no shared memory region {name[:64]!r} is registered; there is {there}")
        return self._regions[name]


def place(given: parameters.Parameters, regions: Regions | None) -> Place | None:
    """Where a tensor's parameters say that it lies; None: not in shared memory.

    regions: what is registered; where it is None, whoever names a region is told that there is no shared memory.
    """
    if REGION not in given:
        return None
    if regions is None:
        raise Unsupported("this server has no shared memory: it was not started with --shared-memory")
    return regions.place(given)


def used(request: pb.ModelInferRequest) -> bool:
    """True if a tensor of the request is said to lie in shared memory."""
    given = (*(tensor.parameters for tensor in request.inputs), *(tensor.parameters for tensor in request.outputs))
    return any(REGION in parameters for parameters in given)


def fits(place: Place, size: int) -> None:
    """InvalidInput where an answer of so many bytes is more than its place can hold."""
    if size > place.size:
        raise InvalidInput(
            f"the answer has {size} bytes; {SIZE!r} leaves {place.size} of region {place.region.name[:64]!r}"
        )


def _open(key: str) -> int:
    """A descriptor of a plain file directly in FOLDER: no link, no folder, no device, nothing beside it."""
    found = KEY.fullmatch(key)
    if not found or found[1] in (".", ".."):
        raise InvalidInput(f"the key is {key[:64]!r}; it must be the name of a file in {FOLDER}, with or without one /")
    # Neither follows a link nor waits for who opens the other end of a pipe.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        file = os.open(FOLDER / found[1], flags)
    except FileNotFoundError as error:
        raise UnknownRegion(f"there is no {key[:64]!r} in {FOLDER}, or not where this server can see it") from error
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or first_line(error)
        raise InvalidInput(f"{key[:64]!r} in {FOLDER} cannot be opened: {words}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        with contextlib.suppress(OSError):
            os.close(file)
        raise InvalidInput(f"{key[:64]!r} in {FOLDER} is no plain file")
    return file
