"""EfficientFormer: averages of neighbours, then a few blocks of attention, at a phone's speed.

A PoolFormer's blocks with BatchNorms, which inference can fold into the convolutions; the last
blocks of the last stage attend among 7 x 7 tokens, with biases by distance. Names and numbers are
those of timm's ``efficientformer`` module.

References:
  EfficientFormer: https://arxiv.org/abs/2206.01191
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lists, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import FanIn, Normal, plain_bias, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import LayerScale, call_norm, make_norm
from flaxzoo.layers.offset_bias import NAME, offset_bias
from flaxzoo.layers.patch_embed import check_image_size
from flaxzoo.layers.pool import neighbour_mean
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.models.backbone import Backbone, Part, tokens_to_map
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    "mlp_ratio",
    "activation",
    "layer_scale",
    "block_dropout",
    "dtype",
    "param_dtype",
)
# PyTorch's epsilon of layer norms.
_EPSILON = 1e-5


class OffsetAttention(Layer):
    """Self-attention with biases by distance, whose values are wider than its keys.

    Parameters are named as those of timm's ``Attention`` in this family: ``qkv``,
    ``attention_biases``, ``proj``.

    Attributes:
      grid: the rows and columns of the tokens.
      heads: the number of heads.
      key_width: the width of a head's queries and keys.
      value_ratio: the width of its values, as a multiple of that.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (``flaxzoo.layers.attention.attend``).
    """

    grid: Grid
    heads: int = 8
    key_width: int = 32
    value_ratio: int = 4
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape.

        Args:
          x: tokens.
          train: is of no consequence: nothing is dropped.
        """
        batch, count, width = x.shape
        key, value = self.key_width, self.value_ratio * self.key_width
        qkv = self._dense(self.heads * (2 * key + value), "qkv")(x)
        qkv = qkv.reshape(batch, count, self.heads, 2 * key + value)
        q, k, v = jnp.split(qkv, [key, 2 * key], axis=-1)
        bias = offset_bias(self, self.grid, self.heads, param_dtype=self.param_dtype)
        drop = weight_hook(self, 0.0, train)
        y = attend(q, k, v, mask=bias, drop=drop, implementation=self.implementation)
        return self._dense(width, "proj")(y)

    @nn.nowrap
    def _dense(self, features: int, name: str) -> Dense:
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options |= {"kernel_init": Normal(0.02), "bias_init": zeros}
        return Dense(features, name=name, **options)


class ConvNormMlp(Mlp):
    """An ``Mlp`` of 1 x 1 convolutions, each with a norm behind it, ``norm1`` and ``norm2``."""

    norm: Any = "batch"
    as_conv: bool = True
    kernel_init: Any = FanIn()
    bias_init: Any = plain_bias

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        y = self._normed(self.layer(self.hidden, "fc1")(x), "norm1", train)
        y = self.drop(as_activation(self.activation)(y), "drop1", train)
        y = self._normed(self.layer(x.shape[-1], "fc2")(y), "norm2", train)
        return self.drop(y, "drop2", train)

    def _normed(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)


