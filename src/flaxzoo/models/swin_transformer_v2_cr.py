"""Swin V2 (CR): Christoph Reich's Swin V2, whose positions are the logarithms of pixels.

It was written from the paper before its authors' code came out. Norms stand behind the branches,
another one behind some of the blocks, and windows are as large as an eighth of the first map.
Names and numbers are those of timm's ``swin_transformer_v2_cr`` module.

References:
  Swin V2: https://arxiv.org/abs/2111.09883
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxzoo._checks import check_lengths, check_rate, check_size, check_widths
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import PLAIN, FanIn, plain_bias
from flaxzoo.layers.patch_embed import resample_kernel
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.relative_position import RelativeMlp
from flaxzoo.layers.windows import over_windows
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants
from flaxzoo.models.swin_transformer import SwinTransformer
from flaxzoo.models.swin_transformer_v2 import CosineAttention, SwinV2Block

# What attention gets from the network beside what Swin's does.
_POSITIONS = ("position_width", "position_mlp_dropout")
# How layers begin: as PyTorch's.


class LogPositionAttention(CosineAttention):
    """Attention by cosines, with biases that two layers make of the logarithms of distances.

    Parameters are named as those of timm's ``WindowMultiHeadAttention``.

    Attributes:
      position_width: the hidden units of these two layers.
      position_mlp_dropout: the rate at which they are dropped in training.
      dropping: whether they are, as in training.
    """

    key_bias: bool = True
    position_width: int = 384
    position_mlp_dropout: float = 0.125
    dropping: bool = False

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """The shape of the parameter ``logit_scale``."""
        return (self.heads,)

    def position_bias(self) -> jax.Array:
        """Returns what the relative positions add to the logits, ``[1, heads, N, N]``."""
        fields: dict[str, Any] = {"dropout": self.position_mlp_dropout, "bias_init": plain_bias}
        fields |= {"param_dtype": self.param_dtype, "name": "meta_mlp"}
        # Not in half precision: these are few numbers.
        module = RelativeMlp(self.heads, self.position_width, **fields)
        return module(self.grid or (1, 1), train=self.dropping)

    @nn.nowrap
    def dense(self, features: int, name: str, use_bias: bool) -> Dense:
        """Makes a dense layer that begins as PyTorch's."""
        options = {**self.dtypes, **PLAIN}
        return Dense(features, use_bias=use_bias, name=name, **options)


class SwinV2CrBlock(SwinV2Block):
    """A block of attention by angles within a window, with norms behind the branches.

    Parameters are named as those of timm's ``SwinTransformerV2CrBlock``.

    Attributes:
      extra_norm: whether a norm, ``norm3``, stands behind the block.
      position_width: as ``LogPositionAttention``'s.
      position_mlp_dropout: likewise.
    """

    extra_norm: bool = False
    position_width: int = 384
    position_mlp_dropout: float = 0.125

    # Its positions are the windows' own.
    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        x = super().__call__(x, train)
        return self.normalise(x, "norm3") if self.extra_norm else x

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the tokens ``[B, H, W, C]`` of each window."""
        own = ("qkv_bias", "attention_dropout", "implementation", *_POSITIONS)
        attention = LogPositionAttention(
            self.heads,
            grid=self.window,
            dropout=self.block_dropout,
            dropping=train,
            name=name,
            **{field: getattr(self, field) for field in own},
            **self.dtypes,
        )
        return over_windows(
            x, self.window, self.shift, lambda tokens, mask: attention(tokens, train, mask=mask)
        )

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns that its MLP begins as PyTorch's."""
        return dict(PLAIN)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_size("position_width", self.position_width)
        check_rate("position_mlp_dropout", self.position_mlp_dropout)


