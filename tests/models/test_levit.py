"""LeViT: its cells, its two classifiers, and what does not fit."""

import functools

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.levit import Levit

pytestmark = pytest.mark.family("levit")

TINY = {
    "layers": (1, 1),
    "widths": (8, 12),
    "heads": (1, 2),
    "key_width": 4,
    "stem_stride": 8,
    "input_shape": (24, 40, 3),
}
IMAGES = np.random.default_rng(0).random((2, 24, 40, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "features"), [("levit_128s", (2, 6, 12)), ("levit_conv_128s", (2, 2, 3, 12))]
)
def test_tokens_or_maps(name, features):
    model = fz.models.get(name, num_classes=3, **TINY).init(rng=0)
    assert model.features(IMAGES).shape == features
    maps = model.feature_maps(IMAGES)
    assert [leaf.shape for leaf in maps.values()] == [(2, 3, 5, 8), (2, 2, 3, 12)]
    # Another head averages the cells, whatever their form.
    assert model.replace_head(fz.models.Head(2), rng=0)(IMAGES).shape == (2, 2)


def test_a_pair_of_logits_in_training():
    name = "levit_128s"
    model = fz.models.get(name, num_classes=3, distilled_training=True, **TINY).init(rng=0)
    step = functools.partial(model.module.apply, train=True, mutable=["batch_stats"])
    pair, _ = jax.eval_shape(step, model.variables, IMAGES)
    assert [leaf.shape for leaf in pair] == [(2, 3), (2, 3)]


def test_images_of_another_size_are_refused():
    model = fz.models.get("levit_128s", num_classes=3, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 24 x 40, got .*their input_shape="):
        model.init(rng=0)(np.zeros((1, 40, 24, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_shape": (24, 41, 3)}, r"multiples of stem_stride=8, got \(24, 41, 3\)"),
        ({"stem_stride": 4}, "stem_stride must be 8 or 16, got 4"),
        ({"layers": (1,)}, "must be of one length"),
        ({"key_width": 16}, r"at least key_width=16, .* heads, got \(8, 12\)"),
        ({"widths": (6, 12)}, r"widths\[0\] must be a multiple of 4, got 6"),
        ({"drop_path": 1.0}, "drop_path must be"),
        ({"distilled_training": True}, "takes distilled=True, got False"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Levit(**{**TINY, **fields})
