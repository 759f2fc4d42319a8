"""Inception V4: branches of small convolutions, joined, in three kinds of block.

The name and numbers are those of timm's ``inception_v4`` module.
https://arxiv.org/abs/1602.07261
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import flax.linen as nn

from flaxzoo._checks import check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.branches import Unit, halved, neighbours
from flaxzoo.models.backbone import Part
from flaxzoo.models.inception import Branching, Inception
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of this name.
CUT: dict[str, str] = {}
_ROW, _COLUMN = (1, 7), (7, 1)

_STEM: tuple[Branching, ...] = (
    ((halved,), (Unit("conv", 96, 3, 2, 0),)),
    (
        (Unit("branch0_0", 64), Unit("branch0_1", 96, 3, 1, 0)),
        (
            Unit("branch1_0", 64),
            Unit("branch1_1", 64, _ROW),
            Unit("branch1_2", 64, _COLUMN),
            Unit("branch1_3", 96, 3, 1, 0),
        ),
    ),
    ((Unit("conv", 192, 3, 2, 0),), (halved,)),
)
_A: Branching = (
    (Unit("branch0", 96),),
    (Unit("branch1_0", 64), Unit("branch1_1", 96, 3)),
    (Unit("branch2_0", 64), Unit("branch2_1", 96, 3), Unit("branch2_2", 96, 3)),
    (neighbours, Unit("branch3_1", 96)),
)
_REDUCTION_A: Branching = (
    (Unit("branch0", 384, 3, 2, 0),),
    (Unit("branch1_0", 192), Unit("branch1_1", 224, 3), Unit("branch1_2", 256, 3, 2, 0)),
    (halved,),
)
_B: Branching = (
    (Unit("branch0", 384),),
    (Unit("branch1_0", 192), Unit("branch1_1", 224, _ROW), Unit("branch1_2", 256, _COLUMN)),
    (
        Unit("branch2_0", 192),
        Unit("branch2_1", 192, _COLUMN),
        Unit("branch2_2", 224, _ROW),
        Unit("branch2_3", 224, _COLUMN),
        Unit("branch2_4", 256, _ROW),
    ),
    (neighbours, Unit("branch3_1", 128)),
)
_REDUCTION_B: Branching = (
    (Unit("branch0_0", 192), Unit("branch0_1", 192, 3, 2, 0)),
    (
        Unit("branch1_0", 256),
        Unit("branch1_1", 256, _ROW),
        Unit("branch1_2", 320, _COLUMN),
        Unit("branch1_3", 320, 3, 2, 0),
    ),
    (halved,),
)
# Branches that fork at their end; timm has no lists of these, whose names keep their underscores.
_C: Branching = (
    (Unit("branch0", 256),),
    (
        Unit("fork1_0", 384),
        (Unit("fork1_1a", 256, (1, 3)), Unit("fork1_1b", 256, (3, 1))),
    ),
    (
        Unit("fork2_0", 384),
        Unit("fork2_1", 448, (3, 1)),
        Unit("fork2_2", 512, (1, 3)),
        (Unit("fork2_3a", 256, (1, 3)), Unit("fork2_3b", 256, (3, 1))),
    ),
    (neighbours, Unit("branch3_1", 256)),
)


class InceptionV4(Inception):
    """An Inception V4 without its classifier: a stem, then three kinds of block.

    It maps images ``[B, H, W, C]`` of at least 75 x 75 to about ``[B, H / 32, W / 32, C']``;
    strided convolutions have no padding.

    Attributes:
      layers: the number of blocks of each of the three kinds.
    """

    layers: Sequence[int] = (4, 7, 3)

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The places of timm's list: the stem's convolutions, and blocks from ``features_3`` on."""
        yield self.unit(Unit("features_0", 32, 3, 2, 0), takes="images", depth="features_0")
        yield self.unit(Unit("features_1", 32, 3, 1, 0), depth="features_0")
        yield self.unit(Unit("features_2", 64, 3), depth="features_0", map="stem", reduction=2)
        blocks = [*_STEM, *[_A] * self.layers[0], _REDUCTION_A, *[_B] * self.layers[1]]
        blocks += [_REDUCTION_B, *[_C] * self.layers[2]]
        ends = {0: ("mixed3a", 4), 2 + self.layers[0]: ("blocks_a", 8)}
        ends[3 + sum(self.layers[:2])] = ("blocks_b", 16)
        ends[4 + sum(self.layers)] = ("blocks_c", 32)
        for i, branches in enumerate(blocks):
            name, reduction = ends.get(i, (None, None))
            yield self.block(f"features_{i + 3}", branches, map=name, reduction=reduction)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        if len(check_widths("layers", self.layers)) != 3:
            raise ArgumentError(f"layers must be 3 numbers, got {tuple(self.layers)}")


variants(
    InceptionV4,
    {"inception_v4": row("Inception V4")},
    input_shape=(299, 299, 3),
    paper="https://arxiv.org/abs/1602.07261",
    reference=Reference(
        stem=("features_0/conv",),
        classifier="last_linear",
        renamed=((r"fork(\d_\d[ab]?)", r"branch\1"),),
    ),
)
