"""Class attention by its formula, its dtypes, its block, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.class_attention import ClassAttention, ClassBlock

X = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)


def test_by_its_formula(random_variables):
    module = ClassAttention(3)
    layers = random_variables(module, X)["params"]

    def dense(name, x):
        return x @ layers[name]["kernel"] + layers[name]["bias"]

    def heads(x):
        return x.reshape(2, -1, 3, 2)

    q, k, v = heads(dense("q", X[:, :1])), heads(dense("k", X)), heads(dense("v", X))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(2)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = dense("proj", np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 1, 6))
    out, state = module.apply({"params": layers}, X, mutable=["intermediates"])
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    (shown,) = state["intermediates"]["attention"]
    np.testing.assert_allclose(shown, weights, rtol=1e-4, atol=1e-5)


def test_dtypes_and_dropout():
    module = ClassAttention(3, attention_dropout=0.5, dropout=0.5, dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), X)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out = module.apply(variables, X, train=True, rngs={"dropout": jax.random.key(1)})
    assert (out.shape, out.dtype) == ((2, 1, 6), jnp.bfloat16)
    with pytest.raises(ShapeError, match="multiple of heads=4"):
        ClassAttention(4).init(jax.random.key(0), X)


def test_one_layer_makes_keys_and_values(random_variables):
    apart = ClassAttention(3)
    layers = random_variables(apart, X)["params"]
    expected = apart.apply({"params": layers}, X)
    key, value = layers.pop("k"), layers.pop("v")
    layers["kv"] = jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=-1), key, value)
    joint = ClassAttention(3, joint=True)
    np.testing.assert_allclose(joint.apply({"params": layers}, X), expected, rtol=1e-5, atol=1e-6)


def test_a_block_changes_the_first_token_alone(random_variables):
    block = ClassBlock(3, joint=True)
    variables = random_variables(block, X)
    assert set(variables["params"]) == {"norm1", "attn", "norm2", "mlp"}
    out = block.apply(variables, X)
    np.testing.assert_array_equal(out[:, 1:], X[:, 1:])
    assert np.abs(out[:, 0] - X[:, 0]).min() > 1e-4
    other = block.apply(variables, X * np.where(np.arange(5) == 2, -1, 1)[None, :, None])
    assert np.abs(other[:, 0] - out[:, 0]).max() > 1e-4
