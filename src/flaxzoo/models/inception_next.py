"""InceptionNeXt: ConvNeXts of which a part of the channels alone is convolved over the image.

Three parts go through a small square kernel, a wide and a high band; the other channels stay as
they are, which costs less memory traffic than one large kernel over all. Names and numbers are
those of timm's ``inception_next`` module.

References:
  InceptionNeXt: https://arxiv.org/abs/2303.16900
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import call_norm, make_norm, scaled_channels
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("square_size", "band_size", "branch_ratio", "layer_scale", "norm", "activation"),
    *("dtype", "param_dtype"),
)


class InceptionConv(Layer):
    """Depthwise convolutions by a square, a wide and a high kernel, each of a part of the channels.

    Parameters are named as timm's ``InceptionDWConv2d``.

    Attributes:
      square_size: the side of the square kernel.
      band_size: the length of the bands.
      branch_ratio: the channels of each part, as a share of all.
      dilation: the distances between the kernels' elements.
    """

    square_size: int = 3
    band_size: int = 11
    branch_ratio: float = 0.125
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = int(x.shape[-1] * self.branch_ratio)
        if width == 0:
            return x
        kernels = {
            "dwconv_hw": (self.square_size, self.square_size),
            "dwconv_w": (1, self.band_size),
            "dwconv_h": (self.band_size, 1),
        }
        first = x.shape[-1] - width * len(kernels)
        same, *parts = jnp.split(x, [first + width * i for i in range(len(kernels))], axis=-1)
        options: dict[str, Any] = {"groups": width, "use_bias": True, "kernel_init": Normal(0.02)}
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        convolved = [
            Conv(width, size, dilation=self.dilation, name=name, **options)(part)
            for part, (name, size) in zip(parts, kernels.items(), strict=True)
        ]
        return jnp.concatenate([same.astype(convolved[0].dtype), *convolved], axis=-1)


class MetaNeXtBlock(Layer):
    """These convolutions, a norm and two layers on each pixel, scaled and added.

    The attributes are those of ``InceptionNeXt``, for one stage.
    """

    square_size: int = 3
    band_size: int = 11
    branch_ratio: float = 0.125
    dilation: int = 1
    mlp_ratio: float = 4.0
    layer_scale: float | None = 1e-6
    norm: Any = "batch"
    activation: Any = "gelu"
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        own = ("square_size", "band_size", "branch_ratio", "dilation")
        fields = {name: getattr(self, name) for name in own}
        y = InceptionConv(name="token_mixer", **fields, **self.dtypes)(x)
        y = call_norm(make_norm(self.norm, "norm", **self.dtypes), y, train=train)
        hidden = int(self.mlp_ratio * x.shape[-1])
        y = Mlp(hidden, activation=self.activation, as_conv=True, name="mlp", **self.dtypes)(
            y, train
        )
        y = scaled_channels(self, "gamma", y, self.layer_scale, param_dtype=self.param_dtype)
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class InceptionNeXt(Backbone):
    """An InceptionNeXt without its classifier: a stem and stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, widths[-1]]``. Maps are
    those behind each stage.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      mlp_ratios: the hidden units of the layers on each pixel, as multiples of them.
      square_size: the side of the square kernels; odd.
      band_size: the length of the bands; odd.
      branch_ratio: the channels that each of the three kernels sees, as a share of all.
      layer_scale: what the scale of each block's branch begins with; None for no scale.
      activation: by name or callable.
      norm: the kind of the norms but the head's, by name or module (``flaxzoo.layers.norm``).
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later stages
        are dilated instead of strided, so that pretrained weights fit all three.
      drop_path: the rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (96, 192, 384, 768)
    mlp_ratios: Sequence[float] = (4, 4, 4, 3)
    square_size: int = 3
    band_size: int = 11
    branch_ratio: float = 0.125
    layer_scale: float | None = 1e-6
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    output_stride: int = 32
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        yield Part("stem", self._stem, owns=("stem_0", "stem_1"), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        reduction, dilation = 4, 1
        for stage, count in enumerate(self.layers):
            if stage > 0:
                stride = 1 if reduction >= self.output_stride else 2
                reduction, dilation = reduction * stride, dilation * 2 // stride
                owns = (f"stages_{stage}_downsample_0", f"stages_{stage}_downsample_1")
                down = functools.partial(self._down, stage, stride, dilation)
                yield Part(f"stages_{stage}_blocks_0", down, owns=owns)
            for i in range(count):
                yield Part(
                    f"stages_{stage}_blocks_{i}",
                    functools.partial(
                        MetaNeXtBlock,
                        dilation=dilation,
                        mlp_ratio=self.mlp_ratios[stage],
                        drop_path=next(rates),
                        **fields,
                    ),
                    map=f"stages_{stage}" if i == count - 1 else None,
                    reduction=reduction,
                    remat=self.remat,
                )

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        x = self._conv("stem_0", self.widths[0], 4, stride=4, padding=0)(x)
        return self._norm("stem_1", x, train)

    def _down(self, stage: int, stride: int, dilation: int, x: jax.Array, train: bool) -> jax.Array:
        name = f"stages_{stage}_downsample"
        options: dict[str, Any] = {"stride": stride, "padding": 0}
        if stride == 1:
            # As timm has it: a dilated stage keeps the size, and the gaps here stay small.
            options = {"dilation": min(dilation // 2, 2), "padding": "SAME"}
        x = self._norm(f"{name}_0", x, train)
        return self._conv(f"{name}_1", self.widths[stage], 2, **options)(x)

    def _conv(self, name: str, width: int, size: int, **options: Any) -> Conv:
        options |= {"use_bias": True, "kernel_init": Normal(0.02), **self.dtypes}
        return Conv(width, size, name=name, **options)

    def _norm(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        return call_norm(make_norm(self.norm, name, **self.dtypes), x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """A hidden layer with a norm behind its activation."""
        hidden: dict[str, Any] = {"hidden": (3 * self.widths[-1],), "activation": "gelu"}
        hidden |= {"hidden_norm": "layer", "kernel_init": Normal(0.02)}
        return {**super().head_options(), **hidden}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "widths", "mlp_ratios")}
        for name in ("layers", "widths"):
            check_widths(name, lists[name])
        for ratio in self.mlp_ratios:
            check_number("mlp_ratios", ratio, above=0)
        check_lengths(**lists)
        for name in ("square_size", "band_size"):
            check_size(name, getattr(self, name))
            if getattr(self, name) % 2 == 0:
                raise ArgumentError(f"{name} must be odd, got {getattr(self, name)}")
        # There are three branches.
        check_number("branch_ratio", self.branch_ratio, minimum=0, maximum=1 / 3)


variants(
    InceptionNeXt,
    {
        "inception_next_atto": row(
            "InceptionNeXt-A",
            layers=(2, 2, 6, 2),
            widths=(40, 80, 160, 320),
            band_size=9,
            branch_ratio=0.25,
        ),
        "inception_next_tiny": row("InceptionNeXt-T"),
        "inception_next_small": row("InceptionNeXt-S", layers=(3, 3, 27, 3)),
        "inception_next_base": row(
            "InceptionNeXt-B", layers=(3, 3, 27, 3), widths=(128, 256, 512, 1024)
        ),
    },
    paper="https://arxiv.org/abs/2303.16900",
    reference=Reference(
        stem=("stem_0",),
        classifier="head.fc2",
        head=(("dense_0", "head.fc1"), ("norm_0", "head.norm")),
    ),
)
