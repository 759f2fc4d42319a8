"""BatchNorm against Flax's; test_norm.py has what it adds to it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.norm import BatchNorm


def normal(*shape, mean=1.0, std=3.0):
    values = np.random.default_rng([*shape]).standard_normal(shape) * std + mean
    return jnp.asarray(values, np.float32)


def step(module, variables, x, cotangent, mask=None):
    """Output, updated statistics and gradients, in training mode."""

    def run(params, x):
        return module.apply(
            {**variables, "params": params},
            x,
            use_running_average=False,
            mask=mask,
            mutable=["batch_stats"],
        )

    y, pull, updates = jax.vjp(run, variables.get("params", {}), x, has_aux=True)
    return y, pull(cotangent.astype(y.dtype)), updates["batch_stats"]


def infer(module, variables, x):
    return module.apply(variables, x, use_running_average=True)


def unit(a):
    a = np.asarray(a, np.float64)
    return a, np.abs(a).max(initial=0)


def assert_close(ours, theirs, tolerance):
    """Within ``tolerance`` of the largest value of each array."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        b, scale = unit(b)
        np.testing.assert_allclose(unit(a)[0], b, rtol=0, atol=tolerance * scale)


def modules(**fields):
    fields = {"momentum": 0.9, "epsilon": 1e-5} | fields
    return BatchNorm(**fields), nn.BatchNorm(**fields)


BFLOAT16 = {"dtype": jnp.bfloat16}


