"""MLP-Mixer, ResMLP and gMLP: how they begin, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.mlp_mixer import MlpMixer

pytestmark = pytest.mark.family("mlp_mixer")

TINY = {"patch_size": 8, "width": 4, "depth": 1, "input_shape": (16, 24, 3)}
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)


def test_tokens_maps_and_a_classifier_of_zeros():
    model = fz.models.get("mixer_s16_224", num_classes=3, **TINY).init(rng=0)
    assert model.features(IMAGES).shape == (2, 6, 4)
    assert [leaf.shape for leaf in model.feature_maps(IMAGES).values()] == [(2, 2, 3, 4)]
    assert not model(IMAGES).any()


def test_gates_begin_as_the_identity():
    """The layer across the patches gives ones, so that they do not see each other."""
    model = fz.models.get("gmlp_ti16_224", num_classes=0, **TINY).init(rng=0)
    other = np.array(IMAGES)
    other[:, 8:] = 0
    tokens, changed = model.features(IMAGES), model.features(other)
    np.testing.assert_allclose(tokens[:, :3], changed[:, :3], rtol=0, atol=1e-4)
    assert np.abs(tokens - changed)[:, 3:].max() > 0.1


def test_images_of_another_size_are_refused():
    model = fz.models.get("mixer_s16_224", num_classes=3, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 24, got .*their input_shape="):
        jax.eval_shape(lambda: model.init(rng=0)(np.zeros((1, 24, 16, 3), np.float32)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "gated"}, "block must be one of"),
        ({"mlp": "swiglu"}, "mlp must be one of"),
        ({"norm": "afine"}, "norm must be one of"),
        ({"width": 5, "mlp_ratio": 1.0, "mlp": "glu"}, r"mlp_ratio must be even, got 5 \* 1.0"),
        ({"input_shape": (7, 24, 3)}, "of at least one patch of 8 x 8, got"),
        ({"drop_path": 1.5}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        MlpMixer(**{**TINY, **fields})
