"""EVA and its kin: vision transformers with rotary positions, from EVA-02 to DINOv3.

EVA-02, the Perception Encoder, RoPE-ViT, DINOv3, LingBot-Vision and Sapiens2 differ by their
positions, by what stands in a block, and by how tokens are pooled. Names and numbers are those of
timm's ``eva`` module.

References:
  EVA and EVA-02: https://arxiv.org/abs/2211.07636 and https://arxiv.org/abs/2303.11331
  Perception Encoder: https://arxiv.org/abs/2504.13181
  RoPE-ViT: https://arxiv.org/abs/2403.13298
  DINOv3: https://arxiv.org/abs/2508.10104
  LingBot-Vision and Sapiens2: https://arxiv.org/abs/2607.05247 and
  https://arxiv.org/abs/2604.21681
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_choice, check_size
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import Attention, SeparateAttention
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.patch_embed import PatchDropout, PatchEmbed, resample_kernel
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.rotary import COORDINATES, RotaryPositions, Rotation
from flaxzoo.layers.tokens import patch_tokens, prefix_length
from flaxzoo.layers.transformer import NumberedBlock, PostNormBlock
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import BASE, LARGE, SMALL, TINY, PatchBackbone, resize_positions
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("heads", "mlp", "mlp_ratio", "mlp_norm", "activation", "qkv_bias", "key_bias", "fused_qkv"),
    *("qk_norm", "attention_norm", "layer_scale", "mlp_scale", "norm", "norm_epsilon"),
    *("attention_dropout", "block_dropout", "implementation", "dtype", "param_dtype"),
)


class EvaBlock(NumberedBlock):
    """A block whose attention has one layer or three, keys with or without bias, and a norm.

    Parameters are named as those of timm's ``EvaBlock``.

    Attributes:
      fused_qkv: whether one layer makes queries, keys and values.
      key_bias: whether keys have a bias where queries have.
      key_heads: number of heads of keys and values; None for ``heads``.
      attention_norm: whether a norm stands before attention's last layer.
      mlp_norm: whether one stands before the MLP's.
    """

    fused_qkv: bool = True
    key_bias: bool = False
    key_heads: int | None = None
    attention_norm: bool = False
    mlp_norm: bool = False

    @property
    def attention_kind(self) -> type[Attention]:
        """The class of the attention."""
        return Attention if self.fused_qkv else SeparateAttention

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns what this attention has."""
        own: dict[str, Any] = {"key_bias": self.key_bias, "scale_norm": self.attention_norm}
        if not self.fused_qkv:
            own["key_heads"] = self.key_heads
        return {**super().attention_options(), **own}

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns what this MLP has."""
        return {**super().mlp_options(), "norm": self.norm if self.mlp_norm else None}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        fewer = check_size("key_heads", self.key_heads, optional=True) or self.heads
        if self.heads % fewer or (self.fused_qkv and fewer != self.heads):
            raise ArgumentError(
                f"key_heads must divide heads={self.heads}, and take fused_qkv=False where they "
                f"are fewer, got {self.key_heads}"
            )


class EvaPostNormBlock(PostNormBlock, EvaBlock):
    """A block whose norms stand behind attention and MLP, as timm's ``EvaBlockPostNorm``."""


_BLOCKS = {"pre": EvaBlock, "post": EvaPostNormBlock}


