"""TNT: blocks by their formula, what tokens carry, maps, and what does not fit."""

import flax.linen as nn
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.tnt import Tnt, TntBlock

pytestmark = pytest.mark.family("tnt")

TINY = {"patch_size": 8, "width": 8, "pixel_width": 4, "depth": 2, "heads": 2, "pixel_heads": 2}
TINY["input_shape"] = (16, 24, 3)
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)


@pytest.mark.parametrize("legacy", [False, True])
def test_tokens_hear_of_their_pixels(random_variables, legacy):
    """A block without what mixes tokens adds what the pixels, left as they are, say."""
    x = np.random.default_rng(0).standard_normal((2, 3, 8 + 4 * 4)).astype(np.float32)
    module = TntBlock(2, width=8, pixel_width=4, pixel_heads=2, legacy=legacy)
    layers = random_variables(module, x)["params"]
    for name in ("attn_in", "attn_out"):
        layers[name]["proj"] = {key: 0 * leaf for key, leaf in layers[name]["proj"].items()}
    for name in ("mlp_in", "mlp"):
        layers[name]["fc2"] = {key: 0 * leaf for key, leaf in layers[name]["fc2"].items()}

    def normalise(x, name):
        return nn.LayerNorm(epsilon=1e-6).apply({"params": layers[name]}, x)

    pixels, kernel = x[:, 1:, 8:], layers["proj"]["kernel"]
    if legacy:
        said = normalise(pixels.reshape(2, 2, 4, 4), "norm1_proj").reshape(2, 2, 16) @ kernel
        said = said + layers["proj"]["bias"]
    else:
        assert "bias" not in layers["proj"]
        said = normalise(normalise(pixels, "norm1_proj") @ kernel, "norm2_proj")
    y = TntBlock(2, width=8, pixel_width=4, pixel_heads=2, legacy=legacy, norm_epsilon=1e-6).apply(
        {"params": layers}, x
    )
    np.testing.assert_allclose(y[:, 1:, :8], x[:, 1:, :8] + said, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(y[:, 0], x[:, 0])
    np.testing.assert_array_equal(y[..., 8:], x[..., 8:])


def test_maps_tokens_and_weights_of_attention():
    model = fz.models.get("tnt_s_patch16_224", num_classes=3, **TINY).init(rng=0)
    shapes = {key: leaf.shape for key, leaf in model.feature_maps(IMAGES).items()}
    assert shapes == {"blocks_0": (2, 2, 3, 8), "blocks_1": (2, 2, 3, 8)}
    assert model.features(IMAGES).shape == (2, 7, 8)
    weights = model.attention_weights(IMAGES)
    # Pixels attend within each of 2 x 6 patches.
    assert weights["blocks_0/attn_in"].shape == (12, 2, 4, 4)
    assert weights["blocks_1/attn_out"].shape == (2, 2, 7, 7)
    assert "blocks_1/attn_out: class token" in fz.plots.attention(model, IMAGES[0]).get_suptitle()


def test_whose_neighbours_a_pixel_sees():
    """Pixels of the legacy network see beyond their patch, others' do not."""
    changed = IMAGES.copy()
    changed[:, :, :8] += 1
    for legacy, same in ((False, True), (True, False)):
        backbone = Tnt(**TINY, legacy=legacy)
        model = fz.models.get("tnt_s_patch16_224", num_classes=3, legacy=legacy, **TINY).init(rng=0)
        variables = {"params": model.variables["params"]["backbone"]}
        before, after = (
            backbone.apply(variables, x, 0, 1, method="run_stages")[:, 2, 8:]
            for x in (IMAGES, changed)
        )
        assert np.array_equal(before, after) is same


def test_images_of_another_size_are_refused():
    model = fz.models.get("tnt_s_patch16_224", num_classes=3, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 24, got .*their input_shape="):
        model.init(rng=0)(np.zeros((1, 24, 16, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, r"width must be a multiple of heads=3, got 8"),
        ({"pixel_heads": 3}, r"pixel_width must be a multiple of pixel_heads=3, got 4"),
        ({"pixel_size": 3, "legacy": True}, r"multiple of pixel_size=3 where pixels .*, got 8"),
        ({"pixel_size": 0}, "pixel_size must be"),
        ({"legacy": "yes"}, "legacy must be"),
        ({"input_shape": (7, 24, 3)}, "of at least one patch of 8 x 8, got"),
        ({"attention_dropout": 1.5}, "attention_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Tnt(**{**TINY, **fields})
