"""ViT with relative positions: what a patch sees of another depends on how far apart they are.

A small network makes the biases of attention from the logarithms of these distances, in each block
or once for all. There are no other positions, and most names average their patches. Names and
numbers are those of timm's ``vision_transformer_relpos`` module.

References:
  ViT: https://arxiv.org/abs/2010.11929
  Biases by logarithms of distances (Swin V2): https://arxiv.org/abs/2111.09883
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice, check_size
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import Attention
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import PLAIN
from flaxzoo.layers.patch_embed import PatchEmbed
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.relative_position import NAME, RelativeMlp, RelativeTable
from flaxzoo.layers.tokens import learnt_tokens
from flaxzoo.layers.transformer import PostNormBlock, TransformerBlock
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import BASE, MEDIUM, SMALL, PatchBackbone, resize_table
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("heads", "mlp_ratio", "activation", "qkv_bias", "qk_norm", "layer_scale", "norm"),
    *("norm_epsilon", "attention_dropout", "block_dropout", "implementation", "dtype"),
    "param_dtype",
)
_POSITIONS = ("mlp", "table")
# All layers begin as PyTorch's do.


class RelPosAttention(Attention):
    """An ``Attention`` whose biases a module of its own makes, ``rel_pos``.

    Attributes:
      relative: builds that module; None where there is none.
      dropping: whether it drops units, as in training.
    """

    relative: Callable[..., Any] | None = None
    dropping: bool = False

    def position_bias(self) -> jax.Array:
        """Returns what the grid's relative positions add to the logits, ``[1, heads, N, N]``."""
        make: Any = self.relative
        return make(name="rel_pos")(self.grid, self.class_token, self.dropping)


class RelPosBlock(TransformerBlock):
    """A block whose attention adds biases by relative position: its own, or shared ones.

    Parameters are named as those of timm's ``RelPosBlock``. Shared biases are a call's
    ``positions``.

    Attributes:
      relative: builds the module of the block's own biases; None where they are shared.
      grid: the rows and columns of patches.
      class_token: whether a class token stands before them.
    """

    relative: Callable[..., Any] | None = None
    grid: Grid = (14, 14)
    class_token: bool = False

    def attention(self, x: jax.Array, name: str, train: bool, **positions: Any) -> jax.Array:
        """Mixes the tokens."""
        attention = RelPosAttention(name=name, dropping=train, **self.attention_fields())
        return attention(x, train, mask=positions.get("positions"))

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns what this attention has."""
        if self.relative is None:
            return dict(PLAIN)
        own = {"relative": self.relative, "grid": self.grid, "class_token": self.class_token}
        return {**PLAIN, **own}

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns how its MLP begins."""
        return dict(PLAIN)


class RelPosPostNormBlock(PostNormBlock, RelPosBlock):
    """A block whose norms stand behind attention and MLP, as timm's ``ResPostRelPosBlock``."""


_BLOCKS = {"pre": RelPosBlock, "post": RelPosPostNormBlock}