class Eva(PatchBackbone):
    """An EVA without its classifier: patches, tokens, blocks and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, N, width]``: the class token, the registers and
    the patches row by row. Maps are the patches' tokens behind each block, before the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that learnt positions are for.
      dynamic_size: whether images of any other size, of whole patches, are taken, too.
      patch_size: height and width of a patch.
      width: of a token.
      depth: number of blocks.
      heads: number of heads of each block.
      key_heads: number of heads of keys and values, one for all blocks or one for each; None for
        ``heads``. Fewer take ``fused_qkv=False``.
      block: ``"pre"`` or ``"post"``, by where the norms stand; the latter have no scales.
      mlp: ``"mlp"``, ``"glu"`` or ``"swiglu"``, as of ``TransformerBlock``.
      mlp_ratio: the hidden units of each MLP, as a multiple of ``width``; of a ``"glu"`` with
        their gates.
      mlp_norm: whether a norm stands before the MLPs' last layers.
      activation: of the MLPs, by name or callable.
      class_token: whether there is one.
      register_tokens: number of registers.
      positions: whether there are learnt positions, added to the tokens.
      position_prefix: whether class token and registers have them, too.
      rope: the coordinates of rotary positions, ``"index"``, ``"centred"`` or ``"mixed"``, as of
        ``RotaryPositions``; None for none.
      rope_temperature: as of ``RotaryPositions``; likewise ``rope_offset``, ``rope_order``,
        ``rope_reference``, ``rope_halves``, ``rope_shift``, ``rope_jitter`` and ``rope_rescale``.
      pooling: as a ``Head``'s, for those with ``pooling="auto"``.
      pool_heads: number of heads where attention pools; None for ``heads``. It sees all tokens.
      pool_mlp_ratio: the hidden units of its MLP, as a multiple of ``width``; None for
        ``mlp_ratio``.
      pre_norm: whether a norm stands before the blocks; patches then have no bias.
      final_norm: whether there is a last norm.
      fc_norm: whether it stands behind the pooling; None: where averages are pooled.
      qkv_bias: whether queries and values have biases.
      key_bias: whether keys have one, too.
      fused_qkv: whether one layer makes queries, keys and values.
      qk_norm: whether queries and keys are normalised, head by head.
      attention_norm: whether a norm stands before attention's last layer.
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      mlp_scale: whether the MLP's branch has one, too.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped before the blocks.
      patch_dropout: rate at which patches are left out in training.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    dynamic_size: bool = False
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    key_heads: int | Sequence[int] | None = None
    block: str = "pre"
    mlp: str = "mlp"
    mlp_ratio: float = 4.0
    mlp_norm: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    class_token: bool = True
    register_tokens: int = 0
    positions: bool = True
    position_prefix: bool = True
    rope: str | None = None
    rope_temperature: float = 10000.0
    rope_offset: float = 0.0
    rope_order: str = "yx"
    rope_reference: Grid | None = None
    rope_halves: bool = False
    rope_shift: float | None = None
    rope_jitter: float | None = None
    rope_rescale: float | None = None
    pooling: str | None = "avg"
    pool_heads: int | None = None
    pool_mlp_ratio: float | None = None
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool | None = None
    qkv_bias: bool = True
    key_bias: bool = False
    fused_qkv: bool = True
    qk_norm: bool = False
    attention_norm: bool = False
    layer_scale: float | None = None
    mlp_scale: bool = True
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    patch_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The tokens, the blocks ``blocks_0``, ``blocks_1`` and so on, and the last norm."""
        # Of the images that come in, and what is left of their patches: made where first needed,
        # since a range of stages may start anywhere.
        grid: list[int] = list(self.grid)
        kept: list[jax.Array] = []
        turns: list[Rotation] = []

        def embed(x: jax.Array, train: bool) -> jax.Array:
            x = self._patches(x, train)
            grid[:] = x.shape[1:3]
            x = self._tokens(x, train)
            if self.patch_dropout and train:
                kept.append(self._kept(x.shape[0], grid))
                x = jnp.take_along_axis(x, kept[0][..., None], axis=1)
            return x

        def rotation(i: int, x: jax.Array, train: bool) -> tuple[Any, ...]:
            if self.rope is None:
                return ()
            if not turns:
                turns.extend(self._rope(parent=self)((grid[0], grid[1]), self.prefix, train))
                if self.patch_dropout and train and not kept:
                    kept.append(self._kept(x.shape[0], grid))
            return (turns[i].take(kept[0]) if kept else turns[i],)

        names = ("patch_embed", "cls_token", "reg_token", "pos_embed")
        yield Part("embed", embed, owns=names, takes="images")
        if self.pre_norm:
            yield Part(
                "embed", functools.partial(self.normalise, name="norm_pre"), owns=("norm_pre",)
            )
        shares = ("rope",) if self.rope == "mixed" else ()
        build = functools.partial(
            _BLOCKS[self.block], **{name: getattr(self, name) for name in _PASSED_ON}
        )
        key_heads = self._key_heads()
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            yield Part(
                f"blocks_{i}",
                functools.partial(build, drop_path=rate, number=i + 1, key_heads=key_heads[i]),
                takes="tokens",
                map=f"blocks_{i}",
                reduction=self.patch_size,
                view=lambda x: tokens_to_map(x, grid[0], grid[1], self.prefix),
                remat=self.remat,
                context=functools.partial(rotation, i),
                shares=shares,
            )
        if self.final_norm and not self.norm_pooled:
            last = f"blocks_{self.depth - 1}"
            yield Part("norm", self.normalise, owns=("norm",), takes="tokens", depth=last)
        if shares:
            # All blocks read them; timm counts them with the head.
            yield Part("rope", lambda x, _: x, owns=shares, takes="tokens", depth="head")

    def _patches(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.whole_patches(x)
        options = {"use_bias": not self.pre_norm, **self.dtypes}
        return PatchEmbed(self.width, self.patch_size, name="patch_embed", **options)(x, train)

    def _tokens(self, x: jax.Array, train: bool) -> jax.Array:
        x = patch_tokens(
            self,
            x,
            class_token=self.class_token,
            register_tokens=self.register_tokens,
            position_prefix=self.position_prefix,
            learnt=self.positions,
            old_grid=self.grid,
            init=Normal(0.02),
            param_dtype=self.param_dtype,
        )
        return nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)

    def _kept(self, batch: int, grid: Sequence[int]) -> jax.Array:
        """The numbers ``[B, K]`` of the tokens that stay in training."""
        count = self.prefix + grid[0] * grid[1]
        numbers = jnp.broadcast_to(jnp.arange(count)[None, :, None], (batch, count, 1))
        drop = PatchDropout(self.patch_dropout, prefix_tokens=self.prefix, name="patch_drop")
        return drop(numbers, deterministic=False)[..., 0]

    @nn.nowrap
    def _rope(self, parent: Any) -> RotaryPositions:
        fields = ("temperature", "offset", "order", "reference", "halves")
        changes = ("shift", "jitter", "rescale")
        return RotaryPositions(
            width=self.width // self.heads,
            coordinates=str(self.rope),
            depth=self.depth,
            heads=self.heads,
            param_dtype=self.param_dtype,
            parent=parent,
            name="rope",
            **{name: getattr(self, f"rope_{name}") for name in (*fields, *changes)},
        )

    @nn.nowrap
    def _key_heads(self) -> Sequence[int | None]:
        fewer = self.key_heads
        return (fewer,) * self.depth if fewer is None or isinstance(fewer, int) else fewer

    @property
    def prefix(self) -> int:
        """The number of tokens before those of the patches."""
        return prefix_length(self.class_token, self.register_tokens)

    @property
    def norm_pooled(self) -> bool:
        """Whether the last norm stands behind the pooling."""
        return self.pooling == "avg" if self.fc_norm is None else self.fc_norm

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that pools these tokens."""
        options = super().pooling_options()
        attention = dict(options["attention"])
        attention["heads"] = self.pool_heads or self.heads
        attention["mlp_ratio"] = self.pool_mlp_ratio or self.mlp_ratio
        attention["activation"] = "gelu"
        prefix = 0 if self.pooling == "attention" else self.prefix
        return {**options, "attention": tuple(attention.items()), "prefix_tokens": prefix}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, which begins next to nothing."""
        norm = self.norm if self.final_norm and self.norm_pooled else None
        options = {"norm": norm, "norm_epsilon": self.norm_epsilon, "kernel_init": Normal(2e-5)}
        return {**self.pooling_options(), **options}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        names = {
            "pos_embed": self.positions,
            "cls_token": self.class_token,
            "reg_token": self.register_tokens,
            "rope/freqs": self.rope == "mixed",
        }
        return tuple(name for name, present in names.items() if present)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("register_tokens", self.register_tokens, minimum=0)
        check_choice("block", self.block, _BLOCKS)
        if self.pooling == "token" and not self.class_token:
            raise ArgumentError("pooling='token' takes the class token, and class_token is False")
        check_size("depth", self.depth)
        if len(self._key_heads()) != self.depth:
            raise ArgumentError(
                f"key_heads must be one int or depth={self.depth} of them, got {self.key_heads}"
            )
        super().check_fields()
        if self.rope is not None:
            check_choice("rope", self.rope, COORDINATES, " or None")
            self._rope(parent=None).check_fields()


