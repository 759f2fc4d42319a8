from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo import augment
from flaxzoo.augment import Affine, Compose, Flip
from flaxzoo.augment.geometry import affine_matrix
from flaxzoo.augment.warp import chain, warp
from flaxzoo.errors import ArgumentError, ShapeError


def always(value):
    return (value, value)


@pytest.mark.parametrize("fill", ["mean", 0.3, (0.1, 0.2, 0.3), "nearest", "reflect"])
def test_no_change_is_the_image_bit_for_bit(run, images, fill):
    np.testing.assert_array_equal(run(Affine(fill=fill), images), images)


@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_right_angles_are_rot90(run, images, turns):
    turned = run(Affine(rotation=always(90 * turns), fill="nearest"), images)
    np.testing.assert_allclose(turned, np.rot90(images, turns, axes=(1, 2)), atol=1e-5)


@pytest.mark.parametrize(
    ("fill", "pad"),
    [
        ("mean", {"mode": "constant"}),
        (0.25, {"mode": "constant", "constant_values": 0.25}),
        ("nearest", {"mode": "edge"}),
        ("reflect", {"mode": "reflect"}),
    ],
)
def test_whole_shifts_are_slices_of_the_padded_image(run, images, fill, pad):
    # 3 of 12 to the right, 6 of 12 up.
    shifted = run(Affine(shift_x=always(0.25), shift_y=always(-0.5), fill=fill), images)
    padded = np.pad(images, ((0, 0), (6, 6), (6, 6), (0, 0)), **pad)
    np.testing.assert_array_equal(shifted, padded[:, 12:24, 3:15])


def test_fill_per_channel(run, images):
    shifted = run(Affine(shift_x=always(0.25), fill=(0.1, 0.2, 0.3)), images)
    np.testing.assert_array_equal(
        shifted[:, :, :3], np.broadcast_to(np.float32([0.1, 0.2, 0.3]), (8, 12, 3, 3))
    )


def test_a_ramp_is_where_the_forward_map_moves_it():
    """Bilinear sampling is exact for linear images, which makes any affine map a closed form."""
    rotation, shear_x, shear_y, zoom, shift = 20.0, 11.0, -7.0, 1.3, (1.5, -2.25)
    y, x = np.mgrid[:15, :21] - np.array([7.0, 10.0])[:, None, None]
    ramp = np.stack([x, y], -1).astype(np.float32)
    matrix = affine_matrix(rotation, *shift, shear_x, shear_y, zoom)
    got = np.asarray(warp(jnp.asarray(ramp), matrix, "nearest"))
    turn, lean_x, lean_y = np.deg2rad([rotation, shear_x, shear_y])
    # Counter-clockwise to the eye, y pointing down.
    rotate = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    shears = np.array([[1, 0], [-np.tan(lean_y), 1]]) @ [[1, -np.tan(lean_x)], [0, 1]]
    forward = zoom * rotate @ shears
    source = np.einsum("ij,hwj->hwi", np.linalg.inv(forward), ramp - np.array(shift))
    inside = (abs(source) <= (10, 7)).all(-1)
    assert inside.sum() > 150
    np.testing.assert_allclose(got[inside], source[inside], atol=2e-5)


def test_positive_values_move_the_way_that_is_documented(run):
    dot = np.zeros((1, 9, 9, 1), np.float32)
    dot[0, 4, 7] = 1  # right of the middle

    def place(**field):
        found = run(Affine(**{k: always(v) for k, v in field.items()}), dot)[0, :, :, 0]
        return np.unravel_index(found.argmax(), found.shape)

    assert place(rotation=90) == (1, 4)
    assert place(shift_x=-2 / 9) == (4, 5)
    assert place(shift_y=2 / 9) == (6, 7)
    assert place(shear_y=45) == (1, 7)
    assert place(zoom=1 / 3) == (4, 5)


def test_flips(run, images):
    np.testing.assert_array_equal(run(Flip(p=1), images), images[:, :, ::-1])
    np.testing.assert_array_equal(run(augment.get("vertical_flip", p=1.0), images), images[:, ::-1])
    both = run(Flip(True, True, p=1), images)
    np.testing.assert_array_equal(both, images[:, ::-1, ::-1])
    np.testing.assert_array_equal(run(Flip(p=0), images), images)


def test_each_image_and_direction_draws_for_itself(run):
    image = np.float32([[0, 1], [2, 3]])[None, :, :, None]
    found = run(Flip(True, True, p=0.25), np.repeat(image, 4000, 0))[:, 0, 0, 0]
    shares = [np.mean(found == corner) for corner in range(4)]
    # Four standard deviations.
    np.testing.assert_allclose(shares, [9 / 16, 3 / 16, 3 / 16, 1 / 16], atol=0.032)


def test_draws_are_uniform_and_p_leaves_the_rest(quick_jit):
    op = Affine(rotation=30, zoom=(0.5, 2), p=0.75)
    keys = jax.random.split(jax.random.PRNGKey(3), 4000)
    matrices = np.asarray(quick_jit(jax.vmap(lambda k: op.matrix(k, 8, 8)))(keys))
    same = (matrices == np.eye(2, 3)).all((1, 2))
    assert abs(same.mean() - 0.25) < 0.028
    linear = matrices[~same][:, :, :2]
    zoom = 1 / np.sqrt(np.linalg.det(linear))
    angle = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    for values, low, high in ((zoom, 0.5, 2), (angle, -30, 30)):
        assert values.min() >= low - 1e-4
        assert values.max() <= high + 1e-4
        deviation = (high - low) / np.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 4 * deviation / np.sqrt(len(values))
        assert abs(values.std() / deviation - 1) < 0.05


