import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.layers.norm import (
    BatchNorm,
    ChannelScale,
    EvoNormS0,
    FilterResponseNorm,
    GlobalResponseNorm,
    GroupNorm,
    LayerNorm,
    LayerScale,
    OneGroupNorm,
    RMSNorm,
    SimpleNorm,
    as_norm,
    call_norm,
    make_norm,
    normalise_and_activate,
)
from flaxzoo.training.modes import training_modes


def batch(*shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape) * 3 + 1
    return values.astype(np.float32)


def fresh(channels=3):
    """What BatchNorm's variables are at the start."""
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    return {
        "params": {"scale": ones, "bias": zeros},
        "batch_stats": {"mean": zeros, "var": ones},
    }


def statistics(x, momentum=0.9, mean=0.0, var=1.0):
    """PyTorch's rule, in float64: the running variance takes the unbiased one."""
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return (
        momentum * mean + (1 - momentum) * x.mean(0),
        momentum * var + (1 - momentum) * x.var(0, ddof=1),
    )


@functools.partial(jax.jit, static_argnums=0)
def updated(module, variables, x, mask=None):
    y, updates = module.apply(
        variables, x, use_running_average=False, mask=mask, mutable=["batch_stats"]
    )
    return y, updates["batch_stats"]


@pytest.mark.parametrize(
    ("shape", "momentum"),
    [((2, 3), 0.9), ((4, 5), 0.0), ((2, 2, 2, 3), 0.9), ((1, 3, 2, 7), 0.5)],
)
def test_running_statistics_follow_pytorch(shape, momentum):
    x, norm = batch(*shape), BatchNorm(momentum=momentum)
    variables = fresh(shape[-1])
    y, after = updated(norm, variables, x)
    mean, var = statistics(x, momentum)
    np.testing.assert_allclose(after["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["var"], var, rtol=1e-5, atol=1e-6)
    # All else is Flax's.
    expected, theirs = updated(nn.BatchNorm(momentum=momentum, epsilon=1e-5), variables, x)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(after["mean"], theirs["mean"])
    assert (np.asarray(after["var"]) > np.asarray(theirs["var"])).all()


def test_statistics_build_up_over_steps():
    variables, mean, var = fresh(), 0.0, 1.0
    for seed in range(4):
        x = batch(4, 2, 2, 3, seed=seed)
        _, after = updated(BatchNorm(), variables, x)
        variables = {**variables, "batch_stats": after}
        mean, var = statistics(x, mean=mean, var=var)
    np.testing.assert_allclose(after["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(after["var"], var, rtol=1e-5)


def test_one_value_per_channel_has_no_unbiased_variance():
    _, after = updated(BatchNorm(), fresh(), batch(1, 3))
    np.testing.assert_allclose(after["var"], np.full(3, 0.9), rtol=1e-6)


def test_inference_uses_what_is_stored_and_changes_nothing(assert_trees_equal):
    x = batch(4, 2, 2, 3)
    mean, var = np.array([1.0, 2, 3], np.float32), np.array([4.0, 1, 2], np.float32)
    variables = {**fresh(), "batch_stats": {"mean": mean, "var": var}}
    y, same = BatchNorm().apply(variables, x, use_running_average=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-5, atol=1e-6)
    assert_trees_equal(same["batch_stats"], variables["batch_stats"])


def test_the_mode_may_be_given_to_the_constructor():
    x = batch(4, 3)
    norm = BatchNorm(use_running_average=False)
    y, updates = jax.jit(lambda v, x: norm.apply(v, x, mutable=["batch_stats"]))(fresh(), x)
    expected, after = updated(BatchNorm(), fresh(), x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(updates["batch_stats"]["var"], after["var"])


@pytest.mark.parametrize("mask_shape", [(6, 1, 1, 1), (6, 2, 3, 1)])
def test_masked_examples_count_for_nothing(mask_shape):
    x = batch(6, 2, 3, 4)
    expected, wanted = updated(BatchNorm(), fresh(4), x[:4])
    x[4:] = 1e3
    mask = np.broadcast_to((np.arange(6) < 4)[:, None, None, None], mask_shape)
    y, after = updated(BatchNorm(), fresh(4), x, mask)
    np.testing.assert_allclose(y[:4], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after["mean"], wanted["mean"], rtol=1e-5)
    np.testing.assert_allclose(after["var"], wanted["var"], rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_devices_share_their_statistics(masked):
    x = batch(4, 3, 2, 5)
    shared = BatchNorm(axis_name="devices")
    # Of three examples each device counts two.
    mask = np.broadcast_to(np.array([True, False, True])[:, None, None], (4, 3, 1, 1))

    def step(x, mask):
        return updated(shared, fresh(5), x, mask if masked else None)

    y, after = jax.jit(jax.vmap(step, axis_name="devices"))(x, mask)
    rows = (0, 2) if masked else (0, 1, 2)
    expected, wanted = updated(BatchNorm(), fresh(5), x[:, rows].reshape(-1, 2, 5))
    got = np.asarray(y)[:, rows].reshape(-1, 2, 5)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    # Every device holds the same statistics; the count is that of all devices.
    for name in ("mean", "var"):
        np.testing.assert_allclose(after[name], np.tile(wanted[name], (4, 1)), rtol=1e-5)


def test_bfloat16_keeps_statistics_in_float32():
    x = batch(8, 4, 4, 3).astype(jnp.bfloat16)
    y, after = updated(BatchNorm(dtype=jnp.bfloat16), fresh(), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}
    mean, var = statistics(x)
    np.testing.assert_allclose(after["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(after["var"], var, rtol=1e-4)


def test_an_initialisation_in_training_mode_leaves_the_statistics_fresh(assert_trees_equal):
    variables = BatchNorm().init(jax.random.key(0), batch(4, 3), use_running_average=False)
    assert_trees_equal(variables, fresh())


@pytest.mark.parametrize("given", ["call", "constructor"])
def test_a_frozen_norm_infers(given, assert_trees_equal):
    x = batch(4, 3)
    norm = BatchNorm(use_running_average=False if given == "constructor" else None)
    call = {} if given == "constructor" else {"use_running_average": False}
    variables = fresh()
    variables["batch_stats"] = {k: v + 3 for k, v in variables["batch_stats"].items()}
    with training_modes(variables["params"], frozenset({"scale", "bias"}), None):
        y, updates = norm.apply(variables, x, **call, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (x - 3) / np.sqrt(4 + 1e-5), rtol=1e-5, atol=1e-6)
    assert_trees_equal(updates["batch_stats"], variables["batch_stats"])


def test_padded_batches_give_the_numbers_of_the_batch():
    x = batch(5, 2, 2, 3)
    padded = np.concatenate([x, np.full((3, 2, 2, 3), 50.0, np.float32)])
    weights = np.array([1.0] * 5 + [0.0] * 3)

    @jax.jit
    def step(variables, padded, weights):
        with training_modes(variables["params"], frozenset(), weights):
            return BatchNorm().apply(
                variables, padded, use_running_average=False, mutable=["batch_stats"]
            )

    y, updates = step(fresh(), padded, weights)
    expected, wanted = updated(BatchNorm(), fresh(), x)
    np.testing.assert_allclose(y[:5], expected, rtol=1e-5, atol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(updates["batch_stats"][name], wanted[name], rtol=1e-6)


def test_group_norm_is_pytorchs(random_variables):
    x = batch(2, 3, 3, 64)
    variables = random_variables(GroupNorm(), x)
    groups = np.asarray(x, np.float64).reshape(2, 9, 32, 2)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    expected = expected * variables["params"]["scale"] + variables["params"]["bias"]
    out = jax.jit(GroupNorm().apply)(variables, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_one_group_is_all_of_an_example(random_variables):
    # A mean far from zero: the mean of the squares has no digits left for the variance.
    x = 1000 + batch(2, 3, 3, 5)
    variables = random_variables(OneGroupNorm(), x)
    values = np.asarray(x, np.float64)
    mean, var = (f((1, 2, 3), keepdims=True) for f in (values.mean, values.var))
    expected = (values - mean) / np.sqrt(var + 1e-5)
    expected = expected * variables["params"]["scale"] + variables["params"]["bias"]
    np.testing.assert_allclose(OneGroupNorm().apply(variables, x), expected, rtol=1e-3, atol=1e-3)


def test_norms_by_name():
    assert as_norm("batch") is BatchNorm
    assert as_norm("group") is GroupNorm
    assert as_norm("group1") is OneGroupNorm
    assert as_norm(nn.LayerNorm) is nn.LayerNorm
    message = (
        "norm must be one of batch, evo_s0, frn, group, group1, layer, rms, simple or a module, "
        "got 'batchnorm'. Did you mean 'batch'"
    )
    with pytest.raises(ValueError, match=message):
        as_norm("batchnorm")


class Host(nn.Module):
    """Calls a norm as the blocks do."""

    norm: nn.Module

    def __call__(self, x, train):
        return call_norm(self.norm, x, train=train)


@pytest.mark.parametrize("norm", [BatchNorm(), nn.BatchNorm(), nn.LayerNorm(), GroupNorm(3)])
def test_norms_are_called_in_their_own_ways(norm, random_variables):
    x = batch(4, 2, 2, 3)
    host = Host(norm)
    variables = random_variables(host, x, False)
    assert host.apply(variables, x, False).shape == x.shape
    _, updates = host.apply(variables, x, True, mutable=["batch_stats"])
    assert ("batch_stats" in updates) == isinstance(norm, nn.BatchNorm)


def test_the_summary_counts_a_norm_once():
    # Its __call__ runs Flax's own, which must not make a second row.
    model = fz.models.get("test_resnet")
    rows = [row for row in str(model.summary()).splitlines() if "BatchNorm" in row]
    assert len(rows) == len(jax.tree.leaves(model.shapes()["batch_stats"])) // 2


@pytest.mark.parametrize("norm", [LayerNorm(), LayerNorm(use_fast_variance=True)])
def test_the_variance_of_layer_norm_keeps_its_digits(norm):
    x = (np.random.default_rng(0).standard_normal((4, 64)) + 1000).astype(np.float32)
    wide = x.astype(np.float64)
    var = wide.var(-1, keepdims=True)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(var + 1e-6)
    out = norm.apply(norm.init(jax.random.key(0), x), x)
    error = np.abs(out - expected).max()
    assert (error < 1e-3) != norm.use_fast_variance


def test_norms_of_the_last_axis_by_their_formulas(random_variables):
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32) * 2 + 1
    for norm, expected in (
        (RMSNorm(), x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)),
        (SimpleNorm(), x / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)),
        (LayerScale(), x),
    ):
        variables = random_variables(norm, x)
        (scale,) = variables["params"].values()
        out = norm.apply(variables, x)
        np.testing.assert_allclose(out, expected * scale, rtol=1e-5, atol=1e-6)
        half = norm.clone(dtype=jnp.bfloat16).apply(variables, x)
        assert half.dtype == jnp.bfloat16
    assert LayerScale(0.1).init(jax.random.key(0), x)["params"]["gamma"][0] == np.float32(0.1)
    assert LayerScale().apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_scales_of_channels_that_are_kept_as_maps():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, 5)), jnp.bfloat16)
    out, variables = ChannelScale(0.5).init_with_output(jax.random.key(0), x)
    assert variables["params"]["gamma"].shape == (1, 1, 5)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, 0.5 * x)


def test_global_response_norm_by_its_formula(random_variables):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    x[0, ..., 1] = 0
    norm = GlobalResponseNorm()
    variables = random_variables(norm, x)
    params = variables["params"]
    size = np.sqrt(np.square(x).sum((1, 2), keepdims=True))
    share = size / (size.mean(-1, keepdims=True) + 1e-6)
    expected = params["scale"] * (x * share) + params["bias"] + x
    np.testing.assert_allclose(norm.apply(variables, x), expected, rtol=1e-5, atol=1e-6)
    # A channel that an image has nothing in has a gradient all the same.
    gradient = jax.grad(lambda x: norm.apply(variables, x).sum())(x)
    assert np.isfinite(gradient).all()
    fresh = norm.init(jax.random.key(0), x)
    np.testing.assert_array_equal(norm.apply(fresh, x), x)
    large = (x * 300).astype(np.float16)
    assert np.isfinite(norm.clone(dtype=jnp.float16).apply(variables, large)).all()


def test_norms_are_made_with_their_own_epsilon_or_another():
    assert make_norm("layer", "norm").epsilon == 1e-6
    assert make_norm("batch", "norm").epsilon == 1e-5
    made = make_norm("rms", "q_norm", epsilon=1e-3, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    assert made == RMSNorm(epsilon=1e-3, dtype=jnp.bfloat16, name="q_norm")


def test_evo_norm_by_its_formula(random_variables):
    x = batch(2, 3, 5, 12)
    module = EvoNormS0(group_size=4, epsilon=0.1)
    variables = random_variables(module, x)
    v, scale, bias = (variables["params"][name] for name in ("v", "scale", "bias"))
    variance = x.reshape(2, 15, 3, 4).var((1, 3))
    deviation = np.repeat(np.sqrt(variance + 0.1), 4, axis=-1)[:, None, None]
    expected = x / (1 + np.exp(-v * x)) / deviation * scale + bias
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-5)
    plain = EvoNormS0(group_size=4, active=False)
    variables = random_variables(plain, x)
    assert set(variables["params"]) == {"scale", "bias"}
    scale, bias = (variables["params"][name] for name in ("scale", "bias"))
    np.testing.assert_allclose(plain.apply(variables, x), x * scale + bias, rtol=1e-5, atol=1e-5)


def test_evo_norm_whose_groups_do_not_divide_the_channels():
    with pytest.raises(ShapeError, match="10 channels are not divided by groups of 4"):
        EvoNormS0(group_size=4).init(jax.random.key(0), batch(2, 3, 5, 10))


@pytest.mark.parametrize("kind", ["batch", "evo_s0"])
@pytest.mark.parametrize("activation", [None, jax.nn.relu])
def test_a_norm_brings_its_activation_or_gets_one(kind, activation):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return normalise_and_activate(kind, "bn", x, activation, train=False)

    x = batch(2, 3, 5, 8)
    out, variables = Network().init_with_output(jax.random.key(0), x)
    assert ("v" in variables["params"]["bn"]) == (kind == "evo_s0" and activation is not None)
    # EvoNorm has its own, which goes below zero.
    assert (out >= 0).all() == (kind == "batch" and activation is not None)


def test_filter_responses_are_divided_by_their_root_mean_square():
    x = batch(2, 3, 5, 4)
    params = {"scale": np.full(4, 2.0), "bias": np.full(4, 0.5), "tau": np.full(4, -0.25)}
    y = FilterResponseNorm(epsilon=0.1).apply({"params": params}, x)
    root = np.sqrt(np.square(x).mean((1, 2), keepdims=True) + 0.1)
    np.testing.assert_allclose(y, np.maximum(2 * x / root + 0.5, -0.25), rtol=1e-5, atol=1e-6)
    plain = FilterResponseNorm(active=False)
    assert "tau" not in plain.init(jax.random.key(0), x)["params"]


def test_groups_of_evonorm_by_their_number():
    x = batch(2, 3, 5, 12)
    params = EvoNormS0(groups=3).init(jax.random.key(0), x)
    expected = EvoNormS0(group_size=4).apply(params, x)
    np.testing.assert_array_equal(EvoNormS0(groups=3).apply(params, x), expected)
    with pytest.raises(ShapeError, match="12 channels are not divided by 5 groups"):
        EvoNormS0(groups=5).init(jax.random.key(0), x)


def test_evo_norm_may_divide_without_an_activation():
    x = np.random.default_rng(0).random((2, 3, 4, 8)).astype(np.float32)
    norm = EvoNormS0(group_size=4, active=False, divides=True)
    variables = norm.init(jax.random.key(0), x)
    assert variables["params"].keys() == {"scale", "bias"}
    groups = x.reshape(2, 3, 4, 2, 4)
    deviation = np.sqrt(groups.var((1, 2, 4), keepdims=True) + 1e-5)
    expected = (groups / deviation).reshape(x.shape)
    np.testing.assert_allclose(norm.apply(variables, x), expected, rtol=1e-5)
