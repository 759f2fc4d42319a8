import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.pos_embed import resample_positions
from flaxzoo.layers.tokens import patch_tokens, prefix_length

PATCHES = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype(np.float32)


class Tokens(nn.Module):
    """The tokens of a vision transformer, alone."""

    class_token: bool = True
    register_tokens: int = 0
    position_prefix: bool = True
    distillation_token: bool = False
    old_grid: tuple | None = None

    @nn.compact
    def __call__(self, x):
        return patch_tokens(
            self,
            x,
            class_token=self.class_token,
            distillation_token=self.distillation_token,
            register_tokens=self.register_tokens,
            position_prefix=self.position_prefix,
            old_grid=self.old_grid,
        )


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("register_tokens", [0, 3])
@pytest.mark.parametrize("position_prefix", [False, True])
def test_tokens_of_no_patch_come_first(
    class_token, register_tokens, position_prefix, random_variables
):
    module = Tokens(class_token, register_tokens, position_prefix)
    variables = random_variables(module, PATCHES)
    params = variables["params"]
    prefix = prefix_length(class_token, register_tokens)
    out = module.apply(variables, PATCHES)
    assert out.shape == (2, prefix + 9, 4)
    positions = params["pos_embed"]
    if position_prefix:
        assert positions.shape == (1, prefix + 9, 4)
    else:
        assert positions.shape == (1, 9, 4)
        positions = np.pad(positions, ((0, 0), (prefix, 0), (0, 0)))
    patches = PATCHES.reshape(2, 9, 4)
    np.testing.assert_allclose(out[:, prefix:], patches + positions[:, prefix:], rtol=1e-6)
    names = ["cls_token"] * class_token + ["reg_token"] * bool(register_tokens)
    assert set(params) == {"pos_embed", *names}
    tokens = np.concatenate([params[name] for name in names], 1) if names else positions[:, :0]
    expected = np.broadcast_to(tokens + positions[:, :prefix], out[:, :prefix].shape)
    np.testing.assert_allclose(out[:, :prefix], expected, rtol=1e-6)


def test_the_distillation_token_stands_between(random_variables):
    module = Tokens(register_tokens=1, distillation_token=True)
    variables = random_variables(module, PATCHES)
    params, out = variables["params"], module.apply(variables, PATCHES)
    assert prefix_length(True, 1, True) == 3
    assert params["pos_embed"].shape == (1, 3 + 9, 4)
    tokens = np.concatenate([params[f"{name}_token"] for name in ("cls", "dist", "reg")], 1)
    np.testing.assert_allclose(out[:1, :3], tokens + params["pos_embed"][:, :3], rtol=1e-6)


def test_grids_of_another_size(random_variables):
    module = Tokens(register_tokens=1, old_grid=(3, 3))
    variables = random_variables(module, PATCHES)
    wide = np.zeros((1, 2, 5, 4), np.float32)
    out = module.apply(variables, wide)
    positions = resample_positions(variables["params"]["pos_embed"], (2, 5), prefix=2)
    np.testing.assert_allclose(out[:, 2:], positions[:, 2:], rtol=0, atol=1e-6)


def test_the_dtype_is_that_of_the_patches():
    patches = jnp.asarray(PATCHES, jnp.bfloat16)
    out, variables = jax.eval_shape(Tokens().init_with_output, jax.random.key(0), patches)
    assert out.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    with pytest.raises(ShapeError, match=r"patches must have shape .B, H, W, C., got .2, 9, 4."):
        Tokens().init(jax.random.key(0), PATCHES.reshape(2, 9, 4))