class SwinTransformerV2Cr(SwinTransformer):
    """A Swin V2 (CR) without its classifier; see ``SwinTransformer`` for the other fields.

    No norm stands behind the last stage but that of its last block.

    Attributes:
      window_size: as ``SwinTransformer``'s; None for windows whose sides are those of the first
        stage's map over ``window_ratio``.
      window_ratio: this number, of all stages or of each.
      extra_norm_period: behind every how many blocks of a stage a norm stands; None for none.
      extra_norm_stage: whether one stands behind each stage, too, rather than the last one alone.
      layer_scale: what the scales of the branches' norms begin with: blocks add nothing at first.
      position_width: the hidden units of the network that makes biases of positions.
      position_mlp_dropout: rate at which these are dropped in training.
    """

    window_size: int | Sequence[Any] | None = None  # type: ignore[assignment]
    window_ratio: int | Sequence[int] = 8
    extra_norm_period: int | None = None
    extra_norm_stage: bool = False
    layer_scale: float | None = 0.0
    position_width: int = 384
    position_mlp_dropout: float = 0.125

    stage_name = "stages"
    last_norm = False

    @nn.nowrap
    def windows(self) -> tuple[Grid, ...]:
        """The rows and columns of windows that each stage has where its map is no smaller."""
        if self.window_size is not None:
            return super().windows()
        rows, columns = (n // self.patch_size for n in self.input_shape[:2])
        return tuple((max(1, rows // ratio), max(1, columns // ratio)) for ratio in self._ratios())

    @nn.nowrap
    def block(self, stage: int, number: int) -> functools.partial[Any]:
        """Returns what makes a block of a stage, but for its rate of stochastic depth."""
        fields = super().block(stage, number).keywords
        fields |= {name: getattr(self, name) for name in ("layer_scale", *_POSITIONS)}
        period, count = self.extra_norm_period, self.layers[stage]
        ends = number == count - 1 and (self.extra_norm_stage or stage == len(self.layers) - 1)
        extra = ends or (period is not None and (number + 1) % period == 0)
        return functools.partial(SwinV2CrBlock, extra_norm=extra, **fields)

    @property
    def embed_options(self) -> dict[str, Any]:
        """Other fields of the ``PatchEmbed``, which begins as PyTorch's layers."""
        return dict(PLAIN)

    @property
    def merge_options(self) -> dict[str, Any]:
        """The fields of what leads from stage to stage."""
        return {**super().merge_options, "kernel_init": FanIn()}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed: none besides norms and biases."""
        return ()

    @nn.nowrap
    def _ratios(self) -> tuple[int, ...]:
        """The ratio of each stage."""
        ratio: Any = self.window_ratio
        return tuple(ratio) if isinstance(ratio, tuple | list) else (ratio,) * len(self.layers)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("window_ratio", self._ratios())
        check_lengths(layers=self.layers, window_ratio=self._ratios())
        check_size("extra_norm_period", self.extra_norm_period, optional=True)
        super().check_fields()


def _convert(tensors: Mapping[str, Any], _backbone: Any) -> Mapping[str, Any]:
    """Today's names for the tensors of older files, whose scales are one over today's."""
    if "head.fc.weight" in tensors:
        return tensors
    converted = {}
    for name, tensor in tensors.items():
        if "tau" in name:
            tensor = np.log(1 / np.asarray(tensor))
        converted[name.replace("tau", "logit_scale").replace("head.", "head.fc.")] = tensor
    return converted


_S: dict[str, Any] = {"layers": (2, 2, 18, 2)}
_B: dict[str, Any] = {"layers": (2, 2, 18, 2), "width": 128, "heads": (4, 8, 16, 32)}
_L: dict[str, Any] = {"layers": (2, 2, 18, 2), "width": 192, "heads": (6, 12, 24, 48)}
_H: dict[str, Any] = {"layers": (2, 2, 18, 2), "width": 352, "extra_norm_period": 6}
_G: dict[str, Any] = {
    "layers": (2, 2, 42, 2),
    "width": 512,
    "heads": (16, 32, 64, 128),
    "extra_norm_period": 6,
}
_NS: dict[str, Any] = {"extra_norm_stage": True}
_256, _384 = (256, 256, 3), (384, 384, 3)

variants(
    SwinTransformerV2Cr,
    {
        "swinv2_cr_tiny_384": row("Swin V2-T (CR)", input_shape=_384),
        "swinv2_cr_tiny_224": row("Swin V2-T (CR)"),
        "swinv2_cr_tiny_ns_224": row("Swin V2-T (CR), norms behind stages", **_NS),
        "swinv2_cr_small_384": row("Swin V2-S (CR)", input_shape=_384, **_S),
        "swinv2_cr_small_224": row("Swin V2-S (CR)", **_S),
        "swinv2_cr_small_ns_224": row("Swin V2-S (CR), norms behind stages", **_S, **_NS),
        "swinv2_cr_small_ns_256": row(
            "Swin V2-S (CR), norms behind stages", input_shape=_256, **_S, **_NS
        ),
        "swinv2_cr_base_384": row("Swin V2-B (CR)", input_shape=_384, **_B),
        "swinv2_cr_base_224": row("Swin V2-B (CR)", **_B),
        "swinv2_cr_base_ns_224": row("Swin V2-B (CR), norms behind stages", **_B, **_NS),
        "swinv2_cr_large_384": row("Swin V2-L (CR)", input_shape=_384, **_L),
        "swinv2_cr_large_224": row("Swin V2-L (CR)", **_L),
        "swinv2_cr_huge_384": row("Swin V2-H (CR)", input_shape=_384, heads=(11, 22, 44, 88), **_H),
        "swinv2_cr_huge_224": row("Swin V2-H (CR)", heads=(8, 16, 32, 64), **_H),
        "swinv2_cr_giant_384": row("Swin V2-G (CR)", input_shape=_384, **_G),
        "swinv2_cr_giant_224": row("Swin V2-G (CR)", **_G),
    },
    paper="https://arxiv.org/abs/2111.09883",
    reference=Reference(
        stem=("patch_embed/proj",),
        classifier="head.fc",
        renamed=((r"meta_mlp/mlp", "meta_mlp"),),
        convert=_convert,
        patches=("patch_embed/proj", resample_kernel),
    ),
)
