"""EfficientViT of Microsoft: small networks whose heads attend one after another, within windows.

Each head sees its own part of the channels and what the head before it found. Few blocks attend;
depthwise convolutions and layers on each pixel stand around them. Names and numbers are those of
timm's ``efficientvit_msra`` module.

References:
  EfficientViT: https://arxiv.org/abs/2305.07027
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import attend, check_heads
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import PLAIN, Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.offset_bias import NAME, offset_bias, resample_offsets
from flaxzoo.layers.windows import over_windows
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

_PATCH_SIZE = 16


class _Layers(Layer):
    """What the modules below share: their dtypes."""


class PatchEmbedding(_Layers, kw_only=True):
    """Four strided convolutions of 3 x 3 pixels, each of twice the channels of the one before.

    Attributes:
      features: the channels of the last.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 16, W / 16, features]``, rounded up."""
        for i in (1, 2, 3, 4):
            activation = "relu" if i < 4 else None
            options = {"stride": 2, "activation": activation, **self.dtypes}
            x = ConvNorm(self.features * 2**i // 16, 3, name=f"conv{i}", **options)(x, train)
        return x


class ConvMlp(_Layers):
    """Two layers on each pixel, ``pw1`` of twice the channels and ``pw2``, each with its norm."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        y = ConvNorm(2 * x.shape[-1], activation="relu", name="pw1", **self.dtypes)(x, train)
        return ConvNorm(x.shape[-1], scale_init=zeros, name="pw2", **self.dtypes)(y, train)


class CascadedGroupAttention(_Layers, kw_only=True):
    """Attention whose heads come one after another, each adding to the next one's channels.

    Liu et al. 2023, https://arxiv.org/abs/2305.07027, equations 2 to 4. Parameters are named as
    timm's module of this name: ``qkvs``, ``dws``, ``proj`` and ``attention_biases``.

    Attributes:
      heads: the number of heads, which share the channels.
      key_dim: the width of queries and keys.
      kernel_sizes: those of the depthwise convolution of each head's queries.
    """

    heads: int
    key_dim: int
    kernel_sizes: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps windows ``[B, rows, columns, C]`` to the same shape."""
        batch, rows, columns, width = x.shape
        dim, tokens = self.key_dim, rows * columns
        bias = offset_bias(self, (rows, columns), self.heads, param_dtype=self.param_dtype)
        outputs: list[jax.Array] = []
        for i, part in enumerate(jnp.split(x, self.heads, axis=-1)):
            part = part + outputs[-1] if i else part
            qkv = ConvNorm(2 * dim + part.shape[-1], name=f"qkvs_{i}", **self.dtypes)(part, train)
            q, k, v = jnp.split(qkv, (dim, 2 * dim), axis=-1)
            options = {"groups": dim, "name": f"dws_{i}", **self.dtypes}
            q = ConvNorm(dim, self.kernel_sizes[i], **options)(q, train)
            q, k, v = (y.reshape(batch, tokens, 1, y.shape[-1]) for y in (q, k, v))
            y = attend(q, k, v, mask=bias[:, i : i + 1])
            outputs.append(y.reshape(batch, rows, columns, y.shape[-1]))
        y = nn.relu(jnp.concatenate(outputs, axis=-1))
        return ConvNorm(width, scale_init=zeros, name="proj_1", **self.dtypes)(y, train)


class EfficientVitBlock(_Layers, kw_only=True):
    """Attention within windows between two pairs of a depthwise convolution and an MLP.

    Attributes:
      window: the side of a window.
      heads: the number of heads.
      key_dim: the width of queries and keys.
      kernel_sizes: those of the depthwise convolution of each head's queries.
      drop_path: the rate at which a branch is dropped for a whole example.
    """

    window: int
    heads: int
    key_dim: int
    kernel_sizes: Sequence[int]
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        attention = CascadedGroupAttention(
            heads=self.heads,
            key_dim=self.key_dim,
            kernel_sizes=self.kernel_sizes,
            name="mixer_m_attn",
            **self.dtypes,
        )
        size = (self.window, self.window)

        def mix(tokens: jax.Array, _mask: Any) -> jax.Array:
            windows = tokens.reshape(len(tokens), *size, tokens.shape[-1])
            return attention(windows, train).reshape(tokens.shape)

        x = mix_locally(self, x, "dw0_m", "ffn0_m", train, zeros)
        x = x + self.drop(over_windows(x, size, (0, 0), mix), "mixer_drop", train)
        return mix_locally(self, x, "dw1_m", "ffn1_m", train, zeros)

    def drop(self, y: jax.Array, name: str, train: bool) -> jax.Array:
        """Drops a branch of some examples."""
        return DropPath(self.drop_path, name=name)(y, deterministic=not train)


class Downsample(_Layers, kw_only=True):
    """Halves a map: an inverted bottleneck with a gate, between two pairs as a block's.

    Attributes:
      features: the channels of the smaller map.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        x = mix_locally(self, x, "res1_0_m", "res1_1_m", train)
        x = PatchMerging(features=self.features, name="patchmerge", **self.dtypes)(x, train)
        return mix_locally(self, x, "res2_0_m", "res2_1_m", train)

    def drop(self, y: jax.Array, name: str, train: bool) -> jax.Array:
        """Returns the branch: these are never dropped."""
        del name, train
        return y


