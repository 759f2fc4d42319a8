"""LeViT: attention between the stages of a convolutional network, for fast inference.

Convolutions shrink the image to few tokens, each stage's attention has biases by distance instead
of positions, and attention whose queries are every other cell leads to the next stage. All layers
have BatchNorms, which inference can fold into them. Names and numbers are those of timm's
``levit`` module.

References:
  LeViT: https://arxiv.org/abs/2104.01136
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lists, check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.initializers import Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.offset_bias import NAME, offset_bias, resample_offsets
from flaxzoo.layers.patch_embed import check_image_size
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.models.backbone import Backbone, Part, tokens_to_map
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What modules get from the network as it is.
_PASSED_ON = ("key_width", "as_conv", "activation", "norm", "norm_epsilon", "dtype", "param_dtype")


class LevitModule(Layer):
    """The fields that the modules of a LeViT share.

    Attributes:
      grid: the rows and columns of what comes in.
      heads: the number of heads.
      key_width: the width of a head's queries and keys.
      value_ratio: the width of its values, as a multiple of that.
      mlp_ratio: the hidden units of the MLP, as a multiple of the width.
      as_conv: whether layers are 1 x 1 convolutions of maps, instead of dense ones of tokens.
      activation: by name or callable.
      attention_activation: that before attention's last layer; None for the same.
      norm: by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      drop_path: the rate at which an example's branches are dropped.
    """

    grid: Grid = (14, 14)
    heads: int = 4
    key_width: int = 16
    value_ratio: float = 2.0
    mlp_ratio: float = 2.0
    as_conv: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "hard_swish"
    attention_activation: str | Callable[[jax.Array], jax.Array] | None = None
    norm: Any = "batch"
    norm_epsilon: float | None = None
    drop_path: float = 0.0

    @nn.nowrap
    def layer(self, features: int, name: str, scale_init: Any = ones) -> ConvNorm:
        """Makes a layer and its norm."""
        return ConvNorm(
            features,
            as_dense=not self.as_conv,
            norm=self.norm,
            norm_epsilon=self.norm_epsilon,
            names=("linear", "bn"),
            scale_init=scale_init,
            name=name,
            **self.dtypes,
        )

    def add(self, x: jax.Array, branch: jax.Array, name: str, train: bool) -> jax.Array:
        """Drops a branch of some examples, and adds the others."""
        if self.drop_path:
            branch = DropPath(self.drop_path, name=name)(branch, deterministic=not train)
        return x + branch


class LevitAttention(LevitModule):
    """Attention with biases by distance, of all cells or of every ``stride``-th.

    Parameters are named as timm's: ``qkv``, or ``kv`` and ``q.ln`` where there is a stride;
    ``proj.ln`` and ``attention_biases``.

    Attributes:
      features: the width of the output.
      stride: the distance of the cells that ask, which are those that remain.
    """

    features: int = 128
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to ``[B, N', features]``, or maps ``[B, H, W, C]`` likewise.

        Raises:
          ShapeError: there is another number of cells than ``grid`` has.
        """
        if math.prod(x.shape[1:-1]) != math.prod(self.grid):
            raise ShapeError(
                f"the block takes a grid of {self.grid[0]} x {self.grid[1]}, got {list(x.shape)}"
            )
        key, value = self.key_width, int(self.value_ratio * self.key_width)
        if self.stride == 1:
            q, k, v = self.split(self.layer(self.heads * (2 * key + value), "qkv")(x, train), 2)
        else:
            k, v = self.split(self.layer(self.heads * (key + value), "kv")(x, train), 1)
            (q,) = self.split(self.layer(self.heads * key, "q_ln")(self.sparse(x), train), 0)
        options: dict[str, Any] = {"stride": self.stride, "param_dtype": self.param_dtype}
        bias = offset_bias(self, self.grid, self.heads, **options)
        y = attend(q, k, v, mask=bias, drop=weight_hook(self, 0.0, train))
        if self.as_conv:
            rows, columns = (-(-length // self.stride) for length in self.grid)
            y = y.reshape(y.shape[0], rows, columns, y.shape[-1])
        y = as_activation(self.attention_activation or self.activation)(y)
        # A block begins as the identity; what leads to the next stage has no shortcut.
        return self.layer(self.features, "proj_ln", zeros if self.stride == 1 else ones)(y, train)

    @nn.nowrap
    def split(self, y: jax.Array, keys: int) -> list[jax.Array]:
        """Returns ``keys`` parts of the width of keys of each head, and the rest, ``[B, N, H, D]``.

        Without keys, that rest are queries.
        """
        y = y.reshape(y.shape[0], math.prod(y.shape[1:-1]), self.heads, y.shape[-1] // self.heads)
        return jnp.split(y, [self.key_width * i for i in range(1, keys + 1)], axis=-1)

    @nn.nowrap
    def sparse(self, x: jax.Array) -> jax.Array:
        """Returns every ``stride``-th cell."""
        cells = x.reshape(x.shape[0], *self.grid, x.shape[-1])
        cells = cells[:, :: self.stride, :: self.stride]
        return cells if self.as_conv else cells.reshape(x.shape[0], -1, x.shape[-1])


class LevitMlp(LevitModule):
    """Two layers with their norms, ``ln1`` and ``ln2``, and an activation between them."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[..., C]`` to the same shape."""
        hidden = self.layer(int(x.shape[-1] * self.mlp_ratio), "ln1")(x, train)
        hidden = as_activation(self.activation)(hidden)
        return self.layer(x.shape[-1], "ln2", zeros)(hidden, train)


class LevitBlock(LevitModule):
    """Attention and an MLP, each with a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]``, or maps ``[B, H, W, C]``, to the same shape."""
        fields = fields_of(self)
        attention = LevitAttention(features=x.shape[-1], name="attn", **fields)
        x = self.add(x, attention(x, train), "drop_path1", train)
        return self.add(x, LevitMlp(name="mlp", **fields)(x, train), "drop_path2", train)


class LevitDownsample(LevitModule):
    """Attention of every other cell, without a shortcut, and an MLP with one.

    Attributes:
      features: the width of the output.
    """

    features: int = 256

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens or maps to those of half the rows and columns, rounded up."""
        fields = fields_of(self)
        options: dict[str, Any] = {"features": self.features, "stride": 2}
        x = LevitAttention(name="attn_downsample", **options, **fields)(x, train)
        return self.add(x, LevitMlp(name="mlp", **fields)(x, train), "drop_path", train)


def fields_of(module: LevitModule) -> dict[str, Any]:
    """Returns the fields that a module's parts have as well."""
    own = ("grid", "heads", "value_ratio", "mlp_ratio", "attention_activation")
    return {name: getattr(module, name) for name in (*own, *_PASSED_ON)}


class Levit(Backbone):
    """A LeViT without its classifiers: convolutions, and stages of blocks.

    It maps images ``[B, H, W, C]`` to tokens ``[B, N, C']``, or to maps ``[B, H', W', C']`` where
    layers are convolutions. Maps are those behind each stage.

    Attributes:
      input_shape: ``[H, W, C]`` of the images; height and width are multiples of ``stem_stride``.
      stem_stride: by how much the first convolutions shrink the image, 16 or 8.
      layers: the number of blocks of each stage.
      widths: the width of each stage's cells.
      heads: the number of heads of each stage. Attention between two stages has as many as keys
        fit the width before it.
      key_width: the width of a head's queries and keys.
      value_ratio: the width of its values, as a multiple of that; it is 4 between stages.
      mlp_ratio: the hidden units of each MLP, as a multiple of the width; it is 2 between stages.
      as_conv: whether layers are 1 x 1 convolutions of maps, instead of dense ones of tokens.
      distilled: whether classifiers have a second layer, which another network taught, and return
        the mean of both.
      distilled_training: whether these return both layers' logits in training, a pair, for a loss
        each: of the labels and of the teacher's. In inference it is always the mean.
      activation: by name or callable.
      attention_activation: that before attention's last layer; None for the same.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      drop_path: rate of stochastic depth, the same in all blocks.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    stem_stride: int = 16
    layers: Sequence[int] = (4, 4, 4)
    widths: Sequence[int] = (256, 384, 512)
    heads: Sequence[int] = (4, 6, 8)
    key_width: int = 32
    value_ratio: float = 2.0
    mlp_ratio: float = 2.0
    as_conv: bool = False
    distilled: bool = False
    distilled_training: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "hard_swish"
    attention_activation: str | Callable[[jax.Array], jax.Array] | None = None
    norm: Any = "batch"
    norm_epsilon: float | None = None
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def grids(self) -> tuple[Grid, ...]:
        """The rows and columns of each stage."""
        grids = [(self.input_shape[0] // self.stem_stride, self.input_shape[1] // self.stem_stride)]
        for _ in self.layers[1:]:
            rows, columns = grids[-1]
            grids.append((-(-rows // 2), -(-columns // 2)))
        return tuple(grids)

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The first convolutions, then the blocks ``stages_0_blocks_0`` and so on."""
        yield Part("stem", self._stem, owns=("stem",), takes="images")
        takes = "maps" if self.as_conv else "tokens"
        for i, (count, grid) in enumerate(zip(self.layers, self.grids(), strict=True)):
            stage = f"stages_{i}"
            if i:
                down, owns = functools.partial(self._downsample, i), (f"{stage}_downsample",)
                yield Part(f"{stage}_blocks_0", down, owns, takes=takes)
            fields = {**self.block_fields, "grid": grid, "heads": self.heads[i]}
            fields |= {"value_ratio": self.value_ratio, "mlp_ratio": self.mlp_ratio}
            view = functools.partial(tokens_to_map, height=grid[0], width=grid[1])
            for j in range(count):
                yield Part(
                    f"{stage}_blocks_{j}",
                    functools.partial(LevitBlock, **fields),
                    map=stage if j == count - 1 else None,
                    reduction=self.stem_stride << i,
                    view=None if self.as_conv else view,
                    takes=takes,
                    remat=self.remat,
                )

    @property
    def block_fields(self) -> dict[str, Any]:
        """The fields of all blocks."""
        own = ("attention_activation", "drop_path", *_PASSED_ON)
        return {name: getattr(self, name) for name in own}

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        names = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")
        options = {name: getattr(self, name) for name in names}
        count = self.stem_stride.bit_length() - 1
        x = LevitStem(self.widths[0], count, name="stem", **options)(x, train)
        return x if self.as_conv else x.reshape(x.shape[0], -1, x.shape[-1])

    def _downsample(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        before = stage - 1
        fields = {**self.block_fields, "grid": self.grids()[before], "value_ratio": 4.0}
        fields["heads"] = self.widths[before] // self.key_width
        name = f"stages_{stage}_downsample"
        return LevitDownsample(features=self.widths[stage], name=name, **fields)(x, train)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that averages the cells."""
        return {"pooling": "avg"}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, each of which has a BatchNorm."""
        options = {**self.pooling_options(), "kernel_init": Normal(0.02)}
        options["classifier_norm"] = "batch"
        if self.distilled:
            options["distilled"] = "pair" if self.distilled_training else "mean"
        return options

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return (f"stages_*/{NAME}",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        if self.stem_stride not in (8, 16):
            raise ArgumentError(f"stem_stride must be 8 or 16, got {self.stem_stride!r}")
        check_lists(self, "layers", "widths", "heads")
        check_size("key_width", self.key_width)
        if any(width < self.key_width for width in self.widths[:-1]):
            raise ArgumentError(
                f"widths before the last must be at least key_width={self.key_width}, since "
                f"attention between stages has widths // key_width heads, got {tuple(self.widths)}"
            )
        step = self.stem_stride // 2
        if self.widths[0] % step:
            raise ArgumentError(f"widths[0] must be a multiple of {step}, got {self.widths[0]}")
        size = self.input_shape
        whole = len(size) == 3 and not any(n % self.stem_stride for n in size[:2])
        if not whole or min(size[:2]) < 1:
            raise ArgumentError(
                "input_shape must be (height, width, channels), height and width multiples of "
                f"stem_stride={self.stem_stride}, got {size}"
            )
        if self.distilled_training and not self.distilled:
            raise ArgumentError("distilled_training=True takes distilled=True, got False")


class LevitStem(Layer):
    """Convolutions of stride 2, ``conv1`` and so on, each twice as wide as the one before.

    Attributes:
      features: the width of the output.
      count: how many there are.
      activation: between them, by name or callable.
      norm: behind each, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
    """

    features: int
    count: int = 4
    activation: str | Callable[[jax.Array], jax.Array] = "hard_swish"
    norm: Any = "batch"
    norm_epsilon: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to maps that are ``2**count`` times smaller."""
        for i in range(1, self.count + 1):
            x = ConvNorm(
                self.features >> (self.count - i),
                3,
                2,
                norm=self.norm,
                norm_epsilon=self.norm_epsilon,
                activation=self.activation if i < self.count else None,
                names=("linear", "bn"),
                name=f"conv{i}",
                **self.dtypes,
            )(x, train)
        return x


def _resize(stage: int, table: Any, _shape: Any, backbone: Any, old: Any, new: Any) -> Any:
    """Biases for images of another size; see ``flaxzoo.models.reference.Resize``."""

    def grid(size: Any) -> Grid:
        return backbone.clone(input_shape=(*size, backbone.input_shape[-1])).grids()[stage]

    return resample_offsets(table, grid(new), old_grid=None if old is None else grid(old))


# The biases of each stage by itself, more than any name has, and of what leads to the next one.
_BIASES = tuple(
    (f"params/backbone/stages_{i}_{name}/{NAME}", functools.partial(_resize, i - between))
    for i in range(8)
    for name, between in (("blocks_*/attn", 0), ("downsample/attn_downsample", 1))
    if i >= between
)
REFERENCE = Reference(
    stem=("stem/conv1/linear",),
    classifier="head.linear",
    head=(
        ("fc_norm", "head.bn"),
        ("fc_dist", "head_dist.linear"),
        ("fc_dist_norm", "head_dist.bn"),
    ),
    renamed=(("q_ln", "q.ln"), ("proj_ln", "proj.ln")),
    ignored=("*.num_batches_tracked", "*.attention_bias_idxs"),
    resized=_BIASES,
    # Branches are added to each other, and no norm stands between them.
    gain=1.0,
)

# What of timm's shortens the network, whose class does not say its keywords.
CUT = {"layers": "depth"}

# What names have in common: sizes, and another network's teaching.
_128S: dict[str, Any] = {
    "widths": (128, 256, 384),
    "heads": (4, 6, 8),
    "key_width": 16,
    "layers": (2, 3, 4),
}
_128: dict[str, Any] = {"widths": (128, 256, 384), "heads": (4, 8, 12), "key_width": 16}
_192: dict[str, Any] = {"widths": (192, 288, 384), "heads": (3, 5, 6)}
_256: dict[str, Any] = {"widths": (256, 384, 512), "heads": (4, 6, 8)}
_384: dict[str, Any] = {"widths": (384, 512, 768), "heads": (6, 9, 12)}
_384_S8: dict[str, Any] = {**_384, "activation": "silu", "stem_stride": 8}
_512: dict[str, Any] = {
    "widths": (512, 768, 1024),
    "heads": (8, 12, 16),
    "key_width": 64,
    "activation": "silu",
}
_512_S8: dict[str, Any] = {
    **_512,
    "widths": (512, 640, 896),
    "heads": (8, 10, 14),
    "stem_stride": 8,
}
_256D: dict[str, Any] = {**_256, "layers": (4, 8, 6), "activation": "silu"}
_512D: dict[str, Any] = {
    **_512,
    "widths": (512, 640, 768),
    "heads": (8, 10, 12),
    "layers": (4, 8, 6),
}

variants(
    Levit,
    {
        "levit_128s": row("LeViT-128S", distilled=True, **_128S),
        "levit_128": row("LeViT-128", distilled=True, **_128),
        "levit_192": row("LeViT-192", distilled=True, **_192),
        "levit_256": row("LeViT-256", distilled=True, **_256),
        "levit_384": row("LeViT-384", distilled=True, **_384),
        "levit_384_s8": row("LeViT-384, stem of stride 8", distilled=True, **_384_S8),
        "levit_512_s8": row("LeViT-512, stem of stride 8", **_512_S8),
        "levit_512": row("LeViT-512", **_512),
        "levit_256d": row("LeViT-256, deeper", **_256D),
        "levit_512d": row("LeViT-512, deeper", **_512D),
        "levit_conv_128s": row("LeViT-128S of convolutions", as_conv=True, distilled=True, **_128S),
        "levit_conv_128": row("LeViT-128 of convolutions", as_conv=True, distilled=True, **_128),
        "levit_conv_192": row("LeViT-192 of convolutions", as_conv=True, distilled=True, **_192),
        "levit_conv_256": row("LeViT-256 of convolutions", as_conv=True, distilled=True, **_256),
        "levit_conv_384": row("LeViT-384 of convolutions", as_conv=True, distilled=True, **_384),
        "levit_conv_384_s8": row(
            "LeViT-384 of convolutions, stem of stride 8", as_conv=True, distilled=True, **_384_S8
        ),
        "levit_conv_512_s8": row(
            "LeViT-512 of convolutions, stem of stride 8", as_conv=True, **_512_S8
        ),
        "levit_conv_512": row("LeViT-512 of convolutions", as_conv=True, **_512),
        "levit_conv_256d": row("LeViT-256 of convolutions, deeper", as_conv=True, **_256D),
        "levit_conv_512d": row("LeViT-512 of convolutions, deeper", as_conv=True, **_512D),
    },
    paper="https://arxiv.org/abs/2104.01136",
    reference=REFERENCE,
)
