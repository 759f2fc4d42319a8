"""VOLO: vision transformers whose first blocks weigh neighbours without comparing them.

The weights of this outlook attention come from one pixel by a dense layer, not from products of
pairs, so that it is cheap on fine maps. Plain blocks follow on a coarser map, then two in which a
class token looks at it. Names and numbers are those of timm's ``volo`` module.

References:
  VOLO: https://arxiv.org/abs/2106.13112
  Token labelling: https://arxiv.org/abs/2104.10858
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_number, check_rate, check_size, check_widths
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import check_heads
from flaxzoo.layers.class_attention import ClassBlock
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import PLAIN, FanIn, Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.derivatives import softmax
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.patch_embed import check_image_size
from flaxzoo.layers.pool import shortcut_pool
from flaxzoo.layers.pos_embed import Grid, resample_map
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import LateTokenBackbone
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# The side of the neighbourhoods of outlook attention, and the distance between them.
_SIDE, _STRIDE = 3, 2
# What blocks get from the network as it is; those of attention among all also how it is computed.
_PASSED_ON = (
    *("mlp_ratio", "activation", "qkv_bias", "norm", "norm_epsilon", "attention_dropout"),
    *("implementation", "dtype", "param_dtype"),
)


class OutlookAttention(Layer):
    """Attention of the 3 x 3 pixels around every other pixel, whose weights this pixel says.

    Yuan et al. 2021, https://arxiv.org/abs/2106.13112, section 3.1. The mean of 2 x 2 pixels makes
    the weights of all 9 x 9 pairs of a neighbourhood, for each head; what the overlapping
    neighbourhoods find for a pixel is added up. The softmax is float32 at least. Parameters are
    named as timm's: ``v``, ``attn``, ``proj``.

    Attributes:
      heads: the number of heads.
      qkv_bias: whether values have biases.
      attention_dropout: the rate at which weights are dropped.
    """

    heads: int
    qkv_bias: bool = False
    attention_dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape.

        Raises:
          ShapeError: the width is no multiple of ``heads``.
        """
        width, area = x.shape[-1], _SIDE**2
        if width % self.heads:
            raise ShapeError(
                f"maps must have shape [B, H, W, C] with C a multiple of heads={self.heads}, got "
                f"{list(x.shape)}"
            )
        values = neighbourhoods(self._dense(width, "v", self.qkv_bias)(x))
        values = values.reshape(*values.shape[:4], self.heads, width // self.heads)
        logits = self._dense(area**2 * self.heads, "attn", True)(shortcut_pool(x, _STRIDE))
        logits = logits * jnp.asarray((width // self.heads) ** -0.5, logits.dtype)
        logits = logits.reshape(*logits.shape[:3], self.heads, area, area)
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        weights = softmax(logits.astype(wide)).astype(values.dtype)
        if self.attention_dropout:
            drop = nn.Dropout(self.attention_dropout, name="attn_drop")
            weights = drop(weights, deterministic=not train)
        # CPUs take a third of the time where the heads stand before the pixels.
        y = jnp.einsum("bhwnqk,bhwnkd->bhwnqd", weights, values.swapaxes(3, 4)).swapaxes(3, 4)
        y = overlapping_sum(y.reshape(*y.shape[:4], width), x.shape[1:3])
        return self._dense(width, "proj", True)(y)

    @nn.nowrap
    def _dense(self, features: int, name: str, use_bias: bool) -> Dense:
        options: dict[str, Any] = {"kernel_init": Normal(0.02), "bias_init": zeros}
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Dense(features, use_bias=use_bias, name=name, **options)


def neighbourhoods(x: jax.Array) -> jax.Array:
    """Returns the 3 x 3 pixels around every other pixel of ``[B, H, W, C]``; zeros stand outside.

    It is PyTorch's ``Unfold(3, padding=1, stride=2)``.

    Returns:
      ``[B, ceil(H / 2), ceil(W / 2), 9, C]``.
    """
    rows, columns = (_STRIDE * (-(-length // _STRIDE) - 1) + 1 for length in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pixels = [
        x[:, i : i + rows : _STRIDE, j : j + columns : _STRIDE]
        for i in range(_SIDE)
        for j in range(_SIDE)
    ]
    return jnp.stack(pixels, axis=3)


def overlapping_sum(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Adds up what neighbourhoods have for each pixel: the transpose of ``neighbourhoods``.

    It is PyTorch's ``Fold`` of the same sizes.

    Args:
      x: ``[B, ceil(H / 2), ceil(W / 2), 9, C]``.
      size: the height and width of the map.

    Returns:
      ``[B, H, W, C]``.
    """
    x = x.reshape(*x.shape[:3], _SIDE, _SIDE, x.shape[-1])
    zero = jnp.zeros((), x.dtype)
    # Along one axis after the other, which is six sums in place of nine.
    for axis, offsets in ((2, 4), (1, 3)):
        length, count = size[axis - 1], x.shape[axis]
        total: Any = 0
        for i in range(_SIDE):
            before = i - 1
            after = length - before - _STRIDE * (count - 1) - 1
            part = jax.lax.index_in_dim(x, i, offsets, keepdims=False)
            edges = [(0, 0, 0)] * part.ndim
            edges[axis] = (before, after, _STRIDE - 1)
            total = total + jax.lax.pad(part, zero, edges)
        x = total
    return x


class Outlooker(TransformerBlock):
    """A block of outlook attention; parameters are named as timm's ``Outlooker``."""

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the pixels ``[B, H, W, C]``."""
        own = ("heads", "qkv_bias", "attention_dropout")
        fields = {field: getattr(self, field) for field in own}
        return OutlookAttention(name=name, **fields, **self.dtypes)(x, train)


class PatchConv(Layer):
    """Patches without overlap to pixels, by a convolution ``proj`` that begins as PyTorch's.

    Attributes:
      features: the channels of the map.
      size: height and width of a patch.
    """

    features: int
    size: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H // size, W // size, features]``.

        What is no whole patch, below and at the right, is not seen.
        """
        return self.patches(x, self.size)

    def patches(self, x: jax.Array, size: int) -> jax.Array:
        """Computes the convolution of patches of this size."""
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options |= {"padding": 0, "use_bias": True, **PLAIN}
        return Conv(self.features, size, size, name="proj", **options)(x)


class ConvStem(PatchConv):
    """Images to patches by three convolutions, the first of them strided, and a strided one.

    Parameters are named as timm's ``PatchEmbed`` of this family: ``conv_0`` and so on, ``proj``.

    Attributes:
      width: the channels of the first three.
    """

    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / size, W / size, features]``."""
        for i, (size, stride) in enumerate(((7, 2), (3, 1), (3, 1))):
            options = {"kernel_init": FanIn(), "name": f"conv_{3 * i}", **self.dtypes}
            x = Conv(self.width, size, stride, **options)(x)
            norm = make_norm("batch", f"conv_{3 * i + 1}", **self.dtypes)
            x = nn.relu(call_norm(norm, x, train=train))
        return self.patches(x, self.size // 2)


class Volo(LateTokenBackbone):
    """A VOLO without its classifiers: stem, outlookers, blocks, the class token's, and a norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, 1 + rows * columns, C']``, the class token
    first. Maps are those behind each of the stages before it comes in, without the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for.
      patch_size: height and width of a patch of the first stage, even; of the others it is twice
        that.
      stem_width: the channels of the first convolutions.
      layers: the number of blocks of each stage, outlookers in the first and plain blocks in the
        others.
      widths: the channels of the first stage, and of the others.
      heads: the number of heads of the first stage, and of the others.
      class_depth: the number of blocks of the class token.
      mlp_ratio: the hidden units of each MLP, as a multiple of the width.
      activation: of the MLPs, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      norm: the kind of all norms but the stem's, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped behind the positions.
      attention_dropout: rate at which attention's weights are dropped.
      drop_path: rate of stochastic depth in the last of the plain blocks; it grows linearly from 0
        in the first outlooker, none of which is dropped.
      implementation: of the plain blocks' attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 8
    stem_width: int = 64
    layers: Sequence[int] = (4, 4, 8, 2)
    widths: Sequence[int] = (192, 384)
    heads: Sequence[int] = (6, 12)
    class_depth: int = 2
    mlp_ratio: float = 3.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = False
    norm: Any = "layer"
    norm_epsilon: float = 1e-5
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @property
    def grid(self) -> Grid:
        """The rows and columns of the tokens of images of ``input_shape``."""
        rows, columns = (
            -(-length // 2) // (self.patch_size // 2) // 2 for length in self.input_shape[:2]
        )
        return rows, columns

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, ``network_0_0`` and so on, the class token, its blocks, and the norm."""
        yield Part("embed", self._embed, owns=("patch_embed",), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        rows, columns = self.grid
        view = functools.partial(tokens_to_map, height=rows, width=columns)
        for i, count in enumerate(self.layers):
            if i == 1:
                yield Part("network_1", self._downsample, owns=("network_1",))
                yield Part("pos_embed", self._position, owns=("pos_embed",), depth="embed")
            # Between the first two stages the map becomes smaller, under a number of its own.
            stage, kind = (f"network_{i + 1}", TransformerBlock) if i else ("network_0", Outlooker)
            options = {"heads": self.heads[min(i, 1)], **fields}
            for j in range(count):
                rate = next(rates)
                yield Part(
                    f"{stage}_{j}",
                    functools.partial(kind, drop_path=rate if i else 0.0, **options),
                    map=stage if j == count - 1 else None,
                    reduction=2 * self.patch_size if i else self.patch_size,
                    view=view if i else None,
                    takes="tokens" if i else "maps",
                    remat=self.remat,
                )
        names = ("cls_token",)
        yield Part("cls_token", self.with_class_token, owns=names, takes="tokens", depth="embed")
        block = functools.partial(ClassBlock, joint=True, **options)
        for i in range(self.class_depth):
            yield Part(f"post_network_{i}", block, takes="tokens", remat=self.remat)
        last = f"post_network_{self.class_depth - 1}"
        yield Part("norm", self._norm, owns=("norm",), takes="tokens", depth=last)

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        options = {"width": self.stem_width, "name": "patch_embed", **self.dtypes}
        return ConvStem(self.widths[0], self.patch_size, **options)(x, train)

    def _downsample(self, x: jax.Array, _train: bool) -> jax.Array:
        return PatchConv(self.widths[1], name="network_1", **self.dtypes)(x)

    def _position(self, x: jax.Array, train: bool) -> jax.Array:
        positions = self.param("pos_embed", Normal(0.02), (1, *x.shape[1:]), self.param_dtype)
        x = x + positions.astype(x.dtype)
        x = nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that takes the class token; its ``"avg"`` is of all tokens."""
        return {**super().pooling_options(), "prefix_tokens": 0}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, of which one sees the other tokens."""
        return {**super().head_options(), "token_labels": True}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("pos_embed", "cls_token")

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("layers", "widths", "heads"):
            check_widths(name, getattr(self, name))
        if len(self.layers) < 2:
            raise ArgumentError(f"layers must be of at least 2 stages, got {tuple(self.layers)}")
        for name in ("widths", "heads"):
            if len(getattr(self, name)) != 2:
                raise ArgumentError(
                    f"{name} must be that of the first stage and that of the others, got "
                    f"{tuple(getattr(self, name))}"
                )
        check_heads(self.widths, self.heads)
        for name in ("stem_width", "class_depth"):
            check_size(name, getattr(self, name))
        check_size("patch_size", self.patch_size, minimum=2)
        if self.patch_size % 2:
            raise ArgumentError(f"patch_size must be even, got {self.patch_size}")
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        for name in ("position_dropout", "drop_path"):
            check_rate(name, getattr(self, name))
        if len(self.input_shape) != 3 or min(self.grid) < 1:
            raise ArgumentError(
                "input_shape must be (height, width, channels), of at least "
                f"{2 * self.patch_size - 1} pixels along each side, got {self.input_shape}"
            )
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()


def _resize(positions: Any, shape: Any, _backbone: Any, _old: Any, _new: Any) -> Any:
    """Positions for images of another size; see ``flaxzoo.models.reference.Resize``."""
    return resample_map(positions, shape[1:3])


# timm's functions of these names take no layers: all are compared whole.
CUT: dict[str, str] = {}

_384, _448, _512 = (384, 384, 3), (448, 448, 3), (512, 512, 3)
_D2: dict[str, Any] = {"layers": (6, 4, 10, 4), "widths": (256, 512), "heads": (8, 16)}
_D3: dict[str, Any] = {"layers": (8, 8, 16, 4), "widths": (256, 512), "heads": (8, 16)}
_D4: dict[str, Any] = {"layers": (8, 8, 16, 4), "widths": (384, 768), "heads": (12, 16)}
_D5: dict[str, Any] = {"layers": (12, 12, 20, 4), "widths": (384, 768), "heads": (12, 16)}
_D5 |= {"mlp_ratio": 4.0, "stem_width": 128}

variants(
    Volo,
    {
        "volo_d1_224": row("VOLO-D1"),
        "volo_d1_384": row("VOLO-D1", input_shape=_384),
        "volo_d2_224": row("VOLO-D2", **_D2),
        "volo_d2_384": row("VOLO-D2", input_shape=_384, **_D2),
        "volo_d3_224": row("VOLO-D3", **_D3),
        "volo_d3_448": row("VOLO-D3", input_shape=_448, **_D3),
        "volo_d4_224": row("VOLO-D4", **_D4),
        "volo_d4_448": row("VOLO-D4", input_shape=_448, **_D4),
        "volo_d5_224": row("VOLO-D5", **_D5),
        "volo_d5_448": row("VOLO-D5", input_shape=_448, **_D5),
        "volo_d5_512": row("VOLO-D5", input_shape=_512, **_D5),
    },
    paper="https://arxiv.org/abs/2106.13112",
    reference=Reference(
        stem=("patch_embed/conv_0",),
        classifier="head",
        head=(("fc_aux", "aux_head"),),
        resized=(("params/backbone/pos_embed", _resize),),
    ),
)
