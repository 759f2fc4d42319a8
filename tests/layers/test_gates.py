import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.gates import (
    EffectiveSqueezeExcite,
    EfficientChannelAttention,
    GlobalContext,
    SqueezeExcite,
    as_gate,
    divisible,
)
from flaxzoo.layers.initializers import PLAIN


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


def test_effective_squeeze_and_excitation_by_its_formula(random_variables):
    x = maps(6)
    module = EffectiveSqueezeExcite()
    variables = random_variables(module, x)
    fc = variables["params"]["fc"]
    gate = np.clip((x.mean((1, 2)) @ fc["kernel"][0, 0] + fc["bias"] + 3) / 6, 0, 1)
    out = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(out, x * gate[:, None, None], rtol=1e-4, atol=1e-6)
    assert as_gate("ese") is EffectiveSqueezeExcite


def test_a_batch_norm_inside_the_gate():
    x = maps(6)
    module = SqueezeExcite(width=4, norm="batch")
    _, variables = module.init_with_output(jax.random.key(0), x)
    assert variables["params"].keys() == {"fc1", "bn", "fc2"}
    out, updated = module.apply(variables, x, train=True, mutable="batch_stats")
    fc1, fc2 = (variables["params"][name] for name in ("fc1", "fc2"))
    hidden = x.mean((1, 2)) @ fc1["kernel"][0, 0]
    np.testing.assert_allclose(
        updated["batch_stats"]["bn"]["mean"], 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6
    )
    normal = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    gate = sigmoid(np.maximum(normal, 0) @ fc2["kernel"][0, 0])
    np.testing.assert_allclose(out, x * gate[:, None, None], rtol=1e-3, atol=1e-5)


def test_first_weights_as_pytorchs():
    module = SqueezeExcite(width=400, **PLAIN)
    params = module.init(jax.random.key(0), maps(300))["params"]
    for name, fan_in in (("fc1", 300), ("fc2", 400)):
        # Uniform numbers up to one over the root of the fan-in.
        deviation = 1 / np.sqrt(3 * fan_in)
        assert params[name]["kernel"].std() == pytest.approx(deviation, rel=0.02)
        assert params[name]["bias"].std() == pytest.approx(deviation, rel=0.2)
    bare = SqueezeExcite(**PLAIN, use_bias=False).init(jax.random.key(0), maps(8))
    assert all(set(layer) == {"kernel"} for layer in bare["params"].values())


@pytest.mark.parametrize(
    ("channels", "ratio", "width"),
    # The nearest multiple of 8, ties upwards, at least 8.
    [(64, 1 / 16, 8), (128, 1 / 16, 8), (256, 1 / 16, 16), (320, 1 / 16, 24), (2048, 1 / 16, 128)]
    + [(64, 0.25, 16), (80, 0.25, 24), (72, 0.25, 16), (8, 1 / 16, 8)],
)
def test_width_between_the_layers(channels, ratio, width):
    shapes = jax.eval_shape(SqueezeExcite(ratio).init, jax.random.key(0), maps(channels))
    assert shapes["params"]["fc1"]["kernel"].shape == (1, 1, channels, width)


def test_the_width_itself():
    shapes = jax.eval_shape(SqueezeExcite(width=3).init, jax.random.key(0), maps(16))
    assert shapes["params"]["fc1"]["kernel"].shape == (1, 1, 16, 3)


def test_divisible():
    assert [divisible(w) for w in (1, 11.9, 12, 19, 20, 100)] == [8, 8, 16, 16, 24, 104]
    assert divisible(33, minimum=32) == 32
    assert divisible(5, minimum=32) == 32
    assert divisible(7, by=2, minimum=2) == 8
    assert divisible(11.2) == 8
    assert divisible(11.2, limit=0.9) == 16
    assert divisible(9.0, limit=0.9) == 16
    assert divisible(8.8, limit=0.9) == 8


