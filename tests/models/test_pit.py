"""PiT: grids between its stages, its tokens, and what does not fit."""

import functools

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.pit import PoolingVisionTransformer

pytestmark = pytest.mark.family("pit")

TINY = {
    "patch_size": 6,
    "patch_stride": 3,
    "layers": (1, 1),
    "widths": (4, 8),
    "heads": (1, 2),
    "input_shape": (18, 24, 3),
}
IMAGES = np.random.default_rng(0).random((2, 18, 24, 3)).astype(np.float32)


@pytest.mark.parametrize(("name", "tokens"), [("pit_ti_224", 1), ("pit_ti_distilled_224", 2)])
def test_tokens_and_maps(name, tokens):
    model = fz.models.get(name, num_classes=3, **TINY).init(rng=0)
    assert model.features(IMAGES).shape == (2, tokens, 8)
    maps = model.feature_maps(IMAGES)
    assert {key: leaf.shape for key, leaf in maps.items()} == {
        "transformers_0": (2, 5, 7, 4),
        "transformers_1": (2, 3, 4, 8),
    }
    # Another head takes the mean of the tokens, or the one that there is.
    other = model.replace_head(fz.models.Head(2), rng=0)
    assert other(IMAGES).shape == (2, 2)


def test_a_pair_of_logits_in_training():
    name = "pit_ti_distilled_224"
    model = fz.models.get(name, num_classes=3, distilled_training=True, **TINY).init(rng=0)
    step = jax.jit(functools.partial(model.module.apply, train=True))
    pair = step(model.variables, IMAGES)
    np.testing.assert_allclose(model(IMAGES), (pair[0] + pair[1]) / 2, rtol=1e-5, atol=1e-6)


def test_images_of_another_size_are_refused():
    model = fz.models.get("pit_ti_224", num_classes=3, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 18 x 24, got .*their input_shape="):
        model.init(rng=0)(np.zeros((1, 24, 18, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": (1, 3)}, r"widths must be multiples of heads=\(1, 3\), got \(4, 8\)"),
        ({"widths": (4, 6)}, r"each be a multiple of the one before, got \(4, 6\)"),
        ({"layers": (1,)}, "must be of one length"),
        ({"patch_stride": 0}, "patch_stride must be"),
        ({"input_shape": (5, 24, 3)}, "of at least one patch of 6 x 6, got"),
        ({"distilled_training": True}, "takes distillation_token=True, got False"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        PoolingVisionTransformer(**{**TINY, **fields})
