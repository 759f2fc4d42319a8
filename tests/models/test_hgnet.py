"""PP-HGNet: two learnt numbers, the head without its layer, what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.hgnet import HGConv, HGNet, ScaleAndShift

pytestmark = pytest.mark.family("hgnet")


def test_two_numbers_for_all():
    x = np.random.default_rng(0).random((2, 3, 4), np.float32)
    module = ScaleAndShift()
    params = module.init(jax.random.key(0), x)["params"]
    assert {name: leaf.tolist() for name, leaf in params.items()} == {"scale": [1], "bias": [0]}
    with jax.numpy_rank_promotion("raise"):
        out = module.apply({"params": {"scale": np.array([2.0]), "bias": np.array([3.0])}}, x)
    np.testing.assert_allclose(out, 2 * x + 3, rtol=1e-6)
    narrow = ScaleAndShift(dtype="bfloat16")
    assert jax.eval_shape(narrow.init_with_output, jax.random.key(0), x)[0].dtype == "bfloat16"


@pytest.mark.parametrize("activation", ["relu", None])
def test_they_follow_activations_alone(activation):
    module = HGConv(4, 2, activation=activation, affine=True)
    x = np.zeros((1, 3, 5, 2), np.float32)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert ("lab" in variables["params"]) == (activation is not None)
    assert out.shape == (1, 2, 4, 4)


def test_a_head_without_its_layer():
    shapes = fz.models.get("hgnetv2_b0", num_classes=2, head_width=None).shapes()
    assert shapes["params"]["head"]["fc"]["kernel"].shape == (1024, 2)
    with_layer = fz.models.get("hgnetv2_b0", num_classes=0).shapes()
    assert with_layer["params"]["head"].keys() == {"dense_0", "norm_0"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 2)}, "must be of one length"),
        ({"stem": "deep"}, "stem must be"),
        ({"stem": "branched"}, "stem_widths of a branched stem must be the channels inside"),
        ({"convolutions": 0}, "convolutions must be"),
        ({"head_width": 0}, "head_width must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        HGNet(**fields)
