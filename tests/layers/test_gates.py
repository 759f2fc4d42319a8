import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.gates import (
    EfficientChannelAttention,
    SqueezeExcite,
    as_gate,
    divisible,
)
from flaxzoo.layers.split_attention import SplitAttention


def maps(channels, batch=2):
    values = np.random.default_rng(0).standard_normal((batch, 3, 4, channels))
    return values.astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_squeeze_and_excitation_by_its_formula(random_variables):
    x = maps(32)
    module = SqueezeExcite(ratio=0.25)
    variables = random_variables(module, x)
    out = jax.jit(module.apply)(variables, x)
    fc1, fc2 = (variables["params"][name] for name in ("fc1", "fc2"))
    squeezed = np.asarray(x).mean((1, 2))
    hidden = np.maximum(squeezed @ fc1["kernel"][0, 0] + fc1["bias"], 0)
    gate = sigmoid(hidden @ fc2["kernel"][0, 0] + fc2["bias"])
    np.testing.assert_allclose(out, x * gate[:, None, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "ratio", "width"),
    # The nearest multiple of 8, ties upwards, at least 8.
    [(64, 1 / 16, 8), (128, 1 / 16, 8), (256, 1 / 16, 16), (320, 1 / 16, 24), (2048, 1 / 16, 128)]
    + [(64, 0.25, 16), (80, 0.25, 24), (72, 0.25, 16), (8, 1 / 16, 8)],
)
def test_width_between_the_layers(channels, ratio, width):
    shapes = jax.eval_shape(SqueezeExcite(ratio).init, jax.random.key(0), maps(channels))
    assert shapes["params"]["fc1"]["kernel"].shape == (1, 1, channels, width)


def test_divisible():
    assert [divisible(w) for w in (1, 11.9, 12, 19, 20, 100)] == [8, 8, 16, 16, 24, 104]
    assert divisible(33, minimum=32) == 32
    assert divisible(5, minimum=32) == 32
    assert divisible(7, by=2, minimum=2) == 8


# |log2(C) / 2 + 1 / 2|_odd of the paper, section 3.2.
@pytest.mark.parametrize(
    ("channels", "size"), [(64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7), (8, 3)]
)
def test_kernel_size_of_eca(channels, size):
    # int() of (log2 C + 1) / 2, and up to the next odd number: 3.5 -> 3, 4 -> 5, 6 -> 7.
    gate = EfficientChannelAttention()
    shapes = jax.eval_shape(gate.init, jax.random.key(0), maps(channels, batch=1))
    assert shapes["params"]["conv"]["kernel"].shape == (size, 1, 1)


def test_eca_by_its_formula(random_variables):
    x = maps(16)
    module = EfficientChannelAttention()
    variables = random_variables(module, x)
    out = jax.jit(module.apply)(variables, x)
    kernel = np.asarray(variables["params"]["conv"]["kernel"])[:, 0, 0]
    padded = np.pad(np.asarray(x).mean((1, 2)), ((0, 0), (1, 1)))
    gate = sigmoid(sum(kernel[i] * padded[:, i : i + 16] for i in range(3)))
    np.testing.assert_allclose(out, x * gate[:, None, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gate", [SqueezeExcite, EfficientChannelAttention])
def test_dtypes(gate):
    module = gate(dtype=jnp.bfloat16)
    x = maps(16).astype(jnp.bfloat16)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(1), x)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_gate_by_name():
    assert as_gate("se") is SqueezeExcite
    assert as_gate("eca") is EfficientChannelAttention
    assert as_gate(None) is None
    assert as_gate(nn.Dense) is nn.Dense
    message = "gate must be one of se, eca, None or a module, got 'sse'. Did you mean 'se'"
    with pytest.raises(ValueError, match=message):
        as_gate("sse")


class Unnormalised(nn.Module):
    """In place of BatchNorm, so that the numbers can be followed."""

    dtype: object = None
    param_dtype: object = None

    def __call__(self, x):
        return x


@pytest.mark.parametrize(("radix", "groups"), [(2, 1), (4, 2), (1, 2)])
def test_split_attention_by_its_formula(radix, groups, random_variables):
    x = maps(8)
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
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(1), maps(8))
    assert out.dtype == jnp.bfloat16
    assert set(variables["params"]) == {"conv", "bn0", "fc1", "bn1", "fc2"}
    assert variables["params"]["fc1"]["kernel"].shape == (1, 1, 8, 32)
