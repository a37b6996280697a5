"""Pictures that the client decodes: the same arrays as the server's, and dark ink on white."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from server import images
from server.model import InputSpec
from tests import models
from tests.clients.command import read_table
from topclass.batch import pictures
from topclass.commands import run

ROWS = [(28, 28), (28, 28, 1), (13, 17, 3)]
LIMITS = images.Limits(1 << 30, 1 << 40)


def encoded(mode: str, kind: str, orientation: int, size: tuple[int, int]) -> bytes:
    """A picture of noise."""
    random = np.random.default_rng(orientation)
    height, width = size[1], size[0]
    if mode == "I;16":
        picture = Image.fromarray(random.integers(0, 65536, (height, width), np.uint16))
    elif mode == "P":
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).quantize(16)
    else:
        channels = {"L": (), "1": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
        array = random.integers(0, 256, (height, width, *channels), np.uint8)
        picture = Image.fromarray(array, "L" if mode == "1" else mode).convert(mode)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    stream = io.BytesIO()
    picture.save(stream, kind, **({"exif": exif} if orientation else {}))
    return stream.getvalue()


CASES = [
    *((mode, "PNG", 0) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *((mode, "JPEG", turn) for mode in ("L", "RGB", "CMYK") for turn in range(9)),
    *((mode, "PNG", turn) for mode in ("L", "RGBA") for turn in range(1, 9)),
    *((mode, "WEBP", turn) for mode in ("RGB", "RGBA") for turn in (0, 3, 6, 8)),
    *((mode, "GIF", 0) for mode in ("L", "P", "RGB")),
    *((mode, "BMP", 0) for mode in ("1", "L", "P", "RGB")),
]


@pytest.mark.parametrize(("mode", "kind", "orientation"), CASES)
def test_as_the_server(mode: str, kind: str, orientation: int) -> None:
    """In every format, mode and EXIF orientation the client's decoder gives the server's array, value for value."""
    for size in ((28, 28), (41, 19), (1, 1)):
        data = encoded(mode, kind, orientation, size)
        for row in ROWS:
            theirs = images.decode([data], InputSpec("image", np.dtype(np.uint8), row), LIMITS)[0]
            np.testing.assert_array_equal(pictures.decode(data, row), theirs)
        assert pictures.server_reads(data)


@pytest.mark.parametrize("data", [b"", b"nothing", encoded("RGB", "PNG", 0, (40, 40))[:-200]])
def test_no_pictures(data: bytes) -> None:
    """What is no picture, or only half of one, is refused by both."""
    with pytest.raises(pictures.BadPicture, match=r"is empty|cannot be decoded"):
        pictures.decode(data, (28, 28))
    with pytest.raises(images.InvalidInput):
        images.decode([data], InputSpec("image", np.dtype(np.uint8), (28, 28)), LIMITS)


def drawn(dark_on_white: bool) -> np.ndarray:
    """A stroke on paper, uint8 [28, 28]."""
    picture = np.zeros((28, 28), np.uint8)
    picture[6:22, 12:16] = 230
    return 255 - picture if dark_on_white else picture


@pytest.fixture
def digits(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A server of a model of 28 x 28 grey pictures, and a folder with TIFF files: two on white, one on black."""
    models.put(tmp_path / "models", "digits", 1, models.classifier((28, 28)))
    monkeypatch.chdir(tmp_path)
    for name, white in (("a", True), ("b", False), ("c", True)):
        Image.fromarray(drawn(white)).save(tmp_path / f"{name}.tiff")
    np.save("all.npy", np.stack([drawn(True), drawn(False), drawn(True)]))
    address: str = serve().address
    return address


@pytest.mark.parametrize("inputs", [["a.tiff", "b.tiff", "c.tiff"], ["all.npy"]])
@pytest.mark.parametrize("invert", ["never", "auto", "always"])
def test_invert(digits: str, capfd: pytest.CaptureFixture[str], inputs: list[str], invert: str) -> None:
    """Dark ink on white is said where it is left, and turned over only where that was asked."""
    code = run(["predict", *inputs, "-o", "out.csv", "--invert", invert, "--server", digits])
    err = capfd.readouterr().err
    assert code == 0, err
    sent = np.stack([drawn(white) for white in (True, False, True)])
    if invert != "never":
        turned = [True, invert == "always", True]
        sent[turned] = 255 - sent[turned]
    rows = read_table(Path("out.csv").read_text())
    found = [[float(row[f"p_{label}"]) for label in "012"] for row in rows]
    np.testing.assert_allclose(found, models.expected(sent), atol=1e-6)
    assert err.count("--invert auto would invert such pictures") == (invert == "never")
    assert ("pictures were inverted" in err) == (invert != "never")


def test_learned_ground() -> None:
    """The samples in a card tell whether the model learned light ink on black, the opposite, or neither."""
    for picture, expected in ((drawn(False), True), (drawn(True), False), (np.full((28, 28), 128, np.uint8), None)):
        proto = models.with_card(models.classifier())
        import base64
        import json

        card = json.loads(proto.metadata_props[0].value)
        card["golden"] |= {"shape": [1, 28, 28], "inputs_base64": base64.b64encode(picture.tobytes()).decode()}
        assert pictures.light_on_dark(card) is expected
    assert pictures.light_on_dark({}) is None
