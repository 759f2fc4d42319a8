from __future__ import annotations

import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.augment import ColorJitter, GaussianBlur, Grayscale, pixels
from flaxzoo.errors import ShapeError

LUMA = np.float32([0.2989, 0.587, 0.114])


@pytest.fixture(scope="module")
def image(images):
    return jnp.asarray(images[0])


def test_factors_of_one_and_no_turn_change_nothing(image):
    for adjust in (
        pixels.adjust_brightness,
        pixels.adjust_contrast,
        pixels.adjust_saturation,
        pixels.adjust_sharpness,
    ):
        np.testing.assert_array_equal(adjust(image, 1.0), image)
    np.testing.assert_allclose(pixels.adjust_hue(image, 0.0), image, atol=1e-6)
    np.testing.assert_allclose(pixels.adjust_hue(image, 1.0), image, atol=1e-5)


def test_closed_forms(image):
    x = np.asarray(image)
    grey = (x * LUMA).sum(-1, keepdims=True)
    np.testing.assert_allclose(pixels.adjust_brightness(image, 1.5), np.minimum(1.5 * x, 1))
    for adjust, base in (
        (pixels.adjust_contrast, grey.mean()),
        (pixels.adjust_saturation, grey),
    ):
        for factor in (0.0, 0.4, 1.7):
            want = np.clip(base + factor * (x - base), 0, 1)
            np.testing.assert_allclose(adjust(image, factor), want, atol=1e-6)


@pytest.mark.parametrize("turn", [-0.4, 0.1, 0.25, 0.5])
def test_hue_is_colorsys(image, turn):
    found = np.asarray(pixels.adjust_hue(image, turn)).reshape(-1, 3)
    for rgb, got in zip(np.asarray(image).reshape(-1, 3), found, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*rgb.tolist())
        np.testing.assert_allclose(got, colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=2e-6)


def test_a_third_of_the_circle_permutes_the_channels(image):
    turned = pixels.adjust_hue(image, 1 / 3)
    np.testing.assert_allclose(turned, np.roll(image, 1, axis=-1), atol=2e-6)
    greys = jnp.broadcast_to(image[..., :1], image.shape)
    np.testing.assert_array_equal(pixels.adjust_hue(greys, 0.3), greys)


def test_posterize_solarize_autocontrast(image):
    levels = np.round(np.asarray(image) * 255).astype(np.uint8)
    for bits in (8, 5, 1, 0):
        masked = levels & (256 - 2 ** (8 - bits))
        np.testing.assert_allclose(pixels.posterize(image, bits), masked / 255, atol=1e-6)
    inverted = np.where(image >= 0.4, 1 - image, image)
    np.testing.assert_array_equal(pixels.solarize(image, 0.4), inverted)
    dim = 0.25 + 0.5 * image.at[..., 2].set(0.5)
    stretched = np.asarray(pixels.autocontrast(dim))
    assert (stretched[..., :2].min((0, 1)) == 0).all()
    np.testing.assert_allclose(stretched[..., :2].max((0, 1)), 1, atol=1e-6)
    np.testing.assert_array_equal(stretched[..., 2], dim[..., 2])


def test_equalize_spreads_evenly(quick_jit):
    equalize = quick_jit(pixels.equalize)
    # 256 pixels at each of four levels: 0, 1, 2, 3 go to the ends and thirds.
    dark = np.repeat(np.arange(4), 256).reshape(32, 32, 1) / 255
    spread = np.asarray(equalize(jnp.asarray(dark, jnp.float32)))
    # 768 pixels below the highest level, in steps of 768 // 255 = 3.
    want = (np.arange(4) * 256 + 1) // 3
    np.testing.assert_allclose(np.unique(spread) * 255, np.minimum(want, 255), atol=1e-4)
    flat = jnp.full((8, 8, 3), 77 / 255, jnp.float32)
    np.testing.assert_allclose(equalize(flat), flat, atol=1e-7)


def test_sharpness_leaves_the_border(image):
    smooth = np.asarray(pixels.adjust_sharpness(image, 0.0))
    np.testing.assert_array_equal(smooth[0], image[0])
    window = np.asarray(image)[2:5, 6:9]
    np.testing.assert_allclose(
        smooth[3, 7], (window.sum((0, 1)) + 4 * window[1, 1]) / 13, atol=1e-6
    )


