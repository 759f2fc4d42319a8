"""FasterNet against timm: images of any size, features, depths of all but the hidden layer."""

import numpy as np
import pytest
from parity.pairs import outputs_of, pair_of

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.training.rates import rate_entries
from flaxzoo.verify import compare
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")
optim = pytest.importorskip("timm.optim")

pytestmark = pytest.mark.family("fasternet")

NAME = "fasternet_t2"
SMALL = {"layers": (1, 2), "width": 16, "head_width": 24}
SMALL_TIMM = {"depths": (1, 2), "embed_dim": 16, "feature_dim": 24, "drop_path_rate": 0.0}


def pair(classes=4, fields=None, options=None):
    """Ours and timm's, small, with the same random weights."""
    both = {**SMALL, **(fields or {})}, {**SMALL_TIMM, **(options or {})}
    return pair_of(NAME, *both, classes=classes)[:2]


@pytest.mark.parametrize(
    ("size", "fields", "options"),
    [
        ((32, 48), {}, {}),
        ((47, 30), {}, {}),
        ((36, 54), {"merge_size": 3, "patch_size": 2}, {"merge_size": 3, "patch_size": 2}),
        ((32, 48), {"patch_norm": False, "divisor": 3}, {"patch_norm": False, "n_div": 3}),
    ],
)
def test_images_of_any_size_and_patches(size, fields, options):
    model, reference = pair(fields=fields, options=options)
    differences = compare(model, reference, synthetic_images((2, *size, 3), 0))
    assert max(found.relative for found in differences.values()) < 1e-5


def test_features_are_those_of_the_hidden_layer():
    model, reference = pair(classes=0)
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = outputs_of(reference, images)
    assert expected.shape == (2, 24)
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


def test_depths_but_for_the_hidden_layer():
    model, reference = pair()
    owners = {id(p): key for key, p in reference.named_parameters()}
    groups = optim.param_groups_layer_decay(reference, weight_decay=0.0, layer_decay=0.9)
    expected = {owners[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    rates = fz.transfer.layer_decay_rates(model, 1.0, 0.9)
    rules = MODELS.architecture(NAME).reference
    ours = {
        reference_name(f"params/{path}", rules): rates[entry]
        for path, entry in rate_entries(flatten(model.variables["params"]), rates).items()
    }
    # Of timm's last block, whatever comes between: here it stays with the classifier.
    assert (ours.pop("conv_head.weight"), expected.pop("conv_head.weight")) == (1.0, 0.9)
    assert ours == pytest.approx(expected)
