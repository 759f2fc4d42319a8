"""Images to inputs; the comparison with timm is in tests/parity/test_preprocess_timm.py."""

import dataclasses
import io
import json
import re
import struct
import threading
import time
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling

import flaxzoo as fz
from flaxzoo import preprocess as preprocess_module
from flaxzoo.errors import DataError, ShapeError, UnknownNameError
from flaxzoo.images import fit
from flaxzoo.preprocess import Predictions, Preprocess

PLAIN = Preprocess((8, 8, 3))


def picture(width=20, height=14, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels else (height, width)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(image):
    return np.asarray(image, np.float32) / 255


# Geometry. The expected sizes are torchvision's and timm's, worked out by hand.


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        # floor(8 / 0.875) = 9 for the shorter side; int(9 * 20 / 14) = 12; (12 - 8) / 2 = 2.
        ((20, 14), (12, 9), (2, 0)),
        ((14, 20), (9, 12), (0, 2)),
        ((9, 9), (9, 9), (0, 0)),
        ((3, 3), (9, 9), (0, 0)),
        # (21 - 8) / 2 = 6.5, to even.
        ((7, 3), (21, 9), (6, 0)),
    ],
)
def test_center_crop(size, resized, corner):
    image = picture(*size)
    expected = image.resize(resized, Resampling.BICUBIC)
    expected = expected.crop((*corner, corner[0] + 8, corner[1] + 8))
    found = Preprocess((8, 8, 3), interpolation="bicubic", crop=0.875)(image)
    assert found.shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(found[0], pixels(expected))


def test_center_crop_to_a_rectangle():
    # To cover 8 x 16 with 20 x 14: the ratio is min(14 / 8, 20 / 16) = 1.25, so 16 x 11.
    image = picture(20, 14)
    expected = image.resize((16, 11), Resampling.BILINEAR).crop((0, 2, 16, 10))
    found = Preprocess((8, 16, 3), crop=1.0)(image)[0]
    np.testing.assert_array_equal(found, pixels(expected))


def test_squash_and_direct_resize():
    image = picture(20, 14)
    direct = image.resize((8, 6), Resampling.BILINEAR)
    np.testing.assert_array_equal(Preprocess((6, 8, 3))(image)[0], pixels(direct))
    whole = Preprocess((6, 8, 3), crop=1.0, crop_mode="squash")(image)[0]
    np.testing.assert_array_equal(whole, pixels(direct))
    part = Preprocess((6, 8, 3), crop=0.5, crop_mode="squash")(image)[0]
    expected = image.resize((16, 12), Resampling.BILINEAR).crop((4, 3, 12, 9))
    np.testing.assert_array_equal(part, pixels(expected))


def test_border_keeps_everything():
    image = Image.new("RGB", (16, 8), (255, 0, 0))
    found = Preprocess((8, 8, 3), (0.2, 0.4, 0.6), (1.0,), crop=1.0, crop_mode="border")(image)[0]
    # 8 x 4 in the middle; the borders are the mean's colour, near zero once normalised.
    np.testing.assert_allclose(found[[0, 1, 6, 7]], 0, atol=1 / 255)
    np.testing.assert_allclose(found[2:6], np.full((4, 8, 3), (0.8, -0.4, -0.6)), atol=1e-6)


def test_pictures_smaller_than_the_crop_get_black_borders():
    found = Preprocess((8, 8, 3), crop=2.0)(Image.new("RGB", (5, 5), (255, 255, 255)))[0]
    assert found[2:6, 2:6].min() == 1
    assert found.sum() == 4 * 4 * 3