def test_jitter_draws_its_factors(run):
    grey = np.full((2000, 2, 2, 3), 0.5, np.float32)
    factors = run(ColorJitter(brightness=0.5), grey)[:, 0, 0, 0] / 0.5
    assert factors.min() >= 0.5
    assert factors.max() <= 1.5
    assert abs(factors.mean() - 1) < 4 * 1 / np.sqrt(12 * 2000)
    assert ColorJitter(brightness=2).brightness == (0, 3)


def test_jitter_is_its_steps_in_order(run, images):
    def fixed(**fields):
        return ColorJitter(**{name: (value, value) for name, value in fields.items()})

    want = jax.vmap(
        lambda x: pixels.adjust_hue(
            pixels.adjust_saturation(
                pixels.adjust_contrast(pixels.adjust_brightness(x, 0.8), 1.3), 0.5
            ),
            0.2,
        )
    )(images)
    got = run(fixed(brightness=0.8, contrast=1.3, saturation=0.5, hue=0.2), images)
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_array_equal(run(ColorJitter(), images), images)


def test_grey(run, images):
    many = np.repeat(images[:1], 1000, 0)
    grey = run(Grayscale(p=0.3), many)
    changed = (grey != many).any((1, 2, 3))
    assert abs(changed.mean() - 0.3) < 0.06
    want = np.broadcast_to((images[0] * LUMA).sum(-1, keepdims=True), images[0].shape)
    np.testing.assert_allclose(grey[changed], np.stack([want] * changed.sum()), atol=1e-6)


def test_blur_of_a_point_is_the_kernel(run):
    point = np.zeros((1, 15, 15, 1), np.float32)
    point[0, 7, 7] = 1
    blurred = run(GaussianBlur(sigma=(1.5, 1.5), radius=4, p=1), point)[0, :, :, 0]
    line = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    line /= line.sum()
    np.testing.assert_allclose(blurred[3:12, 3:12], np.outer(line, line), atol=1e-6)
    assert blurred[:3].max() == 0


def test_blur_mirrors_and_keeps_what_is_even(run, images):
    flat = np.full((1, 9, 9, 3), 0.3, np.float32)
    np.testing.assert_allclose(run(GaussianBlur(radius=4, p=1), flat), flat, atol=1e-6)
    edge = np.zeros((1, 5, 5, 1), np.float32)
    edge[:, 1] = 1
    blurred = run(GaussianBlur(sigma=(1, 1), radius=1, p=1), edge)[0, :, 2, 0]
    side, middle = np.exp(-0.5) / (1 + 2 * np.exp(-0.5)), 1 / (1 + 2 * np.exp(-0.5))
    np.testing.assert_allclose(blurred, [2 * side, middle, side, 0, 0], atol=1e-6)
    with pytest.raises(ShapeError, match="mirrors 12 pixels at the edges"):
        GaussianBlur(sigma=(0.1, 4.0)).images(0, images)


def test_normalised_images_are_changed_as_they_were(run, images):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalized = (images - np.float32(mean)) / np.float32(std)
    for op in (ColorJitter(0.5, 0.5, 0.5, 0.2), Grayscale(p=1), GaussianBlur(radius=2, p=1)):
        inside = dataclasses.replace(op, mean=mean, std=std)
        # Optimised code computes values twice, rounding them differently.
        found = jax.jit(inside.images)(jax.random.PRNGKey(0), normalized)
        want = run(op, images)
        np.testing.assert_allclose(found * np.float32(std) + np.float32(mean), want, atol=2e-6)


def test_colours_need_three_channels(run):
    grey = np.full((2, 4, 4, 1), 0.5, np.float32)
    for op, what in (
        (ColorJitter(saturation=0.5), "saturation of ColorJitter"),
        (ColorJitter(hue=0.1), "hue of ColorJitter"),
        (Grayscale(), "the grey of Grayscale"),
    ):
        with pytest.raises(ShapeError, match=f"{what} needs images of 3 channels.*got 1"):
            op.images(0, grey)
    brighter = run(ColorJitter(brightness=(1.5, 1.5), contrast=(0.5, 0.5)), grey)
    np.testing.assert_allclose(brighter, 0.75)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColorJitter(brightness=(-0.1, 1)), "brightness must be within"),
        (lambda: ColorJitter(hue=0.6), "hue must be within"),
        (lambda: Grayscale(p=-0.1), "p must be a number in \\[0, 1\\]"),
        (lambda: GaussianBlur(sigma=(0, 1)), "sigma must be above 0"),
        (lambda: GaussianBlur(radius=0), "radius must be an int of at least 1"),
    ],
)
def test_fields_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