class RelPosVisionTransformer(PatchBackbone):
    """A ViT with relative positions, without its classifier: patches, blocks and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, N, width]``: the class token, if there is one,
    and the patches row by row. Maps are the patches' tokens behind each block, before the last
    norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images.
      patch_size: height and width of a patch.
      width: of a token.
      depth: number of blocks.
      heads: number of heads of each block.
      block: ``"pre"`` or ``"post"``, by where the norms stand.
      mlp_ratio: the hidden units of each MLP, as a multiple of ``width``.
      activation: of the MLPs, by name or callable.
      positions: ``"mlp"``, where two layers make biases of the logarithms of distances, or
        ``"table"``, one learnt bias for each relative position and head.
      position_width: the hidden units of that MLP.
      position_mlp_dropout: rate at which these are dropped in training.
      shared_positions: whether all blocks add the same biases.
      class_token: whether there is one.
      pooling: as a ``Head``'s, for those with ``pooling="auto"``.
      fc_norm: whether the last norm stands behind the pooling.
      qkv_bias: whether queries, keys and values have biases.
      qk_norm: whether queries and keys are normalised, head by head.
      layer_scale: what the learnt scales of the branches begin with, for ``"post"`` blocks those of
        their norms; None for no scales, and norms that begin as usual.
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
    block: str = "pre"
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    positions: str = "mlp"
    position_width: int = 128
    position_mlp_dropout: float = 0.125
    shared_positions: bool = False
    class_token: bool = False
    pooling: str | None = "avg"
    fc_norm: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float | None = 1e-6
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
        biases: list[jax.Array] = []

        def shared(_x: jax.Array, train: bool) -> tuple[jax.Array]:
            if not biases:
                relative = self._relative()(name="shared_rel_pos", parent=self)
                biases.append(relative(self.grid, self.class_token, train))
            return (biases[0],)

        yield Part("embed", self._embed, owns=("patch_embed", "cls_token"), takes="images")
        own: dict[str, Any] = {"relative": self._relative()}
        extra: dict[str, Any] = {}
        if self.shared_positions:
            own, extra = {}, {"context": shared, "shares": ("shared_rel_pos",)}
        own |= {name: getattr(self, name) for name in _PASSED_ON}
        build = functools.partial(
            _BLOCKS[self.block], grid=self.grid, class_token=self.class_token, **own
        )
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            yield Part(
                f"blocks_{i}",
                functools.partial(build, drop_path=rate),
                takes="tokens",
                map=f"blocks_{i}",
                reduction=self.patch_size,
                view=functools.partial(
                    tokens_to_map, height=self.grid[0], width=self.grid[1], prefix=self.prefix
                ),
                remat=self.remat,
                **extra,
            )
        if not self.norm_pooled:
            last = f"blocks_{self.depth - 1}"
            yield Part("norm", self.normalise, owns=("norm",), takes="tokens", depth=last)
        if self.shared_positions:
            # All blocks read them; timm counts them with the head.
            name = "shared_rel_pos"
            yield Part(name, lambda x, _: x, owns=(name,), takes="tokens", depth="head")

    @nn.nowrap
    def _relative(self) -> Callable[..., Any]:
        if self.positions == "table":
            return functools.partial(RelativeTable, self.heads, param_dtype=self.param_dtype)
        options = {"dropout": self.position_mlp_dropout, **self.dtypes}
        return functools.partial(RelativeMlp, self.heads, self.position_width, **options)

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.whole_patches(x)
        x = PatchEmbed(self.width, self.patch_size, name="patch_embed", **self.dtypes)(x, train)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.class_token:
            token = learnt_tokens(self, "cls_token", 1, x, param_dtype=self.param_dtype)
            x = jnp.concatenate([token, x], axis=1)
        return nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)

    @property
    def prefix(self) -> int:
        """The number of tokens before those of the patches: the class token."""
        return int(self.class_token)

    @property
    def norm_pooled(self) -> bool:
        """Whether the last norm stands behind the pooling."""
        return self.fc_norm

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        norm = self.norm if self.norm_pooled else None
        options = {"norm": norm, "norm_epsilon": self.norm_epsilon, **PLAIN}
        return {**self.pooling_options(), **options}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("cls_token",) if self.class_token else ()

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("position_width", self.position_width)
        check_choice("block", self.block, _BLOCKS)
        check_choice("positions", self.positions, _POSITIONS)
        if self.pooling == "token" and not self.class_token:
            raise ArgumentError("pooling='token' takes the class token, and class_token is False")
        super().check_fields()


REFERENCE = Reference(
    stem=("patch_embed/proj",),
    classifier="head",
    head=(("norm", "fc_norm"), ("attn_pool", "attn_pool")),
    ignored=("*.num_batches_tracked", "*.relative_position_index", "*.rel_coords_log"),
    resized=(
        (f"params/backbone/blocks_*/attn/rel_pos/{NAME}", resize_table),
        (f"params/backbone/shared_rel_pos/{NAME}", resize_table),
    ),
    # Tokens that no norm stands before attend the more sharply the deeper the network.
    gain=1.0,
)

_S: dict[str, Any] = {**SMALL, "qkv_bias": False}
_M: dict[str, Any] = {**MEDIUM, "qkv_bias": False}
_B: dict[str, Any] = {**BASE, "qkv_bias": False}
_PLUS: dict[str, Any] = {"width": 896, "depth": 12, "heads": 14}
_CLS: dict[str, Any] = {"class_token": True, "pooling": "token"}

variants(
    RelPosVisionTransformer,
    {
        "vit_relpos_base_patch32_plus_rpn_256": row(
            "ViT-B+/32, relative positions, norms behind",
            patch_size=32,
            input_shape=(256, 256, 3),
            block="post",
            **_PLUS,
        ),
        "vit_relpos_base_patch16_plus_240": row(
            "ViT-B+/16, relative positions", input_shape=(240, 240, 3), **_PLUS
        ),
        "vit_relpos_small_patch16_224": row("ViT-S/16, relative positions", fc_norm=True, **_S),
        "vit_relpos_medium_patch16_224": row("ViT-M/16, relative positions", fc_norm=True, **_M),
        "vit_relpos_base_patch16_224": row("ViT-B/16, relative positions", fc_norm=True, **_B),
        "vit_srelpos_small_patch16_224": row(
            "ViT-S/16, shared relative positions", shared_positions=True, position_width=384, **_S
        ),
        "vit_srelpos_medium_patch16_224": row(
            "ViT-M/16, shared relative positions", shared_positions=True, position_width=512, **_M
        ),
        "vit_relpos_medium_patch16_cls_224": row(
            "ViT-M/16, relative positions, class token", position_width=256, **_CLS, **_M
        ),
        "vit_relpos_base_patch16_cls_224": row(
            "ViT-B/16, relative positions, class token", **_CLS, **_B
        ),
        "vit_relpos_base_patch16_clsgap_224": row(
            "ViT-B/16, relative positions, class token, averaged",
            class_token=True,
            fc_norm=True,
            **_B,
        ),
        "vit_relpos_small_patch16_rpn_224": row(
            "ViT-S/16, relative positions, norms behind", block="post", **_S
        ),
        "vit_relpos_medium_patch16_rpn_224": row(
            "ViT-M/16, relative positions, norms behind", block="post", **_M
        ),
        "vit_relpos_base_patch16_rpn_224": row(
            "ViT-B/16, relative positions, norms behind", block="post", **_B
        ),
        "test_vit_relpos": row(
            "ViT with relative positions for tests",
            input_shape=(160, 160, 3),
            width=96,
            depth=9,
            heads=3,
            mlp_ratio=2.0,
            qkv_bias=False,
            fc_norm=True,
        ),
    },
    paper="https://arxiv.org/abs/2111.09883",
    reference=REFERENCE,
)
