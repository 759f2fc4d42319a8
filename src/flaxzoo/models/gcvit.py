"""GCViT: attention within windows, every other block with queries that have seen the whole image.

Convolutions and pooling make one window of queries of each stage's map; all windows of blocks with
odd numbers ask by these. Norms and gated convolutions stand between stages. Names and numbers are
those of timm's ``gcvit`` module.

References:
  GCViT: https://arxiv.org/abs/2206.09959
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import attend, check_heads, weight_hook
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import PLAIN, FanIn, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.patch_embed import check_image_size
from flaxzoo.layers.pool import max_pool
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.relative_position import NAME, RelativeTable, resample_table, table_length
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.layers.windows import join_windows, split_windows, stage_windows
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks and convolutions get from the network as it is.
_BLOCK = (
    *("mlp_ratio", "qkv_bias", "layer_scale", "attention_dropout", "block_dropout"),
    *("implementation", "activation", "norm", "norm_epsilon", "dtype", "param_dtype"),
)
_CONVOLUTION = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")
# timm's functions of names take no other depths.
CUT: dict[str, str] = {}
# Their weights' files.
_FILE = (
    "its weights are a file of timm's on GitHub, not on the Hub: pretrained= takes its path, once "
    "it is downloaded"
)
LEFT_OUT = {
    f"{name}.in1k": _FILE
    for name in ("gcvit_xxtiny", "gcvit_xtiny", "gcvit_tiny", "gcvit_small", "gcvit_base")
}


class _Convolutions(Layer):
    """The fields that the convolutions of a GCViT share.

    Attributes:
      activation: by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
    """

    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-5

    @nn.nowrap
    def conv(self, features: int, size: int, name: str, **options: Any) -> Conv:
        """Makes a convolution that begins as PyTorch's."""
        return Conv(features, size, kernel_init=FanIn(), name=name, **options, **self.dtypes)

    @nn.nowrap
    def fields(self) -> dict[str, Any]:
        """Returns what is passed on."""
        return {name: getattr(self, name) for name in _CONVOLUTION}


class GatedConvolution(_Convolutions):
    """A depthwise convolution, a gate and a layer on each pixel, added to the input.

    Parameters are named as timm's ``MbConvBlock``: ``conv_dw``, ``se``, ``conv_pw``.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        y = self.conv(x.shape[-1], 3, "conv_dw", groups=x.shape[-1])(x)
        y = as_activation(self.activation)(y)
        options: dict[str, Any] = {"activation": self.activation, **PLAIN}
        y = SqueezeExcite(0.25, use_bias=False, name="se", **options, **self.dtypes)(y)
        return x + self.conv(x.shape[-1], 1, "conv_pw")(y)


class Downsample(_Convolutions):
    """A gated convolution and a strided one between two norms.

    Parameters are named as timm's ``Downsample2d``: ``norm1``, ``conv_block``, ``reduction``,
    ``norm2``.

    Attributes:
      features: the channels of the output.
    """

    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        options: dict[str, Any] = {"epsilon": self.norm_epsilon, **self.dtypes}
        x = call_norm(make_norm(self.norm, "norm1", **options), x, train=train)
        x = GatedConvolution(name="conv_block", **self.fields())(x)
        x = self.conv(self.features, 3, "reduction", stride=2)(x)
        return call_norm(make_norm(self.norm, "norm2", **options), x, train=train)


class Stem(_Convolutions):
    """A strided convolution ``conv1`` and a ``Downsample`` named ``down``.

    Attributes:
      features: the channels of the output.
    """

    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to ``[B, H / 4, W / 4, features]``, rounded up."""
        bias: dict[str, Any] = {"use_bias": True, "bias_init": plain_bias}
        x = self.conv(self.features, 3, "conv1", stride=2, **bias)(x)
        return Downsample(features=self.features, name="down", **self.fields())(x, train)


