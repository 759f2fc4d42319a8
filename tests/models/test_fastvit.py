"""FastViT: images of any size, branches, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.reparameterized import MobileOneBlock
from flaxzoo.models.fastvit import FastVit
from flaxzoo.weights.synthetic import synthetic_images

pytestmark = pytest.mark.family("fastvit")

TINY = {
    "layers": (1, 1),
    "widths": (4, 8),
    "mlp_ratios": (2, 2),
    "mixers": ("convolution", "attention"),
    "gated": (False, True),
    "head_width": 4,
}


def test_sizes_are_rounded_up():
    model = fz.models.get("fastvit_sa12", num_classes=3, input_shape=(32, 32, 3), **TINY)
    model = model.init(rng=0)
    images = synthetic_images((1, 19, 33, 3))
    maps = model.feature_maps(images)
    assert [leaf.shape for leaf in maps.values()] == [(1, 5, 9, 4), (1, 3, 5, 8)]


@pytest.mark.parametrize(
    ("fields", "branches"),
    [
        ({"features": 4}, {"conv_kxk_0", "conv_scale", "identity"}),
        ({"features": 4, "kernel_size": 1}, {"conv_kxk_0", "identity"}),
        ({"features": 4, "stride": 2, "scale": False}, {"conv_kxk_0"}),
        ({"features": 4, "convolution": False, "scale": False}, {"identity"}),
        ({"features": 8, "gate": SqueezeExcite}, {"conv_kxk_0", "conv_scale", "attn"}),
        ({"features": 4, "branches": 2, "fused": True}, {"reparam_conv"}),
    ],
)
def test_the_branches_that_there_are(fields, branches):
    block = MobileOneBlock(**fields)
    variables = jax.eval_shape(block.init, jax.random.key(0), np.zeros((1, 4, 4, 4), np.float32))
    assert variables["params"].keys() == branches


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixers": ("convolution", "atention")}, "Did you mean 'attention'"),
        ({"layers": (1,)}, "must be of one length"),
        ({"head_width": 3}, "must be multiples of head_width=3, got 8"),
        ({"widths": (4, 6), "head_width": 2}, r"multiple of the one before, got \(4, 6\)"),
        ({"implementation": "flash"}, "implementation must be one of"),
        ({"drop_path": 1.0}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        FastVit(**{**TINY, **fields})
