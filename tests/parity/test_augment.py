"""Augmentations against torchvision's functional transforms, on float and on byte images.

Where the convention is the same the tolerance is 1e-5. torchvision's ``grid_sample`` and ours
differ in float32 coordinates by about 1e-5 of a pixel, on which random pixels turn.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torchvision.transforms import InterpolationMode, v2  # noqa: E402
from torchvision.transforms.v2 import functional as F  # noqa: E402

from flaxzoo.augment import (  # noqa: E402
    ColorJitter,
    CutMix,
    GaussianBlur,
    RandAugment,
    RandomResizedCrop,
    TrivialAugment,
    pixels,
)
from flaxzoo.augment.geometry import affine_matrix  # noqa: E402
from flaxzoo.augment.randaugment import OPS  # noqa: E402
from flaxzoo.augment.warp import resized_crop, warp  # noqa: E402
from flaxzoo.data.batch import Batch  # noqa: E402

BILINEAR = InterpolationMode.BILINEAR
# Our names of torchvision's changes.
NAMES = {name: name.title().replace("_", "") for name in OPS} | {"autocontrast": "AutoContrast"}


@pytest.fixture(scope="module")
def image():
    """Bytes ``[H, W, 3]``: smooth colours, hard edges and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:37, :50]
    picture = np.stack([x * 5, y * 6, (x + y) * 2], -1) + rng.integers(0, 40, (37, 50, 3))
    picture[8:20, 12:30] = [200, 30, 90]
    return np.clip(picture, 3, 250).astype(np.uint8)


def ours(image):
    return jnp.asarray(image, jnp.float32) / 255


def theirs(image):
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def back(tensor):
    return tensor.permute(1, 2, 0).numpy()


def close(got, want, atol=1e-5):
    np.testing.assert_allclose(np.asarray(got), want, atol=atol)


@pytest.mark.parametrize("fill", [0.0, 0.4])
@pytest.mark.parametrize(
    ("rotation", "shift", "shear", "zoom"),
    [
        (0, (3, -5), (0, 0), 1),
        (25, (0, 0), (0, 0), 1),
        (-10, (4, 2), (12, -8), 1.3),
        (100, (-7, 1), (0, 30), 0.6),
    ],
)
def test_affine(image, rotation, shift, shear, zoom, fill):
    matrix = affine_matrix(rotation, *shift, *shear, zoom)
    got = np.asarray(warp(ours(image), matrix, jnp.full(3, fill, jnp.float32)))
    # None is a fill of 0 without the mask that torchvision blends by.
    want = back(
        F.affine(
            theirs(image),
            angle=-rotation,
            translate=list(shift),
            scale=zoom,
            shear=list(shear),
            interpolation=BILINEAR,
            fill=fill or None,
        )
    )
    if fill:
        # At the border its mask attenuates twice what the sampling has attenuated.
        y, x = np.mgrid[:37, :50] - np.array([18, 24.5])[:, None, None]
        source = np.einsum("ij,jhw->ihw", np.asarray(matrix), np.stack([x, y, np.ones_like(x)]))
        edge = (abs(abs(source[0]) - 25) < 0.51) | (abs(abs(source[1]) - 18.5) < 0.51)
        got, want = got[~edge], want[~edge]
    close(got, want, atol=1e-4)
    assert np.mean(abs(got - want)) < 1e-5


def test_rotate(image):
    got = warp(ours(image), affine_matrix(33.0), jnp.zeros(3))
    close(got, back(F.rotate(theirs(image), 33.0, interpolation=BILINEAR)), atol=1e-4)


@pytest.mark.parametrize("box", [(0, 0, 37, 50), (5, 7, 20, 30), (30, 2, 7, 3)])
@pytest.mark.parametrize("size", [(37, 50), (16, 16), (80, 60)])
def test_resized_crop(image, box, size):
    got = resized_crop(ours(image), *box, size)
    want = F.resized_crop(
        theirs(image), *box, size=list(size), interpolation=BILINEAR, antialias=True
    )
    close(got, back(want))


def test_boxes_to_crop_are_distributed_alike():
    op, theirs_op = RandomResizedCrop(), v2.RandomResizedCrop(8)
    keys = jax.random.split(jax.random.PRNGKey(0), 4000)
    boxes = np.asarray(jax.jit(jax.vmap(lambda k: jnp.stack(op.box(k, 60, 100))))(keys))
    torch.manual_seed(0)
    blank = torch.zeros(3, 60, 100)
    params = [theirs_op.make_params([blank]) for _ in range(4000)]
    want = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in params])
    # Two samples of 4,000: the Kolmogorov-Smirnov bound at a level of 0.001.
    for mine, other in zip(boxes.T, want.T, strict=True):
        grid = np.arange(101)
        distance = (
            abs(
                np.searchsorted(np.sort(mine), grid, "right")
                - np.searchsorted(np.sort(other), grid, "right")
            ).max()
            / 4000
        )
        assert distance < 1.95 * np.sqrt(2 / 4000)


