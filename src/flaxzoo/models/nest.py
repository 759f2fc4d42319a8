"""NesT: a map's blocks attend each by itself, and four of them become one block of the next level.

Between levels a convolution and a maximum over neighbours let blocks talk to each other; nothing
else does. Blocks are of one size at all levels, so that the last one is the whole map. Names and
numbers are those of timm's ``nest`` module, those that end in ``jx`` with the padding of the
authors' weights.

References:
  NesT: https://arxiv.org/abs/2105.12723
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
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import Attention, check_heads
from flaxzoo.layers.checked import Checked
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.max_pool import max_pool_2d
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.patch_embed import PatchEmbed, check_image_size, resample_kernel
from flaxzoo.layers.pos_embed import Grid, resample_map
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.layers.windows import join_windows, split_windows
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a transformer gets from the network as it is.
_PASSED_ON = (
    *("mlp_ratio", "activation", "qkv_bias", "norm", "norm_epsilon", "attention_dropout"),
    *("block_dropout", "implementation", "dtype", "param_dtype"),
)
# timm's functions of these names take no other depths.
CUT: dict[str, str] = {}


def split_blocks(x: jax.Array, count: Grid) -> jax.Array:
    """Cuts maps ``[B, H, W, C]`` into blocks, so many along each side: ``[B, blocks, tokens, C]``.

    Blocks are in rows, and so are the tokens of each.
    """
    batch, height, width, channels = x.shape
    size = (height // count[0], width // count[1])
    return split_windows(x, size).reshape(batch, math.prod(count), math.prod(size), channels)


def join_blocks(x: jax.Array, count: Grid, size: Grid) -> jax.Array:
    """Puts blocks ``[B, blocks, tokens, C]`` of this size together again, as ``[B, H, W, C]``."""
    windows = x.reshape(x.shape[0] * x.shape[1], *size, x.shape[-1])
    return join_windows(windows, (count[0] * size[0], count[1] * size[1]))


class InterleavedAttention(Attention):
    """An ``Attention`` whose last layer gets the heads' channels in turns, as in timm's NesT."""

    def attended(
        self, q: jax.Array, k: jax.Array, v: jax.Array, train: bool, **options: Any
    ) -> jax.Array:
        """Returns what is attended to, ``[B, N, D * heads]``; ``options`` are ``attend``'s."""
        y = super().attended(q, k, v, train, **options)
        return y.reshape(q.shape).swapaxes(2, 3).reshape(y.shape)


class NestBlock(TransformerBlock):
    """A transformer's block whose attention stays inside of each block of a map.

    Parameters are named as timm's ``TransformerLayer``.
    """

    @property
    def attention_kind(self) -> type[Attention]:
        """That of channels in turns."""
        return InterleavedAttention

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the tokens ``[B, blocks, N, C]`` of each block."""
        tokens = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        return super().attention(tokens, name, train).reshape(x.shape)


class BlockPositions(Checked):
    """Adds a learnt position to each token of each block.

    Attributes:
      param_dtype: the dtype of the parameter ``pos_embed``, ``[1, blocks, tokens, C]``.
    """

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, blocks, tokens, C]`` to the same shape."""
        shape = (1, *x.shape[1:])
        return x + self.param("pos_embed", Normal(0.02), shape, self.param_dtype).astype(x.dtype)


