"""FastViT and the image towers of MobileCLIP: branches in training that are one convolution after.

Blocks mix maps by a depthwise convolution (RepMixer), those of the last stages of larger networks
by attention. Each convolution is a sum of branches with BatchNorms, as timm trains and publishes
them, until ``Model.reparameterize`` makes one of it. Names and numbers are those of timm's
``fastvit`` module.

References:
  FastViT: https://arxiv.org/abs/2303.14189
  MobileOne: https://arxiv.org/abs/2206.04040
  MobileCLIP: https://arxiv.org/abs/2311.17049
  MobileCLIP 2: https://arxiv.org/abs/2508.20691
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxzoo._checks import check_choice, check_lengths, check_rate, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import Attention
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite, divisible
from flaxzoo.layers.initializers import PLAIN, Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import ChannelScale, call_norm, make_norm
from flaxzoo.layers.reparameterized import (
    Affine,
    MobileOneBlock,
    Reparameterized,
    Variables,
    of_submodule,
)
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks get from the network as it is.
_PASSED_ON = (
    *("kernel_size", "activation", "head_width", "norm", "norm_epsilon", "layer_scale"),
    *("attention_dropout", "block_dropout", "implementation", "dtype", "param_dtype", "fused"),
)


class LargeKernelConv(Reparameterized):
    """The sum of a depthwise convolution of a large kernel and one of 3 x 3 (RepLKNet).

    Ding et al. 2022, https://arxiv.org/abs/2203.06717. Parameters are named as timm's:
    ``large_conv``, ``small_conv`` and ``se``; in the form of inference, ``reparam_conv`` in place
    of the first two.

    Attributes:
      features: the width of the output, a multiple of the input's.
      kernel_size: the large kernel's.
      stride: by how much maps shrink.
      gate: whether a squeeze-and-excitation follows.
      activation: of the result, by name or callable; None for none.
      fused: whether the two are one convolution.
    """

    features: int
    kernel_size: int = 7
    stride: int = 2
    gate: bool = False
    activation: str | Callable[[jax.Array], jax.Array] | None = None
    fused: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        options: dict[str, Any] = {"stride": self.stride, "groups": x.shape[-1], **self.dtypes}
        if self.fused:
            options |= {"use_bias": True, **PLAIN}
            y = Conv(self.features, self.kernel_size, name="reparam_conv", **options)(x)
        else:
            large = ConvNorm(self.features, self.kernel_size, name="large_conv", **options)
            small = ConvNorm(self.features, 3, name="small_conv", **options)
            y = large(x, train) + small(x, train)
        if self.gate:
            y = SqueezeExcite(0.25, **PLAIN, name="se", **self.dtypes)(y)
        return y if self.activation is None else as_activation(self.activation)(y)

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the parameters of ``reparam_conv``, and the gate's."""
        branches = (of_submodule(variables, name) for name in ("large_conv", "small_conv"))
        large, small = (Affine.of(leaves, "conv").normalised(leaves, "bn") for leaves in branches)
        conv = (large + small).variables(self.param_dtype)
        gate = {"se": variables["params"]["se"]} if self.gate else {}
        return {"params": {"reparam_conv": conv, **gate}}


class ConvMlp(Mlp):
    """An ``Mlp`` of 1 x 1 convolutions behind a depthwise one of 7 x 7, named ``conv``."""

    as_conv: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        options: dict[str, Any] = {"groups": x.shape[-1], "kernel_init": self.kernel_init}
        x = ConvNorm(x.shape[-1], 7, name="conv", **options, **self.dtypes)(x, train)
        return super().__call__(x, train)


