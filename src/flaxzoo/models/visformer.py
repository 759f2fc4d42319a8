"""Visformer: a transformer turned step by step into a convolutional network where that helps.

The first of three stages has grouped convolutions in place of attention, all norms are of batches,
and layers are convolutions of one pixel on maps. Names and numbers are those of timm's
``visformer`` module.

References:
  Visformer: https://arxiv.org/abs/2104.12533
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_rate, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import attend, check_heads, weight_hook
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import HeNormal, Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.patch_embed import PatchEmbed, check_image_size
from flaxzoo.layers.pos_embed import Grid, resample_map
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("mlp_ratio", "groups", "activation", "norm", "norm_epsilon"),
    *("attention_dropout", "block_dropout", "implementation", "dtype", "param_dtype"),
)


class MapAttention(Layer):
    """Self-attention of a map's pixels, whose layers are convolutions ``qkv`` and ``proj``.

    Attributes:
      heads: the number of heads.
      head_dim: the width of a head.
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (``flaxzoo.layers.attention.attend``).
    """

    heads: int
    head_dim: int
    attention_dropout: float = 0.0
    dropout: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        batch, height, width, channels = x.shape
        inner, dtypes = self.heads * self.head_dim, (self.dtype, self.param_dtype)
        conv = functools.partial(Conv, kernel_size=1, dtype=dtypes[0], param_dtype=dtypes[1])
        qkv = conv(3 * inner, name="qkv")(x)
        q, k, v = (
            part.reshape(batch, height * width, self.heads, self.head_dim)
            for part in jnp.split(qkv, 3, axis=-1)
        )
        drop = weight_hook(self, self.attention_dropout, train)
        y = attend(q, k, v, drop=drop, implementation=self.implementation)
        y = conv(channels, name="proj")(y.reshape(batch, height, width, inner))
        return nn.Dropout(self.dropout, name="proj_drop")(y, deterministic=not train)


class ConvMlp(Layer):
    """Two layers on each pixel, ``conv1`` and ``conv3``, and between them a grouped ``conv2``.

    Attributes:
      hidden: the width between the layers.
      groups: those of the convolution of 3 x 3 pixels; None for no such convolution.
      activation: behind each layer but the last, by name or callable.
      dropout: the rate at which hidden units and outputs are dropped.
    """

    hidden: int
    groups: int | None = None
    activation: Any = "gelu"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        activate, dtypes = as_activation(self.activation), (self.dtype, self.param_dtype)
        conv = functools.partial(Conv, dtype=dtypes[0], param_dtype=dtypes[1])
        y = activate(conv(self.hidden, 1, name="conv1")(x))
        y = nn.Dropout(self.dropout, name="drop1")(y, deterministic=not train)
        if self.groups is not None:
            y = activate(conv(self.hidden, 3, groups=self.groups, name="conv2")(y))
        y = conv(x.shape[-1], 1, name="conv3")(y)
        return nn.Dropout(self.dropout, name="drop3")(y, deterministic=not train)


class VisformerBlock(Layer):
    """Attention, if there is any, and an MLP, each behind a norm and added to its input.

    The attributes are those of ``Visformer``, for one stage.
    """

    head_dim: int
    heads: int | None = None
    spatial: bool = False
    groups: int = 8
    mlp_ratio: float = 4.0
    activation: Any = "gelu"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width, drop = x.shape[-1], DropPath(self.drop_path, name="drop_path")

        def normalise(name: str) -> jax.Array:
            norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
            return call_norm(norm, x, train=train)

        if self.heads is not None:
            mix = MapAttention(
                self.heads,
                self.head_dim,
                self.attention_dropout,
                self.block_dropout,
                self.implementation,
                name="attn",
                **self.dtypes,
            )
            x = x + drop(mix(normalise("norm1"), train), deterministic=not train)
        mlp = ConvMlp(
            2 * width if self.spatial else int(width * self.mlp_ratio),
            self.groups if self.spatial else None,
            self.activation,
            self.block_dropout,
            name="mlp",
            **self.dtypes,
        )
        return x + drop(mlp(normalise("norm2"), train), deterministic=not train)


class Visformer(Backbone):
    """A Visformer without its classifier: a stem, three stages with positions, and the last norm.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, C]``. Maps are those of
    the stages, before the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for.
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      patch_sizes: by how much each stage's map is smaller along each side than what it is of; the
        stem before the first halves the image.
      stem_width: the channels of the stem.
      attention: whether the blocks of each stage attend.
      spatial: whether the MLPs of each stage have a convolution of 3 x 3 pixels; they are then
        twice as wide as the stage.
      heads: the number of heads of the attentions.
      head_ratios: the width of each stage's heads, as a multiple of its width over ``heads``.
      mlp_ratio: the hidden units of the other MLPs, as a multiple of the width.
      groups: of the convolutions of 3 x 3 pixels.
      activation: of the MLPs, by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      position_dropout: rate at which units are dropped before the blocks of a stage.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    layers: Sequence[int] = (7, 4, 4)
    widths: Sequence[int] = (192, 384, 768)
    patch_sizes: Sequence[int] = (4, 2, 2)
    stem_width: int = 32
    attention: Sequence[bool] = (False, True, True)
    spatial: Sequence[bool] = (True, False, False)
    heads: int = 6
    head_ratios: Sequence[float] = (0.5, 1, 1)
    mlp_ratio: float = 4.0
    groups: int = 8
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stage1_0``, ``stage1_1`` and so on, and the last norm."""
        yield Part("embed", self._stem, owns=("stem_0", "stem_1"), takes="images")
        rates, reduction = iter(drop_path_rates(self.drop_path, sum(self.layers))), 2
        for i, count in enumerate(self.layers):
            stage, reduction = f"stage{i + 1}", reduction * self.patch_sizes[i]
            owns = (f"patch_embed{i + 1}", f"pos_embed{i + 1}")
            yield Part(f"{stage}_0" if i else "embed", functools.partial(self._embed, i), owns)
            for j in range(count):
                block, name = self._block(i, next(rates)), f"{stage}_{j}"
                complete = stage if j == count - 1 else None
                yield Part(name, block, map=complete, reduction=reduction, remat=self.remat)
        yield Part("norm", self._norm, owns=("norm",), depth=name)

    @nn.nowrap
    def _block(self, stage: int, drop_path: float) -> Callable[..., Any]:
        """Returns what makes a block."""
        return functools.partial(
            VisformerBlock,
            head_dim=round(self.widths[stage] // self.heads * self.head_ratios[stage]),
            heads=self.heads if self.attention[stage] else None,
            spatial=self.spatial[stage],
            drop_path=drop_path,
            **{name: getattr(self, name) for name in _PASSED_ON},
        )

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        x = Conv(self.stem_width, 7, 2, name="stem_0", **self.dtypes)(x)
        # A BatchNorm whatever the others are, as timm has it.
        x = call_norm(make_norm("batch", "stem_1", **self.dtypes), x, train=train)
        return nn.relu(x)

    def _embed(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        size, number = self.patch_sizes[stage], stage + 1
        # What is no whole patch is not seen.
        x = x[:, : x.shape[1] // size * size, : x.shape[2] // size * size]
        options = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        options |= {"kernel_init": HeNormal(), "bias_init": zeros, "name": f"patch_embed{number}"}
        x = PatchEmbed(self.widths[stage], size, **options)(x, train)
        shape, init = (1, *x.shape[1:]), Normal(0.02)
        x = x + self.param(f"pos_embed{number}", init, shape, self.param_dtype).astype(x.dtype)
        drop = nn.Dropout(self.position_dropout, name=f"pos_drop{number}")
        return drop(x, deterministic=not train)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def grids(self) -> tuple[Grid, ...]:
        """The rows and columns of each stage's map."""
        grid, grids = tuple(-(-n // 2) for n in self.input_shape[:2]), []
        for size in self.patch_sizes:
            grid = (grid[0] // size, grid[1] // size)
            grids.append(grid)
        return tuple(grids)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        return {**super().head_options(), "kernel_init": Normal(0.02)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        sizes = ("layers", "widths", "patch_sizes")
        for name in sizes:
            check_widths(name, getattr(self, name))
        for ratio in self.head_ratios:
            check_number("head_ratios", ratio, above=0)
        lists = (*sizes, "attention", "spatial", "head_ratios")
        check_lengths(**{name: getattr(self, name) for name in lists})
        for name in ("stem_width", "heads", "groups"):
            check_size(name, getattr(self, name))
        for name in ("position_dropout", "attention_dropout", "block_dropout", "drop_path"):
            check_rate(name, getattr(self, name))
        check_heads(self.widths, [self.heads] * len(self.widths))
        if len(self.input_shape) != 3 or min(self.grids()[-1]) < 1:
            raise ArgumentError(
                "input_shape must be (height, width, channels), of at least "
                f"{2 * math.prod(self.patch_sizes) - 1} pixels along each side, got "
                f"{self.input_shape}"
            )


def _resize(positions: Any, shape: Any, _backbone: Any, _old: Any, _new: Any) -> Any:
    """Positions for images of another size; see ``flaxzoo.models.reference.Resize``."""
    return resample_map(positions, shape[1:3])


variants(
    Visformer,
    {
        "visformer_tiny": row("Visformer-Ti", widths=(96, 192, 384), stem_width=16, heads=3),
        "visformer_small": row("Visformer-S", widths=(192, 384, 768), stem_width=32, heads=6),
    },
    paper="https://arxiv.org/abs/2104.12533",
    reference=Reference(
        stem=("stem_0",),
        classifier="head",
        layouts=(("params/backbone/pos_embed?", "map"),),
        resized=(("params/backbone/pos_embed?", _resize),),
        gain=1.0,
    ),
)
