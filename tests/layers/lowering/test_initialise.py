import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import (
    Constant,
    FanIn,
    FanOut,
    GlorotUniform,
    Halves,
    HeNormal,
    LecunNormal,
    Normal,
    TruncatedNormal,
    Uniform,
    ones,
)
from flaxzoo.layers.lowering.drawing import Distribution, draw_on_host
from flaxzoo.layers.lowering.initialise import filled, initialise

KEY = jax.random.PRNGKey(3)
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)


class Net(nn.Module):
    """Two convolutions and a dense layer with Flax's own initialiser."""

    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = Conv(64, 3, use_bias=True, param_dtype=self.param_dtype, name="a")(x)
        x = Conv(256, 5, param_dtype=self.param_dtype, name="b")(x)
        return nn.Dense(7, name="c")(x.mean((1, 2)))


@pytest.mark.parametrize("key", [KEY, jax.random.key(3)], ids=["raw", "typed"])
def test_shapes_and_dtypes_are_those_of_linen(key):
    ours = initialise(Net(), key, IMAGE)
    theirs = jax.eval_shape(Net().init, key, jnp.zeros(IMAGE.shape))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), ours) == jax.tree.map(
        lambda x: (x.shape, x.dtype), theirs
    )
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(ours))


def test_numbers_have_the_initialisers_distribution():
    kernel = np.asarray(initialise(Net(), KEY, IMAGE)["params"]["b"]["kernel"])
    std = np.sqrt(2 / (256 * 25))
    count = kernel.size
    assert abs(kernel.mean()) < 5 * std / np.sqrt(count)
    assert abs(kernel.std() / std - 1) < 5 / np.sqrt(2 * count)
    # A normal distribution's fourth moment.
    assert abs(((kernel / std) ** 4).mean() - 3) < 0.05
    assert not np.asarray(initialise(Net(), KEY, IMAGE)["params"]["a"]["bias"]).any()


@pytest.mark.parametrize(
    "initializer",
    [
        *(HeNormal(), HeNormal("fan_in"), LecunNormal(), Normal(), TruncatedNormal()),
        *(FanIn(), FanOut(), GlorotUniform(), Uniform(0.3), Halves(FanIn(), ones)),
    ],
)
def test_host_and_device_draw_alike(initializer):
    shape = (3, 3, 64, 128)
    host = initializer.on_host(np.random.default_rng(0), shape, jnp.float32)
    device = np.asarray(initializer(jax.random.key(0), shape))
    assert host.dtype == device.dtype == np.float32
    quantiles = np.linspace(0.01, 0.99, 25)
    spread = device.std()
    np.testing.assert_allclose(
        np.quantile(host, quantiles), np.quantile(device, quantiles), atol=0.03 * spread
    )
    np.testing.assert_allclose(host.std(), spread, rtol=0.01)
    np.testing.assert_allclose(np.abs(host).max(), np.abs(device).max(), rtol=0.2)


@pytest.mark.parametrize("initializer", [FanIn(), FanOut(), GlorotUniform(), Uniform(0.2)])
def test_uniform_numbers_end_where_the_reference_s_do(initializer):
    shape = (3, 3, 64, 128)
    limits = {FanIn: 64 * 9, FanOut: 128 * 9, GlorotUniform: 192 * 9 / 6, Uniform: 25}
    limit = 1 / np.sqrt(limits[type(initializer)])
    for numbers in (
        initializer.on_host(np.random.default_rng(0), shape, jnp.float32),
        np.asarray(initializer(jax.random.key(0), shape)),
    ):
        # As many in each tenth of the range.
        counts, _ = np.histogram(numbers, np.linspace(-limit, limit, 11))
        assert counts.sum() == numbers.size
        np.testing.assert_allclose(counts, numbers.size / 10, rtol=0.03)


def test_lecun_normal_is_that_of_jax():
    expected = jax.nn.initializers.lecun_normal()(jax.random.key(1), (30, 20))
    np.testing.assert_array_equal(LecunNormal()(jax.random.key(1), (30, 20)), expected)


def test_distributions_off_zero_and_their_cuts():
    rng = np.random.default_rng(0)
    numbers = draw_on_host(Distribution(0.5, mean=3.0, cut=2.0), rng, (100, 1000), jnp.float32)
    assert abs(numbers.mean() - 3) < 0.01
    assert abs(numbers.std() - 0.5) < 0.01
    with pytest.raises(ValueError, match="cut must be 2 or None, got 3"):
        draw_on_host(Distribution(1.0, cut=3.0), rng, (2,), jnp.float32)


