import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo.layers.lowering.max_pool import max_pool_2d

BOTH = (max_pool_2d, nn.max_pool)
RESNET = ((3, 3), (2, 2), ((1, 1), (1, 1)))


def levels(*shape, dtype=np.float32):
    """Few different values, so that most windows hold their maximum several times."""
    values = np.random.default_rng([*shape]).integers(-2, 2, shape)
    return jnp.asarray(values).astype(dtype)


def normal(*shape):
    return np.random.default_rng([*shape]).standard_normal(shape).astype(np.float32)


def directions(pool, x, window):
    """The maxima, and the gradient for a cotangent that tells the windows apart."""
    y, pull = jax.vjp(lambda x: pool(x, *window), x)
    return y, pull((jnp.arange(y.size) % 31 + 1.0).reshape(y.shape).astype(y.dtype))[0]


def assert_equal(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))


def compare(x, window):
    assert_equal(*jax.jit(lambda x: [directions(pool, x, window) for pool in BOTH])(x))


def any_pool(seed):
    rng = np.random.default_rng(seed)
    pair = lambda low, high: tuple(rng.integers(low, high, 2, endpoint=True).tolist())  # noqa: E731
    shape = (int(rng.integers(0, 4)), *pair(1, 12), int(rng.integers(1, 5)))
    return shape, (pair(1, 4), pair(1, 4), (pair(0, 3), pair(0, 3)))


@pytest.mark.full_compiler
# Seeds, because Hypothesis changes an example a little to get the next one.
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32).map(any_pool))
def test_maxima_and_gradients_are_those_of_flax(example):
    shape, window = example
    compare(levels(*shape), window)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2, 9, 8, 3), RESNET),
        ((0, 9, 8, 3), RESNET),
        ((1, 1, 1, 1), RESNET),
        # No window fits, there is no image, windows of padding alone, more than an int8 counts.
        ((2, 2, 8, 3), ((3, 3), (2, 2), ((0, 0), (0, 0)))),
        ((2, 0, 8, 3), ((3, 3), (2, 2), ((0, 0), (0, 0)))),
        ((1, 4, 4, 2), ((2, 2), (1, 1), ((3, 3), (3, 3)))),
        ((1, 12, 13, 1), ((11, 12), (1, 1), ((0, 0), (0, 0)))),
        ((9, 8, 3), RESNET),
    ],
)
def test_shapes_at_the_limits(shape, window):
    compare(levels(*shape), window)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_precisions(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = levels(2, 9, 8, 3, dtype=dtype)
        assert x.dtype == dtype
        compare(x, RESNET)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_what_has_no_gradient(dtype):
    x = jnp.abs(levels(2, 7, 8, 3)).astype(dtype)
    assert_equal(*(jax.jit(lambda x, pool=pool: pool(x, *RESNET))(x) for pool in BOTH))


def test_more_axes_of_batch():
    x = levels(2, 3, 7, 8, 3)
    y = max_pool_2d(x, *RESNET)
    np.testing.assert_array_equal(y, np.stack([nn.max_pool(part, *RESNET) for part in x]))


def test_of_equal_values_the_first_by_rows_takes_the_gradient():
    x = jnp.asarray([[1.0, 2, 2], [2, 0, 1], [0, 2, 1]])[None, :, :, None]
    gradient = jax.grad(lambda x: max_pool_2d(x, (3, 3), (1, 1), ((0, 0), (0, 0))).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_infinities():
    x = np.array(levels(2, 9, 8, 3))
    rng = np.random.default_rng(0)
    x[rng.random(x.shape) < 0.2] = np.inf
    x[rng.random(x.shape) < 0.5] = -np.inf
    compare(x, RESNET)
    compare(np.full((1, 5, 5, 1), -np.inf, np.float32), RESNET)


def test_a_window_with_nan_is_nan():
    x = np.array(levels(2, 9, 8, 3))
    x[np.random.default_rng(0).random(x.shape) < 0.05] = np.nan
    ours, theirs = jax.jit(lambda x: [pool(x, *RESNET) for pool in BOTH])(x)
    assert 0 < np.isnan(ours).mean() < 1
    np.testing.assert_array_equal(ours, theirs)
    # The last one of a window takes the gradient, as in PyTorch.
    x = jnp.asarray([[1.0, jnp.nan, 5], [jnp.nan, 0, 1]])[None, :, :, None]
    gradient = jax.grad(lambda x: max_pool_2d(x, (2, 3), (1, 1), ((0, 0), (0, 0))).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 0, 0], [1, 0, 0]])


