import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.models.resnest import (
    FastResNeStBlock,
    FourSplitResNeStBlock,
    OneSplitResNeStBlock,
    ResNeStBlock,
    SplitAttention,
)

pytestmark = pytest.mark.family("resnest")


def maps(channels, batch=2, height=6, width=5):
    values = np.random.default_rng(0).standard_normal((batch, height, width, channels))
    return values.astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Unnormalised(nn.Module):
    """In place of BatchNorm, so that the numbers can be followed."""

    dtype: object = None
    param_dtype: object = None

    def __call__(self, x):
        return x


@pytest.mark.parametrize(("radix", "groups"), [(2, 1), (4, 2), (1, 2)])
def test_split_attention_by_its_formula(radix, groups, random_variables):
    x = maps(8, height=3, width=4)
    module = SplitAttention(8, radix=radix, groups=groups, norm=Unnormalised)
    variables = random_variables(module, x)
    out = jax.jit(module.apply)(variables, x)
    params = variables["params"]
    branches = jax.lax.conv_general_dilated(
        x,
        params["conv"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=radix * groups,
    )
    # The channels are [branch][group][channel of the group].
    branches = np.maximum(np.asarray(branches), 0).reshape(2, 3, 4, radix, groups, 8 // groups)
    pooled = branches.sum(3).mean((1, 2))
    expected = np.zeros((2, 3, 4, groups, 8 // groups))
    for group in range(groups):
        hidden = slice(group * 32 // groups, (group + 1) * 32 // groups)
        columns = slice(group * 8 * radix // groups, (group + 1) * 8 * radix // groups)
        first = params["fc1"]["kernel"][0, 0][:, hidden]
        squeezed = np.maximum(pooled[:, group] @ first + params["fc1"]["bias"][hidden], 0)
        gate = squeezed @ params["fc2"]["kernel"][0, 0][:, columns] + params["fc2"]["bias"][columns]
        gate = gate.reshape(2, radix, 8 // groups)
        weights = np.exp(gate) / np.exp(gate).sum(1, keepdims=True)
        weights = sigmoid(gate) if radix == 1 else weights
        for branch in range(radix):
            expected[..., group, :] += (
                branches[:, :, :, branch, group] * weights[:, None, None, branch]
            )
    np.testing.assert_allclose(out, expected.reshape(out.shape), rtol=1e-4, atol=1e-5)


def test_split_attention_computes_as_narrow_as_it_is_told():
    module = SplitAttention(8, dtype=jnp.bfloat16)
    out, variables = jax.eval_shape(
        module.init_with_output, jax.random.key(1), maps(8, height=3, width=4)
    )
    assert out.dtype == jnp.bfloat16
    assert set(variables["params"]) == {"conv", "bn0", "fc1", "bn1", "fc2"}
    assert variables["params"]["fc1"]["kernel"].shape == (1, 1, 8, 32)


def test_split_attention_does_not_rely_on_the_promotion_of_ranks():
    with jax.numpy_rank_promotion("raise"):

        def run(x):
            y, _ = SplitAttention(8).init_with_output(jax.random.key(0), x, train=True)
            return y.sum()

        jax.eval_shape(jax.grad(run), maps(12))


@pytest.mark.parametrize("fields", [{"gate": "se"}, {"anti_aliasing": "blur"}])
def test_resnest_blocks_take_no_gate(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"ResNeSt's blocks take no {name}, got "):
        ResNeStBlock(8, **fields).init(jax.random.key(0), maps(32))


@pytest.mark.parametrize("block", [ResNeStBlock, OneSplitResNeStBlock, FourSplitResNeStBlock])
def test_resnest_splits(block):
    shapes = jax.eval_shape(block(16).init, jax.random.key(0), maps(64))["params"]
    radix = {ResNeStBlock: 2, OneSplitResNeStBlock: 1, FourSplitResNeStBlock: 4}[block]
    assert shapes["conv2"]["conv"]["kernel"].shape == (3, 3, 16 // radix, 16 * radix)
    assert shapes["conv2"]["fc2"]["bias"].shape == (16 * radix,)


def test_resnest_pools_before_or_after_its_attention(random_variables):
    x = maps(32, height=7)
    late = ResNeStBlock(8, stride=2, project=True, avg_down=True)
    early = FastResNeStBlock(8, stride=2, project=True, avg_down=True)
    variables = random_variables(late, x)
    outs = [jax.jit(module.apply)(variables, x) for module in (late, early)]
    assert outs[0].shape == outs[1].shape == (2, 4, 3, 32)
    assert not np.allclose(*outs)