@pytest.mark.full_compiler
@pytest.mark.parametrize(
    ("fields", "shape", "tolerance"),
    [
        ({}, (8, 4, 3, 5), 1e-5),
        ({}, (64, 3), 1e-5),
        # Without variance, epsilon's factor of 316 magnifies what is rounded of x times it.
        ({}, (1, 1, 1, 3), 1e-4),
        ({"axis": 1}, (4, 5, 3, 6), 1e-5),
        ({"axis": (1, -1)}, (6, 3, 4, 5), 1e-5),
        ({"axis": (-1, 1)}, (6, 3, 4, 5), 1e-5),
        ({"use_scale": False}, (8, 4, 5), 1e-5),
        ({"use_bias": False}, (8, 4, 5), 1e-5),
        ({"use_scale": False, "use_bias": False}, (8, 4, 5), 1e-5),
        ({"use_fast_variance": False}, (8, 4, 5), 1e-5),
        ({"momentum": 0.3, "epsilon": 0.1}, (8, 4, 5), 1e-5),
        # Half-precision outputs may round to the next number.
        (BFLOAT16, (8, 4, 3, 5), 8e-3),
        ({"param_dtype": jnp.bfloat16}, (8, 4, 3, 5), 8e-3),
        ({"force_float32_reductions": False}, (8, 4, 5), 1e-5),
        ({"force_float32_reductions": False, "param_dtype": jnp.bfloat16}, (8, 4, 5), 2e-2),
    ],
)
def test_outputs_gradients_and_statistics_are_those_of_flax(
    fields, shape, tolerance, random_variables
):
    ours, theirs = modules(**fields)
    x, cotangent = normal(*shape), jnp.cos(normal(*shape))
    variables = random_variables(theirs, x, use_running_average=True)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, random_variables(ours, x, use_running_average=True)
    )
    both = jax.jit(lambda v, x: [step(module, v, x, cotangent) for module in (ours, theirs)])
    (y, pulled, after), (expected, theirs_pulled, theirs_after) = both(variables, x)
    assert_close((y, after["mean"]), (expected, theirs_after["mean"]), tolerance)
    # By the cotangent's size: the gradient of a batch of one value is zero but for rounding.
    scale = np.abs(cotangent).max() * 10
    for a, b in zip(jax.tree.leaves(pulled), jax.tree.leaves(theirs_pulled), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(unit(a)[0], unit(b)[0], rtol=tolerance, atol=tolerance * scale)
    axes = fields.get("axis", -1)
    axes = [axis % len(shape) for axis in (axes if isinstance(axes, tuple) else (axes,))]
    count = np.prod([size for axis, size in enumerate(shape) if axis not in axes])
    keep = ours.momentum
    before = unit(variables["batch_stats"]["var"])[0]
    biased = unit(theirs_after["var"])[0] - keep * before
    unbiased = keep * before + biased * (count / max(count - 1, 1))
    np.testing.assert_allclose(unit(after["var"])[0], unbiased, rtol=max(tolerance, 1e-5))
    assert after["var"].dtype == theirs_after["var"].dtype
    assert_close(
        *(
            jax.jit(m.apply, static_argnames="use_running_average")(
                variables, x, use_running_average=True
            )
            for m in (ours, theirs)
        ),
        tolerance,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_inputs(dtype, random_variables):
    ours, theirs = modules(dtype=dtype)
    x, cotangent = normal(8, 4, 3, 5).astype(dtype), jnp.cos(normal(8, 4, 3, 5))
    variables = random_variables(theirs, x, use_running_average=True)
    (y, (params, dx), _), (expected, (theirs_params, theirs_dx), _) = jax.jit(
        lambda v, x: [step(module, v, x, cotangent) for module in (ours, theirs)]
    )(variables, x)
    tolerance = 2 * float(jnp.finfo(dtype).eps)
    assert_close((y, dx, params), (expected, theirs_dx, theirs_params), tolerance)


def test_statistics_keep_their_dtype():
    # Else the second step would be another program, and a scan over steps no program.
    norm = BatchNorm(param_dtype=jnp.bfloat16, force_float32_reductions=False)
    x = normal(8, 3).astype(jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x, use_running_average=True)
    *_, after = step(norm, variables, x, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("mask_shape", [(6, 1, 1), (6, 4, 1), (6, 4, 5)])
def test_masks(mask_shape, random_variables):
    ours, theirs = modules()
    x, cotangent = normal(6, 4, 5), jnp.cos(normal(6, 4, 5))
    mask = np.random.default_rng(0).random(mask_shape) < 0.7
    variables = random_variables(theirs, x, use_running_average=True)
    (y, pulled, after), (expected, theirs_pulled, theirs_after) = jax.jit(
        lambda v, x: [step(module, v, x, cotangent, mask) for module in (ours, theirs)]
    )(variables, x)
    assert_close((y, pulled, after["mean"]), (expected, theirs_pulled, theirs_after["mean"]), 1e-5)
    count = np.broadcast_to(mask, x.shape).sum((0, 1))
    before = variables["batch_stats"]["var"]
    biased = theirs_after["var"] - 0.9 * before
    np.testing.assert_allclose(after["var"], 0.9 * before + biased * count / (count - 1), rtol=1e-5)


def test_statistics_of_several_devices(random_variables):
    ours, theirs = modules(axis_name="batch")
    x, cotangent = normal(4, 3, 2, 5), jnp.cos(normal(4, 3, 2, 5))
    variables = random_variables(BatchNorm(), x[0], use_running_average=True)

    def both(x, cotangent):
        return [step(module, variables, x, cotangent) for module in (ours, theirs)]

    mine, flax = jax.jit(jax.vmap(both, axis_name="batch"))(x, cotangent)
    assert_close(mine[:2], flax[:2], 1e-5)
    assert_close(mine[2]["mean"], flax[2]["mean"], 1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_second_derivatives(train, random_variables):
    ours, theirs = modules()
    x = normal(6, 4, 3)
    variables = random_variables(theirs, x, use_running_average=True)

    def products(module, x):
        def loss(x):
            if train:
                return jnp.sin(step(module, variables, x, x)[0]).sum()
            return jnp.sin(infer(module, variables, x)).sum()

        forward = jax.jvp(jax.grad(loss), (x,), (jnp.cos(x),))[1]
        reverse = jax.grad(lambda x: (jnp.cos(x) * jax.grad(loss)(x)).sum())(x)
        return forward, reverse, jax.vmap(jax.grad(loss))(jnp.stack([x, x + 1]))

    assert_close(*jax.jit(lambda x: [products(m, x) for m in (ours, theirs)])(x), 2e-5)


@pytest.mark.full_compiler
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0, 100.0])
def test_rounding_is_no_worse_than_that_of_flax(ratio, fast):
    ours, theirs = modules(use_fast_variance=fast)
    x, cotangent = normal(16, 14, 14, 8, mean=ratio, std=1.0), jnp.cos(normal(16, 14, 14, 8))
    variables = ours.init(jax.random.key(0), x, use_running_average=True)
    exact = np.asarray(x, np.float64)
    deviation = exact - exact.mean((0, 1, 2))
    inverse = 1 / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    expected = deviation * inverse
    dy = np.asarray(cotangent, np.float64)
    dx = inverse * (dy - dy.mean((0, 1, 2)) - expected * (dy * expected).mean((0, 1, 2)))
    both = jax.jit(lambda x: [step(module, variables, x, cotangent) for module in (ours, theirs)])
    errors = []
    for y, (_, gradient), _ in both(x):
        errors.append([np.abs(y - expected).max(), np.abs(gradient - dx).max()])
    epsilon = float(jnp.finfo(np.float32).eps)
    bound = 4 * np.array(errors[1]) + (4 + ratio) * 4 * epsilon
    assert (np.array(errors[0]) <= bound).all()
