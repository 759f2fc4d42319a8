"""PVT v2: a pyramid of four stages in which each pixel attends to a smaller copy of the map.

Patches overlap, and a depthwise convolution inside each MLP says where things are, so that there
are no position embeddings and images of any size will do. Names and numbers are those of timm's
``pvt_v2`` module.

References:
  PVT: https://arxiv.org/abs/2102.12122
  PVT v2: https://arxiv.org/abs/2106.13797
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_lengths, check_number, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.layers.attention import check_heads
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import HeNormal, Normal
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.patch_embed import OverlapPatchEmbed
from flaxzoo.layers.spatial_reduction import SpatialReductionAttention
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# The sides of the map that the linear attention's keys are of.
_KEY_GRID = 7
# What a block gets from the network as it is.
_PASSED_ON = (
    *("linear", "qkv_bias", "activation", "norm", "norm_epsilon"),
    *("attention_dropout", "block_dropout", "implementation", "dtype", "param_dtype"),
)


class DepthwiseMlp(Mlp):
    """An ``Mlp`` with a depthwise convolution ``dwconv`` before its activation.

    Attributes:
      first_relu: whether a ReLU stands before the convolution.
    """

    first_relu: bool = False

    def hidden_units(self, x: jax.Array) -> jax.Array:
        """Computes what stands between the two layers, of maps ``[B, H, W, C]``."""
        y = self.layer(self.hidden, "fc1")(x)
        y = nn.relu(y) if self.first_relu else y
        options: dict[str, Any] = {"kernel_init": HeNormal(groups=self.hidden), **self.dtypes}
        y = Conv(self.hidden, 3, groups=self.hidden, use_bias=True, name="dwconv", **options)(y)
        return as_activation(self.activation)(y)


class PvtBlock(TransformerBlock):
    """Attention to a smaller copy of the map, then an MLP that sees a pixel's neighbours.

    Attributes:
      key_stride: by how much the copy is smaller along each side.
      linear: whether the copy is of 7 x 7 pixels instead, whatever the size of the map.
    """

    key_stride: int = 1
    linear: bool = False

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the pixels of ``[B, H, W, C]``."""
        mix = SpatialReductionAttention(
            self.heads,
            self.key_stride,
            _KEY_GRID if self.linear else None,
            qkv_bias=self.qkv_bias,
            attention_dropout=self.attention_dropout,
            dropout=self.block_dropout,
            implementation=self.implementation,
            name=name,
            **self.dtypes,
        )
        return mix(x, train)

    def feed_forward(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Maps each pixel, with its neighbours."""
        mlp = DepthwiseMlp(
            int(x.shape[-1] * self.mlp_ratio),
            activation=self.activation,
            first_relu=self.linear,
            dropout=self.block_dropout,
            name=name,
            **self.dtypes,
        )
        return mlp(x, train)


class PyramidVisionTransformerV2(Backbone):
    """A PVT v2 without its classifier: stages, each behind an overlapping embedding.

    It maps images ``[B, H, W, C]`` of any size to the last map ``[B, H / 32, W / 32, C]``.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      heads: the number of heads of each stage's attention.
      key_strides: by how much each stage's keys and values are fewer than its pixels, along each
        side.
      mlp_ratios: the hidden units of each stage's MLPs, as a multiple of its width.
      linear: whether keys and values are those of a map averaged to 7 x 7 instead, which takes
        time in proportion to the pixels.
      qkv_bias: whether queries, keys and values have biases.
      activation: of the MLPs, by name or callable.
      norm: the kind of the blocks' and stages' norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (64, 128, 320, 512)
    heads: Sequence[int] = (1, 2, 5, 8)
    key_strides: Sequence[int] = (8, 4, 2, 1)
    mlp_ratios: Sequence[float] = (8, 8, 4, 4)
    linear: bool = False
    qkv_bias: bool = True
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The first embedding, then the blocks ``stages_0_blocks_0`` and so on, stage by stage."""
        stem = functools.partial(self._embed, "patch_embed", self.widths[0], 7, 4)
        yield Part("patch_embed", stem, owns=("patch_embed",), takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for i, count in enumerate(self.layers):
            stage = f"stages_{i}"
            name = f"{stage}_blocks_0"
            if i:
                owns = (f"{stage}_downsample",)
                down = functools.partial(self._embed, *owns, self.widths[i], 3, 2)
                yield Part(name, down, owns=owns, depth=stage)
            for j in range(count):
                name = f"{stage}_blocks_{j}"
                block = functools.partial(
                    PvtBlock,
                    heads=self.heads[i],
                    key_stride=self.key_strides[i],
                    mlp_ratio=self.mlp_ratios[i],
                    drop_path=next(rates),
                    **fields,
                )
                yield Part(name, block, depth=stage, remat=self.remat)
            norm, own = functools.partial(self._norm, i), (f"{stage}_norm",)
            yield Part(name, norm, own, map=stage, reduction=4 * 2**i, depth=stage)

    def _embed(
        self, name: str, width: int, size: int, stride: int, x: jax.Array, train: bool
    ) -> jax.Array:
        options: dict[str, Any] = {"norm": "layer", "norm_epsilon": 1e-5, **self.dtypes}
        return OverlapPatchEmbed(width, size, stride, name=name, **options)(x, train)

    def _norm(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        name = f"stages_{stage}_norm"
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        return {**super().head_options(), "kernel_init": Normal(0.02)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("layers", "widths", "heads", "key_strides")
        for name in names:
            check_widths(name, getattr(self, name))
        for ratio in self.mlp_ratios:
            check_number("mlp_ratios", ratio, above=0)
        check_lengths(**{name: getattr(self, name) for name in (*names, "mlp_ratios")})
        check_heads(self.widths, self.heads)
        next(part for part in self.parts() if "blocks" in part.name).run(parent=None).check_fields()


def _convert(
    tensors: Mapping[str, Any], _backbone: PyramidVisionTransformerV2
) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files, which count stages from 1."""
    if "patch_embed.proj.weight" in tensors:
        return tensors

    def name(old: str) -> str:
        old = old.replace("dwconv.dwconv", "dwconv").replace("patch_embed1", "patch_embed")
        match = re.match(r"(patch_embed|block|norm)(\d)\.(.*)", old)
        if match is None:
            return old
        kind, stage, rest = match.groups()
        part = {"patch_embed": "downsample", "block": "blocks", "norm": "norm"}[kind]
        return f"stages.{int(stage) - 1}.{part}.{rest}"

    return {name(old): value for old, value in tensors.items()}


variants(
    PyramidVisionTransformerV2,
    {
        "pvt_v2_b0": row("PVT v2-B0", layers=(2, 2, 2, 2), widths=(32, 64, 160, 256)),
        "pvt_v2_b1": row("PVT v2-B1", layers=(2, 2, 2, 2)),
        "pvt_v2_b2": row("PVT v2-B2", layers=(3, 4, 6, 3)),
        "pvt_v2_b2_li": row("PVT v2-B2 of linear attention", layers=(3, 4, 6, 3), linear=True),
        "pvt_v2_b3": row("PVT v2-B3", layers=(3, 4, 18, 3)),
        "pvt_v2_b4": row("PVT v2-B4", layers=(3, 8, 27, 3)),
        "pvt_v2_b5": row("PVT v2-B5", layers=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
    },
    paper="https://arxiv.org/abs/2106.13797",
    reference=Reference(("patch_embed/proj",), "head", convert=_convert),
)
