"""ViTamin: sizes of images, gated MLPs by their formula, and what does not fit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.vitamin import GatedMlp, Halving, Vitamin

pytestmark = pytest.mark.family("vitamin")

TINY = {
    "input_shape": (32, 48, 3),
    "conv_layers": (1, 1),
    "conv_widths": (4, 8),
    "width": 8,
    "depth": 1,
    "heads": 2,
}


def test_gates_by_their_formula(random_variables):
    x = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    layers = random_variables(GatedMlp(5), x)["params"]

    def dense(x, name):
        return x @ layers[name]["kernel"] + layers[name]["bias"]

    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    y = np.asarray(y * layers["norm"]["scale"] + layers["norm"]["bias"])
    gate = np.asarray(dense(y, "w0"))
    gate = gate * (1 + np.vectorize(math.erf)(gate / np.sqrt(2))) / 2
    expected = dense(gate * dense(y, "w1"), "w2")
    out = GatedMlp(5).apply({"params": layers}, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_averages_are_of_the_pixels_that_there_are():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    out = Halving(1).apply({}, x)[0, ..., 0]
    np.testing.assert_allclose(out, [[2, 3], [5, 6]])


def test_images_of_another_size():
    images = jax.ShapeDtypeStruct((1, 40, 23, 3), "float32")
    key = jax.random.key(0)
    with pytest.raises(ShapeError, match="32 x 48.*or dynamic_size=True"):
        jax.eval_shape(Vitamin(**TINY).init, key, images)
    tokens, _ = jax.eval_shape(Vitamin(dynamic_size=True, **TINY).init_with_output, key, images)
    assert tokens.shape == (1, 3 * 2, 8)


def test_networks_without_positions():
    shapes = fz.models.get("vitamin_xlarge_256", num_classes=2, **TINY).shapes()["params"]
    assert set(shapes["backbone"]) == {"patch_embed", "blocks_0"}
    assert set(shapes["head"]) == {"norm", "fc"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conv_layers": (1, 1, 1)}, r"conv_layers must be two numbers, got \(1, 1, 1\)"),
        ({"conv_widths": (4,)}, "conv_widths must be two numbers"),
        ({"pooling": "token"}, "there is no class token, got 'token'"),
        ({"heads": 3}, "width must be a multiple of heads=3, got 8"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must be"),
        ({"depth": 0}, "depth must be"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Vitamin(**{**TINY, **fields})
