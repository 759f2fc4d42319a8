"""Inception-ResNet V2: branches of small convolutions whose joined output is added to their input.

The name and numbers are those of timm's ``inception_resnet_v2`` module.
https://arxiv.org/abs/1602.07261
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax

from flaxzoo._checks import check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.branches import ResidualBranches, Unit, halved, neighbours
from flaxzoo.models.backbone import Part
from flaxzoo.models.inception import Branching, Inception
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of this name.
CUT: dict[str, str] = {}

_MIXED_5B: Branching = (
    (Unit("branch0", 96),),
    (Unit("branch1_0", 48), Unit("branch1_1", 64, 5)),
    (Unit("branch2_0", 64), Unit("branch2_1", 96, 3), Unit("branch2_2", 96, 3)),
    (neighbours, Unit("branch3_1", 64)),
)
_BLOCK35: Branching = (
    (Unit("branch0", 32),),
    (Unit("branch1_0", 32), Unit("branch1_1", 32, 3)),
    (Unit("branch2_0", 32), Unit("branch2_1", 48, 3), Unit("branch2_2", 64, 3)),
)
_MIXED_6A: Branching = (
    (Unit("branch0", 384, 3, 2, 0),),
    (Unit("branch1_0", 256), Unit("branch1_1", 256, 3), Unit("branch1_2", 384, 3, 2, 0)),
    (halved,),
)
_BLOCK17: Branching = (
    (Unit("branch0", 192),),
    (Unit("branch1_0", 128), Unit("branch1_1", 160, (1, 7)), Unit("branch1_2", 192, (7, 1))),
)
_MIXED_7A: Branching = (
    (Unit("branch0_0", 256), Unit("branch0_1", 384, 3, 2, 0)),
    (Unit("branch1_0", 256), Unit("branch1_1", 288, 3, 2, 0)),
    (Unit("branch2_0", 256), Unit("branch2_1", 288, 3), Unit("branch2_2", 320, 3, 2, 0)),
    (halved,),
)
_BLOCK8: Branching = (
    (Unit("branch0", 192),),
    (Unit("branch1_0", 192), Unit("branch1_1", 224, (1, 3)), Unit("branch1_2", 256, (3, 1))),
)


class InceptionResNetV2(Inception):
    """An Inception-ResNet V2 without its classifier: a stem, then three kinds of residual block.

    It maps images ``[B, H, W, C]`` of at least 75 x 75 to about ``[B, H / 32, W / 32, C']``;
    strided convolutions have no padding.

    Attributes:
      layers: the number of blocks of each of the three kinds; the last one is not activated.
      scales: what the blocks of each kind add is multiplied by; the last one's by 1.
    """

    layers: Sequence[int] = (10, 20, 10)
    scales: Sequence[float] = (0.17, 0.1, 0.2)

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, and before the blocks of each kind one that joins branches alone."""
        first, second = {"depth": "conv2d_1a"}, {"depth": "conv2d_3b"}
        yield self.unit(Unit("conv2d_1a", 32, 3, 2, 0), takes="images", **first)
        yield self.unit(Unit("conv2d_2a", 32, 3, 1, 0), **first)
        yield self.unit(Unit("conv2d_2b", 64, 3), map="conv2d_2b", reduction=2, **first)
        yield Part("conv2d_3b", self._pool, ())
        yield self.unit(Unit("conv2d_3b", 80), **second)
        stem = {"map": "conv2d_4a", "reduction": 4, **second}
        yield self.unit(Unit("conv2d_4a", 192, 3, 1, 0), **stem)
        yield Part("mixed_5b", self._pool, ())
        yield self.block("mixed_5b", _MIXED_5B)
        yield from self._blocks("repeat", _BLOCK35, self.layers[0], self.scales[0], 8)
        yield self.block("mixed_6a", _MIXED_6A)
        yield from self._blocks("repeat_1", _BLOCK17, self.layers[1], self.scales[1], 16)
        yield self.block("mixed_7a", _MIXED_7A)
        yield from self._blocks("repeat_2", _BLOCK8, self.layers[2] - 1, self.scales[2], None)
        last = functools.partial(ResidualBranches, active=False)
        yield self.block("block8", _BLOCK8, last)
        end = {"map": "conv2d_7b", "reduction": 32, "depth": "block8"}
        yield self.unit(Unit("conv2d_7b", 1536), **end)

    @nn.nowrap
    def _blocks(
        self, name: str, branches: Branching, count: int, scale: float, reduction: int | None
    ) -> Iterator[Part]:
        kind = functools.partial(ResidualBranches, scale=scale)
        for i in range(count):
            complete = name if reduction and i == count - 1 else None
            options = {"map": complete, "reduction": reduction, "group": name}
            yield self.block(f"{name}_{i}", branches, kind, **options)

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return halved(x)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        if len(check_widths("layers", self.layers)) != 3 or len(self.scales) != 3:
            lengths = f"{tuple(self.layers)} and {tuple(self.scales)}"
            raise ArgumentError(f"layers and scales must be 3 numbers each, got {lengths}")


variants(
    InceptionResNetV2,
    {"inception_resnet_v2": row("Inception-ResNet V2")},
    input_shape=(299, 299, 3),
    paper="https://arxiv.org/abs/1602.07261",
    reference=Reference(
        stem=("conv2d_1a/conv",),
        classifier="classif",
        # Lists of blocks, of which two have a number in their names; the others' are no places.
        renamed=((r"(repeat(?:_[12])?)_(\d+)", r"\1.\2"),),
    ),
)