class StridedConvs(Layer):
    """Strided 3 x 3 convolutions, each with a norm behind it.

    Parameters are named as timm's ``Stem4`` (``conv1``, ``norm1``, ``conv2``, ``norm2``) and
    ``Downsample`` (``conv``, ``norm``).

    Attributes:
      widths: the channels of each.
      numbered: whether their names have numbers, and a ReLU stands behind each norm.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
    """

    widths: Sequence[int]
    numbered: bool = False
    norm: Any = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to half of each side, rounded up, for each convolution."""
        for i, width in enumerate(self.widths, 1):
            number = str(i) if self.numbered else ""
            options: dict[str, Any] = {
                "use_bias": True,
                "kernel_init": FanIn(),
                "bias_init": plain_bias,
                **self.dtypes,
            }
            x = Conv(width, 3, 2, name=f"conv{number}", **options)(x)
            x = call_norm(make_norm(self.norm, f"norm{number}", **self.dtypes), x, train=train)
            x = nn.relu(x) if self.numbered else x
        return x


class EfficientFormerBlock(Layer):
    """A mixer and an MLP, each scaled and added to its input; of maps or of tokens.

    Parameters are named as timm's ``MetaBlock2d`` and ``MetaBlock1d``: ``token_mixer``, ``ls1``,
    ``mlp``, ``ls2`` and those of the norms.

    Attributes:
      grid: the rows and columns of the tokens that attend; None for averages of neighbours.
      drop_path: the rate at which a branch is dropped for a whole example (stochastic depth).

    The others are those of ``EfficientFormer``.
    """

    grid: Grid | None = None
    mlp_ratio: float = 4.0
    activation: Any = "gelu"
    norm: Any = "batch"
    layer_scale: float = 1e-5
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps maps ``[B, H, W, C]``, or tokens ``[B, N, C]`` where they attend, to their shape."""
        options: dict[str, Any] = {
            "activation": self.activation,
            "dropout": self.block_dropout,
        }
        hidden = int(x.shape[-1] * self.mlp_ratio)
        if self.grid is None:
            x = self._add(x, neighbour_mean(x, 3) - x, "1", train)
            mlp: Mlp = ConvNormMlp(hidden, norm=self.norm, name="mlp", **options, **self.dtypes)
            return self._add(x, mlp(x, train), "2", train)
        own = {"implementation": self.implementation, **self.dtypes}
        y = OffsetAttention(self.grid, name="token_mixer", **own)(self._normed(x, "norm1"), train)
        x = self._add(x, y, "1", train)
        mlp = Mlp(hidden, name="mlp", **options, **self.dtypes)
        return self._add(x, mlp(self._normed(x, "norm2"), train), "2", train)

    def _add(self, x: jax.Array, y: jax.Array, number: str, train: bool) -> jax.Array:
        y = LayerScale(self.layer_scale, name=f"ls{number}", **self.dtypes)(y)
        drop = DropPath(self.drop_path, name=f"drop_path{number}")
        return x + drop(y, deterministic=not train)

    def _normed(self, x: jax.Array, name: str) -> jax.Array:
        return make_norm("layer", name, epsilon=_EPSILON, **self.dtypes)(x)


