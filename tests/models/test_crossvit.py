"""CrossViT: two branches, their maps and class tokens, and what does not fit."""

import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.crossvit import CrossVit, resized

pytestmark = pytest.mark.family("crossvit")

NAME = "crossvit_tiny_240"
TINY = {
    "scales": (1.0, 2 / 3),
    "patch_sizes": (6, 8),
    "layers": ((1, 2),),
    "widths": (8, 12),
    "heads": (1, 2),
}
SHAPE = (24, 36, 3)
IMAGES = np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return fz.models.get(NAME, num_classes=3, input_shape=SHAPE, **TINY).init(rng=0)


def test_maps_and_weights_of_both_branches(model):
    maps = {name: leaf.shape for name, leaf in model.feature_maps(IMAGES).items()}
    assert maps == {"blocks_0_branch_0": (2, 4, 6, 8), "blocks_0_branch_1": (2, 2, 3, 12)}
    weights = {path: leaf.shape for path, leaf in model.attention_weights(IMAGES).items()}
    assert weights["blocks_0/blocks_1_1/attn"] == (2, 2, 7, 7)
    # Each class token with the patches of the other branch.
    assert weights["blocks_0/fusion_0/attn"] == (2, 2, 1, 7)
    assert weights["blocks_0/fusion_1/attn"] == (2, 1, 1, 25)


def test_each_classifier_sees_its_branch(model):
    features = np.asarray(model.features(IMAGES))
    head = model.variables["params"]["head"]
    assert head["fc"]["kernel"].shape == (8, 3)
    logits = [
        part @ head[name]["kernel"] + head[name]["bias"]
        for name, part in (("fc", features[:, :8]), ("fc_dist", features[:, 8:]))
    ]
    np.testing.assert_allclose(model(IMAGES), (logits[0] + logits[1]) / 2, atol=1e-5)


def test_the_mean_of_the_patches(model):
    other = fz.models.get(NAME, num_classes=3, input_shape=SHAPE, branch_pooling="avg", **TINY)
    features = other.with_variables(model.variables).features(IMAGES)
    assert features.shape == (2, 20)
    assert (features != model.features(IMAGES)).all()


def test_resizing_keeps_constants_and_dtypes():
    images = np.full((1, 12, 18, 3), 0.7, np.float32)
    np.testing.assert_allclose(resized(images, (8, 20)), np.full((1, 8, 20, 3), 0.7), rtol=1e-6)
    assert resized(jnp.asarray(images, jnp.bfloat16), (8, 20)).dtype == jnp.bfloat16
    assert resized(images, (12, 18)) is images


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ShapeError, match=r"images must be of 24 x 36, got .*their input_shape="):
        model(np.zeros((1, 36, 24, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (8,)}, r"widths must be two, got \(8,\)"),
        ({"heads": (1, 5)}, r"widths must be multiples of heads=\(1, 5\)"),
        ({"layers": ((1, 0),)}, "layers must be"),
        ({"layers": ((1, 1, 1),)}, "layers must be pairs"),
        ({"scales": (1.0, 0.0)}, "scales must be"),
        ({"conv_patches": True}, r"takes patch_sizes of 12 and 16, got \(6, 8\)"),
        ({"branch_pooling": "max"}, "branch_pooling must be one of 'token', 'avg', got 'max'"),
        ({"input_shape": (5, 24, 3)}, "of at least one patch of each"),
        ({"attention_dropout": 1.5}, "attention_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        CrossVit(**{"input_shape": SHAPE, **TINY, **fields})
