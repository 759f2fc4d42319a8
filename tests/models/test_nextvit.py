"""Next-ViT: which channels attend and which pixels are keys, and what does not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.models.nextvit import NextVit, ReducedAttention, attending_width

pytestmark = pytest.mark.family("nextvit")

TINY = {
    "layers": (1, 1),
    "widths": (16, 32),
    "attention_widths": (64, 64),
    "attention_every": (0, 1),
    "key_strides": (8, 2),
    "attention_share": 0.5,
    "head_width": 16,
}


def test_what_is_left_over_is_no_key():
    """Seven pixels have one key of four; the last three are in no other's output."""
    module = ReducedAttention(key_stride=2, head_width=4)
    x = np.random.default_rng(0).random((1, 1, 7, 8), np.float32)
    variables = module.init(jax.random.key(0), x)
    weights = module.apply(variables, x, mutable="intermediates")[1]["intermediates"]["attention"]
    assert weights[0].shape == (1, 2, 7, 1)
    other = x.copy()
    other[0, 0, 4:] += 1
    same = module.apply(variables, other) - module.apply(variables, x)
    np.testing.assert_allclose(same[0, 0, :4], 0, atol=1e-6)
    with pytest.raises(ShapeError, match="a map of 1 x 3 has no key at key_stride=2"):
        module.apply(variables, x[:, :, :3])


def test_shares_are_rounded_as_timm_s():
    assert [attending_width(width, 0.75) for width in (256, 512, 1024, 96)] == [192, 384, 768, 96]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (16, 24)}, r"widths must be multiples of head_width=16, got \(16, 24\)"),
        ({"attention_widths": (64, 40)}, "attention_widths must be multiples of head_width=16"),
        ({"attention_share": 0.9}, "attention_share=0.9 leaves some"),
        ({"attention_share": 1.0}, "attention_share must be"),
        ({"layers": (1,)}, "must be of one length"),
        ({"attention_every": (0, -1)}, "attention_every must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        NextVit(**{**TINY, **fields})
