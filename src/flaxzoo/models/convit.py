"""ConViT: vision transformers that begin as convolutions, and learn how much to stay so.

In the first blocks each head sees patches by what they hold and by where they lie, and a learnt
gate says how much of each; at first each head sees one neighbour. The class token comes in behind
them. Names and numbers are those of timm's ``convit`` module.

References:
  ConViT: https://arxiv.org/abs/2103.10697
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_flag, check_number, check_size
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import Attention, SeparateValueAttention, weight_hook
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import Initializer, ones, zeros
from flaxzoo.layers.lowering.derivatives import softmax
from flaxzoo.layers.lowering.drawing import Distribution
from flaxzoo.layers.patch_embed import PatchEmbed, resample_kernel
from flaxzoo.layers.pos_embed import Grid, learnt_positions
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import GridBackbone, LateTokenBackbone, resize_positions
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("heads", "mlp_ratio", "activation", "qkv_bias", "norm", "norm_epsilon"),
    *("attention_dropout", "block_dropout", "implementation", "dtype", "param_dtype"),
)


class Placed(Initializer):
    """Initialisers that say for each element where it begins."""

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Draws the array by JAX."""
        distribution = self.distribution(shape)
        std, mean = (
            jnp.broadcast_to(jnp.asarray(numbers, dtype), shape)
            for numbers in (distribution.std, distribution.mean)
        )
        return jax.random.normal(key, shape, dtype) * std + mean


@dataclasses.dataclass(frozen=True)
class Identity(Placed):
    """A kernel ``[C, C]`` that begins as the identity."""

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the distribution that has but the identity."""
        return Distribution(std=0.0, mean=np.eye(shape[0], shape[1]))


@dataclasses.dataclass(frozen=True)
class Neighbours(Placed):
    """A kernel ``[3, heads]`` by which each head prefers another place near the patch.

    The largest square of heads sees the places of a convolution's kernel of that many pixels
    (d'Ascoli et al. 2021, section 3); heads beyond it begin with small random numbers.

    Attributes:
      strength: how sharply.
    """

    strength: float = 1.0

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the distribution of each element."""
        side = math.isqrt(shape[1])
        places = np.arange(side**2)
        centre = (side - 1) / 2 if side % 2 == 0 else side // 2
        mean = np.zeros(shape)
        mean[:, places] = [
            2 * (places // side - centre),
            2 * (places % side - centre),
            np.full(side**2, -1.0),
        ]
        std = np.where(np.arange(shape[1]) < side**2, 0.0, 0.02)
        return Distribution(std=std * self.strength, mean=mean * self.strength)


class GatedPositionalAttention(SeparateValueAttention):
    """Attention whose weights are mixed of those by content and those by position.

    d'Ascoli et al. 2021, https://arxiv.org/abs/2103.10697, section 3. Weights by position are the
    softmax of a linear function of how far a key lies from the query, along the columns, along the
    rows, and of the distance's square. Both softmaxes are float32 at least. Parameters are named as
    timm's ``GPSA``: ``qk``, ``v``, ``pos_proj``, ``gating_param``, ``proj``.

    Attributes:
      locality: how sharply each head sees its neighbour at first.
    """

    locality: float = 1.0

    def position_bias(self) -> jax.Array:
        """Returns the logits of the weights by position, ``[1, heads, N, N]``."""
        offsets = neighbour_offsets(self.grid or (0, 0))
        layer = Dense(
            self.heads,
            kernel_init=Neighbours(self.locality),
            bias_init=zeros,
            name="pos_proj",
            # Promoted from that of the offsets, float32: half precision is too coarse for squares.
            dtype=None,
            param_dtype=self.param_dtype,
        )
        return jnp.moveaxis(layer(offsets), -1, 0)[None]

    def attended(
        self, q: jax.Array, k: jax.Array, v: jax.Array, train: bool, **options: Any
    ) -> jax.Array:
        """Returns what is attended to, ``[B, N, heads * D]``; ``mask`` is ``position_bias()``."""
        wide = jnp.promote_types(q.dtype, jnp.float32)
        q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        content = softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide))
        position = softmax(options["mask"].astype(wide))
        gates = self.param("gating_param", ones, (self.heads,), self.param_dtype)
        gates = nn.sigmoid(gates.astype(wide)).reshape(1, self.heads, 1, 1)
        weights = (1 - gates) * content + gates * position
        weights = (weights / weights.sum(-1, keepdims=True)).astype(v.dtype)
        hook = weight_hook(self, self.attention_dropout, train)
        weights = weights if hook is None else hook(weights)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*q.shape[:2], -1)

    @nn.nowrap
    def dense(self, features: int, name: str, use_bias: bool) -> Dense:
        """Makes a dense layer; that of the values begins as the identity."""
        if name != "v":
            return super().dense(features, name, use_bias)
        options: dict[str, Any] = {"kernel_init": Identity(), "bias_init": zeros, "name": name}
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Dense(features, use_bias=use_bias, **options)


