import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.differential_attention import DifferentialAttention

X = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_one_map_less_a_multiple_of_another(random_variables, implementation):
    """The formula of Ye et al. 2024, section 2.1, written out for each head."""
    module = DifferentialAttention(2, number=3, implementation=implementation)
    variables = random_variables(module, X)
    p = jax.tree.map(np.asarray, variables["params"])
    q, k, v = np.split(X @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, -1)
    initial = 0.8 - 0.6 * np.exp(-0.9)
    multiple = initial + np.exp(p["lambda_q1"] @ p["lambda_k1"])
    multiple -= np.exp(p["lambda_q2"] @ p["lambda_k2"])
    heads = []
    for head in np.split(np.arange(8), 2):
        first, second = (
            softmax(q[..., half] @ k[..., half].swapaxes(1, 2) / np.sqrt(2))
            for half in np.split(head, 2)
        )
        y = (first - multiple * second) @ v[..., head]
        y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5) * p["sub_norm"]["scale"]
        heads.append(y * (1 - initial))
    expected = np.concatenate(heads, -1) @ p["proj"]["kernel"] + p["proj"]["bias"]
    np.testing.assert_allclose(module.apply(variables, X), expected, rtol=1e-3, atol=1e-5)


def test_what_it_does_not_take():
    with pytest.raises(ShapeError, match="must be of even width, got 3"):
        DifferentialAttention(2).init(jax.random.key(0), jnp.zeros((1, 2, 6)))
    with pytest.raises(ArgumentError, match="grid must be None of differential attention"):
        DifferentialAttention(2, grid=(1, 2)).init(jax.random.key(0), X)
