"""PoolFormer, ConvFormer and CAFormer: one layout of blocks, and what mixes the pixels varies.

Averages of neighbours (PoolFormer), separable convolutions (ConvFormer), or these in the first two
stages and attention in the others (CAFormer). Names and numbers are those of timm's ``metaformer``
module.

References:
  PoolFormer: https://arxiv.org/abs/2111.11418
  PoolFormer V2, ConvFormer, CAFormer: https://arxiv.org/abs/2210.13452
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice, check_lengths, check_number, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import IMPLEMENTATIONS, Attention
from flaxzoo.layers.channels import per_channel
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import Constant, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import as_norm, call_norm, make_norm
from flaxzoo.layers.pool import neighbour_mean
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

MIXERS = ("pool", "conv", "attention")
STAR_RELU = "star_relu"
# What a block gets from the network as it is.
_PASSED_ON = (
    *("activation", "use_bias", "norm", "norm_bias", "norm_epsilon", "head_dim", "layer_scale"),
    *("attention_dropout", "block_dropout", "implementation", "dtype", "param_dtype"),
)


class StarReLU(nn.Module):
    """Computes ``scale * relu(x)**2 + bias`` with one learnt number for each.

    Yu et al. 2022, https://arxiv.org/abs/2210.13452, equation 7.

    Attributes:
      param_dtype: the dtype of the parameters.
    """

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies it to ``[..., C]``."""
        scale, bias = (
            per_channel(self.param(name, init, (1,), self.param_dtype), x).astype(x.dtype)
            for name, init in (("scale", ones), ("bias", zeros))
        )
        return scale * jnp.square(nn.relu(x)) + bias


class StarMlp(Mlp):
    """An ``Mlp`` whose activation may be a ``StarReLU``, a submodule ``act``."""

    def hidden_units(self, x: jax.Array) -> jax.Array:
        """Computes what stands between the two layers."""
        return activated(self, "act", self.layer(self.hidden, "fc1")(x))


class SeparableConv(Layer):
    """A layer on each pixel, a depthwise convolution of 7 x 7, and another layer.

    Sandler et al. 2018, https://arxiv.org/abs/1801.04381. Parameters are named as timm's
    ``SepConv``: ``pwconv1``, ``act1``, ``dwconv``, ``pwconv2``.

    Attributes:
      activation: the function behind the first layer, by name or callable, or ``"star_relu"``.
    """

    activation: Any = STAR_RELU

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1]
        conv: Any = functools.partial(Conv, kernel_init=Normal(0.02), **self.dtypes)
        y = activated(self, "act1", conv(2 * width, 1, name="pwconv1")(x))
        y = conv(2 * width, 7, groups=2 * width, name="dwconv")(y)
        return conv(width, 1, name="pwconv2")(y)


def activated(module: Any, name: str, x: jax.Array) -> jax.Array:
    """Applies a module's activation, where it has parameters as the submodule ``name``."""
    if module.activation == STAR_RELU:
        return StarReLU(module.param_dtype, name=name)(x)
    return as_activation(module.activation)(x)


