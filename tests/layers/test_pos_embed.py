import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.pos_embed import learnt_positions, resample_map, resample_positions


def positions(grid, prefix=0, width=3):
    shape = (1, prefix + grid[0] * grid[1], width)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Tokens(nn.Module):
    """Adds positions to a grid of tokens."""

    old_grid: tuple | None = None
    prefix: int = 1

    @nn.compact
    def __call__(self, x):
        rest = {"prefix": self.prefix, "old_grid": self.old_grid}
        return learnt_positions(self, x.shape[1:3], x.shape[-1], **rest)


def test_a_grid_of_the_size_is_the_parameter():
    module = Tokens()
    out, variables = module.init_with_output(jax.random.key(0), jnp.zeros((1, 2, 8, 3)))
    parameter = variables["params"]["pos_embed"]
    assert parameter.shape == (1, 17, 3)
    np.testing.assert_array_equal(out, parameter)
    np.testing.assert_array_equal(module.apply(variables, jnp.zeros((1, 2, 8, 3))), parameter)


def test_another_grid_is_resampled():
    parameter = positions((4, 4), 1)
    variables = {"params": {"pos_embed": parameter}}
    out = jax.jit(Tokens().apply)(variables, jnp.zeros((1, 6, 3, 3)))
    expected = resample_positions(parameter, (6, 3), prefix=1)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(expected[:, 0], parameter[:, 0])
    # Of as many patches, but another form: a matter of what the parameter is for.
    wide = jnp.zeros((1, 2, 8, 3))
    np.testing.assert_array_equal(Tokens().apply(variables, wide), parameter)
    known = Tokens(old_grid=(4, 4)).apply(variables, wide)
    np.testing.assert_allclose(
        known, resample_positions(parameter, (2, 8), prefix=1), rtol=0, atol=1e-6
    )
    assert not np.allclose(known, parameter)


def test_a_fresh_parameter_is_for_the_grid_that_is_told():
    module = Tokens(old_grid=(2, 3), prefix=0)
    out, variables = module.init_with_output(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    assert variables["params"]["pos_embed"].shape == (1, 6, 3)
    assert out.shape == (1, 16, 3)


def test_constants_stay_and_corners_keep_their_sides():
    constant = np.full((1, 9, 2), 2.5, np.float32)
    np.testing.assert_allclose(resample_positions(constant, (7, 2)), np.full((1, 14, 2), 2.5))
    ramp = np.tile(np.arange(4.0, dtype=np.float32)[:, None], (1, 4)).reshape(1, 16, 1)
    rows = resample_positions(ramp, (8, 4)).reshape(8, 4)
    assert (np.diff(rows, axis=0) > 0).all()
    np.testing.assert_allclose(rows, rows[:, :1] * np.ones(4), atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtypes(dtype):
    grid = jnp.asarray(positions((4, 4)), dtype)
    out = resample_positions(grid, (6, 6))
    assert out.dtype == dtype
    wide = resample_positions(np.asarray(grid, np.float32), (6, 6))
    np.testing.assert_allclose(out.astype(np.float32), wide, atol=2e-2)


def test_grids_that_it_does_not_take():
    with pytest.raises(ShapeError, match=r"8 patches are no square grid; pass old_grid="):
        resample_positions(positions((2, 4)), (4, 4))
    message = r"positions of a grid of 2 x 3 must be 6 and 1 of no patch, got \[1, 9, 3\]"
    with pytest.raises(ShapeError, match=message):
        resample_positions(positions((2, 4), 1), (4, 4), prefix=1, old_grid=(2, 3))


def test_bilinear_is_between_the_nearest_two():
    ramp = np.arange(4, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    out = resample_positions(ramp.reshape(1, 8, 1), (8, 1), old_grid=(4, 2), method="bilinear")
    np.testing.assert_allclose(out[0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    with pytest.raises(ValueError, match="method must be one of 'bicubic', 'bilinear'"):
        resample_positions(positions((2, 2)), (4, 4), method="nearest")


def test_cubic_is_through_the_nearest_four():
    taps = np.eye(4, dtype=np.float32).reshape(1, 4, 4)
    out = resample_positions(taps, (8, 1), old_grid=(4, 1), method="cubic")[0]
    # The numbers of torch.nn.functional.interpolate(scale_factor=2, mode="bicubic").
    np.testing.assert_array_equal(out[3], [-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    # Beyond the edge the last cell stands again.
    np.testing.assert_array_equal(out[0], [1.10546875, -0.10546875, 0, 0])
    np.testing.assert_array_equal(out.sum(1), np.ones(8))


def test_positions_that_lie_on_their_grid():
    parameter = positions((4, 6))
    expected = resample_positions(parameter, (5, 3), old_grid=(4, 6))
    np.testing.assert_array_equal(
        resample_map(parameter.reshape(1, 4, 6, 3), (5, 3)), expected.reshape(1, 5, 3, 3)
    )
    with pytest.raises(ShapeError, match=r"must have shape \[1, H, W, C\], got \[1, 24, 3\]"):
        resample_map(parameter, (5, 3))