@functools.lru_cache(maxsize=64)
def neighbour_offsets(grid: Grid) -> np.ndarray:
    """Returns how far each patch of a grid lies from each.

    Args:
      grid: the rows and columns.

    Returns:
      ``[N, N, 3]``, float32, from the first to the second: columns, rows, and the square of the
      distance.
    """
    rows, columns = np.divmod(np.arange(math.prod(grid)), grid[1])
    across, down = (place[None, :] - place[:, None] for place in (columns, rows))
    return np.stack([across, down, across**2 + down**2], axis=-1).astype(np.float32)


class LocalBlock(TransformerBlock):
    """A block of gated positional attention, of patches alone.

    Attributes:
      grid: the rows and columns of patches.
      locality: as ``GatedPositionalAttention``'s.
    """

    grid: Grid = (14, 14)
    locality: float = 1.0

    @property
    def attention_kind(self) -> type[Attention]:
        """Gated positional attention."""
        return GatedPositionalAttention

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns what this attention has."""
        return {"grid": self.grid, "locality": self.locality}


class ConVit(LateTokenBackbone, GridBackbone):
    """A ConViT without its classifier: patches, blocks of both kinds, and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, 1 + rows * columns, width]``, the class token
    first. Maps are the patches' tokens behind each block, without the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for.
      patch_size: height and width of a patch.
      width: of a token.
      depth: number of blocks.
      local_depth: how many of them, the first, see patches by their positions, too; the class
        token comes in behind them.
      heads: number of heads of each block.
      mlp_ratio: the hidden units of each MLP, as a multiple of ``width``.
      activation: of the MLPs, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      positions: whether there are learnt positions, added to the tokens.
      locality: how sharply each head of the first blocks sees its neighbour at first.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped before the blocks.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention behind the first blocks
        (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    local_depth: int = 10
    heads: int = 16
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = False
    positions: bool = True
    locality: float = 1.0
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    # No fields: the class token comes in behind the positions.
    position_prefix = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The patches, ``blocks_0`` and so on, the class token among them, and the last norm."""
        yield Part("embed", self._embed, owns=("patch_embed", "pos_embed"), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        local = functools.partial(LocalBlock, grid=self.grid, locality=self.locality)
        rows, columns = self.grid
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            if i == self.local_depth:
                owns, run = ("cls_token",), self.with_class_token
                yield Part("cls_token", run, owns=owns, takes="tokens", depth="embed")
            kind: Callable[..., Any] = local if i < self.local_depth else TransformerBlock
            prefix = 0 if i < self.local_depth else self.prefix
            yield Part(
                f"blocks_{i}",
                functools.partial(kind, drop_path=rate, **fields),
                takes="tokens",
                map=f"blocks_{i}",
                reduction=self.patch_size,
                view=functools.partial(tokens_to_map, height=rows, width=columns, prefix=prefix),
                remat=self.remat,
            )
        last = f"blocks_{self.depth - 1}"
        yield Part("norm", self.normalise, owns=("norm",), takes="tokens", depth=last)

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.whole_patches(x)
        x = PatchEmbed(self.width, self.patch_size, name="patch_embed", **self.dtypes)(x, train)
        x = x.reshape(x.shape[0], math.prod(self.grid), self.width)
        if self.positions:
            positions = learnt_positions(
                self, self.grid, self.width, old_grid=self.grid, dtype=self.param_dtype
            )
            x = x + positions.astype(x.dtype)
        return nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("pos_embed", "cls_token")

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_size("local_depth", self.local_depth, minimum=0)
        if self.local_depth >= self.depth:
            raise ArgumentError(
                f"local_depth must be below depth={self.depth}, since the class token comes in "
                f"behind the local blocks, got {self.local_depth}"
            )
        check_flag("positions", self.positions)
        check_number("locality", self.locality)
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()
        if self.width % self.heads:
            raise ArgumentError(f"width must be a multiple of heads={self.heads}, got {self.width}")


# A network of two blocks would have but one kind of them: all are compared whole.
CUT: dict[str, str] = {}

variants(
    ConVit,
    {
        "convit_tiny": row("ConViT-Ti", width=192, heads=4),
        "convit_small": row("ConViT-S", width=432, heads=9),
        "convit_base": row("ConViT-B", width=768, heads=16),
    },
    paper="https://arxiv.org/abs/2103.10697",
    reference=Reference(
        stem=("patch_embed/proj",),
        classifier="head",
        resized=(("params/backbone/pos_embed", resize_positions),),
        patches=("patch_embed/proj", resample_kernel),
    ),
)