class PatchMerging(_Layers, kw_only=True):
    """A strided depthwise convolution of four times the channels, gated.

    Attributes:
      features: the channels of the smaller map.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        hidden = 4 * x.shape[-1]
        options: dict[str, Any] = {"activation": "relu", **self.dtypes}
        x = ConvNorm(hidden, name="conv1", **options)(x, train)
        x = ConvNorm(hidden, 3, 2, hidden, name="conv2", **options)(x, train)
        x = SqueezeExcite(0.25, **PLAIN, name="se", **self.dtypes)(x)
        return ConvNorm(self.features, name="conv3", **self.dtypes)(x, train)


def mix_locally(
    module: Any, x: jax.Array, conv: str, mlp: str, train: bool, scale_init: Any = None
) -> jax.Array:
    """Adds a depthwise convolution and then an MLP to a map, as submodules of ``module``.

    Args:
      module: the bound module, which drops branches by its ``drop``.
      x: the map ``[B, H, W, C]``.
      conv: the name of the convolution.
      mlp: that of the MLP.
      train: whether this is a training step.
      scale_init: the initialiser of the convolution's norm; None for its own.
    """
    width = x.shape[-1]
    options = {"groups": width, **module.dtypes}
    if scale_init is not None:
        options["scale_init"] = scale_init
    y = ConvNorm(width, 3, name=conv, **options)(x, train)
    x = x + module.drop(y, f"{conv}_drop", train)
    y = ConvMlp(name=mlp, **module.dtypes)(x, train)
    return x + module.drop(y, f"{mlp}_drop", train)


class EfficientVitMsra(Backbone):
    """An EfficientViT without its classifier: four strided convolutions and three stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 64, W / 64, C]``, rounded up. Any size
    will do; ``input_shape`` says which window its attention has tables for.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the tables of the attention are for: windows are
        no larger than a stage's map of the shorter side.
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      heads: the number of heads of each stage's attention.
      key_dims: the width of each stage's queries and keys.
      windows: the side of each stage's windows.
      kernel_sizes: those of the depthwise convolutions of the queries, head by head.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0. timm's has
        none.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    layers: Sequence[int] = (1, 2, 3)
    widths: Sequence[int] = (64, 128, 192)
    heads: Sequence[int] = (4, 4, 4)
    key_dims: Sequence[int] = (16, 16, 16)
    windows: Sequence[int] = (7, 7, 7)
    kernel_sizes: Sequence[int] = (5, 5, 5, 5)
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The patches, then the blocks ``stages_0_blocks_0`` and so on, stage by stage."""
        embed = functools.partial(PatchEmbedding, features=self.widths[0], **self.dtypes)
        yield Part("patch_embed", embed, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        side = min(self.input_shape[:2]) // _PATCH_SIZE
        for i, count in enumerate(self.layers):
            stage = f"stages_{i}"
            if i:
                side = -(-side // 2)
                down, owns = functools.partial(self._down, i), (f"{stage}_downsample",)
                yield Part(f"{stage}_blocks_0", down, owns)
            block = functools.partial(
                EfficientVitBlock,
                window=min(self.windows[i], side),
                heads=self.heads[i],
                key_dim=self.key_dims[i],
                kernel_sizes=self.kernel_sizes,
                **self.dtypes,
            )
            for j in range(count):
                run = functools.partial(block, drop_path=next(rates))
                complete = stage if j == count - 1 else None
                reduction = _PATCH_SIZE * 2**i
                name = f"{stage}_blocks_{j}"
                yield Part(name, run, map=complete, reduction=reduction, remat=self.remat)

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        name = f"stages_{stage}_downsample"
        return Downsample(features=self.widths[stage], name=name, **self.dtypes)(x, train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, which have a BatchNorm of their own."""
        options = {"classifier_norm": "batch", "kernel_init": Normal(0.02)}
        return {**super().head_options(), **options}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return (f"*/{NAME}",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("layers", "widths", "heads", "key_dims", "windows")
        lists = {name: getattr(self, name) for name in names}
        for name, value in lists.items():
            check_widths(name, value)
        check_lengths(**lists)
        check_heads(self.widths, self.heads)
        check_widths("kernel_sizes", self.kernel_sizes)
        if len(self.kernel_sizes) < max(self.heads) or not all(n % 2 for n in self.kernel_sizes):
            raise ArgumentError(
                f"kernel_sizes must be odd and one for each of {max(self.heads)} heads, got "
                f"{tuple(self.kernel_sizes)}"
            )
        if self.widths[0] % 8:
            raise ArgumentError(f"widths must begin with a multiple of 8, got {self.widths[0]}")
        if len(self.input_shape) != 3 or min(self.input_shape[:2]) < _PATCH_SIZE:
            raise ArgumentError(
                f"input_shape must be (height, width, channels), of at least {_PATCH_SIZE} pixels "
                f"along each side, got {self.input_shape}"
            )


def _resize(table: Any, shape: Any, _backbone: Any, _old: Any, _new: Any) -> Any:
    """A file's table for windows of another size; see ``flaxzoo.models.reference.Resize``."""
    side = math.isqrt(shape[1])
    return resample_offsets(table, (side, side))


REFERENCE = Reference(
    stem=("patch_embed/conv1/conv",),
    classifier="head.linear",
    head=(("fc_norm", "head.bn"),),
    renamed=((r"(dw\d|ffn\d)_m", r"\1.m"), ("mixer_m_attn", "mixer.m.attn")),
    ignored=("*.num_batches_tracked", "*.attention_bias_idxs"),
    resized=((f"params/backbone/*/{NAME}", _resize),),
    gain=0.5,
)

variants(
    EfficientVitMsra,
    {
        "efficientvit_m0": row("EfficientViT-M0", widths=(64, 128, 192)),
        "efficientvit_m1": row(
            "EfficientViT-M1", widths=(128, 144, 192), heads=(2, 3, 3), kernel_sizes=(7, 5, 3, 3)
        ),
        "efficientvit_m2": row(
            "EfficientViT-M2", widths=(128, 192, 224), heads=(4, 3, 2), kernel_sizes=(7, 5, 3, 3)
        ),
        "efficientvit_m3": row("EfficientViT-M3", widths=(128, 240, 320), heads=(4, 3, 4)),
        "efficientvit_m4": row(
            "EfficientViT-M4", widths=(128, 256, 384), kernel_sizes=(7, 5, 3, 3)
        ),
        "efficientvit_m5": row(
            "EfficientViT-M5",
            layers=(1, 3, 4),
            widths=(192, 288, 384),
            heads=(3, 3, 4),
            kernel_sizes=(7, 5, 3, 3),
        ),
    },
    paper="https://arxiv.org/abs/2305.07027",
    reference=REFERENCE,
)
