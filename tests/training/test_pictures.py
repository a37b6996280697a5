"""A folder of pictures: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server import images
from server.model import InputSpec
from training import data, pictures
from training.errors import DataError


def put(path: Path, size: tuple[int, int] = (12, 10), mode: str = "RGB", seed: int = 0, **options: object) -> Path:
    """A picture of noise, size (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(noise, mode).save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three cats and two dogs, coloured, 12 wide and 10 high."""
    for number in range(3):
        put(tmp_path / "pets" / "cat" / f"{number}.png", seed=number)
    for number in range(2):
        put(tmp_path / "pets" / "dog" / "deeper" / f"{number}.jpg", seed=number)
    return tmp_path / "pets"


def test_folders_are_classes(pets: Path) -> None:
    """Each folder inside is a class of that name; pictures of one size come as they are, value for value."""
    contents = pictures.read(pets)
    assert contents.names == ("cat", "dog")
    assert contents.labels.tolist() == [0, 0, 0, 1, 1]
    assert contents.inputs.shape == (5, 10, 12, 3)
    assert np.array_equal(contents.inputs[1], np.asarray(Image.open(pets / "cat" / "1.png")))


def test_pictures_that_are_all_grey_are_grey(tmp_path: Path) -> None:
    """One coloured picture makes all coloured; --channels says otherwise."""
    put(tmp_path / "a" / "1.png", mode="L")
    put(tmp_path / "b" / "1.png", mode="L")
    assert pictures.read(tmp_path).inputs.shape == (2, 10, 12)
    assert pictures.read(tmp_path, channels=3).inputs.shape == (2, 10, 12, 3)
    put(tmp_path / "b" / "2.png", mode="RGB")
    assert pictures.read(tmp_path).inputs.shape == (3, 10, 12, 3)
    assert pictures.read(tmp_path, channels=1).inputs.shape == (3, 10, 12)


def test_pictures_of_many_sizes_get_one(pets: Path) -> None:
    """They are made 64x64, which a note says, or what --size says; so are those of one size that is too large."""
    put(pets / "cat" / "wide.png", (40, 20))
    contents = pictures.read(pets)
    assert contents.inputs.shape == (6, 64, 64, 3)
    assert contents.notes == ("the pictures are from 10x12 to 20x40: made 64x64 (--size HxW makes them another)",)
    assert pictures.read(pets, (8, 9)).inputs.shape == (6, 8, 9, 3)
    assert pictures.read(pets, (8, 9)).notes == ()


def test_what_a_phone_took_sideways_stands_upright(tmp_path: Path) -> None:
    """The turn that the camera wrote down is made."""
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path / "a" / "1.png", (12, 10), exif=exif)
    put(tmp_path / "b" / "1.png", (10, 12))
    assert pictures.read(tmp_path).inputs.shape == (2, 12, 10, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_training_and_server_see_the_same_picture(mode: str, channels: int, tmp_path: Path) -> None:
    """A file gives training and server the same numbers, whatever its colours, transparency and size."""
    path = tmp_path / "a" / "1.png"
    path.parent.mkdir()
    rng = np.random.default_rng(1)
    if mode == "I;16":
        Image.fromarray(rng.integers(0, 65536, (20, 30), dtype=np.uint16)).save(path)
    else:
        Image.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8), "RGBA").convert(mode).save(path)
    put(tmp_path / "b" / "1.png")
    ours = pictures.read(tmp_path, (9, 11), channels).inputs[0]
    row = (9, 11, 3) if channels == 3 else (9, 11)
    spec = InputSpec("image", np.dtype(np.uint8), row)
    theirs = images.decode([path.read_bytes()], spec, images.Limits(10**6, 10**6))[0]
    assert np.array_equal(ours, theirs)


def test_pictures_already_parted_stay_so(tmp_path: Path) -> None:
    """FOLDER/train and FOLDER/test with the same classes give the test part as it is."""
    for part, count in (("train", 3), ("test", 2)):
        for kind in ("a", "b"):
            for number in range(count):
                put(tmp_path / part / kind / f"{number}.png", seed=number)
    contents = pictures.read(tmp_path)
    assert contents.test_labels is not None
    assert (len(contents.labels), contents.test_labels.tolist()) == (6, [0, 0, 1, 1])
    put(tmp_path / "test" / "c" / "1.png")
    with pytest.raises(DataError, match="train has the classes a, b, test a, b, c; expected the same"):
        pictures.read(tmp_path)


def test_unreadable_pictures_are_named(pets: Path) -> None:
    """Every file that is no whole picture is named at once, and nothing is passed over in silence."""
    (pets / "cat" / "text.png").write_text("no picture")
    (pets / "dog" / "empty.jpg").touch()
    whole = put(pets / "dog" / "half.png", (60, 60)).read_bytes()
    (pets / "dog" / "half.png").write_bytes(whole[: len(whole) // 2])
    kinds = "PNG, JPEG, WEBP, GIF or BMP"
    with pytest.raises(DataError) as fault:
        pictures.read(pets)
    assert f"2 of its files cannot be read as {kinds}: cat/text.png, dog/empty.jpg" in str(fault.value)
    (pets / "cat" / "text.png").unlink()
    (pets / "dog" / "empty.jpg").unlink()
    with pytest.raises(DataError, match=f"1 of its files cannot be read as {kinds}: dog/half.png; remove or mend them"):
        pictures.read(pets)


def test_files_that_are_no_pictures_by_name_are_told(pets: Path) -> None:
    """A README among the pictures is ignored, and a note says so; hidden files are not worth a word."""
    (pets / "cat" / "README.txt").write_text("cats")
    (pets / "cat" / ".DS_Store").write_text("")
    contents = pictures.read(pets)
    assert len(contents.labels) == 5
    assert contents.notes == ("ignored, no pictures by their names: README.txt",)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    """No folder inside, one alone, and one without pictures each say what is missing."""
    with pytest.raises(DataError, match="0 folders inside; expected one for each class, at least two"):
        pictures.read(tmp_path)
    put(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match="1 folders inside"):
        pictures.read(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"dog: no picture inside; expected \.bmp, \.gif, \.jpeg"):
        pictures.read(tmp_path)


def test_a_folder_is_a_dataset(pets: Path) -> None:
    """load splits it and calls it by its folder's name, with a slash behind or not."""
    dataset = data.load(f"{pets}/")
    assert (dataset.name, dataset.labels) == ("pets", ("cat", "dog"))
    assert sum(dataset.sizes.values()) == 5
