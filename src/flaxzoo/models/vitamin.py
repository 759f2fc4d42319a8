"""ViTamin: two stages of inverted bottlenecks, then a vision transformer with gated MLPs.

Convolutions take an image to a grid of patches of 16 x 16, and blocks of attention follow. The
weights are the image towers of CLIP models. Names and numbers are those of timm's ``vitamin``
module.

References:
  ViTamin: https://arxiv.org/abs/2404.02132
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxzoo._checks import check_number, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.gates import divisible
from flaxzoo.layers.initializers import PLAIN, HeNormal, Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import LayerNorm, call_norm, make_norm
from flaxzoo.layers.patch_embed import check_image_size
from flaxzoo.layers.pool import neighbour_mean
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.tokens import patch_tokens
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import PatchBackbone, resize_positions
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("heads", "mlp_ratio", "activation", "norm", "norm_epsilon", "attention_dropout"),
    *("block_dropout", "implementation", "dtype", "param_dtype"),
)


class ConvLayers(Layer):
    """What the convolutions share: their fields and layers.

    Attributes:
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      activation: by name or callable.
    """

    norm: Any = "layer"
    norm_epsilon: float | None = None
    activation: Any = "gelu"

    @property
    def fields(self) -> dict[str, Any]:
        """The fields as keywords of a module inside."""
        own = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        return {**own, "activation": self.activation, **self.dtypes}

    def conv(self, x: jax.Array, features: int, size: int, name: str, **options: Any) -> jax.Array:
        """Convolves."""
        init = HeNormal(groups=options.get("groups", 1))
        options = {"use_bias": True, "kernel_init": init, **options, **self.dtypes}
        return Conv(features, size, name=name, **options)(x)

    def normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Normalises the last axis."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    def activate(self, x: jax.Array) -> jax.Array:
        """Applies the activation."""
        return as_activation(self.activation)(x)


class Bottleneck(ConvLayers):
    """A norm and an inverted bottleneck, added to the input.

    Parameters are named as timm's ``MbConvLNBlock``.

    Attributes:
      features: the channels of the output.
      stride: 2 halves the map.
    """

    features: int = 64
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        hidden = divisible(4 * self.features)
        y = self.normalise(x, "pre_norm", train)
        y = self.activate(self.conv(y, hidden, 1, "conv1_1x1"))
        options = {"groups": hidden, "stride": self.stride}
        y = self.activate(self.conv(y, hidden, 3, "conv2_kxk", **options))
        y = self.conv(y, self.features, 1, "conv3_1x1")
        if self.stride > 1:
            x = Halving(self.features, name="shortcut", **self.dtypes)(x)
        elif x.shape[-1] != self.features:
            x = self.conv(x, self.features, 1, "shortcut")
        return x + y


class Halving(Layer):
    """Averages of 3 x 3 pixels, of those there are, and a convolution where channels change.

    Attributes:
      features: the channels of the output.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        x = neighbour_mean(x, 3, stride=2)
        if x.shape[-1] == self.features:
            return x
        return Conv(self.features, 1, use_bias=True, name="expand", **self.dtypes)(x)


class Stem(ConvLayers):
    """Two convolutions of 3 x 3, the first of stride 2, a norm and an activation between them.

    Attributes:
      features: the channels of both.
    """

    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        x = self.conv(x, self.features, 3, "conv1", stride=2)
        x = self.activate(self.normalise(x, "norm1", train))
        return self.conv(x, self.features, 3, "conv2")


class Pool(ConvLayers):
    """A norm and a convolution of stride 2.

    Attributes:
      features: the channels of the output.
    """

    features: int = 384

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        options = {"stride": 2, **PLAIN}
        return self.conv(self.normalise(x, "norm", train), self.features, 3, "proj", **options)


class ConvStages(ConvLayers):
    """The convolutions: a stem, stages of bottlenecks, and what makes patches of the last map.

    Parameters are named as timm's ``MbConvStages``.

    Attributes:
      layers: the number of bottlenecks of each stage.
      widths: their channels, of which the stem has the first.
      features: the channels of a patch.
    """

    layers: Sequence[int] = (2, 4)
    widths: Sequence[int] = (64, 128)
    features: int = 384

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to patches ``[B, rows, columns, features]``, rounded up."""
        x = Stem(features=self.widths[0], name="stem", **self.fields)(x, train)
        for stage, (count, width) in enumerate(zip(self.layers, self.widths, strict=True)):
            for i in range(count):
                own: dict[str, Any] = {"features": width, "stride": 1 if i else 2}
                block = Bottleneck(name=f"stages_{stage}_{i}", **own, **self.fields)
                x = block(x, train)
        return Pool(features=self.features, name="pool", **self.fields)(x, train)


class PatchConvolutions(ConvStages):
    """These in a submodule ``backbone``, as timm has them."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to patches ``[B, rows, columns, features]``, rounded up."""
        own: dict[str, Any] = {"layers": self.layers, "widths": self.widths}
        own |= {"features": self.features}
        return ConvStages(name="backbone", **own, **self.fields)(x, train)