def test_very_narrow_pictures_do_not_fill_the_memory():
    gradient = np.arange(60000, dtype=np.uint32)[:, None, None] * np.ones((1, 1, 3), np.uint32)
    image = Image.fromarray((gradient // 235).astype(np.uint8))
    # 256 x 15 million pixels, were the whole resized.
    start = time.perf_counter()
    for turned in (image, image.transpose(Image.Transpose.ROTATE_90)):
        found = Preprocess((224, 224, 3), crop=0.875)(turned)[0]
        np.testing.assert_allclose(found, 30000 // 235 / 255, atol=1 / 255)
    assert time.perf_counter() - start < 5


def test_only_the_middle_is_the_middle_of_the_whole(monkeypatch):
    image = picture(40, 30)
    options = {"interpolation": "bicubic", "crop": 0.8, "crop_mode": "center", "fill": (0, 0, 0)}
    whole = np.asarray(fit(image, (16, 16), **options), int)
    monkeypatch.setattr("flaxzoo.images._MAX_RESIZED", 0)
    middle = np.asarray(fit(image, (16, 16), **options), int)
    assert np.abs(whole - middle).max() <= 1


# Colours.


def test_normalisation():
    image = np.full((8, 8, 3), (0, 51, 255), np.uint8)
    found = Preprocess((8, 8, 3), (0.5, 0.4, 0.3), (0.5, 0.2, 0.1))(image)
    np.testing.assert_allclose(found[0, 0, 0], [-1.0, -1.0, 7.0], rtol=1e-5)
    assert found.dtype == np.float32


def test_one_channel_takes_the_average_of_three():
    grey = Preprocess((8, 8, 1), (0.2, 0.4, 0.6), (0.1, 0.2, 0.3))
    found = grey(np.full((8, 8), 255, np.uint8))
    np.testing.assert_allclose(found, 3.0, rtol=1e-5)
    assert grey.to_timm()["mean"] == pytest.approx([0.4])


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 7), (100, 100, 100)),
        ("La", (100, 255), (100, 100, 100)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("RGBa", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBX", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("YCbCr", (100, 128, 128), (100, 100, 100)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("I", 65535, (255, 255, 255)),
        ("I;16", 257 * 9, (9, 9, 9)),
        ("I;16B", 257 * 9, (9, 9, 9)),
        ("F", 41.5, (41, 41, 41)),
        ("F", 0.6, (153, 153, 153)),
        ("PA", (0, 7), (0, 0, 0)),
    ],
)
def test_every_mode(mode, colour, expected):
    image = Image.new(mode, (8, 8), colour)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = PLAIN(image)[0] * 255
        grey = Preprocess((8, 8, 1))(image)[0] * 255
    np.testing.assert_allclose(found, np.full((8, 8, 3), expected), atol=1e-4)
    if len(set(expected)) == 1:
        np.testing.assert_allclose(grey, expected[0], atol=1e-4)


def test_lab_pictures():
    found = PLAIN(Image.new("LAB", (8, 8), (255, 128, 128)))
    assert found.shape == (1, 8, 8, 3)
    assert Preprocess((8, 8, 1))(Image.new("LAB", (8, 8))).shape == (1, 8, 8, 1)


def test_palettes_with_transparency():
    image = picture().quantize(8)
    expected = PLAIN(image.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for transparency in (3, bytes([0, 50, 100, 150, 200, 250, 255, 255])):
            data = encoded(image, transparency=transparency)
            np.testing.assert_array_equal(PLAIN(data), expected)
        np.testing.assert_array_equal(PLAIN(image.convert("PA")), expected)


def tiff(values, photometric=1, bits=None, pixels=b""):
    """A grey TIFF of any type of numbers; Pillow writes fewer than it reads."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    pixels, bits = pixels or values.tobytes(), bits or 8 * values.itemsize
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, height), (279, len(pixels)), (339, kind)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start, count = struct.pack("<I", 8 + len(pixels)), struct.pack("<H", len(tags))
    return b"II*\0" + start + pixels + count + directory + bytes(4)


def pfm(values):
    height, width = values.shape
    return f"Pf\n{width} {height}\n-1.0\n".encode() + values[::-1].tobytes()


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("<u1", 0, 255),
        ("<i1", -128, 127),
        ("<u2", 0, 65535),
        ("<i2", -32768, 32767),
        ("<i4", 0, 65535),
        ("<f4", 0, 1),
        ("<f4", 0, 255),
        ("pfm", 0, 1),
    ],
)
def test_numbers_keep_their_range(dtype, low, high):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values = np.round(low + ramp * (high - low)) if high > 1 else ramp
    data = pfm(values) if dtype == "pfm" else tiff(values.astype(dtype))
    found = Preprocess((8, 8, 1))(data)[0, ..., 0]
    np.testing.assert_allclose(found, ramp, atol=0.51 / 255)
    if dtype == "<i2":
        # By the type, not by what one picture happens to hold.
        upper = Preprocess((8, 8, 1))(tiff(np.maximum(values, 0).astype(dtype)))[0, ..., 0]
        np.testing.assert_allclose(upper, np.maximum(ramp, 0.5), atol=1 / 255)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "kind"),
    [
        ("<f4", -1, 1, "floats from -1 to 1, .* 0 to 1 or 0 to 255"),
        ("<f4", 0, 1000, "floats from 0 to 1000"),
        ("<i4", -5, 70000, "integers from -5 to 70000, .* 0 to 65535"),
        ("<u4", 0, 3e9, r"integers from 0 to 3e\+09"),
    ],
)
def test_numbers_without_a_known_range_need_one(dtype, low, high, kind, tmp_path):
    values = np.linspace(low, high, 64).reshape(8, 8).astype(dtype)
    file = tmp_path / "depth.tif"
    file.write_bytes(tiff(values))
    with pytest.raises(DataError, match=rf"depth\.tif: .*{kind}.*value_range=\(black, white\)"):
        PLAIN(file)
    middle = (low + high) / 2
    found = Preprocess((8, 8, 1), value_range=(low, middle))(file)[0, ..., 0].ravel()
    wanted = np.minimum(np.linspace(0, 2, 64), 1)
    np.testing.assert_allclose(found, wanted, atol=1 / 255)
    # Eight bits are as they are.
    grey = Preprocess((8, 8, 1), value_range=(low, high))(np.full((8, 8), 51, np.uint8))
    np.testing.assert_allclose(grey, 0.2)


@pytest.mark.parametrize(("dtype", "high"), [("<u1", 255), ("<u2", 65535), ("<f4", 1)])
def test_where_zero_is_white(dtype, high):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    data = tiff((ramp * high).astype(dtype), photometric=0)
    found = Preprocess((8, 8, 1))(data)[0, ..., 0]
    np.testing.assert_allclose(found, 1 - ramp, atol=1 / 255)
    turned = Preprocess((8, 8, 1), value_range=(high, 0))(tiff((ramp * high).astype(dtype)))
    if dtype != "<u1":
        np.testing.assert_allclose(turned[0, ..., 0], 1 - ramp, atol=1 / 255)


def test_twelve_bits():
    # Two values in three bytes, as cameras write them.
    values = np.array([0, 4095] * 32, np.uint16)
    first, second = values[::2], values[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1)
    data = tiff(values.reshape(8, 8), bits=12, pixels=packed.astype(np.uint8).tobytes())
    found = Preprocess((8, 8, 1))(data)[0, ..., 0].ravel()
    np.testing.assert_allclose(found, values / 4095)


def test_a_range_of_values_is_one():
    made = Preprocess((8, 8, 1), value_range=[-1, 1])
    assert made.value_range == (-1.0, 1.0)
    for wrong in ((1, 1), (0, np.inf), 5, (0, 1, 2), ("a", "b")):
        with pytest.raises(ValueError, match=r"value_range must be \(black, white\)"):
            Preprocess((8, 8, 1), value_range=wrong)


def test_sixteen_bit_files():
    ramp = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    for file_format in ("PNG", "TIFF"):
        found = PLAIN(encoded(Image.fromarray(ramp), file_format))[0, ..., 0]
        np.testing.assert_allclose(found, ramp / 65535, atol=0.51 / 255)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_of_an_animation(file_format):
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue"))
    data = encoded(first, file_format, save_all=True, append_images=others)
    np.testing.assert_allclose(PLAIN(data)[0], np.full((8, 8, 3), (1, 0, 0)), atol=0.02)
    with Image.open(io.BytesIO(data)) as opened:
        opened.seek(2)
        np.testing.assert_allclose(PLAIN(opened)[0, 0, 0], [0, 0, 1], atol=0.02)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(orientation):
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[1, 2] = 255
    # How a camera stores the scene, for each value of the EXIF tag.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(PLAIN(data)[0], upright / np.float32(255))


def test_damaged_exif_does_not_spoil_a_picture():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(PLAIN(data), PLAIN(encoded(picture(), "JPEG")))


# Kinds of input.


def test_every_kind_of_input_is_the_same(tmp_path):
    image = picture(8, 8)
    path = tmp_path / "a.png"
    image.save(path)
    array = np.asarray(image)
    kinds = [path, str(path), image, array, jnp.asarray(array), path.read_bytes()]
    kinds += [bytearray(path.read_bytes()), io.BytesIO(path.read_bytes()), Image.open(path)]
    expected = pixels(image)
    for kind in kinds:
        np.testing.assert_array_equal(PLAIN(kind), expected[None], str(type(kind)))
    with path.open("rb") as file:
        np.testing.assert_array_equal(PLAIN([file, file]), np.stack([expected] * 2))
    many = PLAIN([*kinds, expected])
    np.testing.assert_array_equal(many, np.stack([expected] * (len(kinds) + 1)))
    np.testing.assert_array_equal(PLAIN(iter(kinds[:3])), many[:3])
    np.testing.assert_array_equal(PLAIN(np.array([str(path)] * 2)), many[:2])
    np.testing.assert_array_equal(PLAIN(np.array([path] * 2)), many[:2])
    np.testing.assert_array_equal(PLAIN(np.stack([array] * 2)), many[:2])
    np.testing.assert_array_equal(PLAIN(jnp.asarray(np.stack([array] * 2))), many[:2])
    np.testing.assert_array_equal(PLAIN(expected), many[:1])
    np.testing.assert_array_equal(
        PLAIN(jnp.ones((2, 8, 8, 3), jnp.bfloat16)), np.ones((2, 8, 8, 3))
    )


def test_ranks_of_arrays():
    zeros = np.zeros((5, 9, 7), np.uint8)
    assert Preprocess((8, 8, 1))(zeros).shape == (5, 8, 8, 1)
    assert PLAIN(zeros[0]).shape == (1, 8, 8, 3)
    for channels in (1, 2, 3, 4):
        assert PLAIN(np.zeros((6, 5, channels), np.uint8)).shape == (1, 8, 8, 3)
        assert PLAIN(np.zeros((2, 6, 5, channels), np.uint8)).shape == (2, 8, 8, 3)


def test_the_order_is_kept_by_the_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess_module, "available_cpus", lambda: 4)
    seen = set()
    original = preprocess_module.load_image

    def slow(image, *options):
        seen.add(threading.current_thread().name)
        # Earlier ones finish later.
        time.sleep(0.002 * (20 - int(image.stem)))
        return original(image, *options)

    monkeypatch.setattr(preprocess_module, "load_image", slow)
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (i, i, i)).save(path)
    found = PLAIN(paths) * 255
    np.testing.assert_allclose(found[:, 0, 0, 0], np.arange(20), atol=1e-4)
    assert len(seen) > 1


def test_batches(tmp_path):
    images = [picture(seed=i) for i in range(5)]
    whole = PLAIN(images)
    parts = list(PLAIN.batches(images, 2))
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    parts = list(PLAIN.batches(whole.astype(np.float16), 3))
    assert [len(part) for part in parts] == [3, 2]
    assert parts[0].dtype == np.float32
    with pytest.raises(DataError, match=r"images\[5\]: .*absent.png: no such file"):
        list(PLAIN.batches([*images, tmp_path / "absent.png"], 2))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        next(PLAIN.batches(images, 0))


# What is no image.


def test_files_that_are_no_images(tmp_path):
    good = tmp_path / "good.png"
    picture().save(good)
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    cases = [
        (text, "notes.txt: not a readable image"),
        (empty, "empty.jpg: not a readable image"),
        (tmp_path / "absent.png", "absent.png: no such file"),
        (tmp_path, "a directory, not an image file"),
        (b"no image", "8 bytes: not a readable image"),
        (io.BytesIO(b"no image"), "a BytesIO: not a readable image"),
        ("with\0nul.png", "not a readable image"),
    ]
    for bad, message in cases:
        with pytest.raises(DataError, match=message) as single:
            PLAIN(bad)
        assert "images[" not in str(single.value)
        with pytest.raises(DataError, match=rf"images\[2\]: .*{message}"):
            PLAIN([good, good, bad, text])
    with text.open("rb") as file, pytest.raises(DataError, match="notes.txt: not a readable"):
        PLAIN(file)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files(tmp_path, file_format):
    path = tmp_path / f"cut.{file_format.lower()}"
    data = encoded(picture(64, 48), file_format)
    for part in (0.5, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(DataError, match=rf"cut\.{file_format.lower()}: not a readable image"):
            PLAIN(path)
        # Pillow opens lazily: the user's image fails only here.
        try:
            lazy = Image.open(path)
        except OSError:
            continue
        with lazy, pytest.raises(DataError, match="not a readable image"):
            PLAIN(lazy)


def test_damaged_files_end_in_data_errors(rng):
    refused = 0
    for file_format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        data = np.frombuffer(encoded(picture(40, 30), file_format), np.uint8)
        for _ in range(40):
            broken = data.copy()
            where = rng.integers(0, len(data), 8)
            broken[where] = rng.integers(0, 256, 8)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert PLAIN(broken.tobytes()).shape == (1, 8, 8, 3)
                except DataError:
                    refused += 1
    assert refused > 20


def test_pictures_with_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "bomb.png"
    picture(20, 14).save(path)
    with pytest.raises(DataError, match=r"bomb.png: too many pixels .*MAX_IMAGE_PIXELS"):
        PLAIN(path)


def test_pictures_without_pixels():
    with pytest.raises(DataError, match=r"no pixels \(0 x 5\)"):
        PLAIN(Image.new("RGB", (0, 5)))
    with pytest.raises(DataError, match=r"shape \[0, 5, 3\] has no pixels"):
        PLAIN([np.zeros((0, 5, 3), np.uint8)])
    with pytest.raises(DataError, match="NaN or infinite"):
        PLAIN(Image.new("F", (8, 8), float("nan")))
    for empty in ([], np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.float32)):
        with pytest.raises(DataError, match="images is empty"):
            PLAIN(empty)


def test_what_is_no_kind_of_image():
    with pytest.raises(ShapeError, match=r"uint8 of shape .* got int64\[8, 8\]"):
        PLAIN(np.zeros((8, 8), np.int64))
    with pytest.raises(ShapeError, match=r"images\[1\]: .* got uint8\[8, 8, 5\]"):
        PLAIN([np.zeros((8, 8), np.uint8), np.zeros((8, 8, 5), np.uint8)])
    with pytest.raises(ShapeError, match=r"must have shape \[B, 8, 8, 3\], got \[2, 9, 9, 3\]"):
        PLAIN(np.zeros((2, 9, 9, 3), np.float32))
    with pytest.raises(ShapeError, match=r"images\[1\]: floating images .* got \[1, 9, 9, 3\]"):
        PLAIN([picture(), np.zeros((9, 9, 3), np.float32)])
    with pytest.raises(TypeError, match=r"images\[1\]: an image must be a path.* got NoneType"):
        PLAIN([picture(), None])
    with pytest.raises(TypeError, match=r"got int$"):
        PLAIN(3)
    with pytest.raises(TypeError, match=r"mapping with the keys 'image', 'label'"):
        PLAIN({"image": [], "label": []})


# Settings.


def test_settings_are_checked():
    for wrong, message in [
        ({"input_shape": (8, 8)}, "input_shape must be"),
        ({"input_shape": (8, 8, 4)}, "1 or 3 channels"),
        ({"input_shape": (0, 8, 3)}, "input_shape must be"),
        ({"mean": (0.1, 0.2)}, "mean must be one or three finite numbers"),
        ({"mean": (float("nan"),)}, "mean must be"),
        ({"std": (1.0, 1.0, 0.0)}, "std must be positive"),
        ({"crop": 0.0}, "crop must be a positive fraction"),
        ({"crop": float("nan")}, "crop must be a positive fraction"),
        ({"crop_mode": "border"}, "crop_mode 'border' needs crop"),
        ({"input_shape": (8.0, 8, 3)}, r"input_shape must be .* all integers, got \(8.0, 8, 3"),
        ({"input_shape": (True, 8, 3)}, "input_shape must be"),
        ({"input_shape": 8}, "input_shape must be .*, got 8"),
        ({"mean": "abc"}, "mean must be .*, got 'abc'"),
        ({"mean": 0.5}, "mean must be .* in a tuple, got 0.5"),
        ({"std": (1.0, None, 1.0)}, "std must be"),
        ({"crop": ".9"}, "crop must be a positive fraction, got '.9'"),
        ({"crop": 40.0}, "crop=40.0 of 8 x 8 pixels .* below 1"),
        ({"crop": 40.0, "crop_mode": "border"}, "crop=40.0 of 8 x 8 pixels"),
        ({"crop": 1e-9}, "crop=1e-09 of 8 x 8 pixels .* above 1,048,576"),
    ]:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(PLAIN, **wrong)
    with pytest.raises(UnknownNameError, match="'bicubik'.* Did you mean 'bicubic'"):
        dataclasses.replace(PLAIN, interpolation="bicubik")
    with pytest.raises(UnknownNameError, match="unknown crop_mode 'centre'.*'center'"):
        dataclasses.replace(PLAIN, crop=1.0, crop_mode="centre")


def test_settings_are_values():
    ours = Preprocess([8, 8, 3], [0.5], [0.5], "bicubic", 0.9)
    assert ours == Preprocess((8, 8, 3), (0.5,), (0.5,), "bicubic", 0.9)
    assert hash(ours) == hash(Preprocess((8, 8, 3), (0.5,), (0.5,), "bicubic", 0.9))
    written = json.loads(json.dumps(dataclasses.asdict(ours)))
    assert Preprocess(**written) == ours
    spec = fz.ModelSpec("mine", input_shape=(8, 8, 3), preprocess=ours)
    assert fz.ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))).preprocess == ours


def test_numbers_of_numpy_become_pythons():
    shape, mean = np.array([8, 6, 3]), np.array([0.5, 0.25, 0.125], np.float32)
    found = Preprocess(shape, mean, crop=np.float32(0.5))
    assert found == Preprocess((8, 6, 3), (0.5, 0.25, 0.125), crop=0.5)
    assert Preprocess.from_timm(json.loads(json.dumps(found.to_timm()))) == Preprocess(
        (8, 6, 3), (0.5, 0.25, 0.125), (1.0, 1.0, 1.0), crop=0.5
    )


def test_from_and_to_timm():
    config = {
        "input_size": [3, 160, 192],
        "test_input_size": [3, 224, 256],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.1, 0.2, 0.3],
        "interpolation": "bilinear",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "squash",
        "classifier": "fc",
    }
    ours = Preprocess.from_timm(config)
    means = ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert ours == Preprocess((160, 192, 3), *means, "bilinear", 0.95, "squash")
    assert Preprocess.from_timm(config, test=True).crop == 1.0
    assert Preprocess.from_timm(config, test=True).input_shape == (224, 256, 3)
    assert Preprocess.from_timm(json.loads(json.dumps(ours.to_timm()))) == ours
    assert ours.to_timm() == {key: v for key, v in config.items() if key in ours.to_timm()}
    assumed = Preprocess.from_timm({"crop_pct": None})
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert assumed == Preprocess((224, 224, 3), *imagenet, "bicubic", 0.875)
    with pytest.raises(ValueError, match="input_size must be"):
        Preprocess.from_timm({"input_size": [224, 224]})
    for field, wrong in {
        "input_size": [3, "a", 2],
        "mean": 0.5,
        "std": "abc",
        "crop_pct": ".9",
    }.items():
        with pytest.raises(ValueError, match=f"{field} must be .*, got {re.escape(repr(wrong))}"):
            Preprocess.from_timm({field: wrong})
    with pytest.raises(UnknownNameError, match="'random'"):
        Preprocess.from_timm({"interpolation": "random"})


def test_a_direct_resize_is_timms_squash():
    direct = Preprocess((8, 6, 1), (0.5,), (0.25,))
    assert direct.to_timm() == {
        "input_size": [1, 8, 6],
        "mean": [0.5],
        "std": [0.25],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    again = Preprocess.from_timm(direct.to_timm())
    np.testing.assert_array_equal(again(picture()), direct(picture()))


# Predictions.


def test_predictions_read_like_a_list():
    logits = np.log([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]])
    found = Predictions.from_logits(logits, 2, ["cat", "dog", "<owl>"])
    assert len(found) == 2
    assert [name for name, _ in found[0]] == ["cat", "dog"]
    np.testing.assert_allclose([p for _, p in found[0]], [0.7, 0.2], rtol=1e-6)
    assert all(type(p) is float for _, p in found[0])
    assert list(found) == [found[0], found[1]]
    assert found[-1][0][0] == "<owl>"
    assert isinstance(found[1:], Predictions)
    assert list(found[1:]) == [found[1]]
    with pytest.raises(IndexError):
        found[2]
    assert str(found) == "cat 70.0%, dog 20.0%\n<owl> 90.0%, cat 5.0%"
    assert repr(found).splitlines()[:2] == ["Predictions(2 examples)", "  cat 70.0%, dog 20.0%"]
    assert "<th>1</th><td>&lt;owl&gt; 90.0%</td>" in found._repr_html_()


def test_long_predictions_are_cut_where_they_are_shown():
    found = Predictions.from_logits(np.zeros((23, 2)), 1, None)
    assert found[0] == [("0", 0.5)]
    assert repr(found).endswith("  ... 3 more")
    assert len(str(found).splitlines()) == 23
    assert found._repr_html_().endswith("<p>3 more</p>")


def test_names_must_fit_the_outputs():
    with pytest.raises(ShapeError, match="gives 3 outputs, but there are 2 class names"):
        Predictions.from_logits(np.zeros((1, 3)), 1, ["a", "b"])
