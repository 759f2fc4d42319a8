from __future__ import annotations

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from flaxzoo import data
from flaxzoo.errors import DataError

CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx_bytes(array: np.ndarray, code: str = "u1") -> bytes:
    header = bytes([0, 0, CODES[code], array.ndim])
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(code).tobytes()


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)


def labels(n: int) -> np.ndarray:
    return (np.arange(n) % 10).astype(np.uint8)


def write(directory, name, payload, *, zipped=False):
    path = directory / (name + (".gz" if zipped else ""))
    path.write_bytes(gzip.compress(payload) if zipped else payload)
    return path


@pytest.mark.parametrize("code", list(CODES))
@pytest.mark.parametrize("zipped", [False, True])
def test_read_idx_round_trip(tmp_path, code, zipped):
    array = np.arange(24).reshape(2, 3, 4)
    got = data.read_idx(write(tmp_path, "x", idx_bytes(array, code), zipped=zipped))
    np.testing.assert_array_equal(got, array)
    assert got.dtype == np.dtype(code).newbyteorder("=")
    assert got.flags.writeable


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("folder", [".", "raw", "MNIST/raw"])
def test_load_both_parts(tmp_path, zipped, separator, folder):
    where = tmp_path / folder
    where.mkdir(parents=True, exist_ok=True)
    for prefix, n in (("train", 12), ("t10k", 5)):
        write(where, f"{prefix}-images{separator}idx3-ubyte", idx_bytes(images(n)), zipped=zipped)
        write(where, f"{prefix}-labels{separator}idx1-ubyte", idx_bytes(labels(n)), zipped=zipped)
    (train_x, train_y), (test_x, test_y) = data.load_mnist(tmp_path)
    assert train_x.shape == (12, 28, 28, 1)
    assert test_x.shape == (5, 28, 28, 1)
    assert train_x.dtype == np.float32
    assert train_y.dtype == test_y.dtype == np.int32
    np.testing.assert_allclose(test_x[..., 0] * 255, images(5), rtol=1e-6)
    np.testing.assert_array_equal(train_y, labels(12))
    raw, _ = data.load_mnist(tmp_path, "test", raw=True)
    np.testing.assert_array_equal(raw[..., 0], images(5))
    assert raw.dtype == np.uint8


@pytest.fixture
def pair(tmp_path):
    x = write(tmp_path, "t10k-images-idx3-ubyte", idx_bytes(images(4)))
    y = write(tmp_path, "t10k-labels-idx1-ubyte", idx_bytes(labels(4)))
    return tmp_path, x, y


def test_one_part_alone(pair):
    directory, _, _ = pair
    x, y = data.load_mnist(directory, "test")
    assert len(x) == len(y) == 4
    with pytest.raises(DataError, match=r"no train images; looked for .*pass split='test'"):
        data.load_mnist(directory)
    with pytest.raises(DataError, match="split must be"):
        data.load_mnist(directory, "val")


def test_absent(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such directory"):
        data.load_mnist(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"x: cannot be read \(No such file"):
        data.read_idx(tmp_path / "x")
    with pytest.raises(DataError, match="cannot be read"):
        data.read_idx(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_and_too_long(tmp_path, zipped):
    whole = idx_bytes(images(4))
    short = write(tmp_path, "short", whole[:-100], zipped=zipped)
    with pytest.raises(DataError, match=r"short.*\[4, 28, 28\] uint8, 3136 bytes .* 3036"):
        data.read_idx(short)
    long = write(tmp_path, "long", whole + b"!", zipped=zipped)
    with pytest.raises(DataError, match=r"long.*3136 bytes of values, but the file goes on"):
        data.read_idx(long)


def test_cut_header(tmp_path):
    with pytest.raises(DataError, match="cut short in its header, after 9 bytes"):
        data.read_idx(write(tmp_path, "x", idx_bytes(images(1))[:9]))


@pytest.mark.parametrize(
    "start", [b"", b"\x89PNG\r\n\x1a\n" + b"0" * 50, b"\0\0\x07\x01\0\0\0\0", b"\0\0\x08\0"]
)
def test_not_idx(tmp_path, start):
    with pytest.raises(DataError, match="x: not an IDX file"):
        data.read_idx(write(tmp_path, "x", start))


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(idx_bytes(images(4)))
    path = tmp_path / "x.gz"
    for cut in (5, 15, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"x\.gz.*(damaged|cut short)"):
            data.read_idx(path)
    wrong_sum = bytearray(whole)
    wrong_sum[-6] ^= 0xFF
    path.write_bytes(wrong_sum)
    with pytest.raises(DataError, match="damaged gzip data"):
        data.read_idx(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(DataError, match=r"x\.gz"):
        data.read_idx(path)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("shape", [(2**31, 28, 28), (2**32 - 1,) * 3])
def test_a_lying_header_takes_no_memory(tmp_path, zipped, shape):
    payload = bytes([0, 0, 8, 3]) + struct.pack(">3I", *shape) + b"x" * 1000
    path = write(tmp_path, "x", payload, zipped=zipped)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="but the file holds at most"):
            data.read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("images", images(3), "3 images but .* 4 labels"),
        ("images", np.zeros((4, 32, 32)), r"expected uint8 images \[N, 28, 28\], got .*32, 32"),
        ("images", np.zeros(4), "expected uint8 images"),
        ("labels", np.zeros((4, 1)), r"expected uint8 labels \[N\], got uint8\[4, 1\]"),
        ("labels", np.array([0, 9, 10, 3]), r"label 10 at index 2 is not in 0\.\.9"),
    ],
)
def test_wrong_contents(pair, name, array, message):
    directory, x, y = pair
    (x if name == "images" else y).write_bytes(idx_bytes(array))
    with pytest.raises(DataError, match=message):
        data.load_mnist(directory, "test")


def test_no_examples(pair):
    directory, x, y = pair
    x.write_bytes(idx_bytes(images(0)))
    y.write_bytes(idx_bytes(labels(0)))
    with pytest.raises(DataError, match="no examples"):
        data.load_mnist(directory, "test")