class WindowQueries(_Convolutions):
    """Makes one window of queries of a whole map, by gated convolutions and maxima.

    Hatamizadeh et al. 2022, https://arxiv.org/abs/2206.09959, section 3.2. Parameters are named as
    timm's ``FeatureBlock``.

    Attributes:
      levels: how many times the map is halved.
    """

    levels: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, rows, columns, C]``."""
        for i in range(max(self.levels, 1)):
            x = GatedConvolution(name=f"blocks_conv{i + 1}", **self.fields())(x)
            x = max_pool(x) if self.levels else x
        return x


class WindowAttention(Layer):
    """Attention within windows with biases by relative position, by own queries or given ones.

    Parameters are named as timm's ``WindowAttentionGlobal``: ``qkv``, ``rel_pos``, ``proj``.

    Attributes:
      heads: the number of heads.
      window: the rows and columns of a window.
      qkv_bias: whether queries, keys and values have biases.
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (``flaxzoo.layers.attention.attend``).
    """

    heads: int = 2
    window: Grid = (7, 7)
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    dropout: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, queries: jax.Array | None = None
    ) -> jax.Array:
        """Maps the tokens of windows ``[B * windows, N, C]`` to the same shape.

        Args:
          x: tokens, the windows of an image one after another.
          train: whether weights and outputs are dropped.
          queries: those of each image, ``[B, N, C]``; None for the tokens' own.
        """
        count, width = (3 if queries is None else 2), x.shape[-1]
        options = dict(PLAIN)
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        parts = Dense(count * width, use_bias=self.qkv_bias, name="qkv", **options)(x)
        *q, k, v = jnp.split(parts, count, axis=-1)
        if queries is not None:
            q = [jnp.repeat(queries.astype(k.dtype), len(x) // len(queries), axis=0)]
        heads = (part.reshape(*x.shape[:2], self.heads, -1) for part in (*q, k, v))
        bias = RelativeTable(self.heads, param_dtype=self.param_dtype, name="rel_pos")(self.window)
        drop = weight_hook(self, self.attention_dropout, train)
        y = attend(*heads, mask=bias, drop=drop, implementation=self.implementation)
        y = Dense(width, name="proj", **options)(y)
        return nn.Dropout(self.dropout, name="proj_drop")(y, deterministic=not train)


class GlobalContextBlock(TransformerBlock):
    """A ``TransformerBlock`` of maps, which attends within windows.

    Attributes:
      window: the rows and columns of a window.
    """

    window: Grid = (7, 7)

    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool = False, queries: jax.Array | None = None
    ) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape.

        Args:
          x: maps of whole windows.
          train: whether weights, units and branches are dropped.
          queries: one window of them for each image, ``[B, rows, columns, C]``; None for own ones.
        """
        windows = split_windows(self.normalise(x, "norm1"), self.window)
        names = ("heads", "window", "qkv_bias", "attention_dropout", "implementation")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        attention = WindowAttention(
            dropout=self.block_dropout, name="attn", **fields, **self.dtypes
        )
        tokens = windows.reshape(len(windows), -1, x.shape[-1])
        asked = None if queries is None else queries.reshape(len(queries), -1, x.shape[-1])
        y = attention(tokens, train, asked).reshape(windows.shape)
        y = join_windows(y, (x.shape[1], x.shape[2]))
        x = x + self.branch(y, "ls1", "drop_path1", train)
        options: dict[str, Any] = {"activation": self.activation, "dropout": self.block_dropout}
        options |= {**PLAIN, **self.dtypes}
        mlp = Mlp(int(x.shape[-1] * self.mlp_ratio), name="mlp", **options)
        return x + self.branch(mlp(self.normalise(x, "norm2"), train), "ls2", "drop_path2", train)


