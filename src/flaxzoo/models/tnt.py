"""TNT: a transformer within a transformer, pixels that attend to each other inside of each patch.

Each block mixes the pixels of a patch among themselves, adds what they say to the patch's token,
and mixes the tokens as a plain one does. Names and numbers are those of timm's ``tnt`` module.

References:
  TNT: https://arxiv.org/abs/2103.00112
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_flag, check_number, check_size
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import Attention, SeparateValueAttention
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import PLAIN, Normal, zeros
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.pos_embed import learnt_positions
from flaxzoo.layers.tokens import learnt_tokens
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import GridBackbone, resize_positions
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("width", "pixel_width", "heads", "pixel_heads", "mlp_ratio", "activation", "qkv_bias"),
    *("legacy", "norm", "norm_epsilon", "attention_dropout", "block_dropout", "implementation"),
    *("dtype", "param_dtype"),
)
_INIT = Normal(0.02)
# The hidden units of the MLPs of pixels, as a multiple of their width.
_PIXEL_MLP_RATIO = 4.0


class TntBlock(TransformerBlock):
    """A block of the pixels of each patch, then one of the patches, which hear of their pixels.

    Tokens carry their pixels along: ``width`` numbers, then ``pixel_width`` for each pixel, which
    the class token has, too, but nothing looks at. Parameters are named as timm's ``Block`` in its
    ``tnt`` module.

    Attributes:
      width: of a token without its pixels.
      pixel_width: of a pixel.
      pixel_heads: the number of heads of the pixels' attention; ``heads`` are those of the tokens'.
      legacy: whether what pixels say to a token is normalised pixel by pixel, not as a whole and
        once more behind the layer, which has a bias then.
    """

    width: int = 384
    pixel_width: int = 24
    pixel_heads: int = 4
    legacy: bool = False

    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps tokens with their pixels, ``[B, 1 + N, width + P * pixel_width]``, likewise.

        Args:
          x: tokens.
          train: whether weights, units and branches are dropped.
        """
        tokens, carried = x[..., : self.width], x[..., self.width :]
        batch, count, inside = x.shape[0], x.shape[1] - 1, carried.shape[-1]
        pixels = carried[:, 1:].reshape(batch * count, -1, self.pixel_width)
        pixels = self.mixed(pixels, "_in", self.pixel_heads, _PIXEL_MLP_RATIO, train)
        said = self.summary(pixels, (batch, count, inside))
        tokens = jnp.concatenate([tokens[:, :1], tokens[:, 1:] + said], axis=1)
        tokens = self.mixed(tokens, "", self.heads, self.mlp_ratio, train)
        carried = jnp.concatenate([carried[:, :1], pixels.reshape(batch, count, inside)], axis=1)
        return jnp.concatenate([tokens, carried], axis=-1)

    def mixed(
        self, x: jax.Array, suffix: str, heads: int, mlp_ratio: float, train: bool
    ) -> jax.Array:
        """Attends and maps ``[B, N, C]``, by the submodules whose names end so."""
        mix, drop = suffix or "_out", f"drop_path{suffix}"
        fields = {**self.attention_fields(), "heads": heads}
        attention = self.attention_kind(name=f"attn{mix}", **fields)
        y = attention(self.normalise(x, f"norm{mix}"), train)
        x = x + self.branch(y, "", f"{drop}1", train)
        options: dict[str, Any] = {"activation": self.activation, "dropout": self.block_dropout}
        mlp = Mlp(int(x.shape[-1] * mlp_ratio), name=f"mlp{suffix}", **options, **self.dtypes)
        y = mlp(self.normalise(x, f"norm_mlp{suffix}"), train)
        return x + self.branch(y, "", f"{drop}2", train)

    def summary(self, pixels: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
        """Returns what the pixels ``[B * N, P, C]`` of each patch say to it, ``[B, N, width]``."""
        if self.legacy:
            x = self.normalise(pixels, "norm1_proj").reshape(shape)
            return _dense(self.width, "proj", **self.dtypes)(x)
        x = self.normalise(pixels.reshape(shape), "norm1_proj")
        x = _dense(self.width, "proj", use_bias=False, **self.dtypes)(x)
        return self.normalise(x, "norm2_proj")

    @property
    def attention_kind(self) -> type[Attention]:
        """Attention whose values have a layer of their own."""
        return SeparateValueAttention


class Tnt(GridBackbone):
    """A TNT without its classifier: pixels, patches of them, blocks, and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, 1 + rows * columns, width]``. Between the blocks
    tokens carry their pixels, as ``TntBlock`` says. Maps are the patches' tokens behind each block,
    without the pixels and the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for.
      patch_size: height and width of a patch.
      pixel_size: height and width of what is one pixel here, within a patch.
      width: of a token.
      pixel_width: of a pixel.
      depth: number of blocks.
      heads: number of heads of the tokens' attention.
      pixel_heads: number of heads of the pixels' attention.
      mlp_ratio: the hidden units of the tokens' MLPs, as a multiple of ``width``.
      activation: of the MLPs, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      legacy: whether pixels are those of the whole image, whose convolution sees beyond a patch,
        and blocks are as ``TntBlock`` says: the network as it was first published.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped before the blocks.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0. Pixels are
        dropped by patch.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 16
    pixel_size: int = 4
    width: int = 384
    pixel_width: int = 24
    depth: int = 12
    heads: int = 6
    pixel_heads: int = 4
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = False
    legacy: bool = False
    norm: Any = "layer"
    norm_epsilon: float = 1e-5
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    # No fields: the class token is the one before the patches', and has a position.
    prefix = 1
    position_prefix = True

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The pixels and tokens, the blocks ``blocks_0`` and so on, and the last norm."""
        owns = ("pixel_embed_proj", "pixel_pos", "norm1_proj", "proj", "norm2_proj", "cls_token")
        yield Part("embed", self._embed, owns=(*owns, "patch_pos"), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            yield Part(
                f"blocks_{i}",
                functools.partial(TntBlock, drop_path=rate, **fields),
                takes="tokens",
                map=f"blocks_{i}",
                reduction=self.patch_size,
                view=self._map,
                remat=self.remat,
            )
        last = f"blocks_{self.depth - 1}"
        yield Part("norm", self._last_norm, owns=("norm",), takes="tokens", depth=last)

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        batch, patches = x.shape[0], math.prod(self.grid)
        pixels = self._pixels(x)
        place = self.param("pixel_pos", _INIT, (1, *pixels.shape[1:]), self.param_dtype)
        pixels = (pixels + place.astype(pixels.dtype)).reshape(batch, patches, -1)
        tokens = self.normalise(pixels, train, "norm1_proj")
        tokens = _dense(self.width, "proj", **self.dtypes)(tokens)
        tokens = self.normalise(tokens, train, "norm2_proj")
        options: dict[str, Any] = {"init": _INIT, "param_dtype": self.param_dtype}
        token = learnt_tokens(self, "cls_token", 1, tokens, **options)
        tokens = jnp.concatenate([token, tokens], axis=1)
        positions = learnt_positions(
            self,
            self.grid,
            self.width,
            prefix=1,
            old_grid=self.grid,
            name="patch_pos",
            dtype=self.param_dtype,
        )
        tokens = tokens + positions.astype(tokens.dtype)
        tokens = nn.Dropout(self.position_dropout, name="pos_drop")(tokens, deterministic=not train)
        pixels = jnp.pad(pixels.astype(tokens.dtype), ((0, 0), (1, 0), (0, 0)))
        return jnp.concatenate([tokens, pixels], axis=-1)

    def _pixels(self, x: jax.Array) -> jax.Array:
        """Returns the pixels of each patch, ``[B * N, rows, columns, pixel_width]``."""
        whole = self.whole_patches(x)
        conv = Conv(
            self.pixel_width,
            7,
            self.pixel_size,
            use_bias=True,
            name="pixel_embed_proj",
            **PLAIN,
            **self.dtypes,
        )
        if self.legacy:
            return self._split(conv(x), self.pixels)
        return conv(self._split(whole, self.patch_size))

    @nn.nowrap
    def _split(self, x: jax.Array, size: int) -> jax.Array:
        """Returns the patches of this size, ``[B * N, size, size, C]``, of ``[B, H, W, C]``."""
        rows, columns = self.grid
        x = x[:, : rows * size, : columns * size]
        x = x.reshape(x.shape[0], rows, size, columns, size, x.shape[-1])
        return jnp.swapaxes(x, 2, 3).reshape(-1, size, size, x.shape[-1])

    @property
    def pixels(self) -> int:
        """The rows, and columns, of pixels of a patch."""
        return -(-self.patch_size // self.pixel_size)

    def _last_norm(self, x: jax.Array, train: bool) -> jax.Array:
        return self.normalise(x[..., : self.width], train)

    @nn.nowrap
    def _map(self, x: jax.Array) -> jax.Array:
        return tokens_to_map(x[..., : self.width], *self.grid, prefix=self.prefix)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that takes the class token."""
        return {"pooling": "token", "prefix_tokens": self.prefix}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        return {**self.pooling_options(), "kernel_init": Normal(0.02)}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("patch_pos", "pixel_pos", "cls_token")

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        for name in ("pixel_size", "pixel_width", "pixel_heads"):
            check_size(name, getattr(self, name))
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        check_flag("legacy", self.legacy)
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()
        if self.legacy and self.patch_size % self.pixel_size:
            raise ArgumentError(
                f"patch_size must be a multiple of pixel_size={self.pixel_size} where pixels are "
                f"those of the whole image (legacy=True), got {self.patch_size}"
            )
        for width, heads in (("width", "heads"), ("pixel_width", "pixel_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ArgumentError(
                    f"{width} must be a multiple of {heads}={getattr(self, heads)}, got "
                    f"{getattr(self, width)}"
                )


def _dense(features: int, name: str, **options: Any) -> Dense:
    return Dense(features, name=name, kernel_init=_INIT, bias_init=zeros, **options)


# Words of the authors' files and today's.
_WORDS = {
    "outer_pos": "patch_pos",
    "inner_pos": "pixel_pos",
    "patch_embed": "pixel_embed",
    "proj_norm1": "norm1_proj",
    "proj_norm2": "norm2_proj",
    "inner_norm1": "norm_in",
    "inner_attn": "attn_in",
    "inner_norm2": "norm_mlp_in",
    "inner_mlp": "mlp_in",
    "outer_norm1": "norm_out",
    "outer_attn": "attn_out",
    "outer_norm2": "norm_mlp",
    "outer_mlp": "mlp",
}


def _convert(tensors: Mapping[str, Any], _backbone: Tnt) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files."""
    tensors = {name: tensor for name, tensor in tensors.items() if name != "outer_tokens"}
    if "patch_pos" in tensors:
        return tensors
    converted = {}
    for name, tensor in tensors.items():
        for old, new in _WORDS.items():
            name = name.replace(old, new)
        if name == "pixel_pos" and tensor.ndim == 3:
            # Pixel by pixel, [1, P, C]; today on their grid.
            _, count, width = tensor.shape
            side = math.isqrt(count)
            tensor = tensor.swapaxes(1, 2).reshape(1, width, side, side)
        converted[name] = tensor
    return converted


_S: dict[str, Any] = {"width": 384, "pixel_width": 24, "heads": 6}
_B: dict[str, Any] = {"width": 640, "pixel_width": 40, "heads": 10}

variants(
    Tnt,
    {
        "tnt_s_legacy_patch16_224": row("TNT-S as first published", legacy=True, **_S),
        "tnt_s_patch16_224": row("TNT-S", **_S),
        "tnt_b_patch16_224": row("TNT-B", **_B),
    },
    paper="https://arxiv.org/abs/2103.00112",
    reference=Reference(
        stem=("pixel_embed_proj",),
        classifier="head",
        convert=_convert,
        renamed=(("pixel_embed_proj", "pixel_embed.proj"),),
        layouts=(("params/backbone/pixel_pos", "map"),),
        resized=(("params/backbone/patch_pos", resize_positions),),
    ),
)
