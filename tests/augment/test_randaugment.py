from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.augment import Affine, RandAugment, TrivialAugment, pixels
from flaxzoo.augment.randaugment import OPS
from flaxzoo.errors import UnknownNameError

# What magnitude 20 of 40 does, half of the strongest, for either sign.
FACTORS = {
    "brightness": pixels.adjust_brightness,
    "color": pixels.adjust_saturation,
    "contrast": pixels.adjust_contrast,
    "sharpness": pixels.adjust_sharpness,
}


def half(*names):
    return RandAugment(1, 20, 41, ops=names)


def either(found, one, other, atol=1e-6):
    """Each image is one of the two, and both occur."""
    same = [np.isclose(found, np.asarray(w), atol=atol).all((1, 2, 3)) for w in (one, other)]
    assert (same[0] | same[1]).all()
    return same[0].any() and same[1].any()


@pytest.mark.parametrize("name", FACTORS)
def test_factors(run, images, name):
    weak, strong = (jax.vmap(lambda x, f=f: FACTORS[name](x, f))(images) for f in (0.55, 1.45))
    assert either(run(half(name), images), weak, strong)


def test_unsigned_changes(run, quick_jit, images):
    for name, change in (
        ("posterize", lambda x: pixels.posterize(x, 6)),
        ("solarize", lambda x: pixels.solarize(x, 0.5)),
        ("autocontrast", pixels.autocontrast),
        ("equalize", pixels.equalize),
        ("identity", lambda x: x),
    ):
        want = quick_jit(jax.vmap(change))(images)
        np.testing.assert_allclose(run(half(name), images), want, atol=1e-6)


def test_moves(run, images):
    turned = [run(Affine(rotation=(a, a)), images) for a in (15, -15)]
    assert either(run(half("rotate"), images), *turned, atol=1e-4)
    # 0.5 * 150 / 331 * 12 = 2.7 pixels, of which 2 are taken.
    right = np.pad(images, ((0, 0), (0, 0), (2, 0), (0, 0)))[:, :, :12]
    left = np.pad(images, ((0, 0), (0, 0), (0, 2), (0, 0)))[:, :, 2:]
    assert either(run(half("translate_x"), images), right, left)
    down = np.pad(images, ((0, 0), (2, 0), (0, 0), (0, 0)))[:, :12]
    up = np.pad(images, ((0, 0), (0, 2), (0, 0), (0, 0)))[:, 2:]
    assert either(run(half("translate_y"), images), down, up)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_shears_are_about_the_upper_left_corner(run, axis):
    y, x = np.mgrid[:12, :12].astype(np.float32)
    ramps = np.repeat(np.stack([x, y], -1)[None], 8, 0)
    op = RandAugment(1, 20, 41, ops=(f"shear_{axis}",), fill="nearest")
    moved, still = (x, y) if axis == "x" else (y, x)
    want = []
    for tangent in (0.15, -0.15):
        # From the corner of the corner pixel.
        source = np.clip(moved + tangent * (still + 0.5), 0, 11)
        want.append(np.stack([source, still] if axis == "x" else [still, source], -1))
    assert either(run(op, ramps), *want, atol=1e-5)


def test_every_change_is_as_likely(run):
    """Single changes of a picture that none of them leaves as it is."""
    picture = np.random.default_rng(0).integers(40, 200, (1, 8, 8, 3)) / 255
    many = np.repeat(picture.astype(np.float32), 1400, 0)
    found = run(RandAugment(1, 20, 41), many)
    kinds, counts = np.unique(found.reshape(1400, -1), axis=0, return_counts=True)
    # Nine of the fourteen have a sign.
    assert len(kinds) == 14 + 9
    assert abs(np.sort(counts)[:18] - 50).max() < 36
    assert abs(np.sort(counts)[18:] - 100).max() < 50


def test_as_many_as_asked_one_after_the_other(run, images):
    twice = run(RandAugment(2, 20, 41, ops=("brightness",)), images)
    fits = [
        np.isclose(
            twice,
            np.clip(np.clip(images * a, 0, 1) * b, 0, 1),
            atol=1e-6,
        ).all((1, 2, 3))
        for a in (0.55, 1.45)
        for b in (0.55, 1.45)
    ]
    assert np.any(fits, axis=0).all()
    assert sum(fit.any() for fit in fits) >= 3


def test_nothing_at_magnitude_zero_but_what_has_none(run, images):
    still = tuple(name for name in OPS if name not in ("solarize", "autocontrast", "equalize"))
    np.testing.assert_allclose(run(RandAugment(2, 0, ops=still), images), images, atol=1e-6)
    np.testing.assert_array_equal(run(RandAugment(p=0), images), images)


def test_trivial_augment_draws_its_strength(run):
    many = np.full((3000, 2, 2, 3), 0.25, np.float32)
    factors = run(TrivialAugment(ops=("brightness",)), many)[:, 0, 0, 0] / 0.25
    assert factors.min() == pytest.approx(0.01, abs=1e-6)
    assert factors.max() == pytest.approx(1.99)
    assert len(np.unique(np.round(factors, 3))) == 61
    assert abs(factors.mean() - 1) < 0.05


def test_normalised_images(run, images):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalized = (images - np.float32(mean)) / np.float32(std)
    op = RandAugment(2, 20, mean=mean, std=std, fill=0.0)
    found = run(op, normalized) * np.float32(std) + np.float32(mean)
    want = run(RandAugment(2, 20), images)
    # Posterizing may fall to either side of a step.
    assert np.mean(abs(found - want) > 1e-5) < 0.02


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtypes(run, images, dtype):
    found = run(RandAugment(2, 20), jnp.asarray(images, dtype))
    assert found.dtype == dtype
    assert np.isfinite(found.astype(np.float32)).all()


def test_grey_images(run):
    grey = np.random.default_rng(0).random((8, 9, 9, 1), np.float32)
    found = run(TrivialAugment(), grey)
    assert found.shape == grey.shape
    assert (found != grey).any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: RandAugment(magnitude=31),
            ValueError,
            r"magnitude must be .* in \[0, 30\]",
        ),
        (lambda: RandAugment(0), ValueError, "num_ops must be an int of at least 1"),
        (
            lambda: RandAugment(num_magnitude_bins=1),
            ValueError,
            "num_magnitude_bins must be .* at least 2",
        ),
        (lambda: RandAugment(ops=()), ValueError, "at least one of ops"),
        (lambda: RandAugment(ops="rotate"), TypeError, "sequence of names"),
        (lambda: TrivialAugment(ops=("rotation",)), UnknownNameError, "'rotation'.*mean 'rotate'"),
    ],
)
def test_fields_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()
