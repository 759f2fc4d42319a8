"""TinyViT: convolutions, and attention within windows, as small as phones want them.

The first stage has inverted bottlenecks; the others attend within windows, with a bias by distance,
and a depthwise convolution between attention and MLP lets windows talk. Names and numbers are those
of timm's ``tiny_vit`` module.

References:
  TinyViT: https://arxiv.org/abs/2207.10666
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lists, check_rate, check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import attend, check_heads, head_width, weight_hook
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.offset_bias import NAME, offset_bias, resample_offsets
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.windows import over_windows, stage_windows
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks get from the network as it is.
_PASSED_ON = (
    *("mlp_ratio", "local_kernel_size", "activation", "norm", "norm_epsilon"),
    *("block_dropout", "implementation", "dtype", "param_dtype"),
)


class Convolutions(Layer):
    """Convolutions, each with a BatchNorm, and what they have in common.

    Attributes:
      features: the width of the output.
      activation: between them, by name or callable.
    """

    features: int
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"

    @nn.nowrap
    def conv(
        self, number: int, features: int, size: int, *, last: bool = False, **options: Any
    ) -> ConvNorm:
        """Makes the convolution ``conv1`` and so on; an activation follows all but the last."""
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options["activation"] = None if last else self.activation
        return ConvNorm(features, size, name=f"conv{number}", **options)


class Stem(Convolutions):
    """Two 3 x 3 convolutions of stride 2."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to ``[B, H / 4, W / 4, features]``, rounded up."""
        x = self.conv(1, self.features // 2, 3, stride=2)(x, train)
        return self.conv(2, self.features, 3, stride=2, last=True)(x, train)


class PatchMerging(Convolutions):
    """Widens maps, halves them by a depthwise convolution, and mixes their channels."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        x = self.conv(1, self.features, 1)(x, train)
        x = self.conv(2, self.features, 3, stride=2, groups=self.features)(x, train)
        return self.conv(3, self.features, 1, last=True)(x, train)


class InvertedBottleneck(Convolutions):
    """A wide depthwise convolution between two layers, and a shortcut (MobileNetV2).

    Sandler et al. 2018, https://arxiv.org/abs/1801.04381.

    Attributes:
      ratio: how much wider it is inside.
      drop_path: the rate at which an example's branch is dropped.
    """

    ratio: float = 4.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        hidden = int(x.shape[-1] * self.ratio)
        y = self.conv(1, hidden, 1)(x, train)
        y = self.conv(2, hidden, 3, groups=hidden)(y, train)
        y = self.conv(3, self.features, 1, last=True, scale_init=zeros)(y, train)
        if self.drop_path:
            y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        return as_activation(self.activation)(x + y)


class NormMlp(Mlp):
    """An ``Mlp`` with a norm before it, named ``norm``.

    Attributes:
      first_norm: this norm, by name or module.
    """

    first_norm: Any = "layer"

    def hidden_units(self, x: jax.Array) -> jax.Array:
        """Computes what stands between the two layers, of what is normalised."""
        norm = make_norm(self.first_norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return super().hidden_units(call_norm(norm, x, train=False))


class WindowAttention(Layer):
    """Attention among the tokens of a window, behind a norm and with biases by distance.

    Parameters are named as timm's: ``norm``, ``qkv``, ``proj`` and ``attention_biases``.

    Attributes:
      heads: the number of heads.
      window: the rows and columns of a window.
      norm: by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
    """

    heads: int
    window: Grid = (7, 7)
    norm: Any = "layer"
    norm_epsilon: float | None = 1e-5
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps windows ``[B, N, C]`` to the same shape.

        Raises:
          ShapeError: C is no multiple of ``heads``.
        """
        width = head_width(x, self.heads)
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        y = call_norm(norm, x, train=False)
        options: dict[str, Any] = {"kernel_init": Normal(0.02), **self.dtypes}
        qkv = Dense(3 * x.shape[-1], name="qkv", **options)(y)
        # Queries, keys and values of a head stand side by side.
        qkv = qkv.reshape(*x.shape[:2], self.heads, 3 * width)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        bias = offset_bias(self, self.window, self.heads, param_dtype=self.param_dtype)
        drop = weight_hook(self, 0.0, train)
        y = attend(q, k, v, mask=bias, drop=drop, implementation=self.implementation)
        return Dense(x.shape[-1], name="proj", **options)(y)


class TinyVitBlock(Layer):
    """Attention within windows, a depthwise convolution, and an MLP.

    Attributes:
      heads: the number of heads.
      window: the rows and columns of a window.
      mlp_ratio: the hidden units of the MLP, as a multiple of the width.
      local_kernel_size: of the convolution.
      activation: of the MLP, by name or callable.
      norm: before attention and MLP, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      block_dropout: rate at which the MLP's units are dropped.
      drop_path: the rate at which an example's branches are dropped.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
    """

    heads: int
    window: Grid = (7, 7)
    mlp_ratio: float = 4.0
    local_kernel_size: int = 3
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float | None = 1e-5
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        shared = {"norm_epsilon": self.norm_epsilon, **self.dtypes}
        attention = WindowAttention(
            self.heads,
            self.window,
            norm=self.norm,
            implementation=self.implementation,
            name="attn",
            **shared,
        )
        y = over_windows(x, self.window, (0, 0), lambda tokens, _: attention(tokens, train))
        x = x + self.drop(y, "drop_path1", train)
        width = x.shape[-1]
        options: dict[str, Any] = {"groups": width, "name": "local_conv", **self.dtypes}
        x = ConvNorm(width, self.local_kernel_size, **options)(x, train)
        mlp = NormMlp(
            int(width * self.mlp_ratio),
            activation=self.activation,
            dropout=self.block_dropout,
            first_norm=self.norm,
            name="mlp",
            **shared,
        )
        return x + self.drop(mlp(x, train), "drop_path2", train)

    def drop(self, branch: jax.Array, name: str, train: bool) -> jax.Array:
        """Drops a branch of some examples."""
        if not self.drop_path:
            return branch
        return DropPath(self.drop_path, name=name)(branch, deterministic=not train)


class TinyVit(Backbone):
    """A TinyViT without its classifier: convolutions, and stages of blocks.

    It maps images ``[B, H, W, C]`` of any size to ``[B, H / 32, W / 32, C']``. Maps are those
    behind each stage.

    Attributes:
      layers: the number of blocks of each stage, the first of which has convolutions alone.
      widths: the width of each stage.
      heads: the number of heads of each stage; the first one's is not used.
      window_size: the side of a window, or its rows and columns; or one of these for each stage.
      conv_ratio: how much wider the first stage's blocks are inside.
      mlp_ratio: the hidden units of each MLP, as a multiple of its stage's width.
      local_kernel_size: of the convolutions between attention and MLP.
      activation: by name or callable.
      norm: the kind of all norms but the BatchNorms of convolutions, by name or module
        (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon.
      block_dropout: rate at which the units of MLPs are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (2, 2, 6, 2)
    widths: Sequence[int] = (96, 192, 384, 576)
    heads: Sequence[int] = (3, 6, 12, 18)
    window_size: int | Sequence[Any] = (7, 7, 14, 7)
    conv_ratio: float = 4.0
    mlp_ratio: float = 4.0
    local_kernel_size: int = 3
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-5
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The first convolutions, then the blocks ``stages_0_blocks_0`` and so on."""
        fields = {"activation": self.activation, **self.dtypes}
        stem = functools.partial(Stem, self.widths[0], **fields)
        yield Part("patch_embed", stem, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for i, (count, width) in enumerate(zip(self.layers, self.widths, strict=True)):
            stage = f"stages_{i}"
            if i:
                merge, owns = functools.partial(self._merge, i), (f"{stage}_downsample",)
                yield Part(f"{stage}_blocks_0", merge, owns)
            bottleneck = functools.partial(
                InvertedBottleneck, width, ratio=self.conv_ratio, **fields
            )
            block = self.block(i) if i else bottleneck
            for j in range(count):
                yield Part(
                    f"{stage}_blocks_{j}",
                    functools.partial(block, drop_path=next(rates)),
                    map=stage if j == count - 1 else None,
                    reduction=4 << i,
                    remat=self.remat,
                )

    @nn.nowrap
    def block(self, stage: int) -> Callable[..., nn.Module]:
        """Returns what makes the blocks of a stage, but for their rate of stochastic depth."""
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        window = stage_windows(self.window_size, len(self.layers))[stage]
        return functools.partial(TinyVitBlock, self.heads[stage], window, **fields)

    def _merge(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        merging = functools.partial(PatchMerging, self.widths[stage], activation=self.activation)
        return merging(name=f"stages_{stage}_downsample", **self.dtypes)(x, train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers: averages, a norm, and a layer."""
        norm = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        return {**super().head_options(), **norm, "kernel_init": Normal(0.02)}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return (f"stages_*/attn/{NAME}",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths", "heads")
        check_heads(self.widths[1:], self.heads[1:])
        stage_windows(self.window_size, len(self.layers))
        check_size("local_kernel_size", self.local_kernel_size)
        for name in ("block_dropout", "drop_path"):
            check_rate(name, getattr(self, name))
        if self.local_kernel_size % 2 == 0 or self.widths[0] % 2:
            raise ArgumentError(
                "local_kernel_size must be odd and widths[0] even, got "
                f"{self.local_kernel_size} and {self.widths[0]}"
            )


def _resize(stage: int, table: Any, _shape: Any, backbone: TinyVit, _old: Any, _new: Any) -> Any:
    """Biases for windows of another size; see ``flaxzoo.models.reference.Resize``."""
    # Windows that are not square are not told by a file.
    return resample_offsets(table, stage_windows(backbone.window_size, len(backbone.layers))[stage])


REFERENCE = Reference(
    stem=("patch_embed/conv1/conv",),
    classifier="head.fc",
    head=(("norm", "head.norm"),),
    ignored=("*.num_batches_tracked", "*.attention_bias_idxs"),
    # Of each stage by itself, more than any name has.
    resized=tuple(
        (f"params/backbone/stages_{stage}_blocks_*/attn/{NAME}", functools.partial(_resize, stage))
        for stage in range(1, 8)
    ),
)

variants(
    TinyVit,
    {
        "tiny_vit_5m_224": row("TinyViT-5M", widths=(64, 128, 160, 320), heads=(2, 4, 5, 10)),
        "tiny_vit_11m_224": row("TinyViT-11M", widths=(64, 128, 256, 448), heads=(2, 4, 8, 14)),
        "tiny_vit_21m_224": row("TinyViT-21M"),
        "tiny_vit_21m_384": row("TinyViT-21M at 384", window_size=(12, 12, 24, 12)),
        "tiny_vit_21m_512": row("TinyViT-21M at 512", window_size=(16, 16, 32, 16)),
    },
    paper="https://arxiv.org/abs/2207.10666",
    reference=REFERENCE,
)
