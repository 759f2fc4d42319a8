"""VoVNet: convolutions in a row whose maps are joined once, at the end of a block.

DenseNet joins maps behind each convolution; here a layer on each pixel sees the maps of all of them
together, which costs less memory traffic. Names and numbers are those of timm's ``vovnet`` module.

The number is the depth. ``a`` is the first version; ``b`` adds the input of a block that is not a
stage's first, and ``ese`` or ``eca`` are its gates at the end of each stage. ``slim`` has narrower
blocks, ``dw`` depthwise convolutions, ``evos`` norms that activate by themselves.

References:
  VoVNet: https://arxiv.org/abs/1904.09730
  VoVNet V2: https://arxiv.org/abs/1911.06667
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import EfficientChannelAttention, as_gate
from flaxzoo.layers.initializers import FanIn, HeNormal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import EvoNormS0, normalise_and_activate
from flaxzoo.layers.pool import max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# Where timm's functions of names take the number of blocks.
CUT = {"layers": "block_per_stage"}
# What a block gets from the network as it is.
_PASSED_ON = ("depthwise", "norm", "activation", "dtype", "param_dtype")


class SeparableConvNorm(Layer):
    """A 3 x 3 depthwise convolution ``conv_dw``, one of each pixel ``conv_pw``, norm, activation.

    Attributes:
      features: the output's channels.
      stride: the distances between windows.
      norm: by name or module (``flaxzoo.layers.norm``).
      activation: by name or callable, unless the norm activates by itself.
    """

    features: int
    stride: int = 1
    norm: Any = "batch"
    activation: Any = "relu"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        width = x.shape[-1]
        x = Conv(width, 3, self.stride, groups=width, name="conv_dw", **self.dtypes)(x)
        x = Conv(self.features, 1, name="conv_pw", **self.dtypes)(x)
        act = as_activation(self.activation)
        return normalise_and_activate(self.norm, "bn", x, act, train=train, **self.dtypes)


class OsaBlock(Layer):
    """Convolutions in a row; the input and all their maps are joined by one of each pixel.

    Lee et al. 2019 (one-shot aggregation), https://arxiv.org/abs/1904.09730, figure 1b.

    Attributes:
      features: the output's channels.
      width: those of each convolution.
      convs: their number.
      residual: whether the input is added to the output, which has as many channels.
      depthwise: whether the convolutions are depthwise ones, each followed by one of each pixel.
      gate: of the output's channels, by name or module (``flaxzoo.layers.gates``); None for none.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      activation: by name or callable, unless the norm activates by itself.
      drop_path: the rate at which an example's branch is dropped.
    """

    features: int
    width: int
    convs: int = 5
    residual: bool = False
    depthwise: bool = False
    gate: Any = None
    norm: Any = "batch"
    activation: Any = "relu"
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``."""
        options: dict[str, Any] = {"norm": self.norm, "activation": self.activation, **self.dtypes}
        maps, y = [x], x
        if self.depthwise and x.shape[-1] != self.width:
            y = _conv(self.width, "conv_reduction", 1, **options)(y, train)
        for i in range(self.convs):
            own = {"depthwise": self.depthwise, **options}
            y = _conv(self.width, f"conv_mid_{i}", **own)(y, train)
            maps.append(y)
        joined = jnp.concatenate(maps, -1)
        y = _conv(self.features, "conv_concat", 1, **options)(joined, train)
        gate = as_gate(self.gate)
        if gate is not None:
            y = gate(name="attn", **self.dtypes)(y)
        y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        return x + y if self.residual else y


def _conv(
    features: int,
    name: str,
    size: int = 3,
    stride: int = 1,
    depthwise: bool = False,
    **options: Any,
) -> nn.Module:
    """Makes a convolution with a norm and an activation behind it."""
    if depthwise:
        return SeparableConvNorm(features, stride, name=name, **options)
    return ConvNorm(features, size, stride, kernel_init=HeNormal(), name=name, **options)