# From the files of Meta's authors to today's names, in order: the Perception Encoder's, and those
# of DINOv3 and Sapiens2. EVA-02's own follow, whose layers are few enough to hold for all.
_PERCEPTION = (
    *((r"^conv1", "patch_embed.proj"), (r"^positional_embedding$", "pos_embed")),
    *((r"^transformer\.resblocks\.", "blocks."), (r"^ln_pre", "norm_pre"), (r"^ln_post", "norm")),
    *((r"\bln_", "norm"), (r"\bls_(\d)\.gamma", r"gamma_\1"), (r"in_proj_", "qkv.")),
    *((r"out_proj", "proj"), (r"mlp\.c_fc", "mlp.fc1"), (r"mlp\.c_proj", "mlp.fc2")),
    *((r"^attn_pool\.attn\.", "attn_pool."), (r"^attn_pool\.layernorm", "attn_pool.norm")),
    *((r"^attn_pool\.probe", "attn_pool.latent"), (r"^class_embedding$", "cls_token")),
)
_META = (
    *((r"^storage_tokens$", "reg_token"), (r"\bls(\d)\.gamma", r"gamma_\1")),
    *(
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"attn\.w([qkv])\.", r"attn.\1_proj."),
    ),
    *((r"attn\.gamma\.weight$", "gamma_1"), (r"\.ffn\.", ".mlp."), (r"\.ln(\d)\.", r".norm\1.")),
    (r"^ln1\.", "norm."),
)
_EVA = (
    *((r"mlp\.ffn_ln", "mlp.norm"), (r"attn\.inner_attn_ln", "attn.norm")),
    *((r"mlp\.w12", "mlp.fc1"), (r"mlp\.w1\b", "mlp.fc1_g"), (r"mlp\.w2", "mlp.fc1_x")),
    (r"mlp\.w3", "mlp.fc2"),
)
# What only pretraining needs, and tables that follow from the image's size.
_PRETRAINING = r"mask_token$|lm_head\.|projectors\.|local_cls_norm|.*\.(periods|bias_mask)$"
_TABLES = r"(.*\.)?rope\b(?!\.freqs$)"


