"""StarNet: small networks whose blocks multiply what two layers make of each pixel.

A product of two linear layers holds the products of all pairs of channels, as a kernel of a far
wider space, at the cost of the two. Names and numbers are those of timm's ``starnet`` module.

References:
  Rewrite the Stars: https://arxiv.org/abs/2403.19967
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import Normal, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# A convolution with a bias, and a norm behind it unless that is None.
_conv = functools.partial(ConvNorm, use_bias=True, kernel_init=Normal(0.02), bias_init=plain_bias)


class StarBlock(Layer):
    """A depthwise convolution, two layers whose results are multiplied, and another convolution.

    Parameters are named as those of timm's ``Block``.

    Attributes:
      mlp_ratio: the channels of the two layers, as a multiple of the block's.
      activation: of the first of them, by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      drop_path: the rate at which the branch is dropped for a whole example.
    """

    mlp_ratio: int = 4
    activation: Any = "relu6"
    norm: Any = "batch"
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1]
        normed = functools.partial(_conv, norm=self.norm, **self.dtypes)
        bare = functools.partial(_conv, norm=None, **self.dtypes)
        hidden = self.mlp_ratio * width
        y = normed(width, 7, groups=width, name="dwconv")(x, train)
        star = as_activation(self.activation)(bare(hidden, name="f1")(y)) * bare(hidden, name="f2")(
            y
        )
        y = normed(width, name="g")(star, train)
        y = bare(width, 7, groups=width, name="dwconv2")(y)
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class StarNet(Backbone):
    """A StarNet without its classifier: a stem, stages of blocks and the last norm.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, C']``, rounded up. Maps
    are those behind each stage, before the last norm.

    Attributes:
      layers: the number of blocks of each stage, behind a convolution that halves the map.
      width: the channels of the first stage; each other doubles them.
      stem_width: the channels of the stem.
      mlp_ratio: the channels that are multiplied, as a multiple of a block's.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      drop_path: the rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 3, 12, 5)
    width: int = 32
    stem_width: int = 32
    mlp_ratio: int = 4
    activation: str | Callable[[jax.Array], jax.Array] = "relu6"
    norm: Any = "batch"
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem; a convolution ``stages_0_0``, the blocks ``stages_0_1`` and so on; the norm."""
        own: dict[str, Any] = {"norm": self.norm, **self.dtypes}
        yield Part("stem", self._stem, owns=("stem_0",), takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        fields = {**own, "mlp_ratio": self.mlp_ratio, "activation": self.activation}
        for stage, count in enumerate(self.layers):
            yield Part(
                f"stages_{stage}_0",
                functools.partial(_conv, self.width << stage, 3, 2, **own),
            )
            for i in range(1, count + 1):
                name = f"stages_{stage}_{i}"
                yield Part(
                    name,
                    functools.partial(StarBlock, drop_path=next(rates), **fields),
                    map=f"stages_{stage}" if i == count else None,
                    reduction=4 << stage,
                    remat=self.remat,
                )
        yield Part("norm", self._norm, owns=("norm",), depth=name)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"norm": self.norm, "activation": self.activation}
        return _conv(self.stem_width, 3, 2, name="stem_0", **options, **self.dtypes)(x, train)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        return call_norm(make_norm(self.norm, "norm", **self.dtypes), x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), "kernel_init": Normal(0.02)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        for name in ("width", "stem_width", "mlp_ratio"):
            check_size(name, getattr(self, name))


variants(
    StarNet,
    {
        "starnet_s1": row("StarNet-S1", width=24, layers=(2, 2, 8, 3)),
        "starnet_s2": row("StarNet-S2", layers=(1, 2, 6, 2)),
        "starnet_s3": row("StarNet-S3", layers=(2, 2, 8, 4)),
        "starnet_s4": row("StarNet-S4"),
        "starnet_s050": row("StarNet-050", width=16, layers=(1, 1, 3, 1), mlp_ratio=3),
        "starnet_s100": row("StarNet-100", width=20, layers=(1, 2, 4, 1)),
        "starnet_s150": row("StarNet-150", width=24, layers=(1, 2, 4, 2), mlp_ratio=3),
    },
    paper="https://arxiv.org/abs/2403.19967",
    # Products of large numbers would grow from block to block, and rounding with them.
    reference=Reference(stem=("stem_0/conv",), classifier="head", gain=1.0),
)
