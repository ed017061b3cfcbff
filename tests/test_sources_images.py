"""Image sets: every format gives the images that were written, and damage is told, not guessed."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from insitu.errors import OperatorError
from insitu_producers.images import cifar, cifar10_jpeg, folder, idx
from insitu_producers.images.labelled import LabelledImages

Array = NDArray[np.generic]


def idx_bytes(values: Array, code: int) -> bytes:
    header = bytes((0, 0, code, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_gives_back_what_was_written(
    tmp_path: Path, code: int, dtype: str, suffix: str
) -> None:
    values = np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(dtype)
    data = idx_bytes(values, code)
    path = tmp_path / f"values{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    read = idx.read_idx(path)
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read, values)


def write_idx_set(directory: Path, suffix: str = "") -> dict[str, Array]:
    random = np.random.default_rng(1)
    arrays: dict[str, Array] = {}
    for part, rows in (("train", 12), ("t10k", 4)):
        arrays[f"{part}-images-idx3-ubyte"] = random.integers(0, 256, (rows, 5, 6)).astype("u1")
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(rows) % 4).astype("u1")
    for name, values in arrays.items():
        data = idx_bytes(values, 8)
        path = directory / f"{name}{suffix}"
        path.write_bytes(gzip.compress(data) if suffix else data)
    return arrays


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_set_has_its_images_and_labels(tmp_path: Path, suffix: str) -> None:
    arrays = write_idx_set(tmp_path, suffix)
    images = idx.load(tmp_path)
    np.testing.assert_array_equal(images.x[:, 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(images.y, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(images.held_out_x[:, 0], arrays["t10k-images-idx3-ubyte"])
    assert (images.shape, images.classes, images.y.dtype) == ((1, 5, 6), 4, np.int64)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:-1], "its header tells"),
        (lambda data: data + b"x", "its header tells"),
        (lambda data: b"\x01" + data[1:], "begins with"),
        (lambda data: data[:6], "within its header"),
        (lambda data: b"", "begins with"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, damage: object, told: str) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(damage(idx_bytes(np.zeros((2, 3), "u1"), 8)))  # type: ignore[operator]
    with pytest.raises(OperatorError, match=told):
        idx.read_idx(path)


def test_a_damaged_gzip_and_missing_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\0\0\x08\x01")[:-4])
    with pytest.raises(OperatorError, match=r"a\.gz is no IDX file"):
        idx.read_idx(tmp_path / "a.gz")
    with pytest.raises(OperatorError, match="holds no train-images"):
        idx.load(tmp_path)
    for load in (idx.load, cifar.load, folder.load):
        with pytest.raises(OperatorError, match="has no path"):
            load(None)


def cifar_files(label_bytes: int, rows: int = 6) -> tuple[dict[str, bytes], Array]:
    random = np.random.default_rng(2)
    records = random.integers(0, 256, (rows, label_bytes + 3072)).astype("u1")
    records[:, :label_bytes] = random.integers(0, 10, (rows, label_bytes))
    one, other = "data_batch_1.bin", "test_batch.bin"
    if label_bytes == 2:
        one, other = "train.bin", "test.bin"
    half = rows // 2
    return {one: records[:half].tobytes(), other: records[half:].tobytes()}, records


@pytest.mark.parametrize("label_bytes", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar_in_a_directory_and_in_its_archive(
    tmp_path: Path, label_bytes: int, packed: bool
) -> None:
    files, records = cifar_files(label_bytes)
    directory = tmp_path / "cifar-batches-bin"
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    place = directory
    if packed:
        place = tmp_path / "cifar.tar.gz"
        with tarfile.open(place, "w:gz") as archive:
            archive.add(directory, directory.name)
    images = cifar.load(place)
    np.testing.assert_array_equal(images.y, records[:3, label_bytes - 1])
    # red first, row by row, as the format says
    assert images.x[1, 0, 0, 5] == records[1, label_bytes + 5]
    assert images.x[2, 1, 3, 4] == records[2, label_bytes + 1024 + 3 * 32 + 4]
    assert images.held_out_x.shape == (3, 3, 32, 32)
    assert images.classes == (100 if label_bytes == 2 else 10)


def test_the_pickled_cifar_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "sprung"),))  # type: ignore[return-value]

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(OperatorError, match="binary version"):
        cifar.load(tmp_path)
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "data_batch_1.bin").write_bytes(b"x" * 3072)
    (tmp_path / "test_batch.bin").write_bytes(b"x" * 3073)
    with pytest.raises(OperatorError, match="whole number of records of 3073"):
        cifar.load(tmp_path)


def write_folder(root: Path, parts: tuple[str, ...] = ("train", "test")) -> dict[str, Array]:
    random, written = np.random.default_rng(3), {}
    for part in parts:
        for name in ("zebra", "ant"):
            directory = root / part / name
            directory.mkdir(parents=True)
            for number in range(3):
                pixels = random.integers(0, 256, (6, 5, 3)).astype("u1")
                path = directory / f"{number:04}.png"
                Image.fromarray(pixels).save(path)
                written[path.relative_to(root).as_posix()] = pixels
    (root / "README.md").write_text("not an image")
    return written


@pytest.mark.parametrize("packing", ["directory", "tar", "tar.xz"])
def test_a_folder_of_images_on_disk_and_in_an_archive(tmp_path: Path, packing: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    written = write_folder(root)
    place = root
    if packing != "directory":
        place = tmp_path / f"set.{packing}"
        with tarfile.open(place, "w:xz" if packing == "tar.xz" else "w") as archive:
            for path in sorted(root.rglob("*"), reverse=True):  # in another order than on disk
                archive.add(path, path.relative_to(root).as_posix(), recursive=False)
    images = folder.load(place)
    assert images.class_names == ("ant", "zebra")
    assert images.y.tolist() == [0, 0, 0, 1, 1, 1]
    expected = [written[f"train/{name}/{n:04}.png"] for name in ("ant", "zebra") for n in range(3)]
    np.testing.assert_array_equal(images.x, np.stack(expected).transpose(0, 3, 1, 2))
    assert len(images.held_out_y) == 6


def test_decoded_images_are_cached_and_a_changed_archive_is_read_anew(tmp_path: Path) -> None:
    def archive(shade: int) -> Path:
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(buffer, "png")
        with tarfile.open(tmp_path / "set.tar", "w") as packed:
            for name in ("train/a/0.png", "train/b/0.png"):
                entry = tarfile.TarInfo(name)
                entry.size = len(buffer.getvalue())
                packed.addfile(entry, io.BytesIO(buffer.getvalue()))
        return tmp_path / "set.tar"

    cache = tmp_path / "cache"
    first = folder.load(archive(7), cache)
    (kept,) = cache.iterdir()
    np.save(kept / "x.npy", np.full((2, 3, 4, 4), 9, np.uint8))  # so that we see who reads it
    again = folder.load(tmp_path / "set.tar", cache)
    assert (int(first.x.max()), int(again.x.max())) == (7, 9)
    assert (again.class_names, again.y.tolist()) == (("a", "b"), [0, 1])
    import os

    os.utime(archive(8), ns=(1, 1))
    assert int(folder.load(tmp_path / "set.tar", cache).x.max()) == 8


def test_folders_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="holds no images"):
        folder.load(tmp_path)
    with pytest.raises(OperatorError, match="cannot be read"):
        folder.load(tmp_path / "absent.tar")
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(b"x" * 600)[:-9])
    with pytest.raises(OperatorError, match="cannot be read"):
        folder.load(tmp_path / "cut.tar.gz")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(OperatorError, match="cannot be decoded"):
        folder.load(tmp_path)
    for number, size in enumerate((4, 5)):
        Image.new("RGB", (size, size)).save(tmp_path / "a" / f"{number}.png")
    with pytest.raises(OperatorError, match="one size for all"):
        folder.load(tmp_path)


def test_the_cifar10_archive_is_whole(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = cifar10_jpeg.default_path()
    if not place.is_file():
        pytest.skip(f"no archive at {place}; say where it is with {cifar10_jpeg.VARIABLE}")
    from insitu_producers.images.archive import files_in

    for number, (inside, content) in enumerate(files_in(place)):
        if inside.endswith(".jpg"):
            assert Image.open(io.BytesIO(content)).size == (32, 32)
        if number > 50:
            break


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    ratio=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32),
    most=st.integers(0, 10),
)
def test_held_out_images_are_a_share_of_each_class_and_never_trained(
    counts: list[int], ratio: float, seed: int, most: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    x = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    names = tuple(map(str, range(len(counts))))
    whole = LabelledImages.in_one_part("toy", x, labels, names)
    images = whole.with_held_out(ratio, np.random.default_rng(seed))
    trained, held_out = images.x.ravel().astype(int), images.held_out_x.ravel().astype(int)
    assert sorted([*trained, *held_out]) == list(range(len(labels)))
    np.testing.assert_array_equal(labels[trained], images.y)
    np.testing.assert_array_equal(labels[held_out], images.held_out_y)
    for label, count in enumerate(counts):
        assert (images.held_out_y == label).sum() == round(ratio * count)
    fewer = images.at_most(most, most, np.random.default_rng(seed))
    for label in range(len(counts)):
        before = (images.y == label).sum()
        assert (fewer.y == label).sum() == (min(most, before) if most else before)
    assert set(fewer.x.ravel().astype(int)) <= set(trained)


def test_labels_and_images_that_do_not_fit_are_refused() -> None:
    x = np.zeros((3, 1, 2, 2), np.uint8)
    with pytest.raises(OperatorError, match="labels to train go from 0 to 5"):
        LabelledImages.in_one_part("toy", x, np.array([0, 1, 5]), ("a", "b"))
    with pytest.raises(OperatorError, match="have shape"):
        LabelledImages.in_one_part("toy", x, np.array([0, 1]), ("a", "b"))
