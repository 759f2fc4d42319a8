"""ConvNeXt and ConvNeXt V2: convolutional networks with the layout of transformers.

One backbone; the variants differ by depth and width, the stem, the norm, and whether channels
compete (V2). Names and numbers are those of timm's ``convnext`` module.

References:
  ConvNeXt: https://arxiv.org/abs/2201.03545
  ConvNeXt V2: https://arxiv.org/abs/2301.00808
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_choice, check_lists, check_size
from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import divisible
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import GlobalResponseNormMlp, Mlp
from flaxzoo.layers.norm import LayerScale, call_norm, make_norm
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

REFERENCE = Reference(
    stem=("stem_0",),
    classifier="head.fc",
    head=(("norm", "head.norm"), ("dense_0", "head.pre_logits.fc")),
    # timm's blocks hold the scale themselves.
    renamed=(("layer_scale", ""),),
)
# The submodules of each stem; what is left out has no parameters.
_STEMS = {
    "patch": ("stem_0", "stem_1"),
    "overlap": ("stem_0", "stem_1", "stem_2"),
    "overlap_tiered": ("stem_0", "stem_1", "stem_2"),
    "overlap_act": ("stem_0", "stem_2", "stem_3"),
}
# What a block gets from the network as it is.
_PASSED_ON = ("layer_scale", "conv_mlp", "response_norm", "norm", "norm_epsilon", "activation")


class ConvNeXtBlock(Layer):
    """A depthwise convolution, a norm and two layers on each pixel, scaled and added.

    The attributes are those of ``ConvNeXt``, for one stage.
    """

    kernel_size: int = 7
    dilation: int = 1
    layer_scale: float | None = 1e-6
    conv_mlp: bool = False
    response_norm: bool = False
    norm: Any = "layer"
    norm_epsilon: float | None = None
    activation: Any = "gelu"
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"groups": width, "use_bias": True, "kernel_init": Normal(0.02), **dtypes}
        y = Conv(width, self.kernel_size, dilation=self.dilation, name="conv_dw", **options)(x)
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **dtypes)
        y = call_norm(norm, y, train=train)
        mlp = GlobalResponseNormMlp if self.response_norm else Mlp
        options = {"activation": self.activation, "as_conv": self.conv_mlp, **dtypes}
        y = mlp(4 * width, name="mlp", **options)(y, train)
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name="layer_scale", **dtypes)(y)
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class ConvNeXt(Backbone):
    """A ConvNeXt without its classifier: a stem and four stages of blocks.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      kernel_sizes: the size of the depthwise convolutions of each stage.
      stem: ``"patch"``, one convolution of ``patch_size`` and this stride; ``"overlap"``, two
        strided 3 x 3; ``"overlap_tiered"``, the first of them half as wide; ``"overlap_act"``,
        with the activation between them.
      patch_size: the size of the patch stem's convolution.
      layer_scale: what the scale of each block's branch starts with; None for no scale (V2).
      conv_mlp: whether the kernels of the blocks' layers are those of 1 x 1 convolutions.
      response_norm: whether channels compete between these layers (V2).
      norm: ``"layer"``, ``"rms"``, ``"simple"`` or a module (``flaxzoo.layers.norm.as_norm``).
      norm_epsilon: the epsilon of the norms; None for their own.
      norm_first: whether a norm stands before the pooling, instead of one behind it.
      activation: the activation function, by name or callable.
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later
        stages are dilated instead of strided, so that pretrained weights fit all three.
      drop_path: the rate of stochastic depth in the last block; it grows linearly from 0 in the
        first.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int]
    widths: Sequence[int] = (96, 192, 384, 768)
    kernel_sizes: Sequence[int] = (7, 7, 7, 7)
    stem: str = "patch"
    patch_size: int = 4
    layer_scale: float | None = 1e-6
    conv_mlp: bool = False
    response_norm: bool = False
    norm: Any = "layer"
    norm_epsilon: float | None = None
    norm_first: bool = False
    activation: Any = "gelu"
    output_stride: int = 32
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        yield Part("stem", self._stem, owns=_STEMS[self.stem], takes="images")
        reduction, dilation = self.patch_size if self.stem == "patch" else 4, 1
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for stage, count in enumerate(self.layers):
            name = f"stages_{stage}_blocks_0"
            if stage > 0 or reduction == 2:
                stride = 1 if reduction >= self.output_stride else 2
                reduction, dilation = reduction * stride, dilation * 2 // stride
                down = functools.partial(self._down, stage, stride, dilation)
                owns = (f"stages_{stage}_downsample_0", f"stages_{stage}_downsample_1")
                yield Part(name, down, owns=owns)
            for i in range(count):
                name = f"stages_{stage}_blocks_{i}"
                block = functools.partial(
                    ConvNeXtBlock,
                    kernel_size=self.kernel_sizes[stage],
                    dilation=dilation,
                    drop_path=next(rates),
                    **{field: getattr(self, field) for field in _PASSED_ON},
                    **self.dtypes,
                )
                complete = f"stages_{stage}" if i == count - 1 else None
                yield Part(name, block, map=complete, reduction=reduction, remat=self.remat)
        if self.norm_first:
            yield Part(name, functools.partial(self._norm, "norm_pre"), owns=("norm_pre",))

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        first, *second, norm = _STEMS[self.stem]
        width, size = self.widths[0], self.patch_size
        if not second:
            x = self._conv(first, width, size, stride=size, padding=0)(x)
            return self._norm(norm, x, train)
        half = divisible(width // 2) if self.stem == "overlap_tiered" else width
        x = self._conv(first, half, 3, stride=2)(x)
        if self.stem == "overlap_act":
            x = as_activation(self.activation)(x)
        x = self._conv(second[0], width, 3, stride=2)(x)
        return self._norm(norm, x, train)

    def _down(self, stage: int, stride: int, dilation: int, x: jax.Array, train: bool) -> jax.Array:
        name = f"stages_{stage}_downsample"
        # As timm has it: a dilated stage keeps the size, and this convolution's gaps stay small.
        options = {"dilation": min(dilation // 2, 2), "padding": "SAME"} if stride == 1 else {}
        x = self._norm(f"{name}_0", x, train)
        return self._conv(f"{name}_1", self.widths[stage], 2, stride=stride, **options)(x)

    def _conv(self, name: str, width: int, size: int, **options: Any) -> Conv:
        options = {**options, "use_bias": True, "kernel_init": Normal(0.02), **self.dtypes}
        return Conv(width, size, name=name, **options)

    def _norm(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The norm behind the pooling, unless it stands before it; hidden layers are GELU's."""
        norm = {"norm": None if self.norm_first else self.norm, "norm_epsilon": self.norm_epsilon}
        usual = {"activation": "gelu", "kernel_init": Normal(0.02)}
        return {**super().head_options(), **norm, **usual}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths", "kernel_sizes")
        check_choice("stem", self.stem, _STEMS)
        check_size("patch_size", self.patch_size)


_V2_PAPER = "https://arxiv.org/abs/2301.00808"
_V2: dict[str, Any] = {"response_norm": True, "layer_scale": None, "paper": _V2_PAPER}
variants(
    ConvNeXt,
    {
        "convnext_zepto_rms": row(
            "ConvNeXt Zepto without centring",
            layers=(2, 2, 4, 2),
            widths=(32, 64, 128, 256),
            conv_mlp=True,
            norm="simple",
        ),
        "convnext_zepto_rms_ols": row(
            "ConvNeXt Zepto without centring, overlapping stem",
            layers=(2, 2, 4, 2),
            widths=(32, 64, 128, 256),
            conv_mlp=True,
            norm="simple",
            stem="overlap_act",
        ),
        "convnext_atto": row(
            "ConvNeXt Atto", layers=(2, 2, 6, 2), widths=(40, 80, 160, 320), conv_mlp=True
        ),
        "convnext_atto_ols": row(
            "ConvNeXt Atto, overlapping stem",
            layers=(2, 2, 6, 2),
            widths=(40, 80, 160, 320),
            conv_mlp=True,
            stem="overlap_tiered",
        ),
        "convnext_atto_rms": row(
            "ConvNeXt Atto with RMSNorm",
            layers=(2, 2, 6, 2),
            widths=(40, 80, 160, 320),
            conv_mlp=True,
            norm="rms",
        ),
        "convnext_femto": row(
            "ConvNeXt Femto", layers=(2, 2, 6, 2), widths=(48, 96, 192, 384), conv_mlp=True
        ),
        "convnext_femto_ols": row(
            "ConvNeXt Femto, overlapping stem",
            layers=(2, 2, 6, 2),
            widths=(48, 96, 192, 384),
            conv_mlp=True,
            stem="overlap_tiered",
        ),
        "convnext_pico": row(
            "ConvNeXt Pico", layers=(2, 2, 6, 2), widths=(64, 128, 256, 512), conv_mlp=True
        ),
        "convnext_pico_ols": row(
            "ConvNeXt Pico, overlapping stem",
            layers=(2, 2, 6, 2),
            widths=(64, 128, 256, 512),
            conv_mlp=True,
            stem="overlap_tiered",
        ),
        "convnext_nano": row(
            "ConvNeXt Nano", layers=(2, 2, 8, 2), widths=(80, 160, 320, 640), conv_mlp=True
        ),
        "convnext_nano_ols": row(
            "ConvNeXt Nano, overlapping stem",
            layers=(2, 2, 8, 2),
            widths=(80, 160, 320, 640),
            conv_mlp=True,
            stem="overlap",
        ),
        "convnext_tiny": row("ConvNeXt Tiny", layers=(3, 3, 9, 3)),
        "convnext_tiny_hnf": row(
            "ConvNeXt Tiny, norm before the pooling",
            layers=(3, 3, 9, 3),
            conv_mlp=True,
            norm_first=True,
        ),
        "convnext_small": row("ConvNeXt Small", layers=(3, 3, 27, 3)),
        "convnext_base": row("ConvNeXt Base", layers=(3, 3, 27, 3), widths=(128, 256, 512, 1024)),
        "convnext_large": row("ConvNeXt Large", layers=(3, 3, 27, 3), widths=(192, 384, 768, 1536)),
        "convnext_large_mlp": row(
            "ConvNeXt Large, hidden layer in the head",
            layers=(3, 3, 27, 3),
            widths=(192, 384, 768, 1536),
            head={"hidden": (1536,)},
        ),
        "convnext_xlarge": row(
            "ConvNeXt XLarge", layers=(3, 3, 27, 3), widths=(256, 512, 1024, 2048)
        ),
        "convnext_xxlarge": row(
            "ConvNeXt XXLarge",
            layers=(3, 4, 30, 3),
            widths=(384, 768, 1536, 3072),
            norm_epsilon=1e-5,
        ),
        "test_convnext": row(
            "A tiny ConvNeXt",
            layers=(1, 2, 4, 2),
            widths=(24, 32, 48, 64),
            activation="gelu_tanh",
            norm_epsilon=1e-5,
        ),
        "test_convnext2": row(
            "A tiny ConvNeXt, wider",
            layers=(1, 1, 1, 1),
            widths=(32, 64, 96, 128),
            activation="gelu_tanh",
            norm_epsilon=1e-5,
        ),
        "test_convnext3": row(
            "A tiny ConvNeXt of several kernels",
            layers=(1, 1, 1, 1),
            widths=(32, 64, 96, 128),
            kernel_sizes=(7, 5, 5, 3),
            activation="silu",
            norm_epsilon=1e-5,
        ),
        "convnextv2_atto": row(
            "ConvNeXt V2 Atto", layers=(2, 2, 6, 2), widths=(40, 80, 160, 320), conv_mlp=True, **_V2
        ),
        "convnextv2_femto": row(
            "ConvNeXt V2 Femto",
            layers=(2, 2, 6, 2),
            widths=(48, 96, 192, 384),
            conv_mlp=True,
            **_V2,
        ),
        "convnextv2_pico": row(
            "ConvNeXt V2 Pico",
            layers=(2, 2, 6, 2),
            widths=(64, 128, 256, 512),
            conv_mlp=True,
            **_V2,
        ),
        "convnextv2_nano": row(
            "ConvNeXt V2 Nano",
            layers=(2, 2, 8, 2),
            widths=(80, 160, 320, 640),
            conv_mlp=True,
            **_V2,
        ),
        "convnextv2_tiny": row("ConvNeXt V2 Tiny", layers=(3, 3, 9, 3), **_V2),
        "convnextv2_small": row("ConvNeXt V2 Small", layers=(3, 3, 27, 3), **_V2),
        "convnextv2_base": row(
            "ConvNeXt V2 Base", layers=(3, 3, 27, 3), widths=(128, 256, 512, 1024), **_V2
        ),
        "convnextv2_large": row(
            "ConvNeXt V2 Large", layers=(3, 3, 27, 3), widths=(192, 384, 768, 1536), **_V2
        ),
        "convnextv2_huge": row(
            "ConvNeXt V2 Huge", layers=(3, 3, 27, 3), widths=(352, 704, 1408, 2816), **_V2
        ),
    },
    paper="https://arxiv.org/abs/2201.03545",
    reference=REFERENCE,
)
