"""Inception V3: branches of small convolutions, joined, and an auxiliary classifier halfway.

The name and numbers are those of timm's ``inception_v3`` module.
https://arxiv.org/abs/1512.00567
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_size, check_widths
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.branches import Unit, halved, neighbours_and_zeros, scaled
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import Normal, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pool import avg_pool
from flaxzoo.models.backbone import Part
from flaxzoo.models.inception import Branching, Inception
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of this name.
CUT: dict[str, str] = {}
_ROW, _COLUMN = (1, 7), (7, 1)
# The blocks of each kind, in the order of their names, and what is special of each: the width of
# the pooled branch, and that between the convolutions of rows and columns.
_A_WIDTHS, _C_WIDTHS, _E_COUNT = (32, 64, 64), (128, 160, 160, 192), 2
# What the loss of the auxiliary classifier counts, as in the references.
_WEIGHT = 0.4


def _a(pooled: int) -> Branching:
    return (
        (Unit("branch1x1", 64),),
        (Unit("branch5x5_1", 48), Unit("branch5x5_2", 64, 5)),
        (
            Unit("branch3x3dbl_1", 64),
            Unit("branch3x3dbl_2", 96, 3),
            Unit("branch3x3dbl_3", 96, 3),
        ),
        (neighbours_and_zeros, Unit("branch_pool", pooled)),
    )


_B: Branching = (
    (Unit("branch3x3", 384, 3, 2, 0),),
    (
        Unit("branch3x3dbl_1", 64),
        Unit("branch3x3dbl_2", 96, 3),
        Unit("branch3x3dbl_3", 96, 3, 2, 0),
    ),
    (halved,),
)


def _c(width: int) -> Branching:
    return (
        (Unit("branch1x1", 192),),
        (
            Unit("branch7x7_1", width),
            Unit("branch7x7_2", width, _ROW),
            Unit("branch7x7_3", 192, _COLUMN),
        ),
        (
            Unit("branch7x7dbl_1", width),
            Unit("branch7x7dbl_2", width, _COLUMN),
            Unit("branch7x7dbl_3", width, _ROW),
            Unit("branch7x7dbl_4", width, _COLUMN),
            Unit("branch7x7dbl_5", 192, _ROW),
        ),
        (neighbours_and_zeros, Unit("branch_pool", 192)),
    )


_D: Branching = (
    (Unit("branch3x3_1", 192), Unit("branch3x3_2", 320, 3, 2, 0)),
    (
        Unit("branch7x7x3_1", 192),
        Unit("branch7x7x3_2", 192, _ROW),
        Unit("branch7x7x3_3", 192, _COLUMN),
        Unit("branch7x7x3_4", 192, 3, 2, 0),
    ),
    (halved,),
)
_E: Branching = (
    (Unit("branch1x1", 320),),
    (
        Unit("branch3x3_1", 384),
        (Unit("branch3x3_2a", 384, (1, 3)), Unit("branch3x3_2b", 384, (3, 1))),
    ),
    (
        Unit("branch3x3dbl_1", 448),
        Unit("branch3x3dbl_2", 384, 3),
        (Unit("branch3x3dbl_3a", 384, (1, 3)), Unit("branch3x3dbl_3b", 384, (3, 1))),
    ),
    (neighbours_and_zeros, Unit("branch_pool", 192)),
)


class AuxiliaryClassifier(Layer):
    """Two convolutions on an averaged map, the mean of its pixels, and a linear layer ``fc``.

    Attributes:
      num_classes: width of the output.
      width_factor: what the convolutions' widths are multiplied by.
      fields: of the convolutions (``flaxzoo.layers.conv_norm.ConvNorm``), as pairs.
    """

    num_classes: int
    width_factor: float = 1.0
    fields: tuple[tuple[str, Any], ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, num_classes]``.

        Raises:
          ShapeError: a side is below 17.
        """
        if min(x.shape[1:3]) < 17:
            raise ShapeError(
                f"the auxiliary classifier takes maps of at least 17 x 17, those of images of "
                f"299 x 299, got {x.shape[1]} x {x.shape[2]}: give larger images, or "
                "auxiliary=False"
            )
        conv: Any = functools.partial(ConvNorm, **dict(self.fields), **self.dtypes)
        widths = [scaled(width, self.width_factor) for width in (128, 768)]
        x = conv(widths[0], 1, name="conv0")(avg_pool(x, 5, 3), train)
        x = conv(widths[1], 5, padding=0, name="conv1")(x, train)
        options: dict[str, Any] = {
            "kernel_init": Normal(0.001),
            "bias_init": plain_bias,
            **self.dtypes,
        }
        return Dense(self.num_classes, name="fc", **options)(x.mean((1, 2)))