class ConvPool(Layer):
    """Halves a map: a convolution, a norm, and the maximum of 3 x 3 neighbours.

    Attributes:
      features: the channels of the output.
      pad_after: whether the maximum sees a row and a column beyond the map below and at the right
        alone, as XLA pads, or above and at the left alone.
      norm: the kind of the norm, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon.
    """

    features: int
    pad_after: bool = False
    norm: Any = "layer"
    norm_epsilon: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` of even sides to ``[B, H / 2, W / 2, features]``."""
        options: dict[str, Any] = {"use_bias": True, "kernel_init": Normal(0.02), **self.dtypes}
        x = Conv(self.features, 3, name="conv", **options)(x)
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        x = call_norm(norm, x, train=train)
        # The sides are even: what is padded at the other end is in no window.
        side = (0, 1) if self.pad_after else (1, 0)
        return max_pool_2d(x, (3, 3), (2, 2), (side, side))


class Nest(Backbone):
    """A NesT without its classifier: patches, levels of blocks, and the last norm.

    It maps images ``[B, H, W, C]`` to the last map ``[B, rows, columns, C]``. Maps are those behind
    each level, before the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for: of whole patches, and of
        a number of these along each side that ``2 ** (levels - 1)`` divides.
      patch_size: height and width of a patch.
      layers: the number of transformers of each level. The first level has ``2 ** (levels - 1)``
        blocks along each side, each other half as many.
      widths: the channels of each level.
      heads: the number of heads of each level.
      mlp_ratio: the hidden units of each MLP, as a multiple of the width.
      activation: of the MLPs, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      pad_after: whether maxima between levels are padded as XLA does (``ConvPool``).
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last transformer; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether transformers are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 4
    layers: Sequence[int] = (2, 2, 20)
    widths: Sequence[int] = (128, 256, 512)
    heads: Sequence[int] = (4, 8, 16)
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = True
    pad_after: bool = False
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def blocks(self, level: int) -> Grid:
        """How many blocks the map of a level has along its height and along its width."""
        count = 2 ** (len(self.layers) - 1 - level)
        return count, count

    @nn.nowrap
    def block_size(self, shape: Sequence[int]) -> Grid:
        """The rows and columns of a block, at all levels, of images ``[H, W, ...]``."""
        rows, columns = (n // (self.patch_size * self.blocks(0)[0]) for n in shape[:2])
        return rows, columns

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The patches, the transformers ``levels_0_transformer_encoder_0`` and so on, the norm."""
        yield Part("patch_embed", self._embed, owns=("patch_embed",), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for i, count in enumerate(self.layers):
            first = f"levels_{i}_transformer_encoder_0"
            if i:
                yield Part(first, functools.partial(self._pool, i), (f"levels_{i}_pool",))
            yield Part(first, functools.partial(self._positions, i), (f"levels_{i}",))
            block = functools.partial(NestBlock, self.heads[i], **fields)
            for j in range(count):
                last = f"levels_{i}_transformer_encoder_{j}"
                yield Part(
                    last,
                    functools.partial(block, drop_path=next(rates)),
                    map=f"levels_{i}" if j == count - 1 else None,
                    reduction=self.patch_size << i,
                    view=functools.partial(self._joined, i),
                    remat=self.remat,
                )
        yield Part("norm", self._norm, owns=("norm",), depth=last)

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        options: dict[str, Any] = {"kernel_init": Normal(0.02), "bias_init": zeros, **self.dtypes}
        options["name"] = "patch_embed"
        return PatchEmbed(self.widths[0], self.patch_size, **options)(x, train)

    def _pool(self, level: int, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        options |= {"pad_after": self.pad_after, "name": f"levels_{level}_pool", **self.dtypes}
        return ConvPool(self.widths[level], **options)(self._joined(level - 1, x), train)

    def _positions(self, level: int, x: jax.Array, _train: bool) -> jax.Array:
        module = BlockPositions(name=f"levels_{level}", param_dtype=self.param_dtype)
        return module(split_blocks(x, self.blocks(level)))

    @nn.nowrap
    def _joined(self, level: int, x: jax.Array) -> jax.Array:
        return join_blocks(x, self.blocks(level), self.block_size(self.input_shape))

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        x = self._joined(len(self.layers) - 1, x)
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        return {**super().head_options(), "kernel_init": Normal(0.02)}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("levels_*/pos_embed",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths", "heads")
        check_heads(self.widths, self.heads)
        check_size("patch_size", self.patch_size)
        side = self.patch_size * self.blocks(0)[0]
        if len(self.input_shape) != 3 or any(n % side or not n for n in self.input_shape[:2]):
            raise ArgumentError(
                f"input_shape must be (height, width, channels), both sides multiples of {side}: "
                f"patches of {self.patch_size} x {self.patch_size} in {self.blocks(0)[0]} blocks "
                f"along each, got {self.input_shape}"
            )
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()


def _resize(positions: Any, shape: Any, backbone: Nest, old: Any, new: Any) -> Any:
    """Positions for images of another size; see ``flaxzoo.models.reference.Resize``."""
    blocks, tokens = positions.shape[1:3]
    count = (math.isqrt(blocks),) * 2
    size = None if old is None else backbone.block_size(old)
    if size is None or math.prod(size) != tokens:
        size = (math.isqrt(tokens),) * 2
    rows, columns = (n * m for n, m in zip(count, backbone.block_size(new), strict=True))
    cells = resample_map(join_blocks(positions, count, size), (rows, columns), method="cubic")
    return split_blocks(cells, count)


_T: dict[str, Any] = {"layers": (2, 2, 8), "widths": (96, 192, 384), "heads": (3, 6, 12)}
_S: dict[str, Any] = {**_T, "layers": (2, 2, 20)}

variants(
    Nest,
    {
        "nest_base": row("NesT-B"),
        "nest_small": row("NesT-S", **_S),
        "nest_tiny": row("NesT-T", **_T),
        "nest_base_jx": row("NesT-B, padded as the authors' weights", pad_after=True),
        "nest_small_jx": row("NesT-S, padded as the authors' weights", pad_after=True, **_S),
        "nest_tiny_jx": row("NesT-T, padded as the authors' weights", pad_after=True, **_T),
    },
    paper="https://arxiv.org/abs/2105.12723",
    reference=Reference(
        stem=("patch_embed/proj",),
        classifier="head",
        resized=(("params/backbone/levels_*/pos_embed", _resize),),
        patches=("patch_embed/proj", resample_kernel),
    ),
)
