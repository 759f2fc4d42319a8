from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.augment import RandomCrop, RandomResizedCrop
from flaxzoo.augment.warp import resized_crop
from flaxzoo.errors import ArgumentError, ShapeError


def boxes(op, height, width, number=3000):
    keys = jax.random.split(jax.random.PRNGKey(0), number)
    drawn = jax.jit(jax.vmap(lambda k: jnp.stack(op.box(k, height, width))))(keys)
    return np.asarray(drawn).T


def test_the_whole_image_is_the_image(run, images):
    whole = RandomResizedCrop(scale=(1, 1), ratio=(1, 1))
    np.testing.assert_array_equal(run(whole, images), images)
    np.testing.assert_array_equal(run(RandomResizedCrop(p=0), images), images)


def test_a_box_alone_is_a_slice(images):
    got = resized_crop(jnp.asarray(images[0]), 2, 3, 5, 7, (5, 7))
    np.testing.assert_array_equal(got, images[0, 2:7, 3:10])


def test_enlarging_stops_at_the_edges_of_the_box(images):
    column = np.asarray(resized_crop(jnp.asarray(images[0]), 4, 4, 2, 1, (4, 1)))[:, 0]
    top, bottom = images[0, 4, 4], images[0, 5, 4]
    want = [top, 0.75 * top + 0.25 * bottom, 0.25 * top + 0.75 * bottom, bottom]
    np.testing.assert_allclose(column, want, atol=1e-6)


def test_shrinking_averages(images):
    half = np.asarray(resized_crop(jnp.asarray(images[0]), 0, 0, 12, 12, (6, 12)))
    weights = np.array([1, 3, 3, 1]) / 8
    want = np.einsum("k,kwc->wc", weights, images[0, 3:7])
    np.testing.assert_allclose(half[2], want, atol=1e-6)
    # At the edge the filter is cut off and scaled up.
    want = np.einsum("k,kwc->wc", np.array([3, 3, 1]) / 7, images[0, :3])
    np.testing.assert_allclose(half[0], want, atol=1e-6)


def test_boxes_are_within_their_ranges():
    op = RandomResizedCrop(scale=(0.1, 0.3), ratio=(0.5, 2))
    top, left, height, width = boxes(op, 200, 300)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 200).all()
    assert (left + width <= 300).all()
    area, ratio = height * width / 60000, width / height
    # Sides are rounded to pixels.
    assert area.min() > 0.097
    assert area.max() < 0.305
    assert ratio.min() > 0.48
    assert ratio.max() < 2.06
    # All of them fit, so that these are uniform.
    assert abs(area.mean() - 0.2) < 0.004
    assert abs(np.log(ratio).mean()) < 0.03
    # The place is uniform over what is left.
    assert abs((top / np.maximum(200 - height, 1)).mean() - 0.5) < 0.03


@pytest.mark.parametrize(("size", "want"), [((90, 10), (7, 10)), ((10, 90), (10, 13))])
def test_what_never_fits_is_the_largest_in_the_middle(size, want):
    top, left, height, width = boxes(RandomResizedCrop(scale=(1, 1)), *size, number=20)
    assert set(zip(height.tolist(), width.tolist(), strict=True)) == {
        (want[0] if size[0] < size[1] else 13, want[1] if size[0] < size[1] else 10)
    }
    assert set(top.tolist()) == {(size[0] - height[0]) // 2}
    assert set(left.tolist()) == {(size[1] - width[0]) // 2}


def test_another_size(run, images):
    assert run(RandomResizedCrop(size=5), images).shape == (8, 5, 5, 3)
    assert run(RandomResizedCrop(size=(20, 7)), images).shape == (8, 20, 7, 3)
    flat = np.full((2, 9, 9, 3), 0.5, np.float32)
    np.testing.assert_allclose(run(RandomResizedCrop(size=30), flat), 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("fill", "pad"),
    [
        ("mean", {"mode": "constant"}),
        (0.25, {"mode": "constant", "constant_values": 0.25}),
        ("nearest", {"mode": "edge"}),
        ("reflect", {"mode": "reflect"}),
    ],
)
def test_windows_of_the_padded_image(run, images, fill, pad):
    many = np.repeat(images[:1], 400, 0)
    cut = run(RandomCrop(padding=(2, 1), fill=fill), many)
    padded = np.pad(images[0], ((2, 2), (1, 1), (0, 0)), **pad)
    windows = np.stack([padded[y : y + 12, x : x + 12] for y in range(5) for x in range(3)])
    equal = (cut[:, None] == windows[None]).all((2, 3, 4))
    assert (equal.sum(1) == 1).all()
    # All fifteen places, about alike: 26.7 expected, five standard deviations.
    assert abs(equal.sum(0) - 400 / 15).max() < 25


def test_a_smaller_window_and_the_middle(run, images):
    middle = run(RandomCrop(padding=0, size=(6, 8), p=0), images)
    np.testing.assert_array_equal(middle, images[:, 3:9, 2:10])
    np.testing.assert_array_equal(run(RandomCrop(padding=3, p=0), images), images)


def test_what_does_not_fit(images):
    with pytest.raises(ShapeError, match="cuts 20 pixels out of images 12 pixels high.*least 4"):
        RandomCrop(padding=3, size=20).images(0, images)
    with pytest.raises(ShapeError, match="padding must be below 12"):
        RandomCrop(padding=12, fill="reflect").images(0, images)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomResizedCrop(scale=(0, 1)), ValueError, "scale must be above 0"),
        (lambda: RandomResizedCrop(scale=(0.5, 1.5)), ValueError, "scale must be within"),
        (lambda: RandomResizedCrop(scale=0.5), ArgumentError, "scale must be a pair"),
        (lambda: RandomResizedCrop(ratio=(2, 1)), ValueError, "ratio is a range"),
        (lambda: RandomResizedCrop(size=0), ArgumentError, "size must be an int of at least 1"),
        (
            lambda: RandomResizedCrop(size=(1, 2, 3)),
            ArgumentError,
            "size must be an int .* or a pair",
        ),
        (lambda: RandomCrop(padding=-1), ArgumentError, "padding must be an int of at least 0"),
        (lambda: RandomCrop(padding=1.5), ArgumentError, "padding must be an int of at least 0"),
    ],
)
def test_fields_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()
