import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models import CNN

pytestmark = pytest.mark.family("cnn")


class Classic(nn.Module):
    """The network of Flax's MNIST example, written out."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(features=32, kernel_size=(3, 3), name="conv_0")(x))
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(features=64, kernel_size=(3, 3), name="conv_1")(x))
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(features=256, name="dense_0")(x.reshape((x.shape[0], -1))))
        return nn.Dense(features=10, name="fc")(x)


def test_defaults_compute_the_classic_network():
    x = jax.random.normal(jax.random.key(0), (3, 28, 28, 1))
    variables = Classic().init(jax.random.key(1), x)
    # The layers add in another order than Flax's.
    expected = Classic().apply(variables, x)
    np.testing.assert_allclose(CNN().apply(variables, x), expected, rtol=1e-5, atol=1e-6)
    ours = CNN().init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, variables)


def test_the_registered_model_is_the_same_network_in_two_groups():
    x = jax.random.normal(jax.random.key(0), (3, 28, 28, 1))
    params = Classic().init(jax.random.key(1), x)["params"]
    grouped = {
        "backbone": {k: v for k, v in params.items() if k != "fc"},
        "head": {"fc": params["fc"]},
    }
    model = fz.models.get("cnn").with_variables({"params": grouped})
    expected = Classic().apply({"params": params}, x)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["max", "avg", None])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_options(pooling, batch_norm):
    module = CNN(
        num_classes=3,
        features=(4, 5),
        kernel_size=(3, 5),
        pooling=pooling,
        hidden=(6, 7),
        batch_norm=batch_norm,
        dropout=0.5,
        activation="gelu",
    )
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    variables = module.init(jax.random.key(1), x)
    params = variables["params"]
    assert params["conv_0"]["kernel"].shape == (3, 5, 3, 4)
    flat = 5 * 8 * 12 // (16 if pooling else 1)
    assert params["dense_0"]["kernel"].shape == (flat, 6)
    assert params["fc"]["kernel"].shape == (7, 3)
    assert ("batch_stats" in variables) == batch_norm
    assert module.apply(variables, x).shape == (2, 3)
    apply = jax.jit(
        lambda key: module.apply(
            variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )[0]
    )
    assert not np.allclose(apply(jax.random.key(2)), apply(jax.random.key(3)))


def test_max_pooling_is_the_maximum():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    module = CNN(
        num_classes=0, features=(1,), kernel_size=1, hidden=(), pooling="max", activation=None
    )
    variables = {"params": {"conv_0": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)}}}
    np.testing.assert_array_equal(module.apply(variables, x), [[5, 7, 13, 15]])


def test_no_classes_gives_features():
    x = jnp.ones((2, 8, 8, 1))
    module = CNN(num_classes=0, hidden=(5,))
    variables = module.init(jax.random.key(0), x)
    assert "fc" not in variables["params"]
    assert module.apply(variables, x).shape == (2, 5)


def test_bfloat16_keeps_float32_parameters():
    x = jnp.ones((1, 8, 8, 1))
    module = CNN(dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert module.apply(variables, x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((8, 8, 1), r"images must have shape \[B, H, W, C\], got \[8, 8, 1\]"),
        ((2, 3, 3, 1), r"at least 4 x 4 for 2 poolings, got \[2, 3, 3, 1\]"),
    ],
)
def test_wrong_shapes(shape, match):
    with pytest.raises(ShapeError, match=match):
        CNN().init(jax.random.key(0), jnp.ones(shape))


def test_unknown_pooling():
    with pytest.raises(ValueError, match="pooling must be one of 'avg', 'max' or None, got 'mean'"):
        CNN(pooling="mean").init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))


def test_none_by_name_is_no_pooling():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 1))
    named = CNN(features=(4, 5), hidden=(6,), pooling="none")
    variables = named.init(jax.random.key(1), x)
    np.testing.assert_array_equal(
        named.apply(variables, x), named.clone(pooling=None).apply(variables, x)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 32}, r"features must be a sequence of ints of at least 1, got 32.*\(32,\)"),
        ({"features": (-1,)}, r"features must be .*, got \(-1,\)"),
        ({"features": (8.0,)}, r"features must be .*, got \(8.0,\)"),
        ({"features": "32"}, "features must be .*, got '32'"),
        ({"hidden": (True,)}, r"hidden must be .*, got \(True,\)"),
        ({"kernel_size": "a"}, "kernel_size must be an int of at least 1 or a pair.*, got 'a'"),
        ({"kernel_size": 0}, "kernel_size must be .*, got 0"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size must be .*, got \(3, 3, 3\)"),
        ({"dropout": 1.5}, r"dropout must be a number in \[0, 1\), got 1.5"),
        ({"dropout": 1}, r"dropout must be a number in \[0, 1\), got 1"),
        ({"dropout": -0.5}, "dropout must be .*, got -0.5"),
        ({"dropout": "a"}, "dropout must be .*, got 'a'"),
        ({"dropout": float("nan")}, "dropout must be .*, got nan"),
        ({"num_classes": -1}, "num_classes must be an int of at least 0, got -1"),
        ({"num_classes": 2.0}, "num_classes must be an int of at least 0, got 2.0"),
        ({"pooling": "mx"}, "got 'mx'. Did you mean 'max'"),
        ({"pooling": 2}, "pooling must be one of 'avg', 'max' or None, got 2"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        CNN(**fields).init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))


def test_sizes_may_be_lists_and_numpy_ints():
    width = np.int64(3)
    module = CNN(num_classes=width, features=[width], kernel_size=[1, width], hidden=[])
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 4, 4, 2)))["params"]
    assert shapes["conv_0"]["kernel"].shape == (1, 3, 2, 3)
    assert shapes["fc"]["kernel"].shape == (12, 3)


def test_no_convolutions_are_allowed():
    out = jax.eval_shape(
        CNN(features=()).init_with_output, jax.random.key(0), jnp.ones((2, 1, 1, 5))
    )[0]
    assert out.shape == (2, 10)