class EfficientFormer(Backbone):
    """An EfficientFormer without its classifiers: a stem, four stages and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, H / 32 * W / 32, C]``.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the biases by distance are for.
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      attending: how many blocks of the last stage attend, the last ones; all, if it has no more.
      mlp_ratio: the hidden units of each MLP, as a multiple of the width.
      activation: of the MLPs, by name or callable.
      norm: the kind of the norms of maps, by name or module (``flaxzoo.layers.norm``); those of
        tokens are layer norms.
      layer_scale: what the learnt scales of the branches begin with.
      distilled_training: whether the two classifiers return both logits in training, a pair, as
        timm does after ``set_distilled_training``.
      block_dropout: rate at which the units of the MLPs are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    layers: Sequence[int] = (3, 2, 6, 4)
    widths: Sequence[int] = (48, 96, 224, 448)
    attending: int = 1
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    layer_scale: float = 1e-5
    distilled_training: bool = False
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @property
    def grid(self) -> Grid:
        """The rows and columns of the tokens that attend."""
        side = 4 * 2 ** (len(self.layers) - 1)
        return -(-self.input_shape[0] // side), -(-self.input_shape[1] // side)

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, and the last norm."""
        yield Part("stem", self._stem, owns=("stem",), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        last = len(self.layers) - 1
        to_map = functools.partial(tokens_to_map, height=self.grid[0], width=self.grid[1])
        for i, count in enumerate(self.layers):
            stage = f"stages_{i}"
            first = max(count - self.attending, 0) if i == last else count
            for j in range(count):
                # timm counts what turns maps to tokens as a block.
                name = f"{stage}_blocks_{j + (j >= first)}"
                if i and not j:
                    down = functools.partial(self._down, i)
                    yield Part(name, down, owns=(f"{stage}_downsample",), depth=stage)
                if j == first:
                    yield Part(name, _flat, owns=(), depth=stage)
                block = functools.partial(
                    EfficientFormerBlock,
                    grid=self.grid if j >= first else None,
                    norm=self.norm,
                    drop_path=next(rates),
                    implementation=self.implementation,
                    **fields,
                )
                yield Part(
                    name,
                    block,
                    map=stage if j == count - 1 else None,
                    reduction=4 * 2**i,
                    view=to_map if j >= first else None,
                    takes="tokens" if j > first else "maps",
                    depth=stage,
                    remat=self.remat,
                )
        yield Part("norm", self._norm, owns=("norm",), takes="tokens", depth=f"stages_{last}")

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        widths = (self.widths[0] // 2, self.widths[0])
        return StridedConvs(widths, True, self.norm, name="stem", **self.dtypes)(x, train)

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        name = f"stages_{stage}_downsample"
        down = StridedConvs((self.widths[stage],), False, self.norm, name=name, **self.dtypes)
        return down(x, train)

    def _norm(self, x: jax.Array, _train: bool) -> jax.Array:
        return make_norm("layer", "norm", epsilon=_EPSILON, **self.dtypes)(x)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that pools these tokens."""
        return {"pooling": "avg"}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Two classifiers, of which one was taught by another network."""
        distilled = "pair" if self.distilled_training else "mean"
        return {
            **super().head_options(),
            "distilled": distilled,
            "kernel_init": Normal(0.02),
        }

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return (f"*/{NAME}",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths")
        check_size("attending", self.attending)
        check_widths("input_shape", self.input_shape)
        if len(self.input_shape) != 3:
            raise ArgumentError(
                f"input_shape must be (height, width, channels), got {self.input_shape}"
            )


def _flat(x: jax.Array, _train: bool) -> jax.Array:
    """Returns maps ``[B, H, W, C]`` as tokens ``[B, H * W, C]``."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:3]), x.shape[3])


def _convert(tensors: Mapping[str, Any], _backbone: EfficientFormer) -> Mapping[str, Any]:
    """Timm's names for the tensors of the authors' files."""
    if "patch_embed.0.weight" not in tensors:
        return tensors
    stem = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}
    # Stages and what leads to them stand in one list.
    places = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("network.")})

    def name(old: str) -> str:
        old = re.sub(r"layer_scale_(\d)", r"ls\1.gamma", old).replace("dist_head", "head_dist")
        match = re.match(r"(patch_embed|network)\.(\d+)\.(.*)", old)
        if match is None:
            return old
        kind, place, rest = match.groups()
        if kind == "patch_embed":
            return f"stem.{stem[place]}.{rest}"
        number = places.index(int(place))
        if number % 2:
            return f"stages.{(number + 1) // 2}.downsample.{rest.replace('proj.', 'conv.')}"
        return f"stages.{number // 2}.blocks.{rest}"

    return {name(old): value for old, value in tensors.items()}


def _resize(table: Any, shape: tuple[int, ...], backbone: EfficientFormer, *_: Any) -> Any:
    """Refuses a file's biases for images of another size, as timm does."""
    if table.shape == shape and backbone.grid[0] == backbone.grid[1]:
        return table
    side = math.isqrt(table.shape[-1])
    raise ShapeError(
        f"input_shape: these weights attend on a grid of {side} x {side}, which is of images of "
        f"{32 * side} x {32 * side}: give get() that input_shape, or none"
    )


REFERENCE = Reference(
    stem=("stem/conv1",),
    classifier="head",
    head=(("fc_dist", "head_dist"),),
    convert=_convert,
    ignored=("*.num_batches_tracked", "*.attention_bias_idxs"),
    resized=((f"params/backbone/*/{NAME}", _resize),),
)

variants(
    EfficientFormer,
    {
        "efficientformer_l1": row("EfficientFormer-L1"),
        "efficientformer_l3": row(
            "EfficientFormer-L3",
            layers=(4, 4, 12, 6),
            widths=(64, 128, 320, 512),
            attending=4,
        ),
        "efficientformer_l7": row(
            "EfficientFormer-L7",
            layers=(6, 6, 18, 8),
            widths=(96, 192, 384, 768),
            attending=8,
        ),
    },
    paper="https://arxiv.org/abs/2206.01191",
    reference=REFERENCE,
)