def _convert(tensors: Mapping[str, Any], backbone: Eva) -> dict[str, Any]:
    """Today's names for the tensors of the authors' files, and of OpenCLIP's."""
    for prefix in ("visual.trunk.", "visual."):
        if any(name.startswith(prefix) for name in tensors):
            tensors = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    perception = "conv1.weight" in tensors
    meta = "storage_tokens" in tensors
    masked = "mask_token" in tensors and not meta
    separate = any(".attn.q_proj." in name for name in tensors)
    rules = (*(_PERCEPTION if perception else ()), *(_META if meta else ()), *_EVA)
    converted: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if re.match(f"{_PRETRAINING}|{_TABLES}", name):
            continue
        for pattern, word in rules:
            name = re.sub(pattern, word, name)
        if masked and name in ("norm.weight", "norm.bias") and backbone.norm_pooled:
            name = f"fc_{name}"
        if separate:
            name = re.sub(r"attn\.([qv])_bias$", r"attn.\1_proj.bias", name)
        converted |= _converted(name, tensor, perception, meta, backbone)
    return converted


def _converted(
    name: str, tensor: Any, perception: bool, meta: bool, backbone: Eva
) -> dict[str, Any]:
    """One tensor of a file, as those of the names that it has become."""
    if perception and name.startswith("attn_pool.qkv."):
        kind = name.rpartition(".")[2]
        third = len(tensor) // 3
        return {f"attn_pool.q.{kind}": tensor[:third], f"attn_pool.kv.{kind}": tensor[third:]}
    if perception and name == "proj":
        return {"head.weight": tensor.T, "head.bias": np.zeros(tensor.shape[1], tensor.dtype)}
    if perception and name in ("cls_token", "pos_embed"):
        return {name: tensor.reshape(1, -1, tensor.shape[-1])}
    if meta and name.endswith("attn.qkv.bias"):
        # Keys have none; smaller networks' are all zero.
        q, _, v = np.split(np.asarray(tensor), 3)
        stem = name.removesuffix("qkv.bias")
        return {f"{stem}q_bias": q, f"{stem}v_bias": v} if backbone.qkv_bias else {}
    return {name: tensor}