class InceptionV3(Inception):
    """An Inception V3 without its classifier: a stem, then three kinds of block.

    It maps images ``[B, H, W, C]`` of at least 75 x 75 to about ``[B, H / 32, W / 32, C']``;
    strided convolutions have no padding.

    Attributes:
      layers: the number of blocks of each of the three kinds, at most 3, 4 and 2.
      auxiliary: how many classes another classifier tells apart, on the map of 1/16, in training
        alone; 0 for none. ``flaxzoo.models.get`` takes True for as many as the head does.
    """

    layers: Sequence[int] = (3, 4, 2)
    auxiliary: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """What convolutions and blocks get from the network as it is."""
        return {**super().options, "kernel_init": Normal(0.1)}

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``Mixed_5b`` and so on, as timm names them."""
        first, second = {"depth": "Conv2d_1a_3x3"}, {"depth": "Conv2d_3b_1x1"}
        yield self.unit(Unit("Conv2d_1a_3x3", 32, 3, 2, 0), takes="images", **first)
        yield self.unit(Unit("Conv2d_2a_3x3", 32, 3, 1, 0), **first)
        stem = {"map": "Conv2d_2b_3x3", "reduction": 2, **first}
        yield self.unit(Unit("Conv2d_2b_3x3", 64, 3), **stem)
        yield Part("Conv2d_3b_1x1", self._pool, ())
        yield self.unit(Unit("Conv2d_3b_1x1", 80), **second)
        stem = {"map": "Conv2d_4a_3x3", "reduction": 4, **second}
        yield self.unit(Unit("Conv2d_4a_3x3", 192, 3, 1, 0), **stem)
        yield Part("Mixed_5b", self._pool, ())
        yield from self._blocks("Mixed_5", "bcd", list(map(_a, _A_WIDTHS))[: self.layers[0]], 8)
        yield self.block("Mixed_6a", _B)
        yield from self._blocks("Mixed_6", "bcde", list(map(_c, _C_WIDTHS))[: self.layers[1]], 16)
        if self.auxiliary:
            yield Part("AuxLogits", self._classify, ("AuxLogits",))
        yield self.block("Mixed_7a", _D)
        yield from self._blocks("Mixed_7", "bc", [_E] * self.layers[2], 32)

    @nn.nowrap
    def _blocks(
        self, name: str, letters: str, blocks: Sequence[Branching], reduction: int
    ) -> Iterator[Part]:
        for i, branches in enumerate(blocks):
            ends = {"map": name, "reduction": reduction} if i == len(blocks) - 1 else {}
            yield self.block(f"{name}{letters[i]}", branches, group=name, **ends)

    def _classify(self, x: jax.Array, train: bool) -> jax.Array:
        kind = functools.partial(AuxiliaryClassifier, self.auxiliary)
        return self.classify(kind, "AuxLogits", _WEIGHT, x, train)

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return halved(x)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones, and how the classifier's kernel is drawn."""
        return {**super().head_options(), "kernel_init": Normal(0.1)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_size("auxiliary", self.auxiliary, minimum=0)
        counts, most = (
            check_widths("layers", self.layers),
            (len(_A_WIDTHS), len(_C_WIDTHS), _E_COUNT),
        )
        if len(counts) != 3 or any(map(int.__gt__, counts, most)):
            raise ArgumentError(f"layers must be 3 numbers of at most {most}, got {counts}")


variants(
    InceptionV3,
    {"inception_v3": row("Inception V3")},
    input_shape=(299, 299, 3),
    paper="https://arxiv.org/abs/1512.00567",
    reference=Reference(
        stem=("Conv2d_1a_3x3/conv",),
        # Numbers in the names of branches are no places in lists.
        renamed=((r"(branch\w+)", r"\1"),),
        auxiliary=("AuxLogits/fc",),
    ),
)
