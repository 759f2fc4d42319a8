"""MobileViT: inverted bottlenecks for phones, and attention among pixels of one place in a patch.

Attention sees every other pixel, so that a patch's four talk to those of other patches, and a
convolution before it lets neighbours talk. V2 replaces attention by one sum over the tokens, whose
cost grows with their number alone. Names and numbers are those of timm's ``mobilevit`` module.

References:
  MobileViT: https://arxiv.org/abs/2110.02178
  MobileViT V2: https://arxiv.org/abs/2206.02680
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import check_heads, weight_hook
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import divisible
from flaxzoo.layers.initializers import HeNormal, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.derivatives import softmax
from flaxzoo.layers.norm import make_norm
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What all blocks get from the network as it is, and what those that attend get besides.
_PASSED_ON = ("activation", "norm", "dtype", "param_dtype")
_ATTENTION = ("patch_size", "mlp_ratio", "attention_dropout", "block_dropout")


class _Layers(Layer):
    """The fields that the modules of a MobileViT share.

    Attributes:
      activation: by name or callable.
      norm: the kind of the convolutions' norms, by name or module (``flaxzoo.layers.norm``).
      drop_path: the rate at which a branch is dropped for a whole example (stochastic depth).
    """

    activation: str | Callable[[jax.Array], jax.Array] = "silu"
    norm: Any = "batch"
    drop_path: float = 0.0

    @nn.nowrap
    def layer(self, features: int, name: str, size: int = 1, **options: Any) -> ConvNorm:
        """Makes a convolution with its norm and activation."""
        init = HeNormal(groups=options.get("groups", 1))
        options = {"activation": self.activation, "kernel_init": init, **options, **self.dtypes}
        return ConvNorm(features, size, norm=self.norm, name=name, **options)


class InvertedBottleneck(_Layers):
    """A wide depthwise convolution between two layers, and a shortcut where shapes stay.

    Sandler et al. 2018 (MobileNet V2), https://arxiv.org/abs/1801.04381. Parameters are named as
    timm's ``BottleneckBlock``: ``conv1_1x1``, ``conv2_kxk``, ``conv3_1x1``.

    Attributes:
      features: the channels of the output.
      stride: by how much the output is smaller.
      expansion: how much wider it is inside, rounded to a multiple of 8.
    """

    features: int = 64
    stride: int = 1
    expansion: float = 4.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        hidden = divisible(x.shape[-1] * self.expansion)
        stays = self.stride == 1 and x.shape[-1] == self.features
        y = self.layer(hidden, "conv1_1x1")(x, train)
        y = self.layer(hidden, "conv2_kxk", 3, stride=self.stride, groups=hidden)(y, train)
        options: dict[str, Any] = {"activation": None, "scale_init": zeros if stays else ones}
        y = self.layer(self.features, "conv3_1x1", **options)(y, train)
        y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        return x + y if stays else y


class PixelBlock(TransformerBlock):
    """A ``TransformerBlock`` whose layers begin smaller."""

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns how its attention begins."""
        return {"kernel_init": Normal(0.01)}

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns how its MLP begins."""
        return {"kernel_init": Normal(0.01)}


class SeparableBlock(TransformerBlock):
    """A ``TransformerBlock`` of ``SeparableAttention``, whose layers are convolutions.

    It maps the tokens of each place in a patch, ``[B, places, patches, C]``, to the same shape.
    Parameters are named as timm's ``LinearTransformerBlock``.
    """

    def attention(self, x: jax.Array, name: str, train: bool, **positions: Any) -> jax.Array:
        """Mixes the tokens of each place."""
        rates = (self.attention_dropout, self.block_dropout)
        return SeparableAttention(*rates, name=name, **self.dtypes)(x, train)

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns that its layers are convolutions."""
        return {"as_conv": True, "kernel_init": HeNormal()}


