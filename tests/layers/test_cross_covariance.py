import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.layers.cross_covariance import CrossCovarianceAttention, FourierPositions


def test_attention_by_its_formula(random_variables):
    x = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    module = CrossCovarianceAttention(2)
    layers = random_variables(module, x)["params"]
    qkv = x @ layers["qkv"]["kernel"] + layers["qkv"]["bias"]
    q, k, v = np.moveaxis(qkv.reshape(2, 5, 3, 2, 3), 2, 0)
    q, k = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (q, k))
    logits = np.einsum("bnhc,bnhd->bhcd", q, k) * np.asarray(layers["temperature"])[None]
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = np.einsum("bhcd,bnhd->bnhc", weights, v).reshape(2, 5, 6)
    expected = y @ layers["proj"]["kernel"] + layers["proj"]["bias"]
    out = module.apply({"params": layers}, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_tokens_of_zeros_have_a_gradient():
    x = jnp.zeros((1, 4, 6))
    module = CrossCovarianceAttention(2, qkv_bias=False)
    variables = module.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda x: module.apply(variables, x).sum()))(x)
    assert np.isfinite(gradient).all()


def test_positions_are_parts_of_the_whole():
    """The last row and the last column are there at any size."""
    module = FourierPositions(4)
    positions, variables = module.init_with_output(jax.random.key(0), (2, 3))
    larger = module.apply(variables, (4, 6))
    assert larger.shape == (1, 4, 6, 4)
    np.testing.assert_allclose(larger[:, 1::2, 1::2], positions, rtol=1e-4, atol=1e-5)
