"""Preprocessing against timm's inference transform on generated files, and class names.

The pixels must be the same to the last bit.
"""

import dataclasses
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import flaxzoo as fz
from flaxzoo.classes import class_ids, class_names
from flaxzoo.models import catalog

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("torchvision")

from timm.data import ImageNetInfo, create_transform, resolve_data_config  # noqa: E402
from timm.models import get_pretrained_cfg  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Width and height: odd, portrait, landscape, smaller than the crop, exactly it, narrow.
SIZES = [(333, 251), (199, 417), (640, 480), (31, 47), (64, 64), (73, 73), (500, 37), (1, 90)]
CONFIGS = [
    {"input_size": (3, 64, 64), "crop_pct": 0.875, "interpolation": "bilinear"},
    {"input_size": (3, 64, 64), "crop_pct": 0.95, "interpolation": "bicubic"},
    {"input_size": (3, 64, 64), "crop_pct": 1.0, "interpolation": "lanczos"},
    {"input_size": (3, 61, 61), "crop_pct": 0.9, "interpolation": "nearest"},
    {"input_size": (3, 64, 64), "crop_pct": 1.1},
    {"input_size": (3, 48, 80), "crop_pct": 0.875},
    {"input_size": (3, 81, 48), "crop_pct": 1.0, "interpolation": "bilinear"},
    {"input_size": (3, 64, 65), "crop_pct": 0.7},
    {"input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "squash"},
    {"input_size": (3, 64, 48), "crop_pct": 0.9, "crop_mode": "squash"},
    {"input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "border"},
    {"input_size": (3, 64, 49), "crop_pct": 0.8, "crop_mode": "border"},
    {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3},
]


def picture(size, mode="RGB"):
    """A gradient with shapes and noise."""
    width, height = size
    rng = np.random.default_rng(width * 1000 + height)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([255 * x / width, 255 * y / height, 127 + 100 * np.sin(x / 7 + y / 5)], -1)
    noisy = base + rng.normal(0, 20, base.shape)
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 4, height // 4, width // 2, height // 2), (250, 20, 30))
    draw.line((0, 0, width, height), (10, 240, 60), 3)
    return image.convert(mode)


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def reference(data, config):
    transform = create_transform(**config, is_training=False)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return transform(image).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: "-".join(map(str, c.values())))
def test_every_pixel_is_timms(cfg):
    config = resolve_data_config(pretrained_cfg=cfg)
    preprocess = fz.Preprocess.from_timm(cfg)
    for size in SIZES:
        for data in (encoded(picture(size), "JPEG"), encoded(picture(size), "PNG")):
            np.testing.assert_array_equal(preprocess(data)[0], reference(data, config), str(size))


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("1", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("RGB", "WEBP"),
        ("YCbCr", "JPEG"),
        ("F", "TIFF"),
    ],
)
def test_modes(mode, file_format):
    image = picture((97, 75), mode)
    if mode in ("LA", "RGBA"):
        alpha = np.linspace(0, 255, 97 * 75).astype(np.uint8).reshape(75, 97)
        image.putalpha(Image.fromarray(alpha))
    data = encoded(image, file_format)
    cfg = {"input_size": (3, 64, 64)}
    config = resolve_data_config(pretrained_cfg=cfg)
    ours = fz.Preprocess.from_timm(cfg)(data)[0]
    np.testing.assert_array_equal(ours, reference(data, config))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_a_palette_with_transparency():
    image = picture((97, 75)).quantize(16)
    data = encoded(image, "PNG", transparency=bytes(range(0, 256, 16)))
    cfg = {"input_size": (3, 64, 64)}
    ours = fz.Preprocess.from_timm(cfg)(data)[0]
    np.testing.assert_array_equal(ours, reference(data, resolve_data_config(pretrained_cfg=cfg)))