class SeparableAttention(Layer):
    """Attention of one query to all tokens, which scales each of their values.

    Mehta and Rastegari 2022, https://arxiv.org/abs/2206.02680, section 3.1. Parameters are named as
    timm's ``LinearSelfAttention``: ``qkv_proj``, ``out_proj``. The softmax is float32 at least.

    Attributes:
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
    """

    attention_dropout: float = 0.0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, places, patches, C]`` to the same shape; each place has a query."""
        width = x.shape[-1]
        options: dict[str, Any] = {"use_bias": True, "dtype": self.dtype}
        options |= {"param_dtype": self.param_dtype}
        qkv = Conv(1 + 2 * width, 1, name="qkv_proj", **options)(x)
        q, k, v = jnp.split(qkv, [1, 1 + width], axis=-1)
        logits = jnp.swapaxes(q, 2, 3)
        weights = softmax(logits.astype(jnp.promote_types(q.dtype, jnp.float32))).astype(q.dtype)
        hook = weight_hook(self, self.attention_dropout, train)
        weights = weights if hook is None else hook(weights)
        context = jnp.einsum("bpqn,bpnc->bpqc", weights, k)
        y = Conv(width, 1, name="out_proj", **options)(nn.relu(v) * context)
        return nn.Dropout(self.dropout, name="out_drop")(y, deterministic=not train)


class MobileVitBlock(_Layers):
    """Convolutions around blocks of attention among the pixels of one place in a patch.

    Parameters are named as timm's ``MobileVitBlock``: ``conv_kxk``, ``conv_1x1``,
    ``transformer_0`` and so on, ``norm``, ``conv_proj``, ``conv_fusion``.

    Attributes:
      width: of the tokens.
      depth: the number of blocks of attention.
      heads: the number of heads of each.
      patch_size: height and width of a patch. A map whose sides it does not divide is enlarged,
        and made smaller again behind attention.
      mlp_ratio: the hidden units of each MLP, as a multiple of ``width``.
      attention_dropout: the rate at which attention's weights are dropped.
      block_dropout: the rate at which the units of attention and MLP are dropped.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
    """

    width: int = 144
    depth: int = 2
    heads: int = 4
    patch_size: int = 2
    mlp_ratio: float = 2.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        y = self.layer(x.shape[-1], "conv_kxk", 3)(x, train)
        y = Conv(self.width, 1, name="conv_1x1", **self.dtypes)(y)
        grid, whole = (x.shape[1], x.shape[2]), whole_patches(x, self.patch_size)
        tokens = split_places(bilinear(y, whole), self.patch_size)
        shape = tokens.shape
        tokens = tokens.reshape(shape[0] * shape[1], *shape[2:])
        y = self.mixed(tokens, PixelBlock, "layer", train).reshape(shape)
        y = bilinear(join_places(y, whole, self.patch_size), grid)
        y = self.layer(x.shape[-1], "conv_proj")(y, train)
        return self.layer(x.shape[-1], "conv_fusion", 3)(jnp.concatenate([x, y], axis=-1), train)

    def mixed(
        self, tokens: jax.Array, kind: type[TransformerBlock], norm: str, train: bool
    ) -> jax.Array:
        """Computes the blocks ``transformer_0`` and so on, and the norm behind them."""
        own = ("heads", "mlp_ratio", "activation", "attention_dropout", "block_dropout")
        fields = {name: getattr(self, name) for name in (*own, "drop_path", "implementation")}
        options: dict[str, Any] = {"norm": norm, "norm_epsilon": 1e-5, **fields, **self.dtypes}
        for i in range(self.depth):
            tokens = kind(name=f"transformer_{i}", **options)(tokens, train)
        return make_norm(norm, "norm", epsilon=1e-5, **self.dtypes)(tokens)


class MobileVitV2Block(MobileVitBlock):
    """Convolutions around blocks of separable attention, without a shortcut.

    Parameters are named as timm's ``MobileVitV2Block``: ``conv_kxk``, ``conv_1x1``,
    ``transformer_0`` and so on, ``norm``, ``conv_proj``. It has no ``heads`` and one
    ``implementation``; a map that is enlarged stays so.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to as many channels, of sides that ``patch_size`` divides."""
        whole = whole_patches(x, self.patch_size)
        x = bilinear(x, whole, corners=True)
        y = self.layer(x.shape[-1], "conv_kxk", 3, groups=x.shape[-1])(x, train)
        y = Conv(self.width, 1, name="conv_1x1", **self.dtypes)(y)
        tokens = split_places(y, self.patch_size)
        tokens = self.mixed(tokens, SeparableBlock, "group1", train)
        y = join_places(tokens, whole, self.patch_size)
        return self.layer(x.shape[-1], "conv_proj", activation=None)(y, train)


def whole_patches(x: jax.Array, size: int) -> Grid:
    """Returns the smallest height and width of whole patches that hold maps ``[B, H, W, C]``."""
    height, width = (-(-side // size) * size for side in x.shape[1:3])
    return height, width


def split_places(x: jax.Array, size: int) -> jax.Array:
    """Gathers what has one place in its patch: ``[B, H, W, C]`` to ``[B, places, patches, C]``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(batch, size * size, -1, channels)