def test_neighbours_are_one_sampling(run, images):
    there, back = (
        Affine(rotation=always(33), fill="nearest"),
        Affine(rotation=always(-33), fill="nearest"),
    )
    together = run(Compose((there, back)), images)
    np.testing.assert_allclose(together, images, atol=1e-4)
    # Twice sampled, it is blurred and its corners are lost.
    assert abs(run(back, run(there, images)) - images).max() > 0.1


def test_together_they_draw_what_they_draw_alone(run, quick_jit):
    y, x = np.mgrid[:16, :16].astype(np.float32)
    ramps = np.repeat(np.stack([x, y], -1)[None], 8, 0)
    shift, flip = Affine(shift_x=0.3, shift_y=0.3, fill="nearest"), Flip(True, True)

    @quick_jit
    def alone(key, images):
        first, second = jax.random.split(key)
        return (
            flip.images(second, shift.images(first, images)),
            shift.images(second, flip.images(first, images)),
        )

    want = alone(jax.random.PRNGKey(0), ramps)
    np.testing.assert_allclose(run(shift | flip, ramps), want[0], atol=1e-5)
    np.testing.assert_allclose(run(flip | shift, ramps), want[1], atol=1e-5)


def test_different_fills_are_not_joined(run, images):
    one, two = Affine(shift_x=always(0.5), fill=1.0), Affine(shift_x=always(-0.5), fill=0.0)
    result = run(one | two, images)
    np.testing.assert_array_equal(result[:, :, :6], images[:, :, :6])
    assert (result[:, :, 6:] == 0).all()


def test_chain_is_composition():
    first, second = affine_matrix(10, 1, 2, 3, 4, 1.5), affine_matrix(-40, 3, -1, 0, 8, 0.5)
    whole = [np.vstack([m, [0, 0, 1]]) for m in (first, second)]
    np.testing.assert_allclose(chain(first, second), (whole[0] @ whole[1])[:2], atol=1e-5)


def test_the_mean_colour_is_what_the_network_sees_as_zero(run, images):
    mean, std = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.3, 0.4])
    normalized = (images - mean) / std
    shift = {"shift_x": always(0.5), "mean": tuple(mean.tolist()), "std": tuple(std.tolist())}
    assert (run(Affine(**shift), normalized)[:, :, :6] == 0).all()
    black = run(Affine(**shift, fill=0.0), normalized)
    np.testing.assert_allclose(black[0, 0, 0], -mean / std, rtol=1e-6)


def test_factories_are_affine():
    assert augment.rotation(20) == Affine(rotation=(-20, 20))
    assert augment.shift(0.2, 0.1) == Affine(shift_x=0.2, shift_y=0.1)
    assert augment.shear(5) == Affine(shear_x=5)
    assert augment.zoom((0.5, 1), fill="reflect", p=0.5) == Affine(
        zoom=(0.5, 1), fill="reflect", p=0.5
    )
    assert augment.zoom(0.2).zoom == pytest.approx((0.8, 1.2))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"rotation": -5}, ValueError, "rotation must not be negative"),
        ({"rotation": (5, -5)}, ValueError, "rotation is a range"),
        ({"rotation": "15"}, ArgumentError, "rotation must be a finite number"),
        ({"rotation": float("nan")}, ArgumentError, "rotation must be a finite number"),
        ({"shear_x": 90}, ValueError, "shear_x must be within"),
        ({"zoom": 1.0}, ValueError, "zoom must be above 0"),
        ({"zoom": (1, 2, 3)}, ArgumentError, "zoom must be a number or a pair"),
        ({"fill": "black"}, ValueError, "fill must be one of 'mean', 'nearest', 'reflect'"),
        ({"fill": ()}, ValueError, "fill must have a value"),
        ({"p": 1.5}, ValueError, "p must be a number in \\[0, 1\\]"),
        ({"std": (0.0,)}, ValueError, "std must be positive"),
    ],
)
def test_fields_are_checked(fields, error, message):
    with pytest.raises(error, match=message):
        Affine(**fields)


def test_a_flip_of_nothing_is_refused():
    with pytest.raises(ValueError, match="would do nothing"):
        Flip(horizontal=False)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 12), np.float32), r"\[B, H, W, C\], got shape \[4, 12\]"),
        (np.zeros((0, 4, 4, 3), np.float32), "got shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), "divide bytes by 255"),
        ("cat.jpg", "got str"),
    ],
)
def test_what_is_no_batch_of_images(bad, message):
    with pytest.raises(ShapeError, match=message):
        Affine(rotation=5).images(0, bad)


def test_the_wrong_number_of_colours(images):
    with pytest.raises(ShapeError, match="has 2 values per pixel"):
        Affine(rotation=5, fill=(0.1, 0.2)).images(0, images)


def test_grey_takes_the_average_of_three(run):
    grey = np.zeros((1, 4, 4, 1), np.float32)
    op = dataclasses.replace(Affine(shift_x=always(0.5)), fill=(0.3, 0.6, 0.9))
    assert run(op, grey)[0, 0, 0, 0] == pytest.approx(0.6)