class VovNet(Backbone):
    """A VoVNet without its classifier: a stem of three convolutions and stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, widths[-1]]``.

    Attributes:
      layers: number of blocks of each stage.
      widths: channels of the stages.
      block_widths: those of the convolutions inside their blocks.
      convs: number of convolutions of a block.
      stem_widths: channels of the stem's three convolutions.
      residual: whether the input of blocks but a stage's first is added.
      depthwise: whether convolutions but the first are depthwise ones, each followed by one of
        each pixel.
      gate: behind the last block of each stage, by name or module (``flaxzoo.layers.gates``); None
        for none.
      activation: by name or callable; a norm that activates by itself goes without.
      norm: by name or module (``flaxzoo.layers.norm``).
      drop_path: rate of stochastic depth in the last stage's blocks; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (1, 1, 2, 2)
    widths: Sequence[int] = (256, 512, 768, 1024)
    block_widths: Sequence[int] = (128, 160, 192, 224)
    convs: int = 5
    stem_widths: Sequence[int] = (64, 64, 128)
    residual: bool = True
    depthwise: bool = False
    gate: Any = "ese"
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with a pooling before stages.

        The first map stands before the stem's last convolution.
        """
        owns = ("stem_0", "stem_1")
        yield Part("stem", self._stem, owns=owns, takes="images", map="stem", reduction=2)
        yield Part("stem", functools.partial(self._conv, 2, 2), owns=("stem_2",))
        fields: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        stages = zip(self.layers, self.widths, self.block_widths, strict=True)
        for i, (count, features, width) in enumerate(stages):
            if i:
                yield Part(f"stages_{i}_blocks_0", _pool, owns=())
            for j in range(count):
                is_last = j == count - 1
                build = functools.partial(
                    OsaBlock,
                    features,
                    width,
                    self.convs,
                    residual=self.residual and j > 0,
                    gate=self.gate if is_last else None,
                    drop_path=next(rates),
                    **fields,
                )
                name, complete = f"stages_{i}_blocks_{j}", f"stages_{i}" if is_last else None
                yield Part(name, build, map=complete, reduction=4 * 2**i, remat=self.remat)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        return self._conv(1, 1, self._conv(0, 2, x, train), train)

    def _conv(self, number: int, stride: int, x: jax.Array, train: bool) -> jax.Array:
        """Computes one of the stem's convolutions; the first is never depthwise."""
        options: dict[str, Any] = {"norm": self.norm, "activation": self.activation, **self.dtypes}
        width, depthwise = self.stem_widths[number], self.depthwise and number > 0
        conv = _conv(width, f"stem_{number}", 3, stride, depthwise, **options)
        return conv(x, train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), "kernel_init": FanIn()}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("layers", "widths", "block_widths", "stem_widths"):
            check_widths(name, getattr(self, name))
        lengths = {name: getattr(self, name) for name in ("layers", "widths", "block_widths")}
        check_lengths(**lengths)
        if len(self.stem_widths) != 3:
            raise ArgumentError(f"stem_widths must be three, got {self.stem_widths!r}")
        check_size("convs", self.convs)
        as_gate(self.gate)


def _pool(x: jax.Array, train: bool) -> jax.Array:
    del train
    return max_pool(x, padding=0, ceil=True)


# One object each: partials of equal arguments are different keys to jit.
_ECA = functools.partial(EfficientChannelAttention, kernel_init=FanIn())
_EVO = functools.partial(EvoNormS0, groups=32)
_FIRST: dict[str, Any] = {"residual": False, "gate": None}
_SLIM: dict[str, Any] = {"widths": (112, 256, 384, 512), "block_widths": (64, 80, 96, 112)}
_19: dict[str, Any] = {"layers": (1, 1, 1, 1), "convs": 3}
_DW: dict[str, Any] = {"depthwise": True, "stem_widths": (64, 64, 64)}
REFERENCE = Reference(stem=("stem_0/conv",), classifier="head.fc")

variants(
    VovNet,
    {
        "vovnet39a": row("VoVNet-39", layers=(1, 1, 2, 2), **_FIRST),
        "vovnet57a": row("VoVNet-57", layers=(1, 1, 4, 3), **_FIRST),
    },
    paper="https://arxiv.org/abs/1904.09730",
    reference=REFERENCE,
)
variants(
    VovNet,
    {
        "ese_vovnet19b_slim_dw": row("VoVNet V2-19-slim, depthwise", **_19, **_SLIM, **_DW),
        "ese_vovnet19b_dw": row("VoVNet V2-19, depthwise", **_19, **_DW),
        "ese_vovnet19b_slim": row("VoVNet V2-19-slim", **_19, **_SLIM),
        "ese_vovnet39b": row("VoVNet V2-39", layers=(1, 1, 2, 2)),
        "ese_vovnet57b": row("VoVNet V2-57", layers=(1, 1, 4, 3)),
        "ese_vovnet99b": row("VoVNet V2-99", layers=(1, 3, 9, 3)),
        "eca_vovnet39b": row("VoVNet V2-39 with ECA", layers=(1, 1, 2, 2), gate=_ECA),
        "ese_vovnet39b_evos": row("VoVNet V2-39 with EvoNorm", layers=(1, 1, 2, 2), norm=_EVO),
    },
    paper="https://arxiv.org/abs/1911.06667",
    reference=REFERENCE,
)
