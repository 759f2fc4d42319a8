from __future__ import annotations

import inspect
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo import activations
from flaxzoo.errors import (
    ShapeError,
    UninitializedError,
    UnknownArgumentError,
    UnknownNameError,
)
from flaxzoo.layers import lowering

X = np.array([-4.0, -2.5, -1.0, -0.3, 0.0, 0.2, 0.9, 1.0, 2.0, 3.5], np.float32)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def _normal_cdf(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

# One number in, one number out, written from the definitions with the math module.
ELEMENTWISE = {
    "celu": lambda x: x if x > 0 else math.expm1(x),
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "gelu": lambda x: x * _normal_cdf(x),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "hard_mish": lambda x: 0.5 * x * min(max(x + 2, 0), 2),
    "hard_shrink": lambda x: x if abs(x) > 0.5 else 0.0,
    "hard_sigmoid": lambda x: min(max(x + 3, 0), 6) / 6,
    "hard_swish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "hard_tanh": lambda x: min(max(x, -1), 1),
    "identity": lambda x: x,
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "log_sigmoid": lambda x: -_softplus(-x),
    "mish": lambda x: x * math.tanh(_softplus(x)),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * math.expm1(x)),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "soft_shrink": lambda x: math.copysign(max(abs(x) - 0.5, 0.0), x),
    "soft_sign": lambda x: x / (1 + abs(x)),
    "softplus": _softplus,
    "sparse_plus": lambda x: 0.0 if x <= -1 else (x if x >= 1 else (x + 1) ** 2 / 4),
    "sparse_sigmoid": lambda x: min(max((x + 1) / 2, 0.0), 1.0),
    "squared_relu": lambda x: max(x, 0.0) ** 2,
    "squareplus": lambda x: (x + math.sqrt(x * x + 4)) / 2,
    "swish": lambda x: x * _sigmoid(x),
    "tanh": math.tanh,
    "tanh_shrink": lambda x: x - math.tanh(x),
}
# Over the last axis.
VECTOR = {
    "glu": lambda x: x[: len(x) // 2] / (1 + np.exp(-x[len(x) // 2 :])),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum()),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(),
    "standardize": lambda x: (x - x.mean()) / np.sqrt(x.var() + 1e-5),
}
WITH_KEYWORDS = [
    ("celu", {"alpha": 2.0}, lambda x: x if x > 0 else 2 * math.expm1(x / 2)),
    ("elu", {"alpha": 0.5}, lambda x: x if x > 0 else 0.5 * math.expm1(x)),
    ("gelu", {"approximate": True}, ELEMENTWISE["gelu_tanh"]),
    ("hard_shrink", {"threshold": 1.5}, lambda x: x if abs(x) > 1.5 else 0.0),
    ("leaky_relu", {"negative_slope": 0.2}, lambda x: x if x > 0 else 0.2 * x),
    (
        "soft_shrink",
        {"threshold": 0.25},
        lambda x: math.copysign(max(abs(x) - 0.25, 0.0), x),
    ),
    ("squareplus", {"b": 1.0}, lambda x: (x + math.sqrt(x * x + 1)) / 2),
    ("swish", {"beta": 2.0}, lambda x: x * _sigmoid(2 * x)),
]


def test_every_entry_has_a_closed_form_here():
    assert {*ELEMENTWISE, *VECTOR, "prelu"} == {entry[0] for entry in activations._ENTRIES}


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_elementwise_values(name):
    expected = [ELEMENTWISE[name](float(x)) for x in X]
    np.testing.assert_allclose(activations.get(name)(X), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", sorted(VECTOR))
def test_vector_values(name):
    actual = activations.get(name)(np.stack([X, X[::-1]]))
    expected = np.stack([VECTOR[name](X.astype(np.float64)), VECTOR[name](X[::-1].astype(float))])
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("name", "kwargs", "reference"), WITH_KEYWORDS)
def test_keywords_are_fixed(name, kwargs, reference):
    actual = activations.get(name, **kwargs)(X)
    np.testing.assert_allclose(actual, [reference(float(x)) for x in X], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", sorted({*ELEMENTWISE, *VECTOR}))
def test_gradients_are_finite_at_zero_and_far_out(name):
    x = jnp.array([0.0, -0.0, 1e4, -1e4, 80.0, -80.0, 0.5, -0.5, 1.0, -1.0])
    weights = jnp.linspace(0.5, 1.5, x.size)

    @jax.jit
    @jax.grad
    def gradient(x):
        y = activations.get(name)(x)
        return (y * weights[: y.size]).sum()

    assert np.isfinite(gradient(x)).all()


@pytest.mark.parametrize("name", sorted({*ELEMENTWISE, *VECTOR}))
def test_bfloat16_stays_bfloat16(name):
    y = jax.eval_shape(activations.get(name), jax.ShapeDtypeStruct((2, 4), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16


def _public_functions(module):
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_")
    }


# Callables of the two modules that are no activations: attention and scaled products, encodings,
# reductions, initializers' and type helpers, a log-space difference, and Linen itself.
NOT_ACTIVATIONS = {
    "Any", "Array", "Dense", "Dtype", "Module", "Optional", "PReLU", "compact",
    "dot_product_attention", "get_scaled_dot_general_config", "log1mexp", "logmeanexp",
    "logsumexp", "one_hot", "scaled_dot_general", "scaled_matmul",
}  # fmt: skip
# flax.linen.activation's old name for standardize, deprecated there.
RENAMED = {"normalize": "standardize"}


@pytest.mark.parametrize("module", [jax.nn, nn.activation])
def test_no_activation_of_jax_or_flax_is_missed(module):
    found = set(_public_functions(module)) - NOT_ACTIVATIONS
    assert len(found) > 15
    missing = {n for n in found if RENAMED.get(n, n) not in activations.REGISTRY}
    assert not missing


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_same_function_as_jax_where_jax_has_it(name):
    if name == "gelu" or not hasattr(jax.nn, name):
        assert name in {
            "gelu", "gelu_tanh", "hard_mish", "hard_shrink", "quick_gelu", "soft_shrink",
            "squared_relu", "tanh_shrink",
        }  # fmt: skip
        return
    np.testing.assert_array_equal(activations.get(name)(X), getattr(jax.nn, name)(X))


def test_gelu_is_the_exact_one_and_differs_from_jax_default():
    exact, approximate = activations.get("gelu")(X), jax.nn.gelu(X)
    np.testing.assert_allclose(exact, jax.nn.gelu(X, approximate=False), rtol=0, atol=5e-7)
    with lowering.use("xla"):
        plain = activations.get("gelu")(X)
    np.testing.assert_array_equal(plain, jax.nn.gelu(X, approximate=False))
    assert 1e-5 < np.abs(exact - approximate).max() < 5e-4


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("linear", "identity"),
        ("gelu_exact", "gelu"),
        ("hard_silu", "hard_swish"),
        ("hardswish", "hard_swish"),
        ("softsign", "soft_sign"),
        ("logsigmoid", "log_sigmoid"),
    ],
)
def test_aliases(alias, name):
    assert activations.get(alias) is activations.get(name)


class Net(nn.Module):
    activation: activations.ActivationLike = "relu"

    @nn.compact
    def __call__(self, x):
        activation = activations.as_activation(self.activation)
        x = activation(nn.Dense(3)(x))
        return activation(nn.Dense(3)(x))


def test_prelu_makes_one_parameter_per_use():
    x = jnp.ones((2, 4))
    variables = jax.jit(Net("prelu").init)(jax.random.key(0), x)
    slopes = {k: v for k, v in variables["params"].items() if k.startswith("PReLU")}
    assert set(slopes) == {"PReLU_0", "PReLU_1"}
    assert all(v["negative_slope"] == 0.25 for v in slopes.values())


def test_prelu_values_options_and_gradient():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return activations.get("prelu", per_channel=True, negative_slope_init=0.1)(x)

    x = jnp.array([[-1.0, 2.0, -3.0], [-2.0, -1.0, 0.5]])
    variables = Layer().init(jax.random.key(0), x)
    slope = variables["params"]["PReLU_0"]["negative_slope"]
    np.testing.assert_allclose(slope, [0.1, 0.1, 0.1])
    np.testing.assert_allclose(
        Layer().apply(variables, x), [[-0.1, 2.0, -0.3], [-0.2, -0.1, 0.5]], rtol=1e-6
    )
    gradient = jax.grad(lambda v: Layer().apply(v, x).sum())(variables)
    # The derivative by a slope is the sum of the channel's negative inputs.
    np.testing.assert_allclose(gradient["params"]["PReLU_0"]["negative_slope"], [-3.0, -1.0, -3.0])


def test_prelu_of_a_scalar_per_channel():
    with pytest.raises(ShapeError, match=r"x: .*takes \[\.\.\., C\]"):
        activations.PReLU(per_channel=True).init(jax.random.key(0), 1.0)


def test_prelu_outside_of_a_module_says_what_to_do():
    with pytest.raises(UninitializedError, match=r"@nn\.compact"):
        activations.get("prelu")(jnp.ones(3))


def test_module_class_and_instance_are_taken():
    x = -jnp.ones((2, 4))
    for activation in (nn.PReLU, nn.PReLU(negative_slope_init=0.5)):
        y, variables = Net(activation).init_with_output(jax.random.key(0), x)
        assert y.shape == (2, 3)
        assert len(jax.tree.leaves(variables)) > 4


def test_modules_with_activations_stay_hashable_and_equal():
    for make in (
        lambda: "relu",
        lambda: None,
        lambda: jnp.tanh,
        lambda: activations.get("leaky_relu", negative_slope=0.2),
        lambda: activations.get("prelu"),
    ):
        assert Net(make()) == Net(make())
        assert hash(Net(make())) == hash(Net(make()))
    first = activations.get("leaky_relu", negative_slope=0.2)
    assert first != activations.get("leaky_relu", negative_slope=0.3)
    assert first != activations.get("elu")


def test_equal_activations_compile_once():
    traces = []

    def apply(activation, x):
        traces.append(1)
        return activations.as_activation(activation)(x)

    jitted = jax.jit(apply, static_argnums=0)
    for _ in range(3):
        jitted(activations.get("swish", beta=1.5), X)
    assert len(traces) == 1


def test_as_activation():
    assert activations.as_activation("relu") is jax.nn.relu
    np.testing.assert_array_equal(activations.as_activation(None)(X), X)

    def mine(x):
        return x * 3

    assert activations.as_activation(mine) is mine
    with pytest.raises(UnknownArgumentError, match="got int: 3"):
        activations.as_activation(3)
    with pytest.raises(UnknownNameError, match="'relu'"):
        activations.as_activation("reluu")
    with pytest.raises(UnknownArgumentError, match="'slope'"):
        activations.as_activation({"name": "relu", "slope": 1})


@pytest.mark.parametrize(
    "activation",
    [
        "gelu",
        "linear",
        None,
        jax.nn.relu,
        activations.get("leaky_relu", negative_slope=0.2),
        activations.get("prelu"),
        activations.get("prelu", per_channel=True),
    ],
)
def test_config_survives_json(activation):
    config = json.loads(json.dumps(activations.to_config(activation)))
    assert activations.as_activation(config) == activations.as_activation(activation)


def test_config_of_unregistered_callables_is_none():
    assert activations.to_config(lambda x: x) is None
    assert activations.to_config(nn.PReLU) is None


def test_unknown_keyword_lists_what_the_entry_takes():
    with pytest.raises(UnknownArgumentError, match="It takes: negative_slope"):
        activations.get("leaky_relu", slope=0.2)
    with pytest.raises(UnknownArgumentError, match="takes no keywords"):
        activations.get("relu", x=1)
    with pytest.raises(UnknownArgumentError, match="negative_slope_init, per_channel, param_dtype"):
        activations.get("prelu", parent=None)


def test_register_and_info():
    try:

        @activations.register("test_scaled", aliases=["test_times"])
        def scaled(values, factor=2.0):
            """Multiplies by a factor."""
            return values * factor

        assert activations.get("test_scaled") is scaled
        np.testing.assert_array_equal(activations.get("test_times", factor=3.0)(X), X * 3)
        info = activations.info("test_times")
        assert info.summary == "Multiplies by a factor."
        assert [*info.signature.parameters] == ["factor"]
        with pytest.raises(ValueError, match="override=True"):
            activations.register("relu")(scaled)
    finally:
        activations.REGISTRY._entries.pop("test_scaled", None)
        activations.REGISTRY._aliases.pop("test_times", None)


@pytest.mark.parametrize("name", activations.list())
def test_every_entry_documents_itself(name):
    info = activations.info(name)
    assert len(info.summary) > 10
    assert all(p.default is not inspect.Parameter.empty for p in info.signature.parameters.values())


def test_repr():
    assert repr(activations.get("swish", beta=1.5)) == "swish(beta=1.5)"