@pytest.mark.parametrize(
    ("name", "adjust", "values"),
    [
        ("adjust_brightness", pixels.adjust_brightness, (0, 0.5, 1, 1.8)),
        ("adjust_contrast", pixels.adjust_contrast, (0, 0.5, 1, 1.8)),
        ("adjust_saturation", pixels.adjust_saturation, (0, 0.5, 1, 1.8)),
        ("adjust_sharpness", pixels.adjust_sharpness, (0, 0.5, 1, 1.8)),
        ("adjust_hue", pixels.adjust_hue, (-0.5, -0.2, 0, 0.1, 0.5)),
        ("solarize", pixels.solarize, (0.0, 0.3, 1.0)),
    ],
)
def test_adjustments(image, name, adjust, values):
    for value in values:
        close(adjust(ours(image), value), back(getattr(F, name)(theirs(image), value)))


def test_autocontrast_and_grey(image):
    close(pixels.autocontrast(ours(image)), back(F.autocontrast(theirs(image))))
    close(pixels.gray(ours(image)), back(F.rgb_to_grayscale(theirs(image))))


@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_posterize_of_bytes(image, bits):
    whole = torch.from_numpy(image).permute(2, 0, 1)
    close(pixels.posterize(ours(image), bits) * 255, back(F.posterize(whole, bits)), atol=1e-4)


@pytest.mark.parametrize("kind", ["picture", "dark", "flat", "two"])
def test_equalize_of_bytes(image, kind):
    picture = {
        "picture": image,
        "dark": image // 8,
        "flat": np.full_like(image, 9),
        "two": np.where(image > 99, 200, 7).astype(np.uint8),
    }[kind]
    whole = torch.from_numpy(picture).permute(2, 0, 1)
    close(pixels.equalize(ours(picture)) * 255, back(F.equalize(whole)), atol=1e-4)


@pytest.mark.parametrize(("sigma", "radius"), [(0.5, 1), (1.7, 4), (3.0, 9)])
def test_gaussian_blur(image, sigma, radius):
    op = GaussianBlur((sigma, sigma), radius, p=1)
    got = op.images(0, ours(image)[None])[0]
    close(got, back(F.gaussian_blur(theirs(image), [2 * radius + 1] * 2, [sigma] * 2)))


def test_jitter_has_torchvisions_ranges():
    want = v2.ColorJitter(0.4, (0.5, 2), 1.5, 0.1)
    op = ColorJitter(0.4, (0.5, 2), 1.5, 0.1)
    for name in ("brightness", "contrast", "saturation", "hue"):
        np.testing.assert_allclose(getattr(op, name), getattr(want, name))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(("magnitude", "make"), [(9, RandAugment), (30, RandAugment), (17, None)])
def test_randaugment_s_changes(image, name, magnitude, make):
    """Each change at its magnitude, for both signs, against torchvision's own table."""
    if make is None:
        reference = v2.TrivialAugmentWide(num_magnitude_bins=31, interpolation=BILINEAR)
    else:
        reference = v2.RandAugment(1, magnitude, 31, interpolation=BILINEAR)
    magnitudes, signed = reference._AUGMENTATION_SPACE[NAMES[name]]
    table = magnitudes(31, *image.shape[:2])
    value = 0.0 if table is None else float(table[magnitude])
    # Bytes where rounding is part of the change, floats elsewhere.
    whole = name in ("posterize", "equalize")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    tensor = tensor if whole else tensor.float() / 255
    wanted = [
        back(
            reference._apply_image_or_video_transform(
                tensor, NAMES[name], sign * value, BILINEAR, {}
            )
        )
        / (255 if whole else 1)
        for sign in ((1, -1) if signed else (1,))
    ]
    op = RandAugment(1, magnitude, ops=(name,)) if make else TrivialAugment(ops=(name,))
    level = jnp.full(8, magnitude / 30)
    images = jnp.repeat(ours(image)[None], 8, 0)
    once = jax.jit(lambda key: op._once(key, images, jnp.ones(8, bool), level))
    found = np.asarray(once(jax.random.PRNGKey(1)))
    errors = np.array([[abs(got - want).max() for want in wanted] for got in found])
    assert errors.min(1).max() < 1e-4
    assert set(errors.argmin(1)) == set(range(len(wanted))) or value == 0


def test_cutmix_boxes_are_distributed_alike():
    """The share of the label that is kept, over many draws."""
    rows = 4000
    images = np.zeros((rows, 20, 30, 1), np.float32)
    labels = np.arange(rows) % 2
    targets = np.asarray(CutMix(1.0, 2)(0, Batch(images, labels)).targets)
    kept = targets[np.arange(rows), labels]
    kept = kept[kept < 1]
    torch.manual_seed(0)
    transform = v2.CutMix(num_classes=2)
    pair = torch.zeros(2, 1, 20, 30), torch.tensor([0, 1])
    want = np.array([float(transform(*pair)[1][0, 0]) for _ in range(2000)])
    want = want[want < 1]
    assert abs(kept.mean() - want.mean()) < 0.03
    assert abs(kept.std() - want.std()) < 0.02
