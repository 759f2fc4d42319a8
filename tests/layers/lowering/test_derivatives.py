"""GELU, softmax and LayerNorm: values of JAX's own, derivatives against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flaxzoo.activations import gelu
from flaxzoo.layers import lowering
from flaxzoo.layers.lowering import derivatives
from flaxzoo.layers.norm import LayerNorm

X = 3 * np.random.default_rng(0).standard_normal((3, 5))
FUNCTIONS = {
    "gelu": (derivatives.gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    "softmax": (derivatives.softmax, jax.nn.softmax),
    "standardise": (
        lambda x: derivatives.standardise(x, 1e-6),
        lambda x: jax.nn.standardize(x, epsilon=1e-6),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_derivatives_of_any_order(name):
    function, reference = FUNCTIONS[name]
    with jax.enable_x64(True):
        np.testing.assert_allclose(function(X), reference(X), atol=1e-12)
        np.testing.assert_allclose(jax.vmap(function)(X), reference(X), atol=1e-12)
        check_grads(function, (X,), 3, modes=("fwd", "rev"), rtol=1e-3)


def test_half_precision_and_xla_s_lowering_are_jax_s_own():
    half = jnp.asarray(X, jnp.bfloat16)
    assert not derivatives.is_ours(half)
    np.testing.assert_array_equal(gelu(half), jax.nn.gelu(half, approximate=False))
    full = jnp.asarray(X, jnp.float32)
    assert derivatives.is_ours(full)
    with lowering.use("xla"):
        assert not derivatives.is_ours(full)
        assert "erfc" in str(jax.make_jaxpr(gelu)(full))


@pytest.mark.parametrize(
    "fields",
    [{}, {"use_scale": False}, {"use_bias": False}, {"param_dtype": jnp.bfloat16}],
    ids=str,
)
def test_layer_norm_is_xla_s(fields):
    x = jnp.asarray(X, jnp.float32)
    norm = LayerNorm(**fields)
    variables = norm.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: leaf + jnp.arange(5, dtype=leaf.dtype), variables)
    ours, pullback = jax.vjp(norm.apply, variables, x)
    with lowering.use("xla"):
        expected, expected_pullback = jax.vjp(norm.apply, variables, x)
        gradients = expected_pullback(ours)
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-2, atol=1e-5
        ),
        pullback(ours),
        gradients,
    )
