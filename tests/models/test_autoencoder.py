import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxzoo.errors import ShapeError, UnknownNameError
from flaxzoo.models.autoencoder import (
    AutoEncoder,
    ConvAutoEncoder,
    autoencoder,
    conv_autoencoder,
)

pytestmark = pytest.mark.family("autoencoder")

KEY = jax.random.key(0)


@functools.cache
def digits():
    """Real digits [1797, 8, 8, 1] in [0, 1]."""
    from sklearn.datasets import load_digits

    return (load_digits().images[..., None] / 16).astype(np.float32)


def train(model, x, tx, steps, batch=None):
    """Minimises the squared error and returns it, summed per example, over all of x."""
    params = model.init(KEY, x[:1])

    def error(params, x):
        return ((model.apply(params, x, train=True) - x) ** 2).sum() / len(x)

    def step(carry, key):
        params, state = carry
        part = x if batch is None else x[jax.random.randint(key, (batch,), 0, len(x))]
        updates, state = tx.update(jax.grad(error)(params, part), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def fit(params, x):
        keys = jax.random.split(KEY, steps)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        return params, error(params, x)

    x = jnp.asarray(x)
    params, value = fit(params, x)
    return params, float(value)


@pytest.mark.parametrize(
    ("shape", "batch"), [((6,), ()), ((6,), (2, 3)), ((2, 3), (5,)), ((2, 3, 4, 1), (2, 3))]
)
def test_any_input_rank_and_any_batch_dimensions(shape, batch):
    model = AutoEncoder(shape, (8, 3))
    x = jax.random.uniform(KEY, (*batch, *shape))
    variables = model.init(KEY, x)
    assert set(variables["params"]) == {"encoder", "decoder"}
    y = model.apply(variables, x)
    assert y.shape == x.shape
    assert (y > 0).all()
    assert (y < 1).all()
    z = model.apply(variables, x, method=AutoEncoder.encode)
    assert z.shape == (*batch, 3)
    np.testing.assert_array_equal(model.apply(variables, z, method="decode"), y)


def test_computes_dense_layers():
    model = AutoEncoder((2, 2), (3, 2), activation=jnp.tanh, output="linear")
    x = jax.random.normal(KEY, (5, 2, 2))
    variables = model.init(KEY, x)
    p = variables["params"]
    dense = lambda x, layer: x @ layer["kernel"] + layer["bias"]  # noqa: E731
    h = x.reshape(5, 4)
    z = dense(jnp.tanh(dense(h, p["encoder"]["layers_0"])), p["encoder"]["layers_1"])
    y = dense(jnp.tanh(dense(z, p["decoder"]["layers_0"])), p["decoder"]["layers_1"])
    np.testing.assert_allclose(model.apply(variables, x), y.reshape(5, 2, 2), atol=1e-6)
    sigmoid = model.clone(output="sigmoid").apply(variables, x)
    np.testing.assert_allclose(sigmoid, jax.nn.sigmoid(y.reshape(5, 2, 2)), atol=1e-6)


def test_decoder_widths_mirror_the_encoder_s_unless_given():
    def widths(model):
        params = jax.eval_shape(model.init, KEY, jnp.zeros((1, 10)))["params"]
        return [layer["bias"].shape[0] for layer in params["decoder"].values()]

    assert widths(AutoEncoder((10,), (8, 6, 2))) == [6, 8, 10]
    assert widths(AutoEncoder((10,), (8, 6, 2), decoder_features=(5,))) == [5, 10]
    assert widths(AutoEncoder((10,), (2,))) == [10]


def test_a_linear_autoencoder_reaches_pca():
    x = digits().reshape(-1, 64)
    k = 8
    centred = x - x.mean(axis=0)
    pca = (np.linalg.svd(centred, compute_uv=False)[k:] ** 2).sum() / len(x)
    model = AutoEncoder((64,), (k,), activation=None, output="linear")
    schedule = optax.cosine_decay_schedule(0.02, 1000)
    _, error = train(model, x, optax.adam(schedule), 1000)
    # PCA is the optimum: never better than it, and within 2 % of it.
    assert pca * 0.9999 < error < pca * 1.02


@pytest.mark.parametrize(
    "model",
    [AutoEncoder((8, 8, 1), (64, 16)), ConvAutoEncoder((8, 8, 1), (8, 8), latent_dim=16)],
    ids=["dense", "conv"],
)
def test_learns_to_reconstruct_digits(model):
    x = digits()
    baseline = ((x - x.mean(axis=0)) ** 2).sum() / len(x)
    params, error = train(model, x, optax.adam(5e-3), 300, batch=64)
    assert error < 0.4 * baseline
    # The half-way points work on their own: a new image from the mean of two latents.
    z = model.apply(params, x[:2], method="encode")
    middle = model.apply(params, z.mean(axis=0, keepdims=True), method="decode")
    assert middle.shape == (1, 8, 8, 1)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 1)])
