"""ConViT: where heads begin to look, gates, maps, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.layers.lowering.drawing import draw_on_host
from flaxzoo.models.convit import (
    ConVit,
    GatedPositionalAttention,
    Identity,
    Neighbours,
    neighbour_offsets,
)

pytestmark = pytest.mark.family("convit")

TINY = {"patch_size": 8, "width": 8, "depth": 2, "local_depth": 1, "heads": 2}
TINY["input_shape"] = (16, 24, 3)
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_how_far_patches_lie_from_each_other():
    offsets = neighbour_offsets((2, 3))
    assert offsets.shape == (6, 6, 3)
    np.testing.assert_array_equal(offsets[0, 5], [2, 1, 5])
    np.testing.assert_array_equal(offsets[4, 0], [-1, -1, 2])


def test_each_head_begins_at_another_neighbour():
    kernel = draw_on_host(
        Neighbours(5.0).distribution((3, 9)), np.random.default_rng(0), (3, 9), "float32"
    )
    np.testing.assert_array_equal(Neighbours(5.0)(jax.random.key(0), (3, 9)), kernel)
    offsets = neighbour_offsets((3, 3))
    seen = softmax(np.moveaxis(offsets @ kernel, -1, 0))[:, 4]
    np.testing.assert_allclose(seen.max(-1), 1, atol=0.03)
    # Heads go down the columns, as those of timm's.
    np.testing.assert_array_equal(seen.argmax(-1), [0, 3, 6, 1, 4, 7, 2, 5, 8])


def test_heads_beyond_the_square_begin_anywhere():
    shape, generator = (3, 6), np.random.default_rng(0)
    for kernel in (
        draw_on_host(Neighbours().distribution(shape), generator, shape, "float32"),
        np.asarray(Neighbours()(jax.random.key(0), shape)),
    ):
        np.testing.assert_array_equal(kernel[2, :4], -1)
        assert (np.abs(kernel[:, 4:]) > 0).all()
        assert (np.abs(kernel[:, 4:]) < 0.1).all()
    identity = draw_on_host(Identity().distribution((4, 4)), generator, (4, 4), "float32")
    np.testing.assert_array_equal(identity, Identity()(jax.random.key(0), (4, 4)))


def test_attention_by_its_formula(random_variables):
    x = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
    module = GatedPositionalAttention(2, grid=(2, 3), qkv_bias=False)
    layers = random_variables(module, x)["params"]
    gates = 1 / (1 + np.exp(-np.asarray(layers["gating_param"])))
    position = softmax(
        np.moveaxis(
            neighbour_offsets((2, 3)) @ layers["pos_proj"]["kernel"] + layers["pos_proj"]["bias"],
            -1,
            0,
        )
    )
    qk, v = x @ layers["qk"]["kernel"], x @ layers["v"]["kernel"]
    outputs = []
    for head in range(2):
        q, k, values = (
            part[..., 2 * head : 2 * head + 2] for part in (qk[..., :4], qk[..., 4:], v)
        )
        content = softmax(q @ np.swapaxes(k, 1, 2) / np.sqrt(2))
        outputs.append(((1 - gates[head]) * content + gates[head] * position[head]) @ values)
    expected = np.concatenate(outputs, -1) @ layers["proj"]["kernel"] + layers["proj"]["bias"]
    np.testing.assert_allclose(module.apply({"params": layers}, x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapeError, match=r"\[B, 6, C\] for relative positions on a grid of 2 x 3"):
        module.init(jax.random.key(0), x[:, :5])


def test_maps_tokens_and_weights_of_attention():
    model = fz.models.get("convit_tiny", num_classes=3, **TINY).init(rng=0)
    shapes = {key: leaf.shape for key, leaf in model.feature_maps(IMAGES).items()}
    assert shapes == {"blocks_0": (2, 2, 3, 8), "blocks_1": (2, 2, 3, 8)}
    assert model.features(IMAGES).shape == (2, 7, 8)
    weights = model.attention_weights(IMAGES)
    assert {key: leaf.shape for key, leaf in weights.items()} == {
        "blocks_0/attn": (2, 2, 6, 6),
        "blocks_1/attn": (2, 2, 7, 7),
    }
    np.testing.assert_allclose(weights["blocks_0/attn"].sum(-1), 1, rtol=1e-5)


def test_images_of_another_size_are_refused():
    model = fz.models.get("convit_tiny", num_classes=3, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 24, got .*their input_shape="):
        model.init(rng=0)(np.zeros((1, 24, 16, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, r"width must be a multiple of heads=3, got 8"),
        ({"local_depth": 2}, r"local_depth must be below depth=2, .*, got 2"),
        ({"local_depth": -1}, "local_depth must be"),
        ({"locality": "strong"}, "locality must be"),
        ({"input_shape": (7, 24, 3)}, "of at least one patch of 8 x 8, got"),
        ({"attention_dropout": 1.5}, "attention_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        ConVit(**{**TINY, **fields})