def test_deterministic_by_key_and_different_by_parameter():
    one, again = (initialise(Net(), KEY, IMAGE) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    other = initialise(Net(), jax.random.PRNGKey(4), IMAGE)
    a, b = (np.asarray(v["params"]["a"]["kernel"]).ravel() for v in (one, other))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    c = np.asarray(one["params"]["b"]["kernel"]).ravel()[: a.size]
    assert abs(np.corrcoef(a, c)[0, 1]) < 0.1


def test_dtype_of_the_parameters():
    params = initialise(Net(param_dtype=jnp.bfloat16), KEY, IMAGE)["params"]
    assert params["a"]["kernel"].dtype == params["a"]["bias"].dtype == jnp.bfloat16
    wide = initialise(Net(), KEY, IMAGE)["params"]["a"]["kernel"]
    np.testing.assert_array_equal(params["a"]["kernel"], wide.astype(jnp.bfloat16))


def test_modules_of_other_initialisers_get_linens_numbers():
    module = nn.Dense(5)
    x = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    expected = jax.jit(module.init)(KEY, jnp.zeros((1, 3)))
    jax.tree.map(np.testing.assert_array_equal, initialise(module, KEY, x), expected)


def test_the_rest_of_a_mixed_module_gets_linens_numbers():
    ours = initialise(Net(), KEY, IMAGE)["params"]["c"]
    theirs = jax.jit(Net().init)(KEY, jnp.zeros(IMAGE.shape))["params"]["c"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


class Scanned(nn.Module):
    """Initialisers inside a loop and inside a remat, where JAX draws."""

    @nn.compact
    def __call__(self, x):
        cell = nn.scan(
            lambda module, carry, _: (module(carry), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = cell(Conv(3, 3, name="cells"), x, None)
        return nn.remat(Conv)(4, 3, name="last")(x)


def test_inside_loops_and_remat():
    params = initialise(Scanned(), KEY, IMAGE)["params"]
    assert params["cells"]["kernel"].shape == (3, 3, 3, 3, 3)
    kernels = np.asarray(params["cells"]["kernel"])
    assert (kernels.std((1, 2, 3, 4)) > 0.1).all()
    assert not np.array_equal(kernels[0], kernels[1])
    assert np.asarray(params["last"]["kernel"]).std() > 0.1


def test_linens_own_init_is_what_it_was():
    params = Net().init(jax.random.key(0), jnp.zeros(IMAGE.shape))["params"]
    assert np.asarray(params["b"]["kernel"]).std() > 0
    np.testing.assert_array_equal(Constant(2.0)(None, (2,)), [2.0, 2.0])


@pytest.mark.parametrize(
    "tx",
    [
        optax.adamw(1e-3),
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        optax.adafactor(1e-3),
        optax.contrib.schedule_free_adamw(1e-3),
        optax.adabelief(1e-3),
        optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
        optax.chain(optax.add_noise(0.1, 0.5, 0), optax.adam(1e-3)),
    ],
)
def test_optimizer_states_are_those_of_their_init(tx):
    params = initialise(Net(), KEY, IMAGE)["params"]
    expected, got = tx.init(params), filled(tx.init, params)
    assert jax.tree.structure(expected) == jax.tree.structure(got)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        assert (jnp.shape(a), jnp.result_type(a)) == (b.shape, b.dtype)
        if not jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)


def test_functions_that_look_at_values_are_called_as_they_are():
    def init(x):
        return {"positive": x if float(x.sum()) > 0 else -x, "name": "no array"}

    got = filled(init, jnp.full((3,), -1.0))
    np.testing.assert_array_equal(got["positive"], np.ones(3))
    assert got["name"] == "no array"


def test_states_share_no_buffer_and_train_with_donation(rng):
    model = fz.models.get("test_resnet", num_classes=3, input_shape=(16, 16, 3))
    state = fz.create_train_state(model, optimizer="schedule_free_adamw", learning_rate=1e-3)
    leaves = [x for x in jax.tree.leaves((state.params, state.opt_state)) if x.size > 1]
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
    trainer = fz.Trainer(model, optimizer="adamw", learning_rate=1e-3)
    images = rng.normal(size=(8, 16, 16, 3)).astype(np.float32)
    trainer.fit((images, np.arange(8) % 3), epochs=1, batch_size=4)
    assert all(np.isfinite(x).all() for x in flatten(trainer.state.params).values())


MODEL = fz.models.get("test_resnet", num_classes=3, input_shape=(16, 16, 3))


def test_states_and_variables_under_transformations():
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), MODEL.init(KEY).variables)

    def variables(key):
        return MODEL.init(key).variables

    for make in (jax.jit(variables), functools.partial(jax.eval_shape, variables)):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), make(KEY)) == shapes
    many = jax.vmap(variables)(jax.random.split(KEY, 2))
    kernels = many["params"]["backbone"]["conv1_0"]["kernel"]
    assert not np.array_equal(kernels[0], kernels[1])
    for model in (MODEL, MODEL.init()):
        abstract = jax.eval_shape(lambda k, m=model: fz.create_train_state(m, rng=k), KEY)
        real = fz.create_train_state(model, rng=KEY)
        for a, b in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_ensembles_of_linens_vmap():
    ensemble = nn.vmap(
        Net, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3
    )()
    kernels = np.asarray(initialise(ensemble, KEY, IMAGE)["params"]["b"]["kernel"])
    assert kernels.shape == (3, 5, 5, 64, 256)
    std = np.sqrt(2 / (256 * 25))
    assert all(abs(k.std() / std - 1) < 0.02 for k in kernels)
    assert not np.array_equal(kernels[0], kernels[1])


def test_double_precision():
    with jax.enable_x64(True):
        kernel = initialise(Net(param_dtype=jnp.float64), KEY, IMAGE)["params"]["b"]["kernel"]
    kernel = np.asarray(kernel)
    assert kernel.dtype == np.float64
    assert (kernel != kernel.astype(np.float32)).mean() > 0.99
