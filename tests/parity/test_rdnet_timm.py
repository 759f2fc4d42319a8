"""RDNet against timm: images of any size, stems and norms, features, the authors' files."""

import numpy as np
import pytest
from parity.pairs import outputs_of, pair_of

from flaxzoo.models.registry import MODELS
from flaxzoo.verify import compare
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")
rdnet = pytest.importorskip("timm.models.rdnet")

pytestmark = pytest.mark.family("rdnet")

NAME = "rdnet_tiny"
SMALL = {
    "layers": (1, 2),
    "growths": (8, 16),
    "halving": (False, True),
    "gated": (False, True),
    "stem_width": 16,
}
SMALL_TIMM = {
    "num_blocks_list": (1, 2),
    "growth_rates": (8, 16),
    "is_downsample_block": (None, True),
    "block_type": ("Block", "BlockESE"),
    "num_init_features": 16,
}


def pair(fields=None, options=None, classes=4):
    """Ours and timm's, small, with the same random weights."""
    both = {**SMALL, **(fields or {})}, {**SMALL_TIMM, **(options or {})}
    return pair_of(NAME, *both, classes=classes)[:2]


@pytest.mark.parametrize(
    ("size", "fields", "options"),
    [
        ((64, 96), {}, {}),
        ((75, 50), {"patch_size": 2}, {"patch_size": 2}),
        (
            (39, 64),
            {"stem": "overlap_tiered", "norm_first": True, "conv_bias": False, "norm": "batch"},
            {
                **{"stem_type": "overlap_tiered", "head_norm_first": True},
                **{"conv_bias": False, "norm_layer": "batchnorm2d"},
            },
        ),
        (
            (39, 64),
            {"stem": "overlap", "layer_scale": None, "compression": 0.75, "expansion": 1.5},
            {
                **{"stem_type": "overlap", "ls_init_value": 0.0},
                **{"transition_compression_ratio": 0.75, "bottleneck_width_ratio": 1.5},
            },
        ),
    ],
)
def test_images_of_any_size_stems_and_norms(size, fields, options):
    model, reference = pair(fields, options)
    differences = compare(model, reference, synthetic_images((2, *size, 3), 0))
    assert max(found.relative for found in differences.values()) < 1e-5


def test_features():
    model, reference = pair(classes=0)
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = outputs_of(reference, images)
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


def test_the_authors_files():
    _, reference = pair()
    files = {
        key.replace("stem.", "stem.stem."): value for key, value in reference.state_dict().items()
    }
    ours = MODELS.architecture(NAME).reference.convert(files, None)
    theirs = rdnet.checkpoint_filter_fn(files, reference)
    assert ours.keys() == theirs.keys() == reference.state_dict().keys()
