"""EdgeNeXt: chains of channel groups, what a block is added to, and what does not fit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.edgenext import ConvBlock, EdgeNeXt, SplitBlock

pytestmark = pytest.mark.family("edgenext")

TINY = {
    "layers": (1, 1),
    "widths": (8, 16),
    "attending": (0, 1),
    "kernel_sizes": (3, 3),
    "heads": (2, 2),
    "scales": (2, 3),
    "positions": (False, True),
}


class Chain(SplitBlock):
    @nn.compact
    def __call__(self, x):
        return self.chained(x)


@pytest.mark.parametrize(("width", "scales"), [(8, 2), (8, 3), (10, 4)])
def test_groups_of_channels_see_those_before_them(width, scales):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 4, width)), jnp.float32)
    module = Chain(scales=scales)
    variables = module.init(jax.random.key(0), x)
    jacobian = jax.jacobian(lambda x: module.apply(variables, x)[0, 1, 1])(x)
    seen = np.abs(jacobian).max((1, 2, 3)) > 0
    size = -(-width // scales)
    group, place = np.arange(width) // size, np.arange(width) % size
    # The last group is left as it is.
    before = (group[:, None] >= group) & (group[:, None] < scales - 1)
    expected = (place[:, None] == place) & (before | np.eye(width, dtype=bool))
    np.testing.assert_array_equal(seen, expected)


def test_a_branch_is_added_to_what_the_halving_convolution_returns():
    x = jnp.ones((1, 4, 6, 4))
    module = ConvBlock(features=8, stride=2, kernel_size=3, layer_scale=0.0)
    variables = module.init(jax.random.key(0), x)
    assert module.apply(variables, x).shape == (1, 2, 3, 8)
    same = ConvBlock(features=4, kernel_size=3, layer_scale=0.0)
    out, _ = same.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(out, x)


def test_the_norm_stands_before_or_behind_the_pooling():
    for first, owner in ((True, "backbone"), (False, "head")):
        model = fz.models.get("edgenext_small", num_classes=3, norm_first=first, **TINY)
        shapes = model.shapes()["params"]
        assert {
            name for name in ("backbone", "head") if {"norm", "norm_pre"} & set(shapes[name])
        } == {owner}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attending": (0, 2)}, "attending must be at most 1 of 1 blocks in stage 1, got 2"),
        ({"down_blocks": True}, "attending must be at most 0 of 1 blocks in stage 1, got 1"),
        ({"attending": (0, -1)}, "attending must be"),
        ({"heads": (2, 3)}, "multiples of their heads, got 16 and 3 in stage 1"),
        ({"scales": (2, 1)}, "scales must be at least 2 and leave channels .*, got 1 of 16"),
        ({"scales": (2, 9)}, "got 9 of 16 channels in stage 1"),
        ({"positions": (True,)}, "must be of one length"),
        (
            {"down_blocks": True, "layers": (1, 2), "widths": (8, 12)},
            r"a multiple of the one before, got \(8, 12\)",
        ),
        ({"drop_path": 1.0}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        EdgeNeXt(**{**TINY, **fields})