@pytest.mark.parametrize("latent_dim", [None, 6])
def test_convolutional_output_has_the_input_s_shape(size, latent_dim):
    shape = (*size, 2)
    model = ConvAutoEncoder(shape, (4, 3, 5), latent_dim=latent_dim)
    x = jnp.zeros((2, *shape))
    y, variables = jax.eval_shape(model.init_with_output, KEY, x)
    assert y.shape == x.shape
    assert set(variables["params"]) == {"encoder", "decoder"}
    z = jax.eval_shape(functools.partial(model.apply, method="encode"), variables, x)
    height, width = (-(-n // 8) for n in size)
    assert z.shape == (2, *((height, width, 5) if latent_dim is None else (6,)))
    assert z.shape[1:] == model.latent_shape


def test_convolutional_batch_dimensions():
    model = ConvAutoEncoder((5, 6, 1), (3,), output="linear")
    x = jax.random.normal(KEY, (2, 3, 5, 6, 1))
    variables = model.init(KEY, x[0, 0])
    y = model.apply(variables, x)
    flat = model.apply(variables, x.reshape(6, 5, 6, 1))
    np.testing.assert_allclose(y.reshape(6, 5, 6, 1), flat, atol=1e-6)
    np.testing.assert_allclose(model.apply(variables, x[1, 2]), y[1, 2], atol=1e-6)


@pytest.mark.parametrize(
    "model", [AutoEncoder((4, 4, 1), (3,)), ConvAutoEncoder((4, 4, 1), (3,), latent_dim=2)]
)
def test_dtypes(model):
    x = jnp.zeros((1, 4, 4, 1))
    half = model.clone(dtype=jnp.bfloat16)
    y, variables = half.init_with_output(KEY, x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (AutoEncoder((2, 3)), (4, 2, 4), r"x must be \[..., 2, 3\], got \[4, 2, 4\]"),
        (AutoEncoder((2, 3)), (3,), r"x must be \[..., 2, 3\]"),
        (ConvAutoEncoder((8, 8, 1)), (2, 8, 8, 3), r"x must be \[..., 8, 8, 1\]"),
        (ConvAutoEncoder((8, 8, 1)), (2, 8, 8), r"x must be \[..., 8, 8, 1\], got \[2, 8, 8\]"),
    ],
)
def test_wrong_shapes(model, shape, message):
    with pytest.raises(ShapeError, match=message):
        model.init(KEY, jnp.zeros(shape))


def test_wrong_latents_and_fields():
    model = AutoEncoder((6,), (4, 2))
    variables = model.init(KEY, jnp.zeros((1, 6)))
    with pytest.raises(ShapeError, match=r"z must be \[..., 2\], got \[1, 3\]"):
        model.apply(variables, jnp.zeros((1, 3)), method="decode")
    with pytest.raises(UnknownNameError, match="Did you mean 'sigmoid'"):
        AutoEncoder((6,), output="sigmod").init(KEY, jnp.zeros((1, 6)))
    with pytest.raises(ValueError, match="encoder_features must be one or more"):
        AutoEncoder((6,), ()).init(KEY, jnp.zeros((1, 6)))
    with pytest.raises(UnknownNameError):
        AutoEncoder((6,), activation="rleu").init(KEY, jnp.zeros((1, 6)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AutoEncoder(8), "input_shape must be one or more ints of at least 1, got 8"),
        (lambda: AutoEncoder((6,), 32), r"encoder_features must be .*, got 32; .* write \(32,\)"),
        (lambda: AutoEncoder((6,), (4, -1)), r"encoder_features must be .*, got \(4, -1\)"),
        (lambda: AutoEncoder((6,), decoder_features=5), "decoder_features must be .*, got 5"),
        (lambda: ConvAutoEncoder((8, 8)), r"\(height, width, channels\), got \(8, 8\)"),
        (lambda: ConvAutoEncoder(8), "input_shape must be .*, got 8"),
        (lambda: ConvAutoEncoder((8, 8, 1), 32), "features must be one or more .*, got 32"),
        (lambda: ConvAutoEncoder((8, 8, 1), ()), r"features must be one or more .*, got \(\)"),
        (
            lambda: ConvAutoEncoder((8, 8, 1), kernel_size="a"),
            "kernel_size must be an int.*, got 'a'",
        ),
        (lambda: ConvAutoEncoder((8, 8, 1), latent_dim=0), "latent_dim must be .* or None, got 0"),
    ],
)
def test_fields_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("factory", [autoencoder, conv_autoencoder])
def test_factories_check_the_input_shape(factory):
    with pytest.raises(ValueError, match="input_shape must be one or more ints .*, got 8"):
        factory(input_shape=8)


def test_a_decoder_without_hidden_layers():
    params = jax.eval_shape(
        AutoEncoder((6,), (4, 2), decoder_features=()).init, KEY, jnp.zeros((1, 6))
    )["params"]
    assert list(params["decoder"]) == ["layers_0"]
