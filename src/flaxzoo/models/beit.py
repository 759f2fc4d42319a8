"""BEiT: vision transformers that learnt to fill in masked patches, with relative positions.

Each block has a table of biases by the relative position of two patches; there are no others, and
averages are pooled. BEiT v2 is the same network, trained on other targets. Names and numbers are
those of timm's ``beit`` module.

References:
  BEiT: https://arxiv.org/abs/2106.08254
  BEiT v2: https://arxiv.org/abs/2208.06366
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.patch_embed import PatchEmbed, resample_kernel
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.relative_position import NAME
from flaxzoo.layers.tokens import learnt_tokens
from flaxzoo.layers.transformer import NumberedBlock
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import BASE, LARGE, PatchBackbone, resize_table
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("heads", "mlp_ratio", "activation", "qkv_bias", "layer_scale", "norm", "norm_epsilon"),
    *("attention_dropout", "block_dropout", "implementation", "dtype", "param_dtype"),
)


class BeitBlock(NumberedBlock):
    """A block with relative positions, whose keys have no bias.

    Parameters are named as those of timm's ``Block`` in its ``beit`` module.

    Attributes:
      grid: the rows and columns of patches.
    """

    grid: Grid = (14, 14)

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns what BEiT's attention has."""
        own = {"key_bias": False, "grid": self.grid, "class_token": True}
        return {**super().attention_options(), **own}


class Beit(PatchBackbone):
    """A BEiT without its classifier: patches, a class token, blocks and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, 1 + rows * columns, width]``. Maps are the
    patches' tokens behind each block, before the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the relative positions are for.
      patch_size: height and width of a patch.
      width: of a token.
      depth: number of blocks.
      heads: number of heads of each block.
      mlp_ratio: the hidden units of each MLP, as a multiple of ``width``.
      activation: of the MLPs, by name or callable.
      pooling: as a ``Head``'s, for those with ``pooling="auto"``: ``"avg"``, the patches' mean.
      fc_norm: whether the last norm stands behind the pooling; None: where averages or maxima are
        pooled.
      qkv_bias: whether queries and values have biases.
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped before the blocks.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    pooling: str | None = "avg"
    fc_norm: bool | None = None
    qkv_bias: bool = True
    layer_scale: float | None = None
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The tokens, the blocks ``blocks_0``, ``blocks_1`` and so on, and the last norm."""
        yield Part("embed", self._embed, owns=("patch_embed", "cls_token"), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            yield Part(
                f"blocks_{i}",
                functools.partial(
                    BeitBlock, drop_path=rate, grid=self.grid, number=i + 1, **fields
                ),
                takes="tokens",
                map=f"blocks_{i}",
                reduction=self.patch_size,
                view=functools.partial(
                    tokens_to_map, height=self.grid[0], width=self.grid[1], prefix=self.prefix
                ),
                remat=self.remat,
            )
        if not self.norm_pooled:
            last = f"blocks_{self.depth - 1}"
            yield Part("norm", self.normalise, owns=("norm",), takes="tokens", depth=last)

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.whole_patches(x)
        x = PatchEmbed(self.width, self.patch_size, name="patch_embed", **self.dtypes)(x, train)
        own = {"init": Normal(0.02), "param_dtype": self.param_dtype}
        token = learnt_tokens(self, "cls_token", 1, x, **own)
        x = jnp.concatenate([token, x.reshape(x.shape[0], -1, self.width)], axis=1)
        return nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, which begins next to nothing."""
        norm = self.norm if self.norm_pooled else None
        options = {"norm": norm, "norm_epsilon": self.norm_epsilon, "kernel_init": Normal(2e-5)}
        return {**self.pooling_options(), **options}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("cls_token", f"blocks_*/attn/{NAME}")


REFERENCE = Reference(
    stem=("patch_embed/proj",),
    classifier="head",
    head=(("norm", "fc_norm"),),
    ignored=("*.num_batches_tracked", "*.relative_position_index"),
    resized=((f"params/backbone/blocks_*/attn/{NAME}", resize_table),),
    patches=("patch_embed/proj", resample_kernel),
)

_B: dict[str, Any] = {"patch_size": 16, **BASE}
_L: dict[str, Any] = {"patch_size": 16, **LARGE}
_384, _512 = (384, 384, 3), (512, 512, 3)

variants(
    Beit,
    {
        "beit_base_patch16_224": row("BEiT-B/16", layer_scale=0.1, **_B),
        "beit_base_patch16_384": row("BEiT-B/16", layer_scale=0.1, input_shape=_384, **_B),
        "beit_large_patch16_224": row("BEiT-L/16", layer_scale=1e-5, **_L),
        "beit_large_patch16_384": row("BEiT-L/16", layer_scale=1e-5, input_shape=_384, **_L),
        "beit_large_patch16_512": row("BEiT-L/16", layer_scale=1e-5, input_shape=_512, **_L),
    },
    paper="https://arxiv.org/abs/2106.08254",
    reference=REFERENCE,
)
variants(
    Beit,
    {
        "beitv2_base_patch16_224": row("BEiT v2-B/16", layer_scale=1e-5, **_B),
        "beitv2_large_patch16_224": row("BEiT v2-L/16", layer_scale=1e-5, **_L),
    },
    paper="https://arxiv.org/abs/2208.06366",
    reference=REFERENCE,
)