REFERENCE = Reference(
    stem=("patch_embed/proj",),
    classifier="head",
    head=(("norm", "fc_norm"), ("attn_pool", "attn_pool")),
    convert=_convert,
    resized=(("params/backbone/pos_embed", resize_positions),),
    patches=("patch_embed/proj", resample_kernel),
)

# For scripts/certify.py.
CUT = {"depth": "depth", "key_heads": "num_kv_heads"}

# What names have in common: sizes, and the habits of groups.
_M: dict[str, Any] = {"width": 512, "heads": 8}
_H: dict[str, Any] = {"width": 1280, "depth": 32, "heads": 20}
_G: dict[str, Any] = {"patch_size": 14, "width": 1408, "depth": 40, "heads": 16}
_G |= {"mlp_ratio": 6144 / 1408}
_PE_G: dict[str, Any] = {"patch_size": 14, "width": 1536, "heads": 16, "mlp_ratio": 8960 / 1536}
_PE_G |= {"class_token": False, "rope_offset": 0.0}
_SWIGLU: dict[str, Any] = {"mlp": "swiglu", "activation": "silu"}
_02: dict[str, Any] = {"patch_size": 14, "rope": "index", "rope_reference": (16, 16)}
_02_S: dict[str, Any] = {**_02, "mlp": "glu", "activation": "silu", "mlp_ratio": 4 * 4 / 3}
_02_L: dict[str, Any] = {**_02, **_SWIGLU, "mlp_ratio": 4 * 2 / 3, "mlp_norm": True}
_02_L |= {"fused_qkv": False}
_CLIP: dict[str, Any] = {**_02_L, "attention_norm": True, "pooling": "token"}
_SBB: dict[str, Any] = {
    "input_shape": (256, 256, 3),
    "layer_scale": 1e-5,
    "class_token": False,
    "positions": False,
    "rope": "index",
    "rope_reference": (16, 16),
}
_PE: dict[str, Any] = {
    "rope": "index",
    "rope_order": "xy",
    "rope_offset": 1.0,
    "pre_norm": True,
    "key_bias": True,
    "norm_epsilon": 1e-5,
}
_CORE: dict[str, Any] = {**_PE, "pooling": "attention", "pool_heads": 8, "pool_mlp_ratio": 4.0}
_BARE: dict[str, Any] = {**_PE, "rope_reference": (32, 32), "final_norm": False, "fc_norm": False}
_ROPE: dict[str, Any] = {
    "pooling": "token",
    "key_bias": True,
    "layer_scale": 1e-5,
    "rope": "index",
    "rope_order": "xy",
    "rope_temperature": 100.0,
    "positions": False,
}
_MIXED: dict[str, Any] = {**_ROPE, "rope": "mixed", "rope_temperature": 10.0}
_APE: dict[str, Any] = {"positions": True, "position_prefix": False}
_META_ROPE: dict[str, Any] = {
    "dynamic_size": True,
    "positions": False,
    "rope": "centred",
    "rope_temperature": 100.0,
    "rope_halves": True,
    "fc_norm": False,
}
_DINO: dict[str, Any] = {
    **_META_ROPE,
    "input_shape": (256, 256, 3),
    "register_tokens": 4,
    "layer_scale": 1e-5,
    "norm_epsilon": 1e-5,
}
_PLAIN: dict[str, Any] = {"qkv_bias": False}
_LINGBOT: dict[str, Any] = {**_DINO, "input_shape": (512, 512, 3), "pooling": "token"}
_SAPIENS: dict[str, Any] = {
    **_META_ROPE,
    "input_shape": (1024, 768, 3),
    "rope_rescale": 2.0,
    "register_tokens": 8,
    "pooling": "token",
    "norm": "rms",
    "key_bias": True,
    "fused_qkv": False,
    "qk_norm": True,
    "mlp": "glu",
    "activation": "silu",
    "mlp_ratio": 8.0,
    "layer_scale": 1.0,
    "mlp_scale": False,
}


