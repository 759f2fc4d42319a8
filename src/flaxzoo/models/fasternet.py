"""FasterNet: networks that convolve a quarter of the channels, and leave the others as they are.

A convolution over few channels waits less for memory than a depthwise one over all; two layers on
each pixel follow, which mix all channels. Names and numbers are those of timm's ``fasternet``
module.

References:
  FasterNet: https://arxiv.org/abs/2303.03667
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_flag, check_number, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import normalise_and_activate, scaled_channels
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = ("divisor", "mlp_ratio", "layer_scale", "activation", "norm", "dtype", "param_dtype")


class PartialConv(Layer):
    """A 3 x 3 convolution of the first channels.

    Attributes:
      divisor: of how many channels one is convolved.
    """

    divisor: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1] // self.divisor
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options |= {"kernel_init": Normal(0.02), "name": "partial_conv3"}
        y = Conv(width, 3, **options)(x[..., :width])
        return jnp.concatenate([y, x[..., width:].astype(y.dtype)], axis=-1)


class FasterBlock(Layer):
    """A partial convolution and two layers on each pixel, added to the input.

    Parameters are named as those of timm's ``MLPBlock``.

    Attributes:
      divisor: of how many channels one is convolved.
      mlp_ratio: the hidden units, as a multiple of the channels.
      layer_scale: what the scale of the branch begins with; None for no scale.
      activation: by name or callable.
      norm: the kind of the norm, by name or module (``flaxzoo.layers.norm``).
      drop_path: the rate at which the branch is dropped for a whole example.
    """

    divisor: int = 4
    mlp_ratio: float = 2.0
    layer_scale: float | None = None
    activation: Any = "relu"
    norm: Any = "batch"
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1]
        layer: Any = functools.partial(Conv, kernel_size=1, kernel_init=Normal(0.02), **self.dtypes)
        y = PartialConv(self.divisor, name="spatial_mixing", **self.dtypes)(x)
        y = layer(int(width * self.mlp_ratio), name="mlp_0")(y)
        act = as_activation(self.activation)
        y = normalise_and_activate(self.norm, "mlp_1", y, act, train=train, **self.dtypes)
        y = layer(width, name="mlp_3")(y)
        y = scaled_channels(self, "layer_scale", y, self.layer_scale, param_dtype=self.param_dtype)
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class FasterNet(Backbone):
    """A FasterNet without its classifier: patches and stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, C']``; what is no whole
    patch is not seen. Maps are those behind each stage.

    Attributes:
      layers: the number of blocks of each stage.
      width: the channels of the first stage; each other doubles them.
      divisor: of how many channels a block convolves one.
      mlp_ratio: the hidden units of the layers on each pixel, as a multiple of the channels.
      patch_size: height and width of a patch.
      patch_norm: whether patches are normalised.
      merge_size: by how much each other stage reduces the map.
      head_width: the width of the hidden layer behind the pooling.
      layer_scale: what the scale of each block's branch begins with; None for no scale.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      drop_path: the rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (1, 2, 8, 2)
    width: int = 96
    divisor: int = 4
    mlp_ratio: float = 2.0
    patch_size: int = 4
    patch_norm: bool = True
    merge_size: int = 2
    head_width: int = 1280
    layer_scale: float | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The patches, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        patches = self._shrink(self.width, self.patch_size, "proj", self.patch_norm)
        yield Part("patch_embed", patches, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for stage, count in enumerate(self.layers):
            if stage > 0:
                down = functools.partial(self._down, stage)
                owns = (f"stages_{stage}_downsample",)
                yield Part(f"stages_{stage}_blocks_0", down, owns=owns)
            for i in range(count):
                yield Part(
                    f"stages_{stage}_blocks_{i}",
                    functools.partial(FasterBlock, drop_path=next(rates), **fields),
                    map=f"stages_{stage}" if i == count - 1 else None,
                    reduction=self.patch_size * self.merge_size**stage,
                    remat=self.remat,
                )

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        module = self._shrink(self.width << stage, self.merge_size, "reduction")
        return module(name=f"stages_{stage}_downsample")(x, train)

    @nn.nowrap
    def _shrink(self, width: int, size: int, name: str, normed: bool = True) -> Any:
        """What makes one pixel of ``size * size``."""
        options: dict[str, Any] = {"padding": 0, "kernel_init": Normal(0.02), **self.dtypes}
        options |= {"norm": self.norm if normed else None, "names": (name, "norm")}
        return functools.partial(ConvNorm, width, size, size, **options)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """A hidden layer without bias behind the pooling."""
        hidden: dict[str, Any] = {"hidden": (self.head_width,), "hidden_bias": False}
        hidden |= {"activation": self.activation, "kernel_init": Normal(0.02)}
        return {**super().head_options(), **hidden}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        for name in ("width", "divisor", "patch_size", "merge_size", "head_width"):
            check_size(name, getattr(self, name))
        if self.divisor > self.width:
            raise ArgumentError(
                f"divisor must be at most width={self.width}, so that there are channels to "
                f"convolve, got {self.divisor}"
            )
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        check_flag("patch_norm", self.patch_norm)


variants(
    FasterNet,
    {
        "fasternet_t0": row("FasterNet-T0", width=40, activation="gelu"),
        "fasternet_t1": row("FasterNet-T1", width=64, activation="gelu"),
        "fasternet_t2": row("FasterNet-T2"),
        "fasternet_s": row("FasterNet-S", width=128, layers=(1, 2, 13, 2)),
        "fasternet_m": row("FasterNet-M", width=144, layers=(3, 4, 18, 3)),
        "fasternet_l": row("FasterNet-L", width=192, layers=(3, 4, 18, 3)),
    },
    paper="https://arxiv.org/abs/2303.03667",
    reference=Reference(
        stem=("patch_embed/proj",),
        classifier="classifier",
        head=(("dense_0", "conv_head"),),
        layouts=(("params/head/dense_0/kernel", "pointwise"),),
    ),
)