class GatedMlp(Layer):
    """A norm, and two layers on each token, the first gated by another one.

    Parameters are named as timm's ``GeGluMlp``: ``norm``, ``w0``, ``w1``, ``w2``.

    Attributes:
      hidden: the hidden units.
      activation: of the gates, by name or callable.
      dropout: the rate at which hidden units and outputs are dropped.
    """

    hidden: int
    activation: Any = "gelu"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[..., C]`` to the same shape."""
        width = x.shape[-1]
        dense: Any = functools.partial(
            Dense, kernel_init=Normal(0.02), bias_init=zeros, **self.dtypes
        )
        x = LayerNorm(name="norm", **self.dtypes)(x)
        gate = as_activation(self.activation)(dense(self.hidden, name="w0")(x))
        y = gate * dense(self.hidden, name="w1")(x)
        if self.dropout:
            y = nn.Dropout(self.dropout, name="drop1")(y, deterministic=not train)
        y = dense(width, name="w2")(y)
        if self.dropout:
            y = nn.Dropout(self.dropout, name="drop2")(y, deterministic=not train)
        return y


class GatedBlock(TransformerBlock):
    """A block with a ``GatedMlp``."""

    def feed_forward(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Maps each token by itself."""
        fields = {"activation": self.activation, "dropout": self.block_dropout, **self.dtypes}
        return GatedMlp(int(x.shape[-1] * self.mlp_ratio), name=name, **fields)(x, train)


class Vitamin(PatchBackbone):  # type: ignore[misc]
    """A ViTamin without its classifier: convolutions, positions, blocks, and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, N, width]``. Maps are those behind each block.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for.
      dynamic_size: whether images of any other size are taken, too, and the positions resampled.
      conv_layers: the number of bottlenecks of each stage of convolutions.
      conv_widths: their channels, of which the stem has the first.
      width: of a token.
      depth: number of blocks.
      heads: the number of heads of attention.
      mlp_ratio: the hidden units of the MLPs, as a multiple of the width.
      activation: of convolutions and MLPs, by name or callable.
      positions: whether there are learnt positions.
      pooling: as a ``Head``'s, for those with ``pooling="auto"``.
      fc_norm: whether the last norm stands behind the pooling; None: where averages or maxima are
        pooled.
      norm: the kind of the norms but those within the MLPs, by name or module.
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped before the blocks.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    dynamic_size: bool = False
    conv_layers: Sequence[int] = (2, 4)
    conv_widths: Sequence[int] = (64, 128)
    width: int = 384
    depth: int = 14
    heads: int = 6
    mlp_ratio: float = 2.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    positions: bool = True
    pooling: str | None = "avg"
    fc_norm: bool | None = None
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    # No fields: convolutions make patches of one size, and no token comes before them.
    patch_size = 16
    position_prefix = False

    @property
    def prefix(self) -> int:
        """The number of tokens before those of the patches."""
        return 0

    @nn.nowrap
    def grid_of(self, shape: tuple[int, ...]) -> Grid:
        """The rows and columns of patches of images ``[H, W, ...]``."""
        return -(-shape[0] // self.patch_size), -(-shape[1] // self.patch_size)

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The tokens, the blocks ``blocks_0`` and so on, and the last norm."""
        # Of the images that come in: those of a dynamic size have another one.
        grid = list(self.grid)

        def embed(x: jax.Array, train: bool) -> jax.Array:
            x = self._patches(x, train)
            grid[:] = x.shape[1:3]
            return self._tokens(x, train)

        yield Part("embed", embed, owns=("patch_embed", "pos_embed"), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            yield Part(
                f"blocks_{i}",
                functools.partial(GatedBlock, drop_path=rate, **fields),
                takes="tokens",
                map=f"blocks_{i}",
                reduction=self.reduction,
                view=lambda x: tokens_to_map(x, grid[0], grid[1]),
                remat=self.remat,
            )
        if not self.norm_pooled:
            last = f"blocks_{self.depth - 1}"
            yield Part("norm", self.normalise, owns=("norm",), takes="tokens", depth=last)

    def _patches(self, x: jax.Array, train: bool) -> jax.Array:
        if not self.dynamic_size:
            check_image_size(x, self.input_shape, ", or dynamic_size=True")
        fields: dict[str, Any] = {"layers": self.conv_layers, "widths": self.conv_widths}
        fields |= {"activation": self.activation, "norm": self.norm, **self.dtypes}
        fields |= {"norm_epsilon": self.norm_epsilon, "features": self.width}
        return PatchConvolutions(name="patch_embed", **fields)(x, train)

    def _tokens(self, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"class_token": False, "position_prefix": False}
        options |= {"learnt": self.positions, "old_grid": self.grid}
        x = patch_tokens(self, x, **options, param_dtype=self.param_dtype)
        return nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        norm = self.norm if self.norm_pooled else None
        options = {"norm": norm, "norm_epsilon": self.norm_epsilon, "kernel_init": Normal(0.02)}
        return {**self.pooling_options(), **options}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("pos_embed",) if self.positions else ()

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("conv_layers", "conv_widths")}
        for name, value in lists.items():
            check_widths(name, value)
            if len(value) != 2:
                raise ArgumentError(f"{name} must be two numbers, got {tuple(value)}")
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        if self.pooling in ("token", "prefix"):
            raise ArgumentError(
                f"pooling must be of patches, such as 'avg': there is no class token, got "
                f"{self.pooling!r}"
            )
        super().check_fields()


