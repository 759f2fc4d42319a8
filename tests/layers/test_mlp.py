import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.initializers import Constant, FanIn, plain_bias
from flaxzoo.layers.mlp import GlobalResponseNormMlp, GluMlp, Mlp, SwiGLU

X = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2


def dense(x, layer):
    return x @ layer["kernel"].reshape(layer["kernel"].shape[-2:]) + layer["bias"]


@pytest.mark.parametrize("as_conv", [False, True])
def test_by_its_formula(as_conv, random_variables):
    module = Mlp(10, features=5, as_conv=as_conv)
    variables = random_variables(module, X)
    layers = variables["params"]
    assert layers["fc1"]["kernel"].shape == ((1, 1, 6, 10) if as_conv else (6, 10))
    expected = dense(gelu(dense(X, layers["fc1"])), layers["fc2"])
    out = jax.jit(module.apply)(variables, X)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_gates_by_their_formulas(random_variables):
    silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731
    module = SwiGLU(10)
    layers = random_variables(module, X)["params"]
    hidden = silu(dense(X, layers["fc1_g"])) * dense(X, layers["fc1_x"])
    out = module.apply({"params": layers}, X)
    np.testing.assert_allclose(out, dense(hidden, layers["fc2"]), rtol=1e-4, atol=1e-5)
    module = GluMlp(10)
    layers = random_variables(module, X)["params"]
    values, gates = np.split(dense(X, layers["fc1"]), 2, axis=-1)
    out = module.apply({"params": layers}, X)
    expected = dense(values / (1 + np.exp(-gates)), layers["fc2"])
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="hidden must be even, got 9"):
        GluMlp(9).init(jax.random.key(0), X)


@pytest.mark.parametrize("kind", [Mlp, GluMlp, SwiGLU, GlobalResponseNormMlp])
def test_dtypes_and_dropout(kind):
    module = kind(8, dropout=0.5, dtype=jnp.bfloat16, norm="layer")
    variables = module.init(jax.random.key(0), X)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out = module.apply(variables, X)
    assert (out.shape, out.dtype) == (X.shape, jnp.bfloat16)
    dropped = module.apply(variables, X, train=True, rngs={"dropout": jax.random.key(1)})
    assert 0.3 < (np.asarray(dropped, np.float32) == 0).mean() < 0.7


def test_outputs_that_are_never_dropped():
    variables = Mlp(4, features=64, bias_init=Constant(1.0)).init(jax.random.key(0), X)
    for drops in (True, False):
        module = Mlp(4, features=64, dropout=0.5, drop_outputs=drops)
        out = module.apply(variables, X, train=True, rngs={"dropout": jax.random.key(1)})
        assert bool((out == 0).any()) is drops


def test_how_its_layers_begin():
    inits = {"last_init": Constant(0.5), "bias_init": Constant(0.25)}
    params = Mlp(8, **inits).init(jax.random.key(0), X)["params"]
    assert (params["fc2"]["kernel"] == 0.5).all()
    assert (params["fc1"]["kernel"] < 0.5).all()
    assert all((layer["bias"] == 0.25).all() for layer in params.values())


def test_fields_that_it_does_not_take():
    with pytest.raises(ValueError, match="hidden must be an int of at least 1, got 0"):
        Mlp(0).init(jax.random.key(0), X)


def test_gates_that_begin_open():
    module = GluMlp(2000, open_gates=True)
    variables = module.init(jax.random.key(0), X)
    layer = variables["params"]["fc1"]
    np.testing.assert_array_equal(layer["bias"], np.repeat([0, 1], 1000))
    values, gates = np.split(np.asarray(layer["kernel"]), 2, axis=-1)
    assert values.std() == pytest.approx(0.02, rel=0.1)
    assert gates.std() == pytest.approx(1e-6, rel=0.1)


def test_layers_that_begin_as_pytorch_s():
    module = Mlp(400, features=300, kernel_init=FanIn(), bias_init=plain_bias)
    layers = module.init(jax.random.key(0), jnp.zeros((1, 100)))["params"]
    for name, fan_in in (("fc1", 100), ("fc2", 400)):
        # Uniform numbers up to one over the root of what each output sees.
        for leaf in layers[name].values():
            assert np.std(leaf) == pytest.approx(1 / np.sqrt(3 * fan_in), rel=0.15)
