import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flaxzoo._flops import count_flops
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import FanInBias
from flaxzoo.layers.lowering.convolution import dot_general


def normal(*shape, dtype=np.float32, seed=0):
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return jnp.asarray(values, dtype)


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=0))


def run(module, variables, x):
    y, pull = jax.vjp(module.apply, variables, x)
    return y, pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (2, 3, 4, 6), (0, 6)])
@pytest.mark.parametrize("features", [3, 9])
def test_values_and_gradients_are_those_of_flax(shape, features, random_variables):
    x = normal(*shape)
    variables = random_variables(Dense(features), x)
    both = jax.jit(lambda v, x: [run(m(features), v, x) for m in (Dense, nn.Dense)])
    assert_close(*both(variables, x))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-3), ("float64", 1e-14)]
)
def test_other_precisions(dtype, tolerance, random_variables):
    with jax.enable_x64(dtype == "float64"):
        modules = [kind(8, dtype=dtype, param_dtype=dtype) for kind in (Dense, nn.Dense)]
        x = normal(2, 5, 6, dtype=dtype)
        variables = random_variables(modules[0], x)
        both = jax.jit(lambda v, x: [run(module, v, x) for module in modules])
        ours, theirs = both(variables, x)
        assert ours[0].dtype == dtype
        assert_close(ours, theirs, tolerance)


def test_fresh_parameters_are_flaxs():
    x = jnp.zeros((1, 6))
    ours, theirs = (kind(4).init(jax.random.key(0), x) for kind in (Dense, nn.Dense))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert Dense(4) == Dense(4)
    assert hash(Dense(4)) == hash(Dense(4))


def both_products(function):
    """What a function of a product gives, with ours and with JAX's."""
    numbers = (((1,), (0,)), ((), ()))
    return [
        jax.jit(lambda *args, f=f: function(lambda x, k: f(x, k, numbers), *args))
        for f in (dot_general, jax.lax.dot_general)
    ]


X, K = normal(5, 6), normal(6, 4)


@pytest.mark.parametrize(
    "axes", [(0, None), (1, None), (None, 0), (2, 1), (0, 0)], ids=lambda axes: str(axes)
)
def test_vmap(axes):
    shapes = [X.shape, K.shape]
    operands = [
        normal(*(shape if axis is None else np.insert(shape, axis, 3)))
        for shape, axis in zip(shapes, axes, strict=True)
    ]

    def gradients(product, x, k):
        loss = lambda x, k: jnp.sin(product(x, k)).sum()  # noqa: E731
        return jax.vmap(jax.value_and_grad(loss, (0, 1)), axes)(x, k)

    ours, theirs = both_products(gradients)
    assert_close(ours(*operands), theirs(*operands))


def test_forward_mode_and_second_derivatives():
    check_grads(lambda x, k: jnp.sin(dot_general(x, k, (((1,), (0,)), ((), ())))), (X, K), 2)

    def hessian_product(product, x, k):
        loss = lambda x: (product(jnp.sin(product(x, k)), k.T) ** 2).sum()  # noqa: E731
        return jax.jvp(jax.grad(loss), (x,), (x,))

    ours, theirs = both_products(hessian_product)
    assert_close(ours(X, K), theirs(X, K))


def test_remat_and_scan():
    kernels = normal(3, 6, 6)

    def loss(product, x, kernels):
        layer = jax.checkpoint(lambda x, k: jnp.tanh(product(x, k)))
        return jax.lax.scan(lambda x, k: (layer(x, k), None), x, kernels)[0].sum()

    ours, theirs = both_products(lambda *a: jax.value_and_grad(loss, (1, 2))(*a))
    assert_close(ours(X, kernels), theirs(X, kernels))


def test_other_products_are_jaxs():
    for numbers, x, k in (
        ((((0,), (0,)), ((), ())), normal(6, 5), K),
        ((((2,), (1,)), ((0,), (0,))), normal(3, 5, 6), normal(3, 6, 4)),
        ((((1,), (0,)), ((), ())), X.astype(jnp.int32), K.astype(jnp.int32)),
        ((((1,), (0,)), ((), ())), X.astype(jnp.complex64), K.astype(jnp.complex64)),
    ):
        expected = jax.lax.dot_general(x, k, numbers)
        np.testing.assert_array_equal(dot_general(x, k, numbers), expected)
    wide = dot_general(X, K, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    assert wide.dtype == jnp.float32


def test_accelerators_multiply_matrices():
    def step(x, k):
        return jax.grad(lambda x, k: Dense(4, use_bias=False).apply({"params": {"kernel": k}}, x)
                        .sum(), (0, 1))(x, k)  # fmt: skip

    text = jax.export.export(jax.jit(step), platforms=["cuda"])(X, K).mlir_module()
    assert "stablehlo.convolution" not in text
    assert text.count("stablehlo.dot_general") >= 2


def test_operations_are_counted():
    total = sum(count_flops(lambda x: Dense(4, use_bias=False).apply(
        {"params": {"kernel": K}}, x), normal(2, 5, 6)).values())  # fmt: skip
    assert total == 2 * (2 * 5) * 6 * 4


def test_images_of_any_number():
    (batch,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((batch, 3, 6), jnp.float32)
    layer = Dense(4)
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 6)))
    gradient = jax.jit(jax.grad(lambda x: jnp.sin(layer.apply(variables, x)).sum()))
    exported = jax.export.export(gradient)(spec)
    x = normal(2, 3, 6)
    np.testing.assert_allclose(exported.call(x), gradient(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [Dense(3000), Conv(3000, 1, use_bias=True)])
def test_biases_that_begin_by_the_fan_in_of_their_kernel(layer):
    layer = layer.clone(bias_init=FanInBias(scale=4.0))
    bias = layer.init(jax.random.key(0), normal(1, 2, 2, 100))["params"]["bias"]
    assert np.std(bias) == pytest.approx(0.2, rel=0.05)
    # Uniform numbers.
    assert np.abs(bias).max() == pytest.approx(0.2 * np.sqrt(3), rel=0.01)


def test_a_bias_of_another_s_layer_does_not_know_its_fan_in():
    layer = nn.Dense(3, bias_init=FanInBias())
    with pytest.raises(TypeError, match="FanInBias is for the biases of flaxzoo.layers' Dense"):
        layer.init(jax.random.key(0), normal(1, 4))