def _convert(tensors: Mapping[str, Any], _backbone: Vitamin) -> Mapping[str, Any]:
    """The image tower's tensors of OpenCLIP's files, whose projection is the classifier."""
    trunk = "visual.trunk."
    if f"{trunk}blocks.0.norm1.weight" not in tensors:
        return tensors
    tower = {
        name.removeprefix(trunk): value for name, value in tensors.items() if name.startswith(trunk)
    }
    kernel = tensors.get("visual.head.proj.weight")
    if kernel is not None:
        tower["head.weight"] = kernel
        tower["head.bias"] = np.zeros(kernel.shape[0], np.asarray(kernel).dtype)
    return tower


_BASE: dict[str, Any] = {"conv_widths": (128, 256), "width": 768, "heads": 12}
_LARGE: dict[str, Any] = {
    **{"conv_widths": (160, 320), "width": 1024},
    **{"depth": 31, "heads": 16},
}
_XLARGE: dict[str, Any] = {
    **{"conv_widths": (192, 384), "width": 1152},
    **{"depth": 32, "heads": 16, "positions": False},
}

variants(
    Vitamin,
    {
        "vitamin_small_224": row("ViTamin-S 224"),
        "vitamin_base_224": row("ViTamin-B 224", **_BASE),
        "vitamin_large_224": row("ViTamin-L 224", **_LARGE),
        "vitamin_large_256": row("ViTamin-L 256", input_shape=(256, 256, 3), **_LARGE),
        "vitamin_large_336": row("ViTamin-L 336", input_shape=(336, 336, 3), **_LARGE),
        "vitamin_large_384": row("ViTamin-L 384", input_shape=(384, 384, 3), **_LARGE),
        "vitamin_large2_224": row("ViTamin-L2 224", **_LARGE),
        "vitamin_large2_256": row("ViTamin-L2 256", input_shape=(256, 256, 3), **_LARGE),
        "vitamin_large2_336": row("ViTamin-L2 336", input_shape=(336, 336, 3), **_LARGE),
        "vitamin_large2_384": row("ViTamin-L2 384", input_shape=(384, 384, 3), **_LARGE),
        "vitamin_xlarge_256": row("ViTamin-XL 256", input_shape=(256, 256, 3), **_XLARGE),
        "vitamin_xlarge_336": row("ViTamin-XL 336", input_shape=(336, 336, 3), **_XLARGE),
        "vitamin_xlarge_384": row("ViTamin-XL 384", input_shape=(384, 384, 3), **_XLARGE),
    },
    paper="https://arxiv.org/abs/2404.02132",
    reference=Reference(
        stem=("patch_embed/backbone/stem/conv1",),
        classifier="head",
        head=(("norm", "fc_norm"),),
        convert=_convert,
        resized=(("params/backbone/pos_embed", resize_positions),),
    ),
)