class GlobalContextVit(Backbone):
    """A GCViT without its classifier: a stem and stages, and a norm behind the last block.

    It maps images ``[B, H, W, C]`` to the last map, ``[B, H / 32, W / 32, C]`` for four stages. A
    stage is one whole, whose windows share their queries.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the windows are for; the sides are multiples of
        32.
      layers: the number of blocks of each stage; those with odd numbers, from 0, share queries.
      width: the channels of the first stage; each other has twice as many as the one before.
      heads: the number of heads of each stage.
      window_ratios: by how much the windows of each stage are smaller than the image.
      window_size: the rows and columns of windows themselves: a number or a pair for all stages, or
        one of these for each; None for what the ratios give.
      mlp_ratio: the hidden units of the MLPs, as a multiple of the width.
      qkv_bias: whether queries, keys and values have biases.
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      activation: by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLPs are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    layers: Sequence[int] = (3, 4, 19, 5)
    width: int = 64
    heads: Sequence[int] = (2, 4, 8, 16)
    window_ratios: Sequence[int] = (32, 32, 16, 32)
    window_size: int | Sequence[Any] | None = None
    mlp_ratio: float = 3.0
    qkv_bias: bool = True
    layer_scale: float | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-5
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the stages ``stages_0`` and so on."""
        yield Part("stem", self._stem, owns=("stem",), takes="images")
        rates, start = drop_path_rates(self.drop_path, sum(self.layers)), 0
        for i, count in enumerate(self.layers):
            name = f"stages_{i}"
            owns = [f"{name}_global_block", *(f"{name}_blocks_{j}" for j in range(count))]
            owns = [f"{name}_downsample", *owns] if i else owns
            owns += [f"{name}_norm"] if i == len(self.layers) - 1 else []
            stage = functools.partial(self._stage, i, rates[start : start + count])
            yield Part(name, stage, owns=tuple(owns), map=name, reduction=4 << i)
            start += count

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        fields: dict[str, Any] = {name: getattr(self, name) for name in _CONVOLUTION}
        return Stem(features=self.width, name="stem", **fields)(x, train)

    def _stage(self, stage: int, rates: Sequence[float], x: jax.Array, train: bool) -> jax.Array:
        name, window = f"stages_{stage}", self.windows()[stage]
        fields: dict[str, Any] = {field: getattr(self, field) for field in _CONVOLUTION}
        if stage:
            features = 2 * x.shape[-1]
            x = Downsample(features=features, name=f"{name}_downsample", **fields)(x, train)
        levels = query_levels((x.shape[1], x.shape[2]), window)
        queries = WindowQueries(levels=levels, name=f"{name}_global_block", **fields)(x)
        own: dict[str, Any] = {field: getattr(self, field) for field in _BLOCK}
        own |= {"heads": self.heads[stage], "window": window}
        for j, rate in enumerate(rates):
            kind = self.stored(GlobalContextBlock, self.remat)
            block = kind(drop_path=rate, name=f"{name}_blocks_{j}", **own)
            x = block(x, train, queries if j % 2 else None)
        if stage < len(self.layers) - 1:
            return x
        norm = make_norm(self.norm, f"{name}_norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def grids(self) -> tuple[Grid, ...]:
        """The rows and columns of the map of each stage."""
        return tuple(
            (self.input_shape[0] // (4 << i), self.input_shape[1] // (4 << i))
            for i in range(len(self.layers))
        )

    @nn.nowrap
    def windows(self) -> tuple[Grid, ...]:
        """The rows and columns of the windows of each stage."""
        if self.window_size is not None:
            return stage_windows(self.window_size, len(self.layers))
        height, width = self.input_shape[:2]
        return tuple((height // ratio, width // ratio) for ratio in self.window_ratios)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return (f"*/{NAME}",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "heads")}
        if self.window_size is None:
            lists["window_ratios"] = self.window_ratios
        for name, value in lists.items():
            check_widths(name, value)
        check_lengths(**lists)
        check_widths("width", (self.width,))
        check_heads([self.width << i for i in range(len(self.layers))], self.heads)
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        check_widths("input_shape", self.input_shape)
        side = 2 << len(self.layers)
        if len(self.input_shape) != 3 or any(n % side for n in self.input_shape[:2]):
            raise ArgumentError(
                f"input_shape must be (height, width, channels) of multiples of {side}, got "
                f"{self.input_shape}"
            )
        for grid, window in zip(self.grids(), self.windows(), strict=True):
            fits = all(
                side and not length % side for length, side in zip(grid, window, strict=True)
            )
            if not fits or query_size(grid, query_levels(grid, window)) != window:
                raise ArgumentError(
                    f"windows of {window[0]} x {window[1]} do not fit a map of {grid[0]} x "
                    f"{grid[1]}, which must be 1, 2, 4 or more of them along both sides: give "
                    "another window_size, window_ratios or input_shape"
                )
        own = {name: getattr(self, name) for name in _BLOCK}
        GlobalContextBlock(heads=1, parent=None, **own).check_fields()


def query_levels(grid: Grid, window: Grid) -> int:
    """Returns how many times a map is halved until it is as large as a window."""
    return int(math.log2(min(grid) / min(window)))


def query_size(grid: Grid, levels: int) -> Grid:
    """Returns the rows and columns of a map that is halved, rounded up."""
    return -(-grid[0] // 2**levels), -(-grid[1] // 2**levels)


def _resize(stage: int, table: Any, _shape: Any, backbone: Any, old: Any, new: Any) -> Any:
    """Biases for images of another size; see ``flaxzoo.models.reference.Resize``."""

    def window(size: Any) -> Grid:
        windows = backbone.clone(input_shape=(*size, backbone.input_shape[-1])).windows()
        return windows[stage]

    old_window = None if old is None else window(old)
    if old_window is not None and table_length(old_window, False) != table.shape[0]:
        old_window = None
    return resample_table(table, window(new), old_grid=old_window)


REFERENCE = Reference(
    stem=("stem/conv1",),
    classifier="head.fc",
    renamed=((r"blocks_(conv\d+)", r"blocks.\1"),),
    # The biases of each stage by itself, of more stages than any name has.
    resized=tuple(
        (f"params/backbone/stages_{i}_blocks_*/{NAME}", functools.partial(_resize, i))
        for i in range(8)
    ),
    # Branches are added to each other, and no norm stands between them.
    gain=1.0,
)
variants(
    GlobalContextVit,
    {
        "gcvit_xxtiny": row("GCViT-XXT", layers=(2, 2, 6, 2)),
        "gcvit_xtiny": row("GCViT-XT", layers=(3, 4, 6, 5)),
        "gcvit_tiny": row("GCViT-T"),
        "gcvit_small": row(
            "GCViT-S", width=96, heads=(3, 6, 12, 24), mlp_ratio=2.0, layer_scale=1e-5
        ),
        "gcvit_base": row(
            "GCViT-B", width=128, heads=(4, 8, 16, 32), mlp_ratio=2.0, layer_scale=1e-5
        ),
    },
    paper="https://arxiv.org/abs/2206.09959",
    reference=REFERENCE,
)
