from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxzoo import Preprocess
from flaxzoo.data._image_batches import Chunks, Decoder, read_batches
from flaxzoo.data.epochs import random_order
from flaxzoo.errors import DataError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def picture(width, height, mode="RGB", seed=0):
    size = (6, 4, 4 if mode in ("CMYK", "RGBA") else 3)
    pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    small = Image.fromarray(pixels, mode if mode in ("CMYK", "RGBA") else "RGB")
    large = small.resize((width, height), Image.Resampling.BICUBIC)
    return large if large.mode == mode else large.convert(mode)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every kind of file that cameras and the web produce."""
    root = tmp_path_factory.mktemp("kinds")
    made = []

    def save(name, image, **options):
        made.append(str(root / name))
        image.save(made[-1], **options)

    save("plain.jpg", picture(61, 40), quality=90)
    save("tall.jpg", picture(30, 75), quality=90)
    save("progressive.jpg", picture(50, 50), progressive=True)
    save("grey.jpg", picture(40, 41, "L"))
    save("cmyk.jpg", picture(40, 33, "CMYK"))
    save("tiny.png", picture(5, 3))
    save("alpha.png", picture(44, 33, "RGBA"))
    save("grey_alpha.png", picture(44, 33, "LA"))
    save("palette.png", picture(36, 36).quantize(17), transparency=bytes([0, 255, 7]))
    save("sixteen.png", Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50))
    save("bits.png", picture(33, 20, "1"))
    frames = [picture(31, 29, seed=seed).quantize() for seed in (1, 2)]
    save("moving.gif", frames[0], save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    save("rotated.jpg", picture(61, 40), exif=exif)
    save("lossless.webp", picture(40, 40), lossless=True)
    return made


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess((24, 32, 3)),
        Preprocess((24, 24, 3), **IMAGENET, interpolation="bicubic", crop=0.875),
        Preprocess((20, 28, 3), **IMAGENET, crop=0.9, crop_mode="border"),
        Preprocess((24, 24, 3), mean=(0.5,), std=(0.5,), crop=1.0, crop_mode="squash"),
        Preprocess((24, 24, 1), **IMAGENET),
        Preprocess((17, 13, 1), crop=0.95),
    ],
)
def test_batches_are_bitwise_those_of_preprocess(files, preprocess):
    chunks = Chunks(Decoder(preprocess), files, np.arange(len(files)), 5)
    batches = list(read_batches(chunks, 0, 3, threads=2, workers=0))
    assert not any(failures for *_, failures in batches)
    got = np.concatenate([images for images, *_ in batches])
    want = preprocess(files)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@settings(max_examples=30, deadline=None)
@given(
    mean=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    std=st.lists(st.floats(2**-10, 4, width=32), min_size=3, max_size=3),
)
def test_normalize_is_bitwise_that_of_preprocess(mean, std):
    preprocess = Preprocess((16, 16, 3), mean=tuple(mean), std=tuple(std))
    pixels = np.arange(768, dtype=np.int64).reshape(1, 16, 16, 3).astype(np.uint8)
    pixels = np.concatenate([pixels, pixels[..., ::-1]])
    out = np.empty(pixels.shape, np.float32)
    preprocess.normalize(pixels, out)
    scaled = pixels.astype(np.float32) / 255
    wanted = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(out, preprocess(pixels))


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 20), seed=st.integers(0, 99))
def test_pieces_make_up_the_epoch(size, batch, seed):
    order = random_order(size, seed)
    count = -(-size // batch)
    chunks = Chunks(Decoder(Preprocess((1, 1, 1))), [""] * size, order, batch)
    rows = [chunks.rows(number) for number in range(count * chunks.per_batch)]
    np.testing.assert_array_equal(np.concatenate(rows), order)
    for number in range(count):
        part = rows[number * chunks.per_batch : (number + 1) * chunks.per_batch]
        np.testing.assert_array_equal(
            np.concatenate(part), order[number * batch : (number + 1) * batch]
        )


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing_and_a_start_is_the_tail(files, threads):
    order = random_order(len(files), 4)
    chunks = Chunks(Decoder(Preprocess((8, 8, 3))), files, order, 9)
    whole = list(read_batches(chunks, 0, 2, threads=2, workers=0))
    tail = list(read_batches(chunks, 1, 2, threads=threads, workers=0))
    assert len(tail) == 1
    np.testing.assert_array_equal(tail[0][0], whole[1][0])
    np.testing.assert_array_equal(tail[0][1], order[9:])
    assert list(read_batches(chunks, 2, 2, threads=threads, workers=0)) == []


@pytest.mark.slow
def test_processes_give_the_same_batches(files):
    broken = [*files[:9], files[0] + ".missing"]
    chunks = Chunks(Decoder(Preprocess((64, 64, 3), **IMAGENET)), broken, np.arange(10)[::-1], 9)
    threads = list(read_batches(chunks, 0, 2, threads=2, workers=0))
    processes = list(read_batches(chunks, 0, 2, threads=2, workers=2))
    for one, two in zip(threads, processes, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
        assert one[2] == two[2]
    assert threads[0][2][0][0] == 0
    assert "no such file" in processes[0][2][0][1]


def jpeg():
    data = io.BytesIO()
    picture(64, 48).save(data, "JPEG")
    return data.getvalue()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a readable image"),
        (b"<html>404</html>", "no format that Pillow knows"),
        (jpeg()[:400], "Truncated"),
        (jpeg()[:-60], "truncated"),
        (None, "no such file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, data, reason, fast):
    file = tmp_path / "bad.jpg"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(DataError, match=rf"bad\.jpg: .*{reason}"):
        Decoder(Preprocess((8, 8, 3)), fast)(str(file))


def test_damaged_rows_are_given_as_data(tmp_path, files):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(jpeg()[:300])
    chunks = Chunks(Decoder(Preprocess((8, 8, 3))), [files[0], str(bad)], np.arange(2)[::-1], 2)
    [(images, rows, failures)] = read_batches(chunks, 0, 1, threads=1, workers=0)
    assert rows.tolist() == [1, 0]
    assert [row for row, _ in failures] == [0]
    assert str(bad) in failures[0][1]
    assert not images[0].any()
    assert images[1].any()


def test_fast_decoding_is_close_and_small_pictures_are_equal(tmp_path):
    preprocess = Preprocess((32, 24, 3), crop=0.8)
    plain, fast = Decoder(preprocess), Decoder(preprocess, fast=True)
    exif = Image.Exif()
    exif[0x0112] = 8
    for name, size in (("wide.jpg", (640, 400)), ("turned.jpg", (300, 500))):
        file = str(tmp_path / name)
        picture(*size).save(file, quality=92, exif=exif)
        with Image.open(file) as opened:
            opened.draft(None, (40, 40))
            assert opened.width < size[0] / 2
        difference = np.abs(plain(file).astype(int) - fast(file))
        assert 0 < difference.max() <= 12
        assert difference.mean() < 1.5
    for name, size in (("small.jpg", (60, 70)), ("big.png", (640, 400))):
        file = str(tmp_path / name)
        picture(*size).save(file)
        np.testing.assert_array_equal(plain(file), fast(file))


def test_a_reader_that_stops_leaves_no_thread(files):
    def running():
        return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]

    before = set(running())
    chunks = Chunks(Decoder(Preprocess((8, 8, 3))), files * 9, np.arange(9 * len(files)), 4)
    batches = read_batches(chunks, 0, 20, threads=2, workers=0)
    next(batches)
    assert set(running()) - before
    batches.close()
    until = time.monotonic() + 10
    while set(running()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert not set(running()) - before