# |log2(C) / 2 + 1 / 2|_odd of the paper, section 3.2.
@pytest.mark.parametrize(
    ("channels", "size"), [(64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7), (8, 3)]
)
def test_kernel_size_of_eca(channels, size):
    # int() of (log2 C + 1) / 2, and up to the next odd number: 3.5 -> 3, 4 -> 5, 6 -> 7.
    gate = EfficientChannelAttention()
    shapes = jax.eval_shape(gate.init, jax.random.key(0), maps(channels, batch=1))
    assert shapes["params"]["conv"]["kernel"].shape == (size, 1, 1)


def test_a_kernel_of_eca_may_be_given():
    gate = EfficientChannelAttention(kernel_size=5)
    shapes = jax.eval_shape(gate.init, jax.random.key(0), maps(8, batch=1))
    assert shapes["params"]["conv"]["kernel"].shape == (5, 1, 1)


def test_eca_by_its_formula(random_variables):
    x = maps(16)
    module = EfficientChannelAttention()
    variables = random_variables(module, x)
    out = jax.jit(module.apply)(variables, x)
    kernel = np.asarray(variables["params"]["conv"]["kernel"])[:, 0, 0]
    padded = np.pad(np.asarray(x).mean((1, 2)), ((0, 0), (1, 1)))
    gate = sigmoid(sum(kernel[i] * padded[:, i : i + 16] for i in range(3)))
    np.testing.assert_allclose(out, x * gate[:, None, None], rtol=1e-4, atol=1e-6)


def test_global_context_by_its_formula(random_variables):
    x = maps(16)
    module = GlobalContext(ratio=0.25, activation="silu", gate_activation="hard_sigmoid")
    variables = random_variables(module, x)
    out = jax.jit(module.apply)(variables, x)
    attention, mlp = (variables["params"][name] for name in ("conv_attn", "mlp_scale"))
    tokens = x.reshape(2, 12, 16)
    logits = tokens @ attention["kernel"][0, 0, :, 0] + attention["bias"]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    context = np.einsum("bn,bnc->bc", weights, tokens)
    hidden = context @ mlp["fc1"]["kernel"][0, 0] + mlp["fc1"]["bias"]
    assert hidden.shape == (2, 4)
    centred = hidden - hidden.mean(-1, keepdims=True)
    hidden = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    hidden = hidden * mlp["norm"]["scale"] + mlp["norm"]["bias"]
    gate = hidden * sigmoid(hidden) @ mlp["fc2"]["kernel"][0, 0] + mlp["fc2"]["bias"]
    gate = np.clip(gate / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(out, x * gate[:, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gate", [SqueezeExcite, EfficientChannelAttention, GlobalContext])
def test_dtypes(gate):
    module = gate(dtype=jnp.bfloat16)
    x = maps(16).astype(jnp.bfloat16)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(1), x)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_gate_by_name():
    assert as_gate("se") is SqueezeExcite
    assert as_gate("eca") is EfficientChannelAttention
    assert as_gate("gc") is GlobalContext
    assert as_gate(None) is None
    assert as_gate(nn.Dense) is nn.Dense
    message = "gate must be one of se, eca, ese, gc, None or a module, got 'sse'. Did you mean 'se'"
    with pytest.raises(ValueError, match=message):
        as_gate("sse")


def test_global_context_may_be_added_and_begins_as_nothing():
    x = np.random.default_rng(0).random((2, 3, 5, 8), np.float32)
    gate = GlobalContext(adds=True)
    variables = gate.init(jax.random.key(0), x)
    assert variables["params"].keys() == {"conv_attn", "mlp_add"}
    np.testing.assert_array_equal(gate.apply(variables, x), x)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    added = np.asarray(gate.apply(moved, x)) - x
    # The same for every pixel of an image.
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], x.shape), atol=1e-6)


@pytest.mark.parametrize(("rounding", "width"), [(8, 8), (1, 3)])
def test_the_width_of_a_gate_is_rounded(rounding, width):
    gate = SqueezeExcite(rounding=rounding)
    x = np.zeros((1, 2, 2, 48), np.float32)
    shapes = jax.eval_shape(gate.init, jax.random.key(0), x)
    assert shapes["params"]["fc1"]["kernel"].shape == (1, 1, 48, width)
