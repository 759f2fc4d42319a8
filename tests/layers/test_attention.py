import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.attention import Attention, SeparateValueAttention, attend
from flaxzoo.layers.attention_pool import AttentionPoolLatent

X = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)


def heads(tokens=5, seed=0):
    numbers = np.random.default_rng(seed).standard_normal((3, 2, tokens, 3, 4))
    return jnp.asarray(numbers, jnp.float32)


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_by_its_formula(implementation):
    q, k, v = heads()
    out = attend(q, k, v, implementation=implementation)
    for example in range(2):
        for head in range(3):
            logits = q[example, :, head] @ k[example, :, head].T / 2
            weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            expected = weights @ v[example, :, head]
            part = out[example, :, 4 * head : 4 * head + 4]
            np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
@pytest.mark.parametrize("masked", [False, True])
def test_nothing_is_seen_of_later_positions(implementation, masked):
    q, k, v = heads()
    mask = jnp.asarray(np.eye(5, dtype=bool) | (np.arange(5) != 1)) if masked else None
    run = functools.partial(attend, is_causal=True, implementation=implementation)
    out = run(q, k, v, mask=mask)
    for last in range(1, 6):
        seen = None if mask is None else mask[:last, :last]
        part = run(q[:, :last], k[:, :last], v[:, :last], mask=seen)
        np.testing.assert_allclose(out[:, :last], part, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_a_query_that_sees_nothing_has_finite_gradients(implementation):
    mask = np.ones((5, 5), bool)
    mask[2] = False
    loss = lambda qkv: attend(*qkv, mask=jnp.asarray(mask), implementation=implementation).sum()  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(heads())
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_the_softmax_of_half_precision_is_float32():
    q, k, v = heads(tokens=64)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    wide = attend(*(x.astype(jnp.float32) for x in half))
    out = attend(*half)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), wide, atol=2e-2)
    text = str(jax.make_jaxpr(attend)(*half))
    assert "f32[2,3,64,64] = exp" in text


def test_weights_are_dropped_while_training(random_variables):
    module = Attention(3, attention_dropout=0.5, dropout=0.1)
    variables = random_variables(module, X)
    first, again, other = (
        module.apply(variables, X, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    plain = Attention(3).apply(variables, X)
    np.testing.assert_array_equal(module.apply(variables, X), plain)
    with pytest.raises(ValueError, match="implementation='xla' can't drop weights, 'einsum' can"):
        Attention(3, attention_dropout=0.5, implementation="xla").apply(
            variables, X, train=True, rngs={"dropout": jax.random.key(0)}
        )


@pytest.mark.parametrize("module", [Attention(3, qk_norm=True), AttentionPoolLatent(3)])
def test_dtypes(module):
    module = module.clone(dtype=jnp.bfloat16)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), X)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_vmap_remat_and_scan(random_variables):
    module = Attention(3)
    variables = random_variables(module, X)
    loss = lambda v, x: jnp.sin(module.apply(v, x)).sum()  # noqa: E731
    expected = jax.grad(loss)(variables, X)
    for gradient in (
        jax.grad(jax.checkpoint(loss))(variables, X),
        jax.tree.map(
            lambda g: g.sum(0), jax.vmap(jax.grad(loss), (None, 0))(variables, X[:, None])
        ),
        jax.grad(lambda v: jax.lax.scan(lambda s, x: (s + loss(v, x[None]), None), 0.0, X)[0])(
            variables
        ),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, expected
        )


@pytest.mark.parametrize(
    ("module", "x", "error", "message"),
    [
        (Attention(5), X, ShapeError, "C a multiple of heads=5, got .2, 5, 12."),
        (Attention(0), X, ValueError, "heads must be an int of at least 1, got 0"),
        (Attention(3), X[0], ShapeError, "tokens must have shape .B, N, C."),
        (Attention(3, implementation="flash"), X, ValueError, "'einsum', 'xla', 'cudnn', got 'fla"),
        (AttentionPoolLatent(5), X, ShapeError, "C a multiple of heads=5"),
        (AttentionPoolLatent(3, pooling="max"), X, ValueError, "must be one of 'token', 'avg'"),
        (AttentionPoolLatent(3, latents=0), X, ValueError, "latents must be an int of at least 1"),
    ],
)
def test_what_it_does_not_take(module, x, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(module.init, jax.random.key(0), x)


def test_pooling_sees_what_the_mask_lets_it(random_variables):
    module = AttentionPoolLatent(3, latents=2, pooling=None, norm=None)
    variables = random_variables(module, X)
    assert "norm" not in variables["params"]
    mask = jnp.asarray(np.arange(5) < 3)
    out = module.apply(variables, X, mask=mask)
    assert out.shape == (2, 2, 12)
    np.testing.assert_allclose(out, module.apply(variables, X[:, :3]), rtol=1e-5, atol=1e-6)
    mean = module.clone(pooling="avg").apply(variables, X, mask=mask)
    np.testing.assert_allclose(mean, out.mean(1), rtol=1e-5, atol=1e-6)
    dropping = module.clone(dropout=0.5)
    dropped = dropping.apply(variables, X, train=True, rngs={"dropout": jax.random.key(0)})
    assert not np.allclose(dropped, module.apply(variables, X))
    assert isinstance(module, nn.Module)


def test_values_of_a_layer_of_their_own(random_variables):
    separate = SeparateValueAttention(3)
    layers = random_variables(separate, X)["params"]
    assert {key: leaf["kernel"].shape for key, leaf in layers.items()} == {
        "qk": (12, 24),
        "v": (12, 12),
        "proj": (12, 12),
    }
    both = {
        key: np.concatenate([layers["qk"][key], layers["v"][key]], axis=-1)
        for key in ("kernel", "bias")
    }
    expected = Attention(3).apply({"params": {"qkv": both, "proj": layers["proj"]}}, X)
    out = separate.apply({"params": layers}, X)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
