"""EfficientFormer V2: convolutional blocks, and attention in the last two stages, for phones.

Each MLP has a depthwise convolution; attention mixes its heads before and after the softmax and
adds a convolution of the values, at half the resolution in the third stage. Names and numbers are
those of timm's ``efficientformer_v2`` module.

References:
  EfficientFormer V2: https://arxiv.org/abs/2212.08059
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import PLAIN, Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import LayerScale, call_norm, make_norm
from flaxzoo.layers.offset_bias import NAME, offset_bias
from flaxzoo.layers.patch_embed import check_image_size
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What modules get from the network as it is.
_PASSED_ON = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")


class _Layers(Layer):
    """The fields that the modules of an EfficientFormer V2 share.

    Attributes:
      activation: by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
    """

    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    norm_epsilon: float = 1e-5

    @nn.nowrap
    def layer(self, features: int, name: str, size: int = 1, **options: Any) -> ConvNorm:
        """Makes a convolution with its norm."""
        own = {field: getattr(self, field) for field in _PASSED_ON[1:]}
        return ConvNorm(features, size, use_bias=True, name=name, **own, **options)


class MixedAttention(_Layers):
    """Attention whose heads are mixed before and after the softmax (``talking heads``).

    Shazeer et al. 2020, https://arxiv.org/abs/2003.02436. Parameters are named as timm's
    ``Attention2d``: ``stride_conv``, ``q``, ``k``, ``v``, ``v_local``, ``talking_head1``,
    ``talking_head2``, ``attention_biases``, ``proj``.

    Attributes:
      heads: the number of heads.
      key_width: the width of a head's queries and keys.
      value_ratio: the width of its values, as a multiple of that.
      halved: whether the map that attends has half of each side, and the result is enlarged.
    """

    heads: int = 8
    key_width: int = 32
    value_ratio: int = 4
    halved: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width, values = x.shape[-1], self.heads * self.key_width * self.value_ratio
        if self.halved:
            x = self.layer(width, "stride_conv", 3, stride=2, groups=width)(x, train)
        batch, *grid, _ = x.shape
        q, k = (self.layer(self.heads * self.key_width, name)(x, train) for name in "qk")
        v = self.layer(values, "v")(x, train)
        local = self.layer(values, "v_local", 3, groups=values)(v, train)
        q, k, v = (part.reshape(batch, math.prod(grid), self.heads, -1) for part in (q, k, v))
        weights = self._weights(q, k, (grid[0], grid[1])).astype(v.dtype)
        y = jnp.einsum("bqkh,bkhd->bqhd", weights, v).reshape(batch, *grid, values) + local
        if self.halved:
            size = (batch, 2 * grid[0], 2 * grid[1], values)
            y = jax.image.resize(y, size, "linear", antialias=False)
        return self.layer(width, "proj")(as_activation(self.activation)(y), train)

    def _weights(self, q: jax.Array, k: jax.Array, grid: Grid) -> jax.Array:
        """Returns how much each key counts, ``[B, Q, K, heads]``."""
        wide = jnp.promote_types(q.dtype, jnp.float32)
        q = q * jnp.asarray(self.key_width**-0.5, q.dtype)
        logits = jnp.einsum("bqhd,bkhd->bqkh", q, k, preferred_element_type=wide)
        bias = offset_bias(self, grid, self.heads, param_dtype=self.param_dtype)
        logits = logits + jnp.moveaxis(bias, 1, -1).astype(wide)
        options = dict(PLAIN)
        options["param_dtype"] = self.param_dtype
        logits = Dense(self.heads, name="talking_head1", **options)(logits)
        weights = nn.softmax(logits, axis=2)
        return Dense(self.heads, name="talking_head2", **options)(weights)


class PoolingAttention(_Layers):
    """Attention of every other pixel to all, which leads to a smaller map.

    Parameters are named as timm's ``Attention2dDownsample``: ``q.local``, ``q.proj``, ``k``, ``v``,
    ``v_local``, ``attention_biases``, ``proj``.

    Attributes:
      features: the channels of the output.
      heads: the number of heads.
      key_width: the width of a head's queries and keys.
      value_ratio: the width of its values, as a multiple of that.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (``flaxzoo.layers.attention.attend``).
    """

    features: int = 64
    heads: int = 8
    key_width: int = 16
    value_ratio: int = 4
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        keys, values = self.heads * self.key_width, self.heads * self.key_width * self.value_ratio
        own = {field: getattr(self, field) for field in _PASSED_ON}
        q = SparseQueries(features=keys, name="q", **own)(x, train)
        k, v = self.layer(keys, "k")(x, train), self.layer(values, "v")(x, train)
        local = self.layer(values, "v_local", 3, stride=2, groups=values)(v, train)
        q, k, v = (
            part.reshape(part.shape[0], math.prod(part.shape[1:3]), self.heads, -1)
            for part in (q, k, v)
        )
        grid = (x.shape[1], x.shape[2])
        bias = offset_bias(self, grid, self.heads, stride=2, param_dtype=self.param_dtype)
        drop = weight_hook(self, 0.0, train)
        y = attend(q, k, v, mask=bias, drop=drop, implementation=self.implementation)
        y = as_activation(self.activation)(y.reshape(local.shape) + local)
        return self.layer(self.features, "proj")(y, train)


class SparseQueries(_Layers):
    """Queries of every other pixel: itself, and a convolution around it.

    Attributes:
      features: the channels of the output.
    """

    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        options: dict[str, Any] = {"groups": x.shape[-1], "use_bias": True, **self.dtypes}
        options |= PLAIN
        local = Conv(x.shape[-1], 3, 2, name="local", **options)(x)
        return self.layer(self.features, "proj")(local + x[:, ::2, ::2], train)


class DepthwiseMlp(_Layers):
    """Two convolutions of one pixel and a depthwise one between them, each with its norm.

    Parameters are named as timm's ``ConvMlpWithNorm``: ``fc1``, ``mid``, ``fc2``.

    Attributes:
      hidden: the channels between them.
      dropout: the rate at which hidden units and outputs are dropped.
    """

    hidden: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        hidden, act = self.hidden, dict[str, Any](activation=self.activation)
        y = self.layer(hidden, "fc1", **act)(x, train)
        y = self.layer(hidden, "mid", 3, groups=hidden, **act)(y, train)
        y = nn.Dropout(self.dropout, name="drop1")(y, deterministic=not train)
        y = self.layer(x.shape[-1], "fc2")(y, train)
        return nn.Dropout(self.dropout, name="drop2")(y, deterministic=not train)


class EfficientFormerV2Block(_Layers):
    """An MLP, behind attention in some blocks; each is scaled and added to its input.

    Parameters are named as timm's: ``token_mixer``, ``ls1``, ``mlp``, ``ls2``.

    Attributes:
      attends: whether there is attention.
      heads: the number of its heads.
      halved: whether it is at half the resolution.
      mlp_ratio: the hidden units of the MLP, as a multiple of the width.
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      block_dropout: the rate at which the units of the MLP are dropped.
      drop_path: the rate at which a branch is dropped for a whole example (stochastic depth).
    """

    attends: bool = False
    heads: int = 8
    halved: bool = False
    mlp_ratio: float = 4.0
    layer_scale: float | None = 1e-5
    block_dropout: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        own = {field: getattr(self, field) for field in _PASSED_ON}
        if self.attends:
            options: dict[str, Any] = {"heads": self.heads, "halved": self.halved}
            mix = MixedAttention(name="token_mixer", **options, **own)
            x = self._add(x, mix(x, train), "1", train)
        hidden = int(x.shape[-1] * self.mlp_ratio)
        mlp = DepthwiseMlp(hidden=hidden, dropout=self.block_dropout, name="mlp", **own)
        return self._add(x, mlp(x, train), "2", train)

    def _add(self, x: jax.Array, y: jax.Array, number: str, train: bool) -> jax.Array:
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name=f"ls{number}", **self.dtypes)(y)
        drop = DropPath(self.drop_path, name=f"drop_path{number}")
        return x + drop(y, deterministic=not train)


class Stem(_Layers):
    """Two strided convolutions, ``conv1`` and ``conv2``, each with its norm and activation.

    Attributes:
      features: the channels of the output.
    """

    features: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 4, W / 4, features]``."""
        options: dict[str, Any] = {"stride": 2, "activation": self.activation}
        x = self.layer(self.features // 2, "conv1", 3, **options)(x, train)
        return self.layer(self.features, "conv2", 3, **options)(x, train)


class Downsample(_Layers):
    """A strided convolution ``conv``, and attention ``attn`` that is added to it in some stages.

    Attributes:
      features: the channels of the output.
      attends: whether there is attention.
      heads: the number of its heads.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
    """

    features: int = 64
    attends: bool = False
    heads: int = 8
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        y = self.layer(self.features, "conv", 3, stride=2)(x, train)
        if not self.attends:
            return y
        own = {field: getattr(self, field) for field in (*_PASSED_ON, "heads", "implementation")}
        return PoolingAttention(features=self.features, name="attn", **own)(x, train) + y


class EfficientFormerV2(Backbone):
    """An EfficientFormer V2 without its classifiers: a stem, four stages and the last norm.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, C]``.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the biases by distance are for; the sides are
        multiples of 32.
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      mlp_ratios: for each stage, the hidden units of its MLPs as a multiple of the width: a number,
        or one for each block.
      attending: how many blocks attend, the last ones of each stage from the third on.
      heads: the number of heads of each attention.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      distilled_training: whether the two classifiers return both logits in training, a pair, as
        timm does after ``set_distilled_training``.
      block_dropout: rate at which the units of the MLPs are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention that leads to the last stage
        (``flaxzoo.layers.attention.attend``); that of the blocks mixes its heads and has but one.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    layers: Sequence[int] = (2, 2, 6, 4)
    widths: Sequence[int] = (32, 48, 96, 176)
    mlp_ratios: Sequence[float | Sequence[float]] = (4, 4, 4, 4)
    attending: int = 2
    heads: int = 8
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    norm_epsilon: float = 1e-5
    layer_scale: float | None = 1e-5
    distilled_training: bool = False
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, and the last norm."""
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        yield Part("stem", self._stem, owns=("stem",), takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for i, count in enumerate(self.layers):
            stage, own = f"stages_{i}", self.mlp_ratios[i]
            ratios = (own,) * count if isinstance(own, int | float) else own
            if i:
                down, owns = functools.partial(self._down, i), (f"{stage}_downsample",)
                yield Part(f"{stage}_blocks_0", down, owns=owns, depth=stage)
            for j in range(count):
                block = functools.partial(
                    EfficientFormerV2Block,
                    attends=i >= 2 and j >= count - self.attending,
                    heads=self.heads,
                    halved=i == 2,
                    mlp_ratio=ratios[j],
                    layer_scale=self.layer_scale,
                    block_dropout=self.block_dropout,
                    drop_path=next(rates),
                    **fields,
                )
                options: dict[str, Any] = {"reduction": 4 * 2**i, "remat": self.remat}
                options["map"] = stage if j == count - 1 else None
                yield Part(f"{stage}_blocks_{j}", block, depth=stage, **options)
        yield Part("norm", self._norm, owns=("norm",), depth=stage)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        return Stem(features=self.widths[0], name="stem", **fields)(x, train)

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        own = (*_PASSED_ON, "heads", "implementation")
        fields = {name: getattr(self, name) for name in own}
        name = f"stages_{stage}_downsample"
        down = Downsample(features=self.widths[stage], attends=stage >= 3, name=name, **fields)
        return down(x, train)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Two classifiers, of which one was taught by another network."""
        distilled = "pair" if self.distilled_training else "mean"
        return {**super().head_options(), "distilled": distilled, "kernel_init": Normal(0.02)}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return (f"*/{NAME}",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "widths", "mlp_ratios")}
        check_widths("layers", self.layers)
        check_widths("widths", self.widths)
        check_lengths(**lists)
        for count, own in zip(self.layers, self.mlp_ratios, strict=True):
            ratios = (own,) * count if isinstance(own, int | float) else own
            for ratio in ratios:
                check_number("mlp_ratios", ratio, above=0)
            if len(ratios) != count:
                raise ArgumentError(
                    f"mlp_ratios must have a number, or one for each of {count} blocks, got {own}"
                )
        check_size("attending", self.attending, minimum=0)
        check_size("heads", self.heads)
        check_widths("input_shape", self.input_shape)
        side = 4 * 2 ** (len(self.layers) - 1)
        if len(self.input_shape) != 3 or any(n % side for n in self.input_shape[:2]):
            raise ArgumentError(
                f"input_shape must be (height, width, channels) of multiples of {side}, got "
                f"{self.input_shape}"
            )


def _resize(table: Any, shape: tuple[int, ...], _backbone: Any, old: Any, new: Any) -> Any:
    """Refuses a file's biases for images of another size, as timm does."""
    raise ShapeError(
        f"input_shape: these weights have biases for {table.shape[-1]} places, not {shape[-1]}, "
        f"and are not resampled{'' if old is None else f' from {old} to {new}'}: give get() the "
        "size of their images, or none"
    )


REFERENCE = Reference(
    stem=("stem/conv1/conv",),
    classifier="head",
    head=(("fc_dist", "head_dist"),),
    layouts=(("*/talking_head[12]/kernel", "pointwise"),),
    resized=((f"params/backbone/*/{NAME}", _resize),),
)

variants(
    EfficientFormerV2,
    {
        "efficientformerv2_s0": row(
            "EfficientFormer V2-S0", mlp_ratios=(4, 4, (4, 3, 3, 3, 4, 4), (4, 3, 3, 4))
        ),
        "efficientformerv2_s1": row(
            "EfficientFormer V2-S1",
            layers=(3, 3, 9, 6),
            widths=(32, 48, 120, 224),
            mlp_ratios=(4, 4, (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4)),
        ),
        "efficientformerv2_s2": row(
            "EfficientFormer V2-S2",
            layers=(4, 4, 12, 8),
            widths=(32, 64, 144, 288),
            mlp_ratios=(
                *(4, 4),
                (4, 4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4),
                (4, 4, 3, 3, 3, 3, 4, 4),
            ),
            attending=4,
            drop_path=0.02,
        ),
        "efficientformerv2_l": row(
            "EfficientFormer V2-L",
            layers=(5, 5, 15, 10),
            widths=(40, 80, 192, 384),
            mlp_ratios=(
                *(4, 4),
                (4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4),
                (4, 4, 4, 3, 3, 3, 3, 4, 4, 4),
            ),
            attending=6,
            drop_path=0.1,
        ),
    },
    paper="https://arxiv.org/abs/2212.08059",
    reference=REFERENCE,
)