class MetaFormerBlock(Layer):
    """A mixer of pixels and an MLP, each behind a norm and added to its input.

    Parameters are named as timm's ``MetaFormerBlock``: ``norm1``, ``token_mixer``,
    ``layer_scale1``, ``res_scale1`` and those of the MLP.

    Attributes:
      mixer: ``"pool"``, ``"conv"`` or ``"attention"``.
      residual_scale: what the learnt scales of the inputs begin with; None for no scales.
      drop_path: the rate at which a branch is dropped for a whole example (stochastic depth).

    The others are those of ``MetaFormer``.
    """

    mixer: str = "pool"
    activation: Any = STAR_RELU
    use_bias: bool = False
    norm: Any = "layer"
    norm_bias: bool = False
    norm_epsilon: float = 1e-6
    head_dim: int = 32
    layer_scale: float | None = None
    residual_scale: float | None = None
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        x = self._add(x, self._mixed(self._normalise(x, "norm1", train), train), "1", train)
        mlp = StarMlp(
            4 * x.shape[-1],
            activation=self.activation,
            use_bias=self.use_bias,
            dropout=self.block_dropout,
            as_conv=self.mixer != "attention",
            name="mlp",
            **self.dtypes,
        )
        return self._add(x, mlp(self._normalise(x, "norm2", train), train), "2", train)

    def _mixed(self, x: jax.Array, train: bool) -> jax.Array:
        if self.mixer == "pool":
            return neighbour_mean(x, 3) - x
        if self.mixer == "conv":
            return SeparableConv(self.activation, name="token_mixer", **self.dtypes)(x)
        mix = Attention(
            max(1, x.shape[-1] // self.head_dim),
            self.head_dim,
            qkv_bias=False,
            proj_bias=False,
            attention_dropout=self.attention_dropout,
            dropout=self.block_dropout,
            implementation=self.implementation,
            name="token_mixer",
            **self.dtypes,
        )
        tokens = x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])
        return mix(tokens, train).reshape(x.shape)

    def _add(self, x: jax.Array, branch: jax.Array, number: str, train: bool) -> jax.Array:
        """Adds a branch; both may be scaled by channel."""
        drop = DropPath(self.drop_path, name=f"drop_path{number}")
        branch = drop(branch, deterministic=not train)
        branch = self._scale(branch, f"layer_scale{number}", self.layer_scale)
        return self._scale(x, f"res_scale{number}", self.residual_scale) + branch

    def _scale(self, x: jax.Array, name: str, start: float | None) -> jax.Array:
        return x if start is None else Scale(start, self.param_dtype, name=name)(x)

    def _normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        return normalised(self, x, name=name, norm=self.norm, bias=self.norm_bias, train=train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_choice("mixer", self.mixer, MIXERS)
        check_choice("implementation", self.implementation, IMPLEMENTATIONS)
        check_size("head_dim", self.head_dim)
        if self.activation != STAR_RELU:
            as_activation(self.activation)
        as_norm(self.norm)


class Scale(nn.Module):
    """Scales each channel by a learnt ``scale``, timm's module of this name.

    Attributes:
      start: the first value of ``scale``.
      param_dtype: the dtype of ``scale``.
    """

    start: float = 1.0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales ``[..., C]``, to the same shape."""
        scale = self.param("scale", Constant(self.start), (x.shape[-1],), self.param_dtype)
        return x * per_channel(scale, x).astype(x.dtype)


def normalised(
    module: Any, x: jax.Array, *, name: str, norm: Any, bias: bool, train: bool
) -> jax.Array:
    """Applies a norm of a module's, with or without a bias; that of groups has but one."""
    options: dict[str, Any] = {} if bias else {"use_bias": False}
    if norm == "group":
        options |= {"num_groups": 1, "use_fast_variance": False}
    options |= {"dtype": module.dtype, "param_dtype": module.param_dtype}
    layer = make_norm(norm, name, epsilon=module.norm_epsilon, **options)
    return call_norm(layer, x, train=train)


class Downsampling(Layer):
    """A strided convolution ``conv`` and, before it, a norm ``norm`` without bias.

    Parameters are named as those of timm's ``Downsampling`` and ``Stem``.

    Attributes:
      features: the channels of the output.
      first: whether the convolution is that of images, of 7 x 7 and stride 4 instead of 3 x 3 and
        2, with its norm behind it.
      norm: the kind of the norm, by name or module (``flaxzoo.layers.norm``); None for none.
      norm_epsilon: its epsilon.
    """

    features: int
    first: bool = False
    norm: Any = "layer"
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to a map smaller by the stride."""
        options: dict[str, Any] = {"use_bias": True, "kernel_init": Normal(0.02)}
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size, stride, padding = (7, 4, 2) if self.first else (3, 2, 1)
        conv = Conv(self.features, size, stride, padding=padding, name="conv", **options)
        if self.norm is None:
            return conv(x)
        norm = functools.partial(normalised, self, name="norm", norm=self.norm, bias=False)
        return norm(conv(x), train=train) if self.first else conv(norm(x, train=train))


class MetaFormer(Backbone):
    """A MetaFormer without its classifier: a stem and four stages of blocks.

    It maps images ``[B, H, W, C]`` of any size to the last map ``[B, H / 32, W / 32, C]``.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage; where they are those of the stage before, the map keeps
        its size.
      mixers: what mixes the pixels of each stage: ``"pool"``, the mean of 3 x 3 neighbours;
        ``"conv"``, a separable convolution; ``"attention"``.
      activation: of MLPs and separable convolutions, by name or callable, or ``"star_relu"``: the
        square of a ReLU with a learnt scale and bias.
      use_bias: whether the layers of the MLPs have biases.
      norm: the kind of the blocks' norms, by name or module (``flaxzoo.layers.norm``); ``"group"``
        is of one group.
      norm_bias: whether these have biases.
      norm_epsilon: their epsilon.
      downsample_norm: the kind of the norms, without biases, behind the stem and before each
        strided convolution; None for none.
      head_dim: the width of each of the attention's heads.
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      residual_scales: for each stage, what the learnt scales of the blocks' inputs begin with;
        None for no scales.
      mlp_head: whether the classifier has a hidden layer four times as wide as the features.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    # ``"star_relu"`` is a module of this family.
    unusual = ("activation",)

    layers: Sequence[int] = (2, 2, 6, 2)
    widths: Sequence[int] = (64, 128, 320, 512)
    mixers: Sequence[str] = ("pool", "pool", "pool", "pool")
    activation: str | Callable[[jax.Array], jax.Array] = STAR_RELU
    use_bias: bool = False
    norm: Any = "layer"
    norm_bias: bool = False
    norm_epsilon: float = 1e-6
    downsample_norm: Any = "layer"
    head_dim: int = 32
    layer_scale: float | None = None
    residual_scales: Sequence[float | None] = (None, None, 1.0, 1.0)
    mlp_head: bool = True
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        yield Part("stem", self._stem, owns=("stem",), takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        width = self.widths[0]
        for i, count in enumerate(self.layers):
            stage = f"stages_{i}"
            if width != self.widths[i]:
                owns = (f"{stage}_downsample",)
                yield Part(f"{stage}_blocks_0", functools.partial(self._down, i), owns=owns)
            width = self.widths[i]
            for j in range(count):
                block = functools.partial(
                    MetaFormerBlock,
                    mixer=self.mixers[i],
                    residual_scale=self.residual_scales[i],
                    drop_path=next(rates),
                    **fields,
                )
                complete = stage if j == count - 1 else None
                options: dict[str, Any] = {"reduction": 4 * 2**i, "remat": self.remat}
                yield Part(f"{stage}_blocks_{j}", block, map=complete, **options)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        if x.ndim == 4 and min(x.shape[1:3]) < 3:
            raise ShapeError(f"images must be of at least 3 x 3, got {list(x.shape)}")
        return self._strided("stem", self.widths[0], first=True)(x, train)

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        return self._strided(f"stages_{stage}_downsample", self.widths[stage])(x, train)

    @nn.nowrap
    def _strided(self, name: str, width: int, first: bool = False) -> Downsampling:
        norm = {"norm": self.downsample_norm, "norm_epsilon": 1e-6}
        return Downsampling(width, first, name=name, **norm, **self.dtypes)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The norm behind the pooling, and the hidden layer of most names."""
        options = {**super().head_options(), "norm": "layer", "norm_epsilon": 1e-6}
        if self.mlp_head:
            options["hidden"] = (4 * self.widths[-1],)
            options |= {"activation": "squared_relu", "hidden_norm": "layer"}
            options["hidden_features"] = False
        return {**options, "kernel_init": Normal(0.02)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "widths")}
        for name, value in lists.items():
            check_widths(name, value)
        others = {name: getattr(self, name) for name in ("mixers", "residual_scales")}
        check_lengths(**lists, **others)
        for scale in self.residual_scales:
            check_number("residual_scales", scale, optional=True)
        if self.downsample_norm is not None:
            as_norm(self.downsample_norm)
        for part in self.parts():
            if "blocks" in part.name and part.owns is None:
                part.run(parent=None).check_fields()
        for width, mixer in zip(self.widths, self.mixers, strict=True):
            if mixer == "attention" and width % self.head_dim:
                raise ArgumentError(
                    "widths of stages that attend must be multiples of head_dim="
                    f"{self.head_dim}, got {width}"
                )


def _convert(tensors: Mapping[str, Any], backbone: MetaFormer) -> Mapping[str, Any]:
    """Timm's names for the tensors of the authors' files, and shapes for their kernels."""
    if "stem.conv.weight" in tensors:
        return tensors
    first = "network.0.0.mlp.fc1.weight" in tensors
    return {
        new: _shaped(new, value, backbone)
        for new, value in ((_renamed(old, first), value) for old, value in tensors.items())
    }


def _renamed(name: str, first: bool) -> str:
    """Timm's name of an author's, of PoolFormer's first version or later."""
    if first:
        name = re.sub(r"layer_scale_(\d)", r"layer_scale\1.scale", name)
        # Stages and what leads to them stand in one list.
        match = re.match(r"network\.(\d)\.(.*)", name)
        if match is not None:
            number = int(match[1])
            kind = "downsample_layers" if number % 2 else "stages"
            name = f"{kind}.{(number + 1) // 2}.{match[2]}"
    name = re.sub(r"^(downsample_layers\.0|patch_embed)\.", "stem.", name)
    name = re.sub(r"^downsample_layers\.(\d)", r"stages.\1.downsample", name)
    name = re.sub(r"^(stem|stages\.\d\.downsample)\.proj\.", r"\1.conv.", name)
    name = re.sub(r"\.(pre|post)_norm\.", ".norm.", name)
    name = re.sub(r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2.", name)
    name = re.sub(r"^head\.", "head.fc.", name)
    return re.sub(r"^norm\.", "head.norm.", name)


def _shaped(name: str, value: Any, backbone: MetaFormer) -> Any:
    """A kernel of one pixel as a linear layer where timm has one, and the other way round."""
    match = re.match(r"stages\.(\d)\..*\.(pwconv\d|fc\d)\.weight$", name)
    if match is None:
        return value
    dense = backbone.mixers[int(match[1])] == "attention"
    return value.reshape(value.shape[:2] if dense else (*value.shape[:2], 1, 1))


REFERENCE = Reference(
    stem=("stem/conv",),
    classifier="head.fc",
    head=(("norm", "head.norm"),),
    leaves=(("*scale[12]/scale", "scale"), ("*/act/scale", "scale"), ("*/act1/scale", "scale")),
    convert=_convert,
)
# The classifier is the second layer of a perceptron's.
_MLP_HEAD = dataclasses.replace(
    REFERENCE,
    classifier="head.fc.fc2",
    head=(*REFERENCE.head, ("dense_0", "head.fc.fc1"), ("norm_0", "head.fc.norm")),
)
# timm's functions of these names take no other depth.
CUT: dict[str, str] = {}

_SMALL, _MEDIUM = (64, 128, 320, 512), (96, 192, 384, 768)
_V1: dict[str, Any] = {
    "activation": "gelu",
    "use_bias": True,
    "norm": "group",
    "norm_bias": True,
    "norm_epsilon": 1e-5,
    "downsample_norm": None,
    "residual_scales": (None,) * 4,
    "mlp_head": False,
}
variants(
    MetaFormer,
    {
        "poolformer_s12": row("PoolFormer-S12", widths=_SMALL, layer_scale=1e-5, **_V1),
        "poolformer_s24": row(
            "PoolFormer-S24", layers=(4, 4, 12, 4), widths=_SMALL, layer_scale=1e-5, **_V1
        ),
        "poolformer_s36": row(
            "PoolFormer-S36", layers=(6, 6, 18, 6), widths=_SMALL, layer_scale=1e-6, **_V1
        ),
        "poolformer_m36": row(
            "PoolFormer-M36", layers=(6, 6, 18, 6), widths=_MEDIUM, layer_scale=1e-6, **_V1
        ),
        "poolformer_m48": row(
            "PoolFormer-M48", layers=(8, 8, 24, 8), widths=_MEDIUM, layer_scale=1e-6, **_V1
        ),
    },
    paper="https://arxiv.org/abs/2111.11418",
    reference=REFERENCE,
)
_V2: dict[str, Any] = {"norm": "group", "mlp_head": False}
variants(
    MetaFormer,
    {
        "poolformerv2_s12": row("PoolFormer V2-S12", widths=_SMALL, **_V2),
        "poolformerv2_s24": row("PoolFormer V2-S24", layers=(4, 4, 12, 4), widths=_SMALL, **_V2),
        "poolformerv2_s36": row("PoolFormer V2-S36", layers=(6, 6, 18, 6), widths=_SMALL, **_V2),
        "poolformerv2_m36": row("PoolFormer V2-M36", layers=(6, 6, 18, 6), widths=_MEDIUM, **_V2),
        "poolformerv2_m48": row("PoolFormer V2-M48", layers=(8, 8, 24, 8), widths=_MEDIUM, **_V2),
    },
    paper="https://arxiv.org/abs/2210.13452",
    reference=REFERENCE,
)
_CONV: dict[str, Any] = {"mixers": ("conv",) * 4}
_CONV_ATTENTION: dict[str, Any] = {"mixers": ("conv", "conv", "attention", "attention")}
_M36: dict[str, Any] = {"layers": (3, 12, 18, 3), "widths": (96, 192, 384, 576)}
_B36: dict[str, Any] = {"layers": (3, 12, 18, 3), "widths": (128, 256, 512, 768)}
variants(
    MetaFormer,
    {
        "convformer_s18": row("ConvFormer-S18", layers=(3, 3, 9, 3), widths=_SMALL, **_CONV),
        "convformer_s36": row("ConvFormer-S36", layers=(3, 12, 18, 3), widths=_SMALL, **_CONV),
        "convformer_m36": row("ConvFormer-M36", **_M36, **_CONV),
        "convformer_b36": row("ConvFormer-B36", **_B36, **_CONV),
        "caformer_s18": row("CAFormer-S18", layers=(3, 3, 9, 3), widths=_SMALL, **_CONV_ATTENTION),
        "caformer_s36": row(
            "CAFormer-S36", layers=(3, 12, 18, 3), widths=_SMALL, **_CONV_ATTENTION
        ),
        "caformer_m36": row("CAFormer-M36", **_M36, **_CONV_ATTENTION),
        "caformer_b36": row("CAFormer-B36", **_B36, **_CONV_ATTENTION),
    },
    paper="https://arxiv.org/abs/2210.13452",
    reference=_MLP_HEAD,
)