def test_narrow_pictures_are_near():
    """Where the whole resized picture would not fit into memory, only its middle is computed."""
    cfg = {"input_size": (3, 64, 64), "mean": (0,) * 3, "std": (1,) * 3, "crop_pct": 0.9}
    # 71 x 994,000 pixels when resized; timm's fits into memory, just.
    image = picture((2, 28000))
    data = encoded(image, "PNG")
    ours = fz.Preprocess.from_timm(cfg)(data)[0]
    theirs = reference(data, resolve_data_config(pretrained_cfg=cfg))
    assert np.abs(ours - theirs).max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("test", [False, True])
def test_settings_are_read_as_timm_reads_them(test):
    cfg = {
        "input_size": (3, 160, 192),
        "test_input_size": (3, 224, 256),
        "crop_pct": 0.9,
        "test_crop_pct": 0.95,
        "mean": (0.5, 0.4, 0.3),
        "crop_mode": "squash",
        "url": "not looked at",
    }
    config = resolve_data_config(pretrained_cfg=cfg, use_test_size=test)
    ours = fz.Preprocess.from_timm(cfg, test=test).to_timm()
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in ours.items()} == config
    nothing = fz.Preprocess.from_timm({}).to_timm()
    theirs = resolve_data_config(pretrained_cfg={"url": ""})
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in nothing.items()} == theirs


def test_to_timm_makes_the_same_pixels_in_timm():
    data = encoded(picture((120, 90)), "PNG")
    for preprocess in (
        fz.Preprocess((40, 56, 3)),
        fz.Preprocess((40, 40, 3), MEAN, STD, "bicubic", crop=0.875),
        fz.Preprocess((40, 56, 3), (0.5,), (0.25,), "bicubic", crop=1.0, crop_mode="border"),
    ):
        config = resolve_data_config(pretrained_cfg=preprocess.to_timm())
        np.testing.assert_array_equal(preprocess(data)[0], reference(data, config))
        again = fz.Preprocess.from_timm(preprocess.to_timm())
        np.testing.assert_array_equal(preprocess(data), again(data))


def test_grey_models_take_the_grey_picture():
    preprocess = dataclasses.replace(
        fz.Preprocess.from_timm({"input_size": (1, 64, 64)}), mean=(0,), std=(1,)
    )
    data = encoded(picture((120, 90), "L"), "PNG")
    cfg = {"input_size": (3, 64, 64), "mean": (0,) * 3, "std": (1,) * 3}
    theirs = reference(data, resolve_data_config(pretrained_cfg=cfg))
    np.testing.assert_array_equal(preprocess(data)[0], theirs[..., :1])


@pytest.mark.parametrize("name", ["imagenet1k", "imagenet12k"])
def test_class_tables(name):
    info = ImageNetInfo(name)
    assert list(class_ids(name)) == info.label_names()
    words = info.label_descriptions()
    for ours, theirs in zip(class_names(name), words, strict=True):
        assert ours.partition(" (")[0] == theirs.split(", ")[0]


def test_class_tables_are_what_the_script_writes(tmp_path):
    script = ROOT / "scripts" / "make_classes.py"
    subprocess.run([sys.executable, str(script), "--output", str(tmp_path)], check=True)
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == ["imagenet12k.txt", "imagenet1k.txt"]
    for path in written:
        packaged = ROOT / "src" / "flaxzoo" / "weights" / "classes" / path.name
        assert packaged.read_bytes() == path.read_bytes()


def test_every_tag_is_prepared_as_timm_prepares_it():
    """All tags by their settings, and each setting once by its pixels."""
    data = encoded(picture((333, 251)), "PNG")
    seen = set()
    for key, _ in catalog.weights():
        if "hub" not in catalog.entry(*key.split(".", 1)):
            continue
        config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(key).to_dict())
        preprocess = fz.models.get(key).spec.preprocess
        ours = {k: tuple(v) if isinstance(v, list) else v for k, v in preprocess.to_timm().items()}
        assert ours == config, key
        if preprocess not in seen:
            seen.add(preprocess)
            np.testing.assert_array_equal(preprocess(data)[0], reference(data, config), key)
    assert len(seen) > 50