def value(f):
    return lambda x: jnp.sin(f(x)).sum()


def scanned(f):
    def run(x):
        return jax.lax.scan(lambda total, x: (total + value(f)(x), None), 0.0, x)[0]

    return jax.grad(run)


TRANSFORMATIONS = {
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (jnp.cos(x),)),
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](jnp.cos(x)),
    "forward over reverse": lambda f: lambda x: jax.jvp(jax.grad(value(f)), (x,), (jnp.cos(x),)),
    "reverse over reverse": lambda f: jax.grad(
        lambda x: (jnp.cos(x) * jax.grad(value(f))(x)).sum()
    ),
    "reverse over forward": lambda f: jax.grad(lambda x: jax.jvp(value(f), (x,), (jnp.cos(x),))[1]),
    "vmap": lambda f: jax.vmap(jax.grad(value(lambda x: f(x[None])))),
    "vmap along another axis": lambda f: jax.vmap(lambda x: f(x[..., None]), 3, 1),
    "remat": lambda f: jax.grad(jax.checkpoint(value(f))),
    "scan": lambda f: lambda x: scanned(f)(jnp.stack([x, -x])),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name):
    transform = TRANSFORMATIONS[name]

    def both(x):
        return [transform(lambda x, pool=pool: pool(x, *RESNET))(x) for pool in BOTH]

    # Different values: which of two equal ones a compiler's reverse of a reverse takes is its own.
    ours, theirs = jax.jit(both)(normal(2, 7, 6, 3))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_outside_of_jit():
    assert_equal(*(directions(pool, levels(2, 5, 6, 1), RESNET) for pool in BOTH))


@pytest.mark.parametrize("platforms", [["cpu"], ["cpu", "cuda", "tpu"]])
def test_exports_of_any_size(platforms):
    sizes = jax.export.symbolic_shape("b, h, w", constraints=["h >= 3", "w >= 3"])
    x = jax.ShapeDtypeStruct((*sizes, 3), jnp.float32)
    pool = jax.jit(lambda x: max_pool_2d(x, *RESNET))
    exported = jax.export.export(pool, platforms=platforms)(x)
    for size in ((2, 5, 6), (1, 4, 7)):
        x = levels(*size, 3)
        y = exported.call(x)
        np.testing.assert_array_equal(y, nn.max_pool(x, *RESNET))


def test_exports_of_gradients():
    (batch,) = jax.export.symbolic_shape("b")
    argument = jax.ShapeDtypeStruct((batch, 7, 6, 3), jnp.float32)
    pool = jax.jit(lambda x: max_pool_2d(x, *RESNET))
    exported = jax.export.export(pool, platforms=["cpu", "cuda", "tpu"])(argument)
    x = levels(3, 7, 6, 3)
    y, gradient = directions(nn.max_pool, x, RESNET)
    (cotangent,) = [(jnp.arange(y.size) % 31 + 1.0).reshape(y.shape)]
    np.testing.assert_array_equal(exported.vjp().call(x, cotangent)[0], gradient)


def test_accelerators_have_xlas_lowering():
    def step(x):
        return jax.grad(value(lambda x: max_pool_2d(x, *RESNET)))(x)

    x = jax.ShapeDtypeStruct((2, 7, 6, 3), jnp.float32)

    def text(platform):
        return jax.export.export(jax.jit(step), platforms=[platform])(x).mlir_module()

    for platform in ("cuda", "tpu"):
        assert "select_and_scatter" in text(platform)
        assert "reduce_window" in text(platform)
    assert "select_and_scatter" not in text("cpu")
