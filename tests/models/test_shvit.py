"""SHViT: which channels attend, and what does not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.models.shvit import Shvit, SingleHeadAttention

pytestmark = pytest.mark.family("shvit")

TINY = {"layers": (1, 1), "widths": (8, 16), "partial_widths": (4, 4), "attention": (False, True)}


def test_the_first_channels_alone_see_other_pixels():
    module = SingleHeadAttention(key_width=2, partial_width=4, norm="layer")
    x = np.random.default_rng(0).random((1, 2, 3, 8), np.float32)
    variables = jax.tree.map(lambda leaf: leaf + 0.3, module.init(jax.random.key(0), x))
    changes = {}
    for channel in (0, 7):
        other = x.copy()
        other[0, 0, 0, channel] += 1
        change = np.abs(module.apply(variables, other) - module.apply(variables, x))
        changes[channel] = change[0, 1:].max()
    assert changes[0] > 1e-4
    assert changes[7] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (12, 16)}, "widths must begin with a multiple of 8, got 12"),
        ({"partial_widths": (4, 17)}, r"partial_widths must be at most widths=\(8, 16\)"),
        ({"layers": (1,)}, "must be of one length"),
        ({"attention": (True,)}, "must be of one length"),
        ({"key_width": 0}, "key_width must be"),
        ({"drop_path": 1.5}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Shvit(**{**TINY, **fields})
