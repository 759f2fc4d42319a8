"""RDNet's channels, its maps, and fields that do not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.rdnet import DenseStage, RDNet
from flaxzoo.models.registry import MODELS

pytestmark = pytest.mark.family("rdnet")

TINY = {
    "layers": (1, 2),
    "growths": (8, 16),
    "halving": (False, True),
    "gated": (False, True),
    "stem_width": 16,
}


def test_a_stage_appends_to_what_it_gets():
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 16)).astype(np.float32)
    stage = DenseStage(growth=8, rates=(0.0, 0.0), expansion=1.0)
    out, variables = stage.init_with_output(jax.random.key(0), x)
    assert out.shape == (1, 4, 4, 32)
    np.testing.assert_array_equal(out[..., :16], x)
    # The second block sees the first one's channels as well.
    kernels = [variables["params"][f"dense_block{i}"]["layers_0"]["kernel"] for i in range(2)]
    assert [kernel.shape for kernel in kernels] == [(7, 7, 1, 16), (7, 7, 1, 24)]


def test_maps_are_those_before_each_halving():
    backbone = MODELS.get("rdnet_small").backbone
    assert backbone.reductions() == {
        "dense_stages_0": 4,
        "dense_stages_1": 8,
        "dense_stages_8": 16,
        "dense_stages_10": 32,
    }
    shapes = jax.eval_shape(
        lambda x: RDNet(feature_maps=True, **TINY).init_with_output(jax.random.key(0), x)[0],
        jax.ShapeDtypeStruct((2, 37, 50, 3), "float32"),
    )
    assert {name: leaf.shape for name, leaf in shapes.items()} == {
        "dense_stages_0": (2, 9, 12, 24),
        "dense_stages_1": (2, 4, 6, 8 + 2 * 16),
    }


def test_gates_are_those_of_later_stages():
    shapes = fz.models.get("rdnet_tiny", num_classes=2, **TINY).shapes()["params"]["backbone"]
    assert "layers_5" not in shapes["dense_stages_0"]["dense_block0"]
    assert "layers_5" in shapes["dense_stages_1"]["dense_block1"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"growths": (8,)}, "layers, growths, halving and gated must be of one length"),
        ({"halving": (None, True)}, "halving must be"),
        ({"stem": "overlapped"}, "stem must be .*'overlapped'. Did you mean 'overlap'"),
        ({"compression": 0.0}, "compression must be"),
        ({"stem_width": 0}, "stem_width must be"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        RDNet(**{**TINY, **fields})