class FastVitBlock(Layer):
    """What the blocks share: their fields, and branches that are scaled, dropped and added.

    Attributes:
      kernel_size: of RepMixer's convolution.
      mlp_ratio: the hidden units of the MLP, as a multiple of the width.
      activation: of the MLP, by name or callable.
      head_width: the width of a head of attention.
      norm: before attention, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      layer_scale: the first value of the scales of branches; None for none.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the MLP's units are dropped.
      drop_path: the rate at which an example's branches are dropped.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      fused: whether branches of convolutions are one.
    """

    kernel_size: int = 3
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    head_width: int = 32
    norm: Any = "batch"
    norm_epsilon: float | None = 1e-5
    layer_scale: float | None = 1e-5
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    fused: bool = False

    def scaled(self, branch: jax.Array, name: str) -> jax.Array:
        """Scales the channels of a branch."""
        if self.layer_scale is None:
            return branch
        return ChannelScale(self.layer_scale, name=name, **self.dtypes)(branch)

    def drop(self, branch: jax.Array, name: str, train: bool) -> jax.Array:
        """Drops a branch of some examples."""
        if not self.drop_path:
            return branch
        return DropPath(self.drop_path, name=name)(branch, deterministic=not train)

    def mlp(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes the MLP's branch."""
        options: dict[str, Any] = {"activation": self.activation, "dropout": self.block_dropout}
        hidden = int(x.shape[-1] * self.mlp_ratio)
        return ConvMlp(hidden, name="mlp", **options, **self.dtypes)(x, train)


class RepMixer(FastVitBlock, Reparameterized):
    """Adds what a convolution's branches make of maps, less a norm of them.

    In the form of inference all of it is the convolution ``reparam_conv``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        if self.fused:
            return _depthwise(x, self.kernel_size, "reparam_conv", **self.dtypes)
        mixer, norm = self.blocks(x.shape[-1], "mixer", "norm")
        return x + self.scaled(mixer(x, train) - norm(x, train), "layer_scale")

    @nn.nowrap
    def blocks(
        self, width: int, mixer: str | None = None, norm: str | None = None
    ) -> tuple[MobileOneBlock, MobileOneBlock]:
        """The branches and the norm, under their names."""
        options: dict[str, Any] = {"depthwise": True, "activation": None, **self.dtypes}
        block = functools.partial(MobileOneBlock, width, self.kernel_size, **options)
        return block(name=mixer), block(convolution=False, scale=False, name=norm)

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the parameters of ``reparam_conv``."""
        params = variables["params"]
        width = params["norm"]["identity"]["scale"].shape[0]
        mixed, normal = (
            block.convolved(of_submodule(variables, name))
            for name, block in zip(("mixer", "norm"), self.blocks(width), strict=True)
        )
        branch = mixed + normal.scaled(-1)
        if self.layer_scale is not None:
            branch = branch.scaled(np.asarray(params["layer_scale"]["gamma"], np.float64).ravel())
        conv = Affine.identity(width, width) + branch
        return {"params": {"reparam_conv": conv.variables(self.param_dtype)}}


class RepMixerBlock(FastVitBlock):
    """A RepMixer, and an MLP with a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        own = {name: getattr(self, name) for name in ("kernel_size", "layer_scale", "fused")}
        mixer = functools.partial(RepMixer, **own)
        x = mixer(name="token_mixer", **self.dtypes)(x, train)
        return x + self.drop(self.scaled(self.mlp(x, train), "layer_scale"), "drop_path", train)


class AttentionBlock(FastVitBlock):
    """Attention of all pixels behind a norm, and an MLP, each with a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        y = call_norm(norm, x, train=train)
        attention = Attention(
            x.shape[-1] // self.head_width,
            qkv_bias=False,
            attention_dropout=self.attention_dropout,
            implementation=self.implementation,
            name="token_mixer",
            **self.dtypes,
        )
        y = attention(y.reshape(y.shape[0], -1, y.shape[-1]), train).reshape(x.shape)
        x = x + self.drop(self.scaled(y, "layer_scale_1"), "drop_path1", train)
        return x + self.drop(self.scaled(self.mlp(x, train), "layer_scale_2"), "drop_path2", train)


class FastVit(Backbone):
    """A FastViT without its classifier: convolutions, stages of blocks, and a last convolution.

    It maps images ``[B, H, W, C]`` of any size to ``[B, H / 32, W / 32, C']`` where there are four
    stages. Maps are those behind each stage, before the last convolution.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the width of each stage.
      mlp_ratios: the hidden units of each stage's MLPs, as multiples of its width.
      mixers: how each stage's blocks mix pixels, ``"convolution"`` (RepMixer) or ``"attention"``,
        which a convolution of 7 x 7 gives positions.
      gated: whether a squeeze-and-excitation leads to each stage.
      kernel_size: of RepMixer's convolutions.
      reduction_activation: whether the large convolution that leads to a stage has an activation.
      stem_scale: whether the first convolutions have branches of 1 x 1.
      head_ratio: how many times as wide as the last stage the output is.
      head_width: the width of a head of attention.
      activation: by name or callable.
      norm: before attention, by name or module (``flaxzoo.layers.norm``); all others are
        BatchNorms.
      norm_epsilon: its epsilon.
      layer_scale: the first value of the scales of branches; None for none.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of MLPs are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
      fused: whether branches of convolutions are one, the form of inference
        (``flaxzoo.Model.reparameterize``).
    """

    layers: Sequence[int] = (2, 2, 6, 2)
    widths: Sequence[int] = (64, 128, 256, 512)
    mlp_ratios: Sequence[float] = (4, 4, 4, 4)
    mixers: Sequence[str] = ("convolution",) * 4
    gated: Sequence[bool] = (False,) * 4
    kernel_size: int = 3
    reduction_activation: bool = False
    stem_scale: bool = True
    head_ratio: float = 2.0
    head_width: int = 32
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    norm_epsilon: float = 1e-5
    layer_scale: float | None = 1e-5
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False
    fused: bool = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The first convolutions, the blocks ``stages_0_blocks_0`` and so on, the last one."""
        yield Part("stem", self._stem, ("stem_0", "stem_1", "stem_2"), takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for i, (count, mixer) in enumerate(zip(self.layers, self.mixers, strict=True)):
            stage = f"stages_{i}"
            if i:
                reduce, owns = functools.partial(self._reduce, i), (f"{stage}_downsample",)
                yield Part(f"{stage}_blocks_0", reduce, owns)
            if mixer == "attention":
                positions, owns = functools.partial(self._positions, i), (f"{stage}_pos_emb",)
                yield Part(f"{stage}_blocks_0", positions, owns)
            kind = AttentionBlock if mixer == "attention" else RepMixerBlock
            block = functools.partial(kind, mlp_ratio=self.mlp_ratios[i], **fields)
            for j in range(count):
                yield Part(
                    f"{stage}_blocks_{j}",
                    functools.partial(block, drop_path=next(rates)),
                    map=stage if j == count - 1 else None,
                    reduction=4 << i,
                    remat=self.remat,
                )
        yield Part("final_conv", self._last, owns=("final_conv",), depth="head")

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        fields = {"activation": self.activation, "fused": self.fused, **self.dtypes}
        block = functools.partial(MobileOneBlock, self.widths[0], scale=self.stem_scale, **fields)
        x = block(kernel_size=3, stride=2, name="stem_0")(x, train)
        x = block(kernel_size=3, stride=2, depthwise=True, name="stem_1")(x, train)
        return block(kernel_size=1, name="stem_2")(x, train)

    def _reduce(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        return Reduction(
            self.widths[stage],
            gate=self.gated[stage],
            large_activation=self.reduction_activation,
            activation=self.activation,
            fused=self.fused,
            name=f"stages_{stage}_downsample",
            **self.dtypes,
        )(x, train)

    def _positions(self, stage: int, x: jax.Array, _train: bool) -> jax.Array:
        options = {"name": f"stages_{stage}_pos_emb", **self.dtypes}
        return ConvPositions(fused=self.fused, **options)(x)

    def _last(self, x: jax.Array, train: bool) -> jax.Array:
        fields = {"activation": self.activation, "fused": self.fused, **self.dtypes}
        width = int(self.widths[-1] * self.head_ratio)
        fields["gate"] = functools.partial(
            SqueezeExcite, width=divisible(width / 16, 1, 1), **PLAIN
        )
        fields |= {"depthwise": True, "gate_name": "se"}
        return MobileOneBlock(width, name="final_conv", **fields)(x, train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers: averages are pooled."""
        return {**super().head_options(), "kernel_init": Normal(0.02)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("layers", "widths", "mlp_ratios", "mixers", "gated")
        lists = {name: tuple(getattr(self, name)) for name in names}
        check_lengths(**lists)
        for name in ("layers", "widths"):
            check_widths(name, lists[name])
        for mixer in self.mixers:
            check_choice("mixers", mixer, ("convolution", "attention"))
        for name in ("kernel_size", "head_width"):
            check_size(name, getattr(self, name))
        for name in ("attention_dropout", "block_dropout", "drop_path"):
            check_rate(name, getattr(self, name))
        for width, mixer in zip(self.widths, self.mixers, strict=True):
            if mixer == "attention" and width % self.head_width:
                raise ArgumentError(
                    f"widths of stages of attention must be multiples of head_width="
                    f"{self.head_width}, got {width}"
                )
        if any(n % before for before, n in zip(self.widths, self.widths[1:], strict=False)):
            raise ArgumentError(
                f"widths must each be a multiple of the one before, got {tuple(self.widths)}"
            )


class Reduction(Layer):
    """What leads to a stage: a large depthwise convolution of stride 2, and one of 1 x 1.

    Attributes:
      features: the width of the output.
      gate: whether a squeeze-and-excitation stands between them.
      large_activation: whether an activation follows the first.
      activation: by name or callable.
      fused: whether the branches of each are one convolution.
    """

    features: int
    gate: bool = False
    large_activation: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    fused: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        own = {"fused": self.fused, **self.dtypes}
        first = self.activation if self.large_activation else None
        large = functools.partial(LargeKernelConv, gate=self.gate, activation=first)
        x = large(self.features, name="proj_0", **own)(x, train)
        options = {"activation": self.activation, **own}
        return MobileOneBlock(self.features, 1, name="proj_1", **options)(x, train)


class ConvPositions(Reparameterized):
    """Adds a depthwise convolution of maps to them, by which they know their positions.

    Chu et al. 2021, https://arxiv.org/abs/2102.10882.

    Attributes:
      fused: whether the sum is a convolution, ``reparam_conv``.
    """

    fused: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        if self.fused:
            return _depthwise(x, 7, "reparam_conv", **self.dtypes)
        return x + _depthwise(x, 7, "pos_enc", **self.dtypes)

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the parameters of ``reparam_conv``."""
        conv = Affine.of(variables, "pos_enc")
        width = len(conv.bias)
        conv = conv + Affine.identity(width, width)
        return {"params": {"reparam_conv": conv.variables(self.param_dtype)}}


def _depthwise(x: jax.Array, size: int, name: str, **dtypes: Any) -> jax.Array:
    """A depthwise convolution with a bias, of a parent module."""
    options: dict[str, Any] = {"groups": x.shape[-1], "use_bias": True, **dtypes}
    options |= PLAIN
    return Conv(x.shape[-1], size, name=name, **options)(x)


# What timm renamed of the authors' files, in this order.
_RENAMED = (
    *(("patch_embed", "stem"), ("rbr_conv", "conv_kxk"), ("rbr_scale", "conv_scale")),
    *(("rbr_skip", "identity"), ("conv_exp", "final_conv"), ("lkb_origin", "large_conv")),
    *(("convffn", "mlp"), ("se.reduce", "se.fc1"), ("se.expand", "se.fc2")),
)


def _convert(tensors: Mapping[str, Any], _backbone: FastVit) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files, of FastViT and of MobileCLIP."""
    # Of the form of training, and of that of inference.
    first = ("stem.0.conv_kxk.0.conv.weight", "stem.0.reparam_conv.weight")
    if any(name in tensors for name in first):
        return tensors
    trunk = "module.visual.trunk."
    if any(f"{trunk}{name}" in tensors for name in first):
        towers = tensors.items()
        return {name.removeprefix(trunk): v for name, v in towers if name.startswith(trunk)}
    tower = "image_encoder.model."
    if any(name.startswith(tower) for name in tensors):
        towers = tensors.items()
        tensors = {name.removeprefix(tower): v for name, v in towers if name.startswith(tower)}
    numbers = (re.match(r"network\.(\d+)\.proj\.", name) for name in tensors)
    # Blocks, positions and reductions are one list, in which a reduction begins a stage.
    starts = sorted({int(match[1]) for match in numbers if match is not None})
    renamed: dict[str, Any] = {}
    for name, value in tensors.items():
        if name == "head.proj":
            # CLIP's projection is a matrix without bias.
            renamed["head.fc.weight"] = np.ascontiguousarray(np.asarray(value).T)
            renamed["head.fc.bias"] = np.zeros(value.shape[1], np.asarray(value).dtype)
        else:
            renamed[_today(name, starts)] = value
    return renamed


def _today(name: str, starts: Sequence[int]) -> str:
    """Returns timm's name for one of the authors'."""
    for old, new in _RENAMED:
        name = name.replace(old, new)
    name = re.sub(r"(layer_scale(_\d)?)$", r"\1.gamma", name)
    name = re.sub(r"^head\.", "head.fc.", name)

    def stage(match: re.Match[str]) -> str:
        place = f"stages.{bisect.bisect_right(starts, int(match[1]))}"
        kinds = {"proj": "downsample.proj", "pe": "pos_emb.pos_enc"}
        return f"{place}.{kinds.get(match[2], f'blocks.{match[2]}')}"

    return re.sub(r"^network\.(\d+)\.(\w+)", stage, name)


REFERENCE = Reference(
    # Branches grow from block to block until gates and attention get logits of 50,000, whose
    # rounding is another answer, on one processor or another.
    gain=1.5,
    scales=(("*.gamma", 0.25), ("*.qkv.weight", 0.1), ("*.se.fc1.weight", 0.1)),
    stem=("stem_0/conv_kxk_0/conv", "stem_0/conv_scale/conv"),
    classifier="head.fc",
    renamed=((r"layer_scale_(\d)", r"layer_scale_\1"),),
    layouts=(("params/backbone/*/gamma", "planes"),),
    convert=_convert,
    fused=("*.reparam_conv.weight",),
)

# What names have in common: mixers, and MobileCLIP's sizes.
_SA: dict[str, Any] = {"mixers": ("convolution", "convolution", "convolution", "attention")}
_RATIO_3: dict[str, Any] = {"mlp_ratios": (3, 3, 3, 3)}
_MCI: dict[str, Any] = {
    **_SA,
    **_RATIO_3,
    "gated": (False, False, True, True),
    "reduction_activation": True,
}
_MCI_5: dict[str, Any] = {
    "mlp_ratios": (4, 4, 4, 4, 4),
    "mixers": ("convolution", "convolution", "convolution", "attention", "attention"),
    "gated": (False, False, False, False, False),
    "reduction_activation": True,
    "norm": "layer",
    "stem_scale": False,
}

variants(
    FastVit,
    {
        "fastvit_t8": row("FastViT-T8", layers=(2, 2, 4, 2), widths=(48, 96, 192, 384), **_RATIO_3),
        "fastvit_t12": row("FastViT-T12", **_RATIO_3),
        "fastvit_s12": row("FastViT-S12"),
        "fastvit_sa12": row("FastViT-SA12", **_SA),
        "fastvit_sa24": row("FastViT-SA24", layers=(4, 4, 12, 4), **_SA),
        "fastvit_sa36": row("FastViT-SA36", layers=(6, 6, 18, 6), **_SA),
        "fastvit_ma36": row(
            "FastViT-MA36", layers=(6, 6, 18, 6), widths=(76, 152, 304, 608), **_SA
        ),
        "fastvit_mci0": row("MCi0", layers=(2, 6, 10, 2), **_MCI),
        "fastvit_mci1": row("MCi1", layers=(4, 12, 20, 4), **_MCI),
        "fastvit_mci2": row("MCi2", layers=(4, 12, 24, 4), widths=(80, 160, 320, 640), **_MCI),
        "fastvit_mci3": row(
            "MCi3", layers=(2, 12, 24, 4, 2), widths=(96, 192, 384, 768, 1536), **_MCI_5
        ),
        "fastvit_mci4": row(
            "MCi4", layers=(2, 12, 24, 4, 4), widths=(128, 256, 512, 1024, 2048), **_MCI_5
        ),
    },
    paper="https://arxiv.org/abs/2303.14189",
    reference=REFERENCE,
)