def _ends(heads: int, fewer: int, depth: int) -> tuple[int, ...]:
    """As many heads of keys for eight blocks at either end, and fewer between them."""
    return (heads,) * 8 + (fewer,) * (depth - 16) + (heads,) * 8


_add = functools.partial(variants, Eva, reference=REFERENCE)
_add(
    {
        "eva_giant_patch14_224": row("EVA-g/14", **_G),
        "eva_giant_patch14_336": row("EVA-g/14", input_shape=(336, 336, 3), **_G),
        "eva_giant_patch14_560": row("EVA-g/14", input_shape=(560, 560, 3), **_G),
    },
    paper="https://arxiv.org/abs/2211.07636",
)
_add(
    {
        "eva02_tiny_patch14_224": row("EVA-02-Ti/14", **TINY, **_02_S),
        "eva02_small_patch14_224": row("EVA-02-S/14", **SMALL, **_02_S),
        "eva02_base_patch14_224": row("EVA-02-B/14", **BASE, **_02_L),
        "eva02_large_patch14_224": row("EVA-02-L/14", **LARGE, **_02_L),
        "eva02_tiny_patch14_336": row("EVA-02-Ti/14", input_shape=(336, 336, 3), **TINY, **_02_S),
        "eva02_small_patch14_336": row("EVA-02-S/14", input_shape=(336, 336, 3), **SMALL, **_02_S),
        "eva02_base_patch14_448": row("EVA-02-B/14", input_shape=(448, 448, 3), **BASE, **_02_L),
        "eva02_large_patch14_448": row("EVA-02-L/14", input_shape=(448, 448, 3), **LARGE, **_02_L),
    },
    paper="https://arxiv.org/abs/2303.11331",
)
_add(
    {
        "eva_giant_patch14_clip_224": row("EVA-CLIP-g/14", pooling="token", **_G),
        "eva02_base_patch16_clip_224": row(
            "EVA-02-CLIP-B/16", **{**BASE, **_CLIP, "patch_size": 16}
        ),
        "eva02_large_patch14_clip_224": row("EVA-02-CLIP-L/14", **LARGE, **_CLIP),
        "eva02_large_patch14_clip_336": row(
            "EVA-02-CLIP-L/14", input_shape=(336, 336, 3), **LARGE, **_CLIP
        ),
        "eva02_enormous_patch14_clip_224": row(
            "EVA-02-CLIP-E/14",
            patch_size=14,
            width=1792,
            depth=64,
            heads=16,
            mlp_ratio=15360 / 1792,
            block="post",
            pooling="token",
        ),
    },
    paper="https://arxiv.org/abs/2303.15389",
)
_add(
    {
        "vit_medium_patch16_rope_reg1_gap_256": row(
            "RoPE-ViT-M/16", depth=12, register_tokens=1, **_M, **_SBB
        ),
        "vit_mediumd_patch16_rope_reg1_gap_256": row(
            "RoPE-ViT-M/16, deeper", depth=20, register_tokens=1, qkv_bias=False, **_M, **_SBB
        ),
        "vit_betwixt_patch16_rope_reg4_gap_256": row(
            "RoPE-ViT between M and B", width=640, depth=12, heads=10, register_tokens=4, **_SBB
        ),
        "vit_base_patch16_rope_reg1_gap_256": row(
            "RoPE-ViT-B/16", register_tokens=1, **BASE, **_SBB
        ),
    },
    paper="https://arxiv.org/abs/2303.11331",
)
_add(
    {
        "vit_pe_core_tiny_patch16_384": row(
            "PE-core-Ti/16", input_shape=(384, 384, 3), rope_reference=(24, 24), **TINY, **_CORE
        ),
        "vit_pe_core_small_patch16_384": row(
            "PE-core-S/16", input_shape=(384, 384, 3), rope_reference=(24, 24), **SMALL, **_CORE
        ),
        "vit_pe_core_base_patch16_224": row(
            "PE-core-B/16", rope_reference=(14, 14), **BASE, **_CORE
        ),
        "vit_pe_core_large_patch14_336": row(
            "PE-core-L/14",
            patch_size=14,
            input_shape=(336, 336, 3),
            rope_reference=(24, 24),
            **LARGE,
            **_CORE,
        ),
        "vit_pe_core_gigantic_patch14_448": row(
            "PE-core-G/14",
            depth=50,
            input_shape=(448, 448, 3),
            rope_reference=(32, 32),
            **{**_CORE, **_PE_G},
        ),
        "vit_pe_lang_large_patch14_448": row(
            "PE-lang-L/14",
            patch_size=14,
            input_shape=(448, 448, 3),
            layer_scale=0.1,
            **{**LARGE, **_BARE, "depth": 23},
        ),
        "vit_pe_lang_gigantic_patch14_448": row(
            "PE-lang-G/14",
            depth=47,
            input_shape=(448, 448, 3),
            layer_scale=0.1,
            **{**_BARE, **_PE_G},
        ),
        "vit_pe_spatial_tiny_patch16_512": row(
            "PE-spatial-Ti/16", input_shape=(512, 512, 3), **TINY, **_BARE
        ),
        "vit_pe_spatial_small_patch16_512": row(
            "PE-spatial-S/16", input_shape=(512, 512, 3), **SMALL, **_BARE
        ),
        "vit_pe_spatial_base_patch16_512": row(
            "PE-spatial-B/16", input_shape=(512, 512, 3), **BASE, **_BARE
        ),
        "vit_pe_spatial_large_patch14_448": row(
            "PE-spatial-L/14", patch_size=14, input_shape=(448, 448, 3), **LARGE, **_BARE
        ),
        "vit_pe_spatial_gigantic_patch14_448": row(
            "PE-spatial-G/14",
            depth=50,
            input_shape=(448, 448, 3),
            layer_scale=0.1,
            **{**_BARE, **_PE_G},
        ),
    },
    paper="https://arxiv.org/abs/2504.13181",
)
_add(
    {
        "vit_small_patch16_rope_224": row("RoPE-ViT-S/16, axial", **SMALL, **_ROPE),
        "vit_base_patch16_rope_224": row("RoPE-ViT-B/16, axial", **BASE, **_ROPE),
        "vit_large_patch16_rope_224": row("RoPE-ViT-L/16, axial", **LARGE, **_ROPE),
        "vit_small_patch16_rope_ape_224": row(
            "RoPE-ViT-S/16, axial, with learnt positions", **SMALL, **{**_ROPE, **_APE}
        ),
        "vit_base_patch16_rope_ape_224": row(
            "RoPE-ViT-B/16, axial, with learnt positions", **BASE, **{**_ROPE, **_APE}
        ),
        "vit_large_patch16_rope_ape_224": row(
            "RoPE-ViT-L/16, axial, with learnt positions", **LARGE, **{**_ROPE, **_APE}
        ),
        "vit_small_patch16_rope_mixed_224": row("RoPE-ViT-S/16, mixed axes", **SMALL, **_MIXED),
        "vit_base_patch16_rope_mixed_224": row("RoPE-ViT-B/16, mixed axes", **BASE, **_MIXED),
        "vit_large_patch16_rope_mixed_224": row("RoPE-ViT-L/16, mixed axes", **LARGE, **_MIXED),
        "vit_small_patch16_rope_mixed_ape_224": row(
            "RoPE-ViT-S/16, mixed axes, with learnt positions", **SMALL, **{**_MIXED, **_APE}
        ),
        "vit_base_patch16_rope_mixed_ape_224": row(
            "RoPE-ViT-B/16, mixed axes, with learnt positions", **BASE, **{**_MIXED, **_APE}
        ),
        "vit_large_patch16_rope_mixed_ape_224": row(
            "RoPE-ViT-L/16, mixed axes, with learnt positions", **LARGE, **{**_MIXED, **_APE}
        ),
    },
    paper="https://arxiv.org/abs/2403.13298",
)
_add(
    {
        "vit_tiny_patch16_dinov3_qkvb": row("DINOv3-Ti/16, qkv with bias", **TINY, **_DINO),
        "vit_small_patch16_dinov3": row("DINOv3-S/16", **SMALL, **_DINO, **_PLAIN),
        "vit_small_patch16_dinov3_qkvb": row("DINOv3-S/16, qkv with bias", **SMALL, **_DINO),
        "vit_small_plus_patch16_dinov3": row("DINOv3-S+/16", **SMALL, **_DINO, **_PLAIN, **_SWIGLU),
        "vit_small_plus_patch16_dinov3_qkvb": row(
            "DINOv3-S+/16, qkv with bias", **SMALL, **_DINO, **_SWIGLU
        ),
        "vit_base_patch16_dinov3": row("DINOv3-B/16", **BASE, **_DINO, **_PLAIN),
        "vit_base_patch16_dinov3_qkvb": row("DINOv3-B/16, qkv with bias", **BASE, **_DINO),
        "vit_large_patch16_dinov3": row("DINOv3-L/16", **LARGE, **_DINO, **_PLAIN),
        "vit_large_patch16_dinov3_qkvb": row("DINOv3-L/16, qkv with bias", **LARGE, **_DINO),
        "vit_huge_plus_patch16_dinov3": row("DINOv3-H+/16", **_H, **_DINO, **_PLAIN, **_SWIGLU),
        "vit_huge_plus_patch16_dinov3_qkvb": row(
            "DINOv3-H+/16, qkv with bias", **_H, **_DINO, **_SWIGLU
        ),
        "vit_7b_patch16_dinov3": row(
            "DINOv3-7B/16",
            width=4096,
            depth=40,
            heads=32,
            mlp_ratio=2.0,
            **_DINO,
            **_PLAIN,
            **_SWIGLU,
        ),
    },
    paper="https://arxiv.org/abs/2508.10104",
)
_add(
    {
        "vit_small_patch16_lingbot": row("LingBot-Vision-S/16", **SMALL, **_LINGBOT),
        "vit_base_patch16_lingbot": row("LingBot-Vision-B/16", **BASE, **_LINGBOT),
        "vit_large_patch16_lingbot": row("LingBot-Vision-L/16", **LARGE, **_LINGBOT),
        "vit_giant_patch16_lingbot": row(
            "LingBot-Vision-g/16",
            width=1536,
            depth=40,
            heads=24,
            mlp_ratio=4 * 2 / 3,
            **_LINGBOT,
            **_PLAIN,
            **_SWIGLU,
        ),
    },
    paper="https://arxiv.org/abs/2607.05247",
)
_add(
    {
        "vit_base_patch16_sapiens2": row("Sapiens2-B/16", key_heads=(12,) * 12, **BASE, **_SAPIENS),
        "vit_large_patch16_sapiens2": row(
            "Sapiens2-L/16", key_heads=_ends(16, 8, 24), **LARGE, **_SAPIENS
        ),
        "vit_huge_patch16_sapiens2": row(
            "Sapiens2-H/16", width=1280, depth=32, heads=16, key_heads=_ends(16, 8, 32), **_SAPIENS
        ),
        "vit_giant_patch16_sapiens2": row(
            "Sapiens2-g/16", width=1536, depth=40, heads=24, key_heads=_ends(24, 12, 40), **_SAPIENS
        ),
        "vit_5b_patch16_sapiens2": row(
            "Sapiens2-5B/16",
            width=2432,
            depth=56,
            heads=32,
            key_heads=_ends(32, 16, 56),
            **_SAPIENS,
        ),
    },
    paper="https://arxiv.org/abs/2604.21681",
)
