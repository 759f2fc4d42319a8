"""SelecSLS: blocks that join the maps of three convolutions, and the first map of their stage.

Made for poses of people in video at 30 images a second: each block sees its stage's first one, over
one long shortcut, where DenseNet's see all before them. Names and numbers are those of timm's
``selecsls`` module.

The number counts the convolutions; ``b`` has another head.

References:
  SelecSLS (XNect): https://arxiv.org/abs/1907.00837
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_size, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import PLAIN, HeNormal
from flaxzoo.layers.layer import Layer
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}


class SelecSlsBlock(Layer):
    """Five convolutions in a row; a sixth, of each pixel, sees every other of their maps.

    Mehta et al. 2019, https://arxiv.org/abs/1907.00837, figure 3. Convolutions are named as timm's,
    ``conv1`` to ``conv6``.

    Attributes:
      features: channels of the output.
      width: those of the first map; the other two have half as many.
      stride: by which the block reduces the map.
      first: whether the block is its stage's first one, which gets one map and hands over its
        output twice; others get and hand over the stage's first map beside their own.
      last: whether the block hands over its output alone.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      activation: by name or callable.
    """

    features: int
    width: int
    stride: int = 1
    first: bool = False
    last: bool = False
    norm: Any = "batch"
    activation: str | Callable[[jax.Array], jax.Array] = "relu"

    @nn.compact
    def __call__(self, maps: Any, train: bool = False) -> Any:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up.

        Args:
          maps: the map, unless the block is the first with the stage's first one behind it.
          train: whether a BatchNorm uses the batch's statistics.

        Returns:
          The output, unless the block is the last with the stage's first map behind it.
        """
        x, shortcut = (maps, None) if self.first else maps
        half = self.width // 2
        one = self._conv(x, self.width, "conv1", train, 3, self.stride)
        two = self._conv(self._conv(one, self.width, "conv2", train), half, "conv3", train, 3)
        three = self._conv(self._conv(two, self.width, "conv4", train), half, "conv5", train, 3)
        joined = [one, two, three] if shortcut is None else [one, two, three, shortcut]
        y = self._conv(jnp.concatenate(joined, -1), self.features, "conv6", train)
        return y if self.last else (y, y if shortcut is None else shortcut)

    def _conv(
        self, x: jax.Array, features: int, name: str, train: bool, size: int = 1, stride: int = 1
    ) -> jax.Array:
        own: dict[str, Any] = {"norm": self.norm, "activation": self.activation, "name": name}
        own |= {"kernel_init": HeNormal(), **self.dtypes}
        return ConvNorm(features, size, stride, **own)(x, train)


class SelecSLS(Backbone):
    """A SelecSLS without its classifier: a stem, stages of blocks, and convolutions behind them.

    It maps images ``[B, H, W, C]`` of any size to ``[B, H / 64, W / 64, head_widths[-1]]``. Maps
    are the stem's, those of each stage, and every other one of the convolutions behind them.

    Attributes:
      layers: the number of blocks of each stage.
      block_widths: the channels of each stage's blocks.
      widths: the channels that the last block of each stage returns.
      stem_width: the channels of the stem.
      head_widths: the channels of the convolutions behind the stages, of which every other one
        reduces the map; an even number of them.
      head_kernel_sizes: the sizes of their kernels.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (2, 2, 2)
    block_widths: Sequence[int] = (64, 144, 304)
    widths: Sequence[int] = (128, 288, 480)
    stem_width: int = 32
    head_widths: Sequence[int] = (960, 1024, 1024, 1280)
    head_kernel_sizes: Sequence[int] = (3, 3, 3, 1)
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, the blocks one by one, and the convolutions behind them."""
        own: dict[str, Any] = {"norm": self.norm, "activation": self.activation, **self.dtypes}
        conv = functools.partial(ConvNorm, kernel_init=HeNormal(), **own)
        stem = functools.partial(conv, self.stem_width, 3, 2)
        yield Part("stem", stem, takes="images", map="stem", reduction=2)
        number, reduction = 0, 2
        for stage, (count, width, features) in enumerate(
            zip(self.layers, self.block_widths, self.widths, strict=True)
        ):
            reduction *= 2
            for i in range(count):
                first, last = i == 0, i == count - 1
                name = f"features_{number}"
                yield Part(
                    name,
                    functools.partial(
                        SelecSlsBlock,
                        features if last else width,
                        width,
                        stride=2 if first else 1,
                        first=first,
                        last=last,
                        **own,
                    ),
                    map=name if last else None,
                    reduction=reduction,
                    takes="maps" if first else None,
                    group=f"stage{stage + 1}",
                    remat=self.remat,
                )
                number += 1
        for i, (width, size) in enumerate(
            zip(self.head_widths, self.head_kernel_sizes, strict=True)
        ):
            reduction *= 1 if i % 2 else 2
            yield Part(
                f"head_{i}",
                functools.partial(conv, width, size, 1 if i % 2 else 2),
                map=f"head_{i}" if i % 2 else None,
                reduction=reduction,
                depth="head_0",
                group="convolutions",
            )

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones; the classifier begins as PyTorch's."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lengths(layers=self.layers, block_widths=self.block_widths, widths=self.widths)
        check_lengths(head_widths=self.head_widths, head_kernel_sizes=self.head_kernel_sizes)
        for name in ("layers", "block_widths", "widths", "head_widths", "head_kernel_sizes"):
            check_widths(name, getattr(self, name))
        check_size("stem_width", self.stem_width)
        if len(self.head_widths) % 2:
            raise ArgumentError(
                "head_widths must be of an even number of convolutions, as each second one ends a "
                f"map, got {tuple(self.head_widths)}"
            )


_60: dict[str, Any] = {
    "layers": (2, 3, 4),
    "block_widths": (64, 128, 288),
    "widths": (128, 288, 416),
}

variants(
    SelecSLS,
    {
        "selecsls42": row("SelecSLS-42"),
        "selecsls42b": row("SelecSLS-42-B", head_widths=(960, 1024, 1280, 1024)),
        "selecsls60": row("SelecSLS-60", head_widths=(756, 1024, 1024, 1280), **_60),
        "selecsls60b": row("SelecSLS-60-B", head_widths=(756, 1024, 1280, 1024), **_60),
        "selecsls84": row(
            "SelecSLS-84",
            layers=(2, 5, 6),
            block_widths=(64, 144, 304),
            widths=(144, 304, 512),
            head_kernel_sizes=(3, 3, 3, 3),
        ),
    },
    paper="https://arxiv.org/abs/1907.00837",
    reference=Reference(stem=("stem/conv",), classifier="fc", renamed=(("conv", "0"), ("bn", "1"))),
)