def join_places(x: jax.Array, shape: Grid, size: int) -> jax.Array:
    """Puts maps of a height and width together again: the inverse of ``split_places``."""
    x = x.reshape(len(x), size, size, shape[0] // size, shape[1] // size, x.shape[-1])
    return x.transpose(0, 3, 1, 4, 2, 5).reshape(len(x), *shape, x.shape[-1])


def bilinear(x: jax.Array, size: Grid, *, corners: bool = False) -> jax.Array:
    """Interpolates maps ``[B, H, W, C]`` to another height and width, as PyTorch does.

    Args:
      x: maps.
      size: the height and width wanted.
      corners: whether the middles of corner pixels stay where they are (``align_corners``), or the
        edges of the map.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for rule, old, new in zip(("oh,bhwc->bowc", "ow,bhwc->bhoc"), x.shape[1:3], size, strict=True):
        if old != new:
            shares = jnp.asarray(_shares(old, new, corners), wide.dtype)
            wide = jnp.einsum(rule, shares, wide, precision="highest")
    return wide.astype(x.dtype)


@functools.lru_cache(maxsize=128)
def _shares(old: int, new: int, corners: bool) -> np.ndarray:
    """Returns how much each old place counts for each new one, ``[new, old]``."""
    places = np.arange(new)
    aligned = places * ((old - 1) / max(new - 1, 1))
    source = aligned if corners else (places + 0.5) * (old / new) - 0.5
    distances = source.clip(0, old - 1)[:, None] - np.arange(old)
    shares = np.maximum(1 - np.abs(distances), 0)
    shares.flags.writeable = False
    return shares


class MobileVit(Backbone):
    """A MobileViT without its classifier: a stem and stages, the later ones with attention.

    It maps images ``[B, H, W, C]`` of any size to the last map, ``[B, H / 32, W / 32, C]``, rounded
    up; in V2 to sides that ``patch_size`` divides. The first stage keeps the stem's size, and each
    other halves it.

    Attributes:
      layers: the number of inverted bottlenecks of each stage.
      widths: the channels of each stage.
      attention_layers: the number of blocks of attention behind them, in each stage.
      token_widths: the width of the tokens of each stage that attends; None for half the channels.
      stem_width: the channels of the stem.
      final_width: the channels of a last layer; None for none.
      expansion: how much wider the bottlenecks are inside.
      separable: whether attention is the separable one (V2).
      patch_size: height and width of the patches whose places attend apart.
      heads: the number of heads of each attention; the separable one has none.
      mlp_ratio: the hidden units of each MLP, as a multiple of the tokens' width.
      activation: by name or callable.
      norm: the kind of the convolutions' norms, by name or module (``flaxzoo.layers.norm``).
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLPs are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``); the separable one has
        but one.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (1, 3, 1, 1, 1)
    widths: Sequence[int] = (32, 64, 96, 128, 160)
    attention_layers: Sequence[int] = (0, 0, 2, 4, 3)
    token_widths: Sequence[int] | None = (144, 192, 240)
    stem_width: int = 16
    final_width: int | None = 640
    expansion: float = 4.0
    separable: bool = False
    patch_size: int = 2
    heads: int = 4
    mlp_ratio: float = 2.0
    activation: str | Callable[[jax.Array], jax.Array] = "silu"
    norm: Any = "batch"
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_0`` and so on, and the last layer."""
        own = {name: getattr(self, name) for name in _PASSED_ON}
        layer = {"kernel_init": HeNormal(), **own}
        stem = functools.partial(ConvNorm, self.stem_width, 3, 2, **layer)
        yield Part("stem", stem, takes="images")
        attention = {name: getattr(self, name) for name in (*_ATTENTION, "heads", "implementation")}
        counts = [own + bool(more) for own, more in zip(*self._depths(), strict=True)]
        rates, tokens = iter(drop_path_rates(self.drop_path, sum(counts))), iter(self._tokens())
        for i, count in enumerate(counts):
            for j in range(count):
                fields: dict[str, Any] = {"drop_path": next(rates), **own}
                if j < self.layers[i]:
                    kind: Any = InvertedBottleneck
                    fields |= {"features": self.widths[i], "stride": 2 if i and not j else 1}
                    fields |= {"expansion": self.expansion}
                else:
                    kind = MobileVitV2Block if self.separable else MobileVitBlock
                    fields |= {"width": next(tokens), "depth": self.attention_layers[i]}
                    fields |= attention
                name, options = f"stages_{i}_{j}", {"reduction": 2 ** (i + 1), "remat": self.remat}
                if j == count - 1 and not (self.final_width and i == len(counts) - 1):
                    options["map"] = f"stages_{i}"
                yield Part(name, functools.partial(kind, **fields), **options)
        if self.final_width:
            last = functools.partial(ConvNorm, self.final_width, **layer)
            options = {"map": "final_conv", "reduction": 2 ** len(counts)}
            yield Part("final_conv", last, depth=name, **options)

    @nn.nowrap
    def _depths(self) -> tuple[Sequence[int], Sequence[int]]:
        return self.layers, self.attention_layers

    @nn.nowrap
    def _tokens(self) -> Sequence[int]:
        """Returns the width of the tokens of each stage that attends."""
        if self.token_widths is not None:
            return self.token_widths
        pairs = zip(self.widths, self.attention_layers, strict=True)
        return [divisible(width / 2) for width, depth in pairs if depth]

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), "kernel_init": Normal(0.01)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("layers", "widths", "attention_layers")
        lists = {name: getattr(self, name) for name in names}
        for name in names[:2]:
            check_widths(name, lists[name])
        check_lengths(**lists)
        for depth in self.attention_layers:
            check_size("attention_layers", depth, minimum=0)
        attending = sum(map(bool, self.attention_layers))
        if self.token_widths is not None:
            check_widths("token_widths", self.token_widths, allow_empty=True)
            if len(self.token_widths) != attending:
                raise ArgumentError(
                    f"token_widths must have a width for each of {attending} stages that attend, "
                    f"got {tuple(self.token_widths)}"
                )
        for name in ("stem_width", "patch_size", "heads"):
            check_size(name, getattr(self, name))
        check_size("final_width", self.final_width, optional=True)
        for name in ("expansion", "mlp_ratio"):
            check_number(name, getattr(self, name), above=0)
        if not self.separable:
            tokens = tuple(self._tokens())
            check_heads(tokens, (self.heads,) * len(tokens))


_V2: dict[str, Any] = {
    "layers": (1, 2, 1, 1, 1),
    "token_widths": None,
    "final_width": None,
    "expansion": 2.0,
    "separable": True,
    "paper": "https://arxiv.org/abs/2206.02680",
}
variants(
    MobileVit,
    {
        "mobilevit_xxs": row(
            "MobileViT-XXS",
            widths=(16, 24, 48, 64, 80),
            token_widths=(64, 80, 96),
            final_width=320,
            expansion=2.0,
        ),
        "mobilevit_xs": row(
            "MobileViT-XS",
            widths=(32, 48, 64, 80, 96),
            token_widths=(96, 120, 144),
            final_width=384,
        ),
        "mobilevit_s": row("MobileViT-S"),
        "mobilevitv2_050": row(
            "MobileViT V2, half as wide", widths=(32, 64, 128, 192, 256), stem_width=16, **_V2
        ),
        "mobilevitv2_075": row(
            "MobileViT V2, 0.75 as wide", widths=(48, 96, 192, 288, 384), stem_width=24, **_V2
        ),
        "mobilevitv2_100": row(
            "MobileViT V2", widths=(64, 128, 256, 384, 512), stem_width=32, **_V2
        ),
        "mobilevitv2_125": row(
            "MobileViT V2, 1.25 as wide", widths=(80, 160, 320, 480, 640), stem_width=40, **_V2
        ),
        "mobilevitv2_150": row(
            "MobileViT V2, 1.5 as wide", widths=(96, 192, 384, 576, 768), stem_width=48, **_V2
        ),
        "mobilevitv2_175": row(
            "MobileViT V2, 1.75 as wide", widths=(112, 224, 448, 672, 896), stem_width=56, **_V2
        ),
        "mobilevitv2_200": row(
            "MobileViT V2, twice as wide", widths=(128, 256, 512, 768, 1024), stem_width=64, **_V2
        ),
    },
    paper="https://arxiv.org/abs/2110.02178",
    reference=Reference(stem=("stem/conv",), classifier="head.fc"),
)
