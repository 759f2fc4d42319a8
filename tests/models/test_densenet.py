"""DenseNet: what layers join, what shrinks the maps, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.models.densenet import DenseLayer, DenseNet, Transition

pytestmark = pytest.mark.family("densenet")

TINY = {"layers": (2, 1), "growth": 8, "bottleneck": 2}


def shapes(module, *size):
    """The output of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


def test_a_layer_adds_channels_to_its_input():
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 6)).astype(np.float32)
    layer = DenseLayer(growth=4)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.shape == (2, 5, 7, 10)
    np.testing.assert_array_equal(y[..., :6], x)
    assert variables["params"]["conv1"]["kernel"].shape == (1, 1, 6, 16)


def test_dropout_spares_what_was_there():
    x = np.ones((1, 4, 4, 6), np.float32)
    layer = DenseLayer(growth=50, dropout=0.5)
    variables = layer.init(jax.random.key(0), x)
    y, _ = layer.apply(
        variables, x, True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
    )
    np.testing.assert_array_equal(y[..., :6], x)


@pytest.mark.parametrize(("kind", "side"), [("avg", 4), ("blur", 5)])
def test_transitions_round_odd_sides(kind, side):
    y, _ = shapes(Transition(anti_aliasing=kind), 9, 9, 6)
    assert y.shape == (1, side, side, 3)


@pytest.mark.parametrize(
    ("stem", "widths"), [("conv7", [16]), ("deep", [8, 8, 16]), ("tiered", [6, 12, 16])]
)
def test_stems(stem, widths):
    _, params = shapes(DenseNet(stem=stem, **TINY), 16, 16, 3)
    kernels = [params[f"features_conv{i}"]["kernel"].shape[-1] for i in range(len(widths))]
    assert kernels == widths


def test_blurring_reaches_transitions_where_asked_to():
    x = jnp.asarray(np.random.default_rng(0).random((1, 32, 32, 3)), jnp.float32)
    stem = DenseNet(anti_aliasing="blur", **TINY)
    both = stem.clone(anti_alias_transitions=True)
    variables = stem.init(jax.random.key(0), x)
    assert np.abs(stem.apply(variables, x) - both.apply(variables, x)).max() > 1e-6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": ()}, "layers must be"),
        ({"growth": 3}, "growth must be"),
        ({"stem": "wide"}, "stem must be one of"),
        ({"anti_aliasing": "max"}, "anti_aliasing must be one of"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
        ({"norm": "batches"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        DenseNet(**{**TINY, **fields})
