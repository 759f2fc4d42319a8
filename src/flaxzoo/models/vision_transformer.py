"""Vision transformers: images as patches, patches as tokens, and blocks of attention over them.

The variants differ by size, tokens, norms, kind of block, and how the tokens are pooled. Names and
numbers are those of timm's ``vision_transformer`` module.

References:
  ViT: https://arxiv.org/abs/2010.11929
  CLIP and SigLIP: https://arxiv.org/abs/2103.00020 and https://arxiv.org/abs/2303.15343
  DINOv2 and registers: https://arxiv.org/abs/2304.07193 and https://arxiv.org/abs/2309.16588
  RADIO: https://arxiv.org/abs/2412.07679 and https://arxiv.org/abs/2601.17237
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxzoo._checks import check_choice, check_size
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.patch_embed import PatchDropout, PatchEmbed, resample_kernel
from flaxzoo.layers.pos_embed import resample_positions
from flaxzoo.layers.tokens import patch_tokens, prefix_length
from flaxzoo.layers.transformer import BLOCKS
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import (
    BASE,
    HUGE,
    LARGE,
    MEDIUM,
    SMALL,
    TINY,
    PatchBackbone,
    resize_positions,
)
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("heads", "mlp", "mlp_ratio", "activation", "qkv_bias", "proj_bias", "qk_norm", "scale_norm"),
    *("layer_scale", "norm", "norm_epsilon", "attention_dropout", "block_dropout"),
    *("implementation", "dtype", "param_dtype"),
)


class VisionTransformer(PatchBackbone):
    """A vision transformer without its classifier: patches, tokens, blocks and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, N, width]``: the class token, the registers and
    the patches row by row. Maps are the patches' tokens behind each block, before the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for.
      dynamic_size: whether images of any other size, of whole patches, are taken, too, and the
        positions resampled for them.
      patch_size: height and width of a patch.
      width: of a token.
      depth: number of blocks.
      block: their kind, of ``flaxzoo.layers.transformer.BLOCKS``: ``"pre"``, ``"post"``,
        ``"pairs"``, ``"parallel"``, ``"differential"`` or ``"differential_parallel"``.
        ``TransformerBlock`` says what ``heads``, ``mlp``,
        ``mlp_ratio``, ``activation``, ``qkv_bias``, ``proj_bias``, ``qk_norm``, ``scale_norm``,
        ``layer_scale``, ``norm``, ``norm_epsilon``, ``attention_dropout``, ``block_dropout`` and
        ``implementation`` are; the norms are the whole network's.
      class_token: whether there is one.
      register_tokens: number of registers.
      position_prefix: whether class token and registers have positions, too.
      pooling: as a ``Head``'s, for those with ``pooling="auto"``; ``"token"`` is the class token.
      pool_prefix: whether class token and registers are pooled with the patches.
      patch_norm: whether patches are normalised.
      pre_norm: whether a norm stands before the blocks (CLIP); patches then have no bias.
      final_norm: whether there is a last norm.
      fc_norm: whether it stands behind the pooling; None: where averages or maxima are pooled.
      position_dropout: rate at which units are dropped before the blocks.
      patch_dropout: rate at which patches are left out in training.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    dynamic_size: bool = False
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    block: str = "pre"
    mlp: str = "mlp"
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    class_token: bool = True
    register_tokens: int = 0
    position_prefix: bool = True
    pooling: str | None = "token"
    pool_prefix: bool = False
    patch_norm: bool = False
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool | None = None
    qkv_bias: bool = True
    proj_bias: bool = True
    qk_norm: bool = False
    scale_norm: bool = False
    layer_scale: float | None = None
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    patch_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    # No field: a network that is distilled has another head, too (``flaxzoo.models.deit``).
    distillation_token = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The tokens, the blocks ``blocks_0``, ``blocks_1`` and so on, and the last norm."""
        # Of the images that come in: those of a dynamic size have another one.
        grid = list(self.grid)

        def embed(x: jax.Array, train: bool) -> jax.Array:
            x = self._patches(x, train)
            grid[:] = x.shape[1:3]
            return self._tokens(x, train)

        names = ("patch_embed", "cls_token", "dist_token", "reg_token", "pos_embed")
        yield Part("embed", embed, owns=names, takes="images")
        if self.pre_norm:
            yield Part(
                "embed", functools.partial(self.normalise, name="norm_pre"), owns=("norm_pre",)
            )
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        build = functools.partial(BLOCKS[self.block], open_gates=True, **fields)
        numbered = hasattr(BLOCKS[self.block], "number")
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            number = {"number": i} if numbered else {}
            yield Part(
                f"blocks_{i}",
                functools.partial(build, drop_path=rate, **number),
                takes="tokens",
                map=f"blocks_{i}",
                reduction=self.reduction,
                view=lambda x: tokens_to_map(x, grid[0], grid[1], self.prefix),
                remat=self.remat,
            )
        if self.final_norm and not self.norm_pooled:
            last = f"blocks_{self.depth - 1}"
            yield Part("norm", self.normalise, owns=("norm",), takes="tokens", depth=last)

    def _patches(self, x: jax.Array, train: bool) -> jax.Array:
        x, size = self.whole_patches(x), self.patch_size
        if x.shape[1] % size or x.shape[2] % size:
            raise ShapeError(
                f"images must be of whole patches of patch_size={size}, got {list(x.shape)}: "
                "crop or resize them"
            )
        norm = {"norm": self.norm, "norm_epsilon": self.norm_epsilon} if self.patch_norm else {}
        options = {"use_bias": not self.pre_norm, **norm, **self.dtypes}
        return PatchEmbed(self.width, size, name="patch_embed", **options)(x, train)

    def _tokens(self, x: jax.Array, train: bool) -> jax.Array:
        x = patch_tokens(
            self,
            x,
            class_token=self.class_token,
            distillation_token=self.distillation_token,
            register_tokens=self.register_tokens,
            position_prefix=self.position_prefix,
            old_grid=self.grid,
            param_dtype=self.param_dtype,
        )
        x = nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)
        drop = PatchDropout(self.patch_dropout, prefix_tokens=self.prefix, name="patch_drop")
        return drop(x, deterministic=not train)

    @property
    def prefix(self) -> int:
        """The number of tokens before those of the patches."""
        return prefix_length(self.class_token, self.register_tokens, self.distillation_token)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that pools these tokens."""
        options = super().pooling_options()
        return {**options, "prefix_tokens": 0} if self.pool_prefix else options

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        norm = self.norm if self.final_norm and self.norm_pooled else None
        options = {"norm": norm, "norm_epsilon": self.norm_epsilon, "kernel_init": Normal(0.02)}
        return {**self.pooling_options(), **options}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        tokens = {
            "cls_token": self.class_token,
            "dist_token": self.distillation_token,
            "reg_token": self.register_tokens,
        }
        return ("pos_embed", *(name for name, count in tokens.items() if count))

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("register_tokens", self.register_tokens, minimum=0)
        check_choice("block", self.block, BLOCKS)
        if self.pooling == "token" and not self.class_token:
            raise ArgumentError("pooling='token' takes the class token, and class_token is False")
        super().check_fields()


def _convert(tensors: Mapping[str, Any], backbone: VisionTransformer) -> dict[str, Any]:
    """Today's names for the tensors of timm's older files, and of DINOv2's own."""
    if any(name.startswith(_RADIO) for name in tensors):
        return _convert_radio(tensors)
    converted = {
        name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): tensor
        for name, tensor in tensors.items()
        if name != "mask_token" and not name.startswith("pre_logits.")
    }
    if "register_tokens" in converted:
        # DINOv2's class token has a position, its registers have none.
        positions = converted["pos_embed"]
        converted["reg_token"] = converted.pop("register_tokens")
        converted["cls_token"] = converted["cls_token"] + positions[:, :1]
        converted["pos_embed"] = positions[:, 1:]
    kernel = converted.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 2:
        # All of these files are for images of three channels.
        side = math.isqrt(kernel.shape[1] // 3)
        converted["patch_embed.proj.weight"] = kernel.reshape(kernel.shape[0], -1, side, side)
    return converted


def _convert_radio(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The names of timm for NVIDIA's own tensors of RADIO, whose teachers' heads are left out."""
    converted = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(_RADIO)
        if name.startswith("blocks."):
            converted[name.replace(".grandma", ".gamma")] = tensor
    patches = f"{_RADIO}patch_generator."
    kernel, tokens = tensors[f"{patches}embedder.weight"], tensors[f"{patches}cls_token.token"]
    side = math.isqrt(kernel.shape[1] // 3)
    return {
        **converted,
        "patch_embed.proj.weight": kernel.reshape(kernel.shape[0], 3, side, side),
        "patch_embed.proj.bias": np.zeros(kernel.shape[0], kernel.dtype),
        "pos_embed": tensors[f"{patches}pos_embed"],
        # The first teacher's class token; those of the others serve as registers.
        "cls_token": tokens[None, :1],
        "reg_token": tokens[None, 1:],
    }


def _resize_radio(
    positions: Any, shape: Any, backbone: Any, old: Any, new: Any, method: str = "bilinear"
) -> Any:
    """A file's positions of RADIO: NVIDIA's are resampled for a square, of which a part is cut."""
    if positions.shape[1] != math.prod(_RADIO_GRID):
        return resize_positions(positions, shape, backbone, old, new, method)
    rows, columns = backbone.grid_of(new)
    side = max(rows, columns)
    cells = resample_positions(positions, (side, side), method=method)
    cells = cells.reshape(1, side, side, -1)[:, :rows, :columns]
    return cells.reshape(1, rows * columns, -1)


_POSITIONS = "params/backbone/pos_embed"
# Where NVIDIA's own files keep what they share with ViT, and the grid of their positions.
_RADIO = "radio_model.model."
_RADIO_GRID = (128, 128)
REFERENCE = Reference(
    stem=("patch_embed/proj",),
    classifier="head",
    head=(("norm", "fc_norm"), ("attn_pool", "attn_pool")),
    convert=_convert,
    # SigLIP's files may hold its pooling also for the names that average instead.
    ignored=("*.num_batches_tracked", "attn_pool.*"),
    resized=((_POSITIONS, resize_positions),),
    patches=("patch_embed/proj", resample_kernel),
)
_FLEXIBLE = dataclasses.replace(
    REFERENCE,
    resized=((_POSITIONS, functools.partial(resize_positions, method="bilinear")),),
    patches=("patch_embed/proj", functools.partial(resample_kernel, method="bilinear")),
)
_BILINEAR = dataclasses.replace(_FLEXIBLE, resized=((_POSITIONS, _resize_radio),))
_ALIGNED = dataclasses.replace(
    _FLEXIBLE, resized=((_POSITIONS, functools.partial(_resize_radio, method="aligned")),)
)

# Weights of timm's that are not here, with the reason.
_IJEPA = "a file of Meta's, in no repository of the Hub"
LEFT_OUT = {
    "vit_huge_patch14_gap_224.in1k_ijepa": _IJEPA,
    "vit_huge_patch14_gap_224.in22k_ijepa": _IJEPA,
    "vit_huge_patch16_gap_448.in1k_ijepa": _IJEPA,
    "vit_giant_patch16_gap_224.in22k_ijepa": _IJEPA,
}

# What names have in common: sizes, and the habits of groups.
_SO400M: dict[str, Any] = {"width": 1152, "depth": 27, "heads": 16}
_G_OPT: dict[str, Any] = {"width": 1536, "depth": 40, "heads": 16}
_AIMV2: dict[str, Any] = {
    "class_token": False,
    "pooling": "avg",
    "fc_norm": False,
    "qkv_bias": False,
    "proj_bias": False,
    "patch_norm": True,
    "mlp": "swiglu",
    "activation": "silu",
    "norm": "rms",
    "norm_epsilon": 1e-05,
}
_BEIT3: dict[str, Any] = {"pooling": "avg", "scale_norm": True, "norm_epsilon": 1e-05}
_XP: dict[str, Any] = {
    "block": "parallel",
    "pre_norm": True,
    "position_prefix": False,
    "qkv_bias": False,
    "qk_norm": True,
    "norm": "rms",
}
_GLU: dict[str, Any] = {"mlp": "glu", "activation": "silu"}
_CLIP: dict[str, Any] = {"pre_norm": True, "norm_epsilon": 1e-05}
_SIGLIP: dict[str, Any] = {"class_token": False, "pooling": "attention"}
_GAP: dict[str, Any] = {"class_token": False, "pooling": "avg", "fc_norm": False}
_RADIO_V3: dict[str, Any] = {
    "patch_size": 16,
    "register_tokens": 7,
    "position_prefix": False,
    "final_norm": False,
    "input_shape": (512, 512, 3),
}
_RADIO_V4: dict[str, Any] = {**_RADIO_V3, "register_tokens": 9}
_SBB: dict[str, Any] = {
    "class_token": False,
    "pooling": "avg",
    "position_prefix": False,
    "layer_scale": 1e-05,
}

_add = functools.partial(variants, VisionTransformer, reference=REFERENCE)
_add(
    {
        "vit_tiny_patch16_224": row("ViT-Ti/16", patch_size=16, **TINY),
        "vit_tiny_patch16_384": row("ViT-Ti/16", patch_size=16, input_shape=(384, 384, 3), **TINY),
        "vit_small_patch32_224": row("ViT-S/32", patch_size=32, **SMALL),
        "vit_small_patch32_384": row("ViT-S/32", patch_size=32, input_shape=(384, 384, 3), **SMALL),
        "vit_small_patch16_224": row("ViT-S/16", patch_size=16, **SMALL),
        "vit_small_patch16_384": row("ViT-S/16", patch_size=16, input_shape=(384, 384, 3), **SMALL),
        "vit_small_patch8_224": row("ViT-S/8", patch_size=8, **SMALL),
        "vit_base_patch32_224": row("ViT-B/32", patch_size=32, **BASE),
        "vit_base_patch32_384": row("ViT-B/32", patch_size=32, input_shape=(384, 384, 3), **BASE),
        "vit_base_patch16_224": row("ViT-B/16", patch_size=16, **BASE),
        "vit_base_patch16_384": row("ViT-B/16", patch_size=16, input_shape=(384, 384, 3), **BASE),
        "vit_base_patch8_224": row("ViT-B/8", patch_size=8, **BASE),
        "vit_large_patch32_224": row("ViT-L/32", patch_size=32, **LARGE),
        "vit_large_patch32_384": row("ViT-L/32", patch_size=32, input_shape=(384, 384, 3), **LARGE),
        "vit_large_patch16_224": row("ViT-L/16", patch_size=16, **LARGE),
        "vit_large_patch16_384": row("ViT-L/16", patch_size=16, input_shape=(384, 384, 3), **LARGE),
        "vit_large_patch14_224": row("ViT-L/14", patch_size=14, **LARGE),
        "vit_huge_patch14_224": row("ViT-H/14", patch_size=14, **HUGE),
        "vit_giant_patch14_224": row(
            "ViT-g/14", patch_size=14, width=1408, depth=40, heads=16, mlp_ratio=48 / 11
        ),
        "vit_gigantic_patch14_224": row(
            "ViT-G/14", patch_size=14, width=1664, depth=48, heads=16, mlp_ratio=64 / 13
        ),
        "vit_base_patch16_224_miil": row(
            "ViT-B/16, no biases before attention", patch_size=16, qkv_bias=False, **BASE
        ),
        "vit_medium_patch16_gap_240": row(
            "ViT-M/16, averages",
            patch_size=16,
            qkv_bias=False,
            layer_scale=1e-06,
            input_shape=(240, 240, 3),
            **MEDIUM,
            **_GAP,
        ),
        "vit_medium_patch16_gap_256": row(
            "ViT-M/16, averages",
            patch_size=16,
            qkv_bias=False,
            layer_scale=1e-06,
            input_shape=(256, 256, 3),
            **MEDIUM,
            **_GAP,
        ),
        "vit_medium_patch16_gap_384": row(
            "ViT-M/16, averages",
            patch_size=16,
            qkv_bias=False,
            layer_scale=1e-06,
            input_shape=(384, 384, 3),
            **MEDIUM,
            **_GAP,
        ),
        "vit_betwixt_patch16_gap_256": row(
            "ViT-b/16, averages",
            patch_size=16,
            width=640,
            depth=12,
            heads=10,
            qkv_bias=False,
            layer_scale=1e-06,
            input_shape=(256, 256, 3),
            **_GAP,
        ),
        "vit_base_patch16_gap_224": row(
            "ViT-B/16, averages", patch_size=16, width=768, depth=12, heads=16, **_GAP
        ),
        "vit_huge_patch14_gap_224": row("ViT-H/14, averages", patch_size=14, **HUGE, **_GAP),
        "vit_huge_patch16_gap_448": row(
            "ViT-H/16, averages", patch_size=16, input_shape=(448, 448, 3), **HUGE, **_GAP
        ),
        "vit_giant_patch16_gap_224": row(
            "ViT-g/16, averages",
            patch_size=16,
            width=1408,
            depth=40,
            heads=16,
            mlp_ratio=48 / 11,
            **_GAP,
        ),
        "vit_base_patch32_plus_256": row(
            "ViT-B/32+",
            patch_size=32,
            width=896,
            depth=12,
            heads=14,
            layer_scale=1e-05,
            input_shape=(256, 256, 3),
        ),
        "vit_base_patch16_plus_240": row(
            "ViT-B/16+",
            patch_size=16,
            width=896,
            depth=12,
            heads=14,
            layer_scale=1e-05,
            input_shape=(240, 240, 3),
        ),
        "vit_base_patch16_rpn_224": row(
            "ViT-B/16, norms behind the branches",
            patch_size=16,
            qkv_bias=False,
            layer_scale=1e-05,
            class_token=False,
            block="post",
            pooling="avg",
            **BASE,
        ),
        "vit_base_patch14_reg1_tipsv2": row(
            "TIPSv2-B/14",
            patch_size=14,
            layer_scale=1.0,
            register_tokens=1,
            position_prefix=False,
            input_shape=(448, 448, 3),
            **BASE,
        ),
        "vit_large_patch14_reg1_tipsv2": row(
            "TIPSv2-L/14",
            patch_size=14,
            layer_scale=1.0,
            register_tokens=1,
            position_prefix=False,
            input_shape=(448, 448, 3),
            **LARGE,
        ),
        "vit_so400m_patch14_reg1_tipsv2": row(
            "TIPSv2-SO400M/14",
            patch_size=14,
            mlp_ratio=4304 / 1152,
            layer_scale=1.0,
            register_tokens=1,
            position_prefix=False,
            input_shape=(448, 448, 3),
            **_SO400M,
        ),
        "vit_giant_patch14_reg1_tipsv2": row(
            "TIPSv2-g/14",
            patch_size=14,
            width=1536,
            depth=40,
            heads=24,
            mlp_ratio=2.66667 * 2,
            layer_scale=1.0,
            register_tokens=1,
            position_prefix=False,
            input_shape=(448, 448, 3),
            **_GLU,
        ),
        "test_vit": row(
            "A tiny network, class token",
            patch_size=16,
            width=64,
            depth=6,
            heads=2,
            mlp_ratio=3,
            dynamic_size=True,
            input_shape=(160, 160, 3),
        ),
        "test_vit2": row(
            "A tiny network, averages",
            patch_size=16,
            width=64,
            depth=8,
            heads=2,
            mlp_ratio=3,
            class_token=False,
            register_tokens=1,
            pooling="avg",
            layer_scale=1e-05,
            dynamic_size=True,
            input_shape=(160, 160, 3),
        ),
        "test_vit3": row(
            "A tiny network, attention pooling",
            patch_size=16,
            width=96,
            depth=9,
            heads=3,
            mlp_ratio=2,
            register_tokens=1,
            pool_prefix=True,
            layer_scale=1e-05,
            input_shape=(160, 160, 3),
            **_SIGLIP,
        ),
        "test_vit4": row(
            "A tiny network, RMS norms",
            patch_size=16,
            width=96,
            depth=9,
            heads=3,
            mlp_ratio=3,
            class_token=False,
            register_tokens=1,
            pooling="avg",
            layer_scale=1e-05,
            dynamic_size=True,
            norm="rms",
            input_shape=(160, 160, 3),
        ),
    },
    paper="https://arxiv.org/abs/2010.11929",
)
_add(
    {
        "vit_xsmall_patch16_clip_224": row(
            "CLIP-XS/16", patch_size=16, width=256, depth=10, heads=4, **_CLIP
        ),
        "vit_medium_patch32_clip_224": row("CLIP-M/32", patch_size=32, **MEDIUM, **_CLIP),
        "vit_medium_patch16_clip_224": row("CLIP-M/16", patch_size=16, **MEDIUM, **_CLIP),
        "vit_betwixt_patch32_clip_224": row(
            "CLIP-b/32", patch_size=32, width=640, depth=12, heads=10, **_CLIP
        ),
        "vit_base_patch32_clip_224": row("CLIP-B/32", patch_size=32, **BASE, **_CLIP),
        "vit_base_patch32_clip_256": row(
            "CLIP-B/32", patch_size=32, input_shape=(256, 256, 3), **BASE, **_CLIP
        ),
        "vit_base_patch32_clip_384": row(
            "CLIP-B/32", patch_size=32, input_shape=(384, 384, 3), **BASE, **_CLIP
        ),
        "vit_base_patch32_clip_448": row(
            "CLIP-B/32", patch_size=32, input_shape=(448, 448, 3), **BASE, **_CLIP
        ),
        "vit_base_patch16_clip_224": row("CLIP-B/16", patch_size=16, **BASE, **_CLIP),
        "vit_base_patch16_clip_384": row(
            "CLIP-B/16", patch_size=16, input_shape=(384, 384, 3), **BASE, **_CLIP
        ),
        "vit_base_patch16_plus_clip_240": row(
            "CLIP-B/16+",
            patch_size=16,
            width=896,
            depth=12,
            heads=14,
            input_shape=(240, 240, 3),
            **_CLIP,
        ),
        "vit_large_patch14_clip_224": row("CLIP-L/14", patch_size=14, **LARGE, **_CLIP),
        "vit_large_patch14_clip_336": row(
            "CLIP-L/14", patch_size=14, input_shape=(336, 336, 3), **LARGE, **_CLIP
        ),
        "vit_huge_patch14_clip_224": row("CLIP-H/14", patch_size=14, **HUGE, **_CLIP),
        "vit_huge_patch14_clip_336": row(
            "CLIP-H/14", patch_size=14, input_shape=(336, 336, 3), **HUGE, **_CLIP
        ),
        "vit_huge_patch14_clip_378": row(
            "CLIP-H/14", patch_size=14, input_shape=(378, 378, 3), **HUGE, **_CLIP
        ),
        "vit_giant_patch14_clip_224": row(
            "CLIP-g/14", patch_size=14, width=1408, depth=40, heads=16, mlp_ratio=48 / 11, **_CLIP
        ),
        "vit_gigantic_patch14_clip_224": row(
            "CLIP-G/14", patch_size=14, width=1664, depth=48, heads=16, mlp_ratio=64 / 13, **_CLIP
        ),
        "vit_gigantic_patch14_clip_378": row(
            "CLIP-G/14",
            patch_size=14,
            width=1664,
            depth=48,
            heads=16,
            mlp_ratio=64 / 13,
            input_shape=(378, 378, 3),
            **_CLIP,
        ),
        "vit_base_patch32_clip_quickgelu_224": row(
            "CLIP-B/32, quick GELU", patch_size=32, activation="quick_gelu", **BASE, **_CLIP
        ),
        "vit_base_patch16_clip_quickgelu_224": row(
            "CLIP-B/16, quick GELU", patch_size=16, activation="quick_gelu", **BASE, **_CLIP
        ),
        "vit_large_patch14_clip_quickgelu_224": row(
            "CLIP-L/14, quick GELU", patch_size=14, activation="quick_gelu", **LARGE, **_CLIP
        ),
        "vit_large_patch14_clip_quickgelu_336": row(
            "CLIP-L/14, quick GELU",
            patch_size=14,
            activation="quick_gelu",
            input_shape=(336, 336, 3),
            **LARGE,
            **_CLIP,
        ),
        "vit_huge_patch14_clip_quickgelu_224": row(
            "CLIP-H/14, quick GELU", patch_size=14, activation="quick_gelu", **HUGE, **_CLIP
        ),
        "vit_huge_patch14_clip_quickgelu_378": row(
            "CLIP-H/14, quick GELU",
            patch_size=14,
            activation="quick_gelu",
            input_shape=(378, 378, 3),
            **HUGE,
            **_CLIP,
        ),
        "vit_gigantic_patch14_clip_quickgelu_224": row(
            "CLIP-G/14, quick GELU",
            patch_size=14,
            width=1664,
            depth=48,
            heads=16,
            mlp_ratio=64 / 13,
            activation="quick_gelu",
            **_CLIP,
        ),
    },
    paper="https://arxiv.org/abs/2103.00020",
)
_add(
    {
        "vit_small_patch16_36x1_224": row(
            "ViT-S/16, 36 blocks", patch_size=16, width=384, depth=36, heads=6, layer_scale=1e-05
        ),
        "vit_small_patch16_18x2_224": row(
            "ViT-S/16, 18 pairs of blocks",
            patch_size=16,
            width=384,
            depth=18,
            heads=6,
            layer_scale=1e-05,
            block="pairs",
        ),
        "vit_base_patch16_18x2_224": row(
            "ViT-B/16, 18 pairs of blocks",
            patch_size=16,
            width=768,
            depth=18,
            heads=12,
            layer_scale=1e-05,
            block="pairs",
        ),
    },
    paper="https://arxiv.org/abs/2203.09795",
)
_add(
    {
        "beit3_base_patch16_224": row("BEiT-3-B/16", patch_size=16, **BASE, **_BEIT3),
        "beit3_large_patch16_224": row("BEiT-3-L/16", patch_size=16, **LARGE, **_BEIT3),
        "beit3_giant_patch14_224": row(
            "BEiT-3-g/14", patch_size=14, width=1408, depth=40, heads=16, mlp_ratio=4.3637, **_BEIT3
        ),
        "beit3_giant_patch14_336": row(
            "BEiT-3-g/14",
            patch_size=14,
            width=1408,
            depth=40,
            heads=16,
            mlp_ratio=4.3637,
            input_shape=(336, 336, 3),
            **_BEIT3,
        ),
    },
    paper="https://arxiv.org/abs/2208.10442",
)
_add(
    {
        "eva_large_patch14_196": row(
            "EVA-L/14, from masked images",
            patch_size=14,
            pooling="avg",
            input_shape=(196, 196, 3),
            **LARGE,
        ),
        "eva_large_patch14_336": row(
            "EVA-L/14, from masked images",
            patch_size=14,
            pooling="avg",
            input_shape=(336, 336, 3),
            **LARGE,
        ),
    },
    paper="https://arxiv.org/abs/2211.07636",
)
variants(
    VisionTransformer,
    {
        "flexivit_small": row(
            "FlexiViT-S", patch_size=16, position_prefix=False, input_shape=(240, 240, 3), **SMALL
        ),
        "flexivit_base": row(
            "FlexiViT-B", patch_size=16, position_prefix=False, input_shape=(240, 240, 3), **BASE
        ),
        "flexivit_large": row(
            "FlexiViT-L", patch_size=16, position_prefix=False, input_shape=(240, 240, 3), **LARGE
        ),
    },
    paper="https://arxiv.org/abs/2212.08013",
    reference=_FLEXIBLE,
)
_add(
    {
        "vit_base_patch16_xp_224": row("ViT-B/16, parallel blocks", patch_size=16, **BASE, **_XP),
        "vit_large_patch14_xp_224": row("ViT-L/14, parallel blocks", patch_size=14, **LARGE, **_XP),
        "vit_huge_patch14_xp_224": row("ViT-H/14, parallel blocks", patch_size=14, **HUGE, **_XP),
    },
    paper="https://arxiv.org/abs/2302.05442",
)
_add(
    {
        "vit_base_patch32_siglip_256": row(
            "SigLIP-B/32",
            patch_size=32,
            activation="gelu_tanh",
            input_shape=(256, 256, 3),
            **BASE,
            **_SIGLIP,
        ),
        "vit_base_patch16_siglip_224": row("SigLIP-B/16", patch_size=16, **BASE, **_SIGLIP),
        "vit_base_patch16_siglip_256": row(
            "SigLIP-B/16", patch_size=16, input_shape=(256, 256, 3), **BASE, **_SIGLIP
        ),
        "vit_base_patch16_siglip_384": row(
            "SigLIP-B/16", patch_size=16, input_shape=(384, 384, 3), **BASE, **_SIGLIP
        ),
        "vit_base_patch16_siglip_512": row(
            "SigLIP-B/16", patch_size=16, input_shape=(512, 512, 3), **BASE, **_SIGLIP
        ),
        "vit_large_patch16_siglip_256": row(
            "SigLIP-L/16", patch_size=16, input_shape=(256, 256, 3), **LARGE, **_SIGLIP
        ),
        "vit_large_patch16_siglip_384": row(
            "SigLIP-L/16", patch_size=16, input_shape=(384, 384, 3), **LARGE, **_SIGLIP
        ),
        "vit_large_patch16_siglip_512": row(
            "SigLIP-L/16",
            patch_size=16,
            activation="gelu_tanh",
            input_shape=(512, 512, 3),
            **LARGE,
            **_SIGLIP,
        ),
        "vit_so400m_patch14_siglip_224": row(
            "SigLIP-SO400M/14", patch_size=14, mlp_ratio=3.7362, **_SO400M, **_SIGLIP
        ),
        "vit_so400m_patch14_siglip_378": row(
            "SigLIP-SO400M/14",
            patch_size=14,
            mlp_ratio=3.7362,
            input_shape=(378, 378, 3),
            **_SO400M,
            **_SIGLIP,
        ),
        "vit_so400m_patch14_siglip_384": row(
            "SigLIP-SO400M/14",
            patch_size=14,
            mlp_ratio=3.7362,
            input_shape=(384, 384, 3),
            **_SO400M,
            **_SIGLIP,
        ),
        "vit_so400m_patch16_siglip_256": row(
            "SigLIP-SO400M/16",
            patch_size=16,
            mlp_ratio=3.7362,
            activation="gelu_tanh",
            input_shape=(256, 256, 3),
            **_SO400M,
            **_SIGLIP,
        ),
        "vit_so400m_patch16_siglip_384": row(
            "SigLIP-SO400M/16",
            patch_size=16,
            mlp_ratio=3.7362,
            activation="gelu_tanh",
            input_shape=(384, 384, 3),
            **_SO400M,
            **_SIGLIP,
        ),
        "vit_so400m_patch16_siglip_512": row(
            "SigLIP-SO400M/16",
            patch_size=16,
            mlp_ratio=3.7362,
            activation="gelu_tanh",
            input_shape=(512, 512, 3),
            **_SO400M,
            **_SIGLIP,
        ),
        "vit_giantopt_patch16_siglip_256": row(
            "SigLIP-g-opt/16",
            patch_size=16,
            activation="gelu_tanh",
            input_shape=(256, 256, 3),
            **_G_OPT,
            **_SIGLIP,
        ),
        "vit_giantopt_patch16_siglip_384": row(
            "SigLIP-g-opt/16",
            patch_size=16,
            activation="gelu_tanh",
            input_shape=(384, 384, 3),
            **_G_OPT,
            **_SIGLIP,
        ),
        "vit_base_patch32_siglip_gap_256": row(
            "SigLIP-B/32, averages",
            patch_size=32,
            activation="gelu_tanh",
            input_shape=(256, 256, 3),
            **BASE,
            **_GAP,
        ),
        "vit_base_patch16_siglip_gap_224": row(
            "SigLIP-B/16, averages", patch_size=16, **BASE, **_GAP
        ),
        "vit_base_patch16_siglip_gap_256": row(
            "SigLIP-B/16, averages", patch_size=16, input_shape=(256, 256, 3), **BASE, **_GAP
        ),
        "vit_base_patch16_siglip_gap_384": row(
            "SigLIP-B/16, averages", patch_size=16, input_shape=(384, 384, 3), **BASE, **_GAP
        ),
        "vit_base_patch16_siglip_gap_512": row(
            "SigLIP-B/16, averages", patch_size=16, input_shape=(512, 512, 3), **BASE, **_GAP
        ),
        "vit_large_patch16_siglip_gap_256": row(
            "SigLIP-L/16, averages", patch_size=16, input_shape=(256, 256, 3), **LARGE, **_GAP
        ),
        "vit_large_patch16_siglip_gap_384": row(
            "SigLIP-L/16, averages", patch_size=16, input_shape=(384, 384, 3), **LARGE, **_GAP
        ),
        "vit_large_patch16_siglip_gap_512": row(
            "SigLIP-L/16, averages",
            patch_size=16,
            activation="gelu_tanh",
            input_shape=(512, 512, 3),
            **LARGE,
            **_GAP,
        ),
        "vit_so400m_patch14_siglip_gap_224": row(
            "SigLIP-SO400M/14, averages", patch_size=14, mlp_ratio=3.7362, **_SO400M, **_GAP
        ),
        "vit_so400m_patch14_siglip_gap_378": row(
            "SigLIP-SO400M/14, averages",
            patch_size=14,
            mlp_ratio=3.7362,
            input_shape=(378, 378, 3),
            **_SO400M,
            **_GAP,
        ),
        "vit_so400m_patch14_siglip_gap_384": row(
            "SigLIP-SO400M/14, averages",
            patch_size=14,
            mlp_ratio=3.7362,
            input_shape=(384, 384, 3),
            **_SO400M,
            **_GAP,
        ),
        "vit_so400m_patch14_siglip_gap_448": row(
            "SigLIP-SO400M/14, averages",
            patch_size=14,
            mlp_ratio=3.7362,
            input_shape=(448, 448, 3),
            **_SO400M,
            **_GAP,
        ),
        "vit_so400m_patch14_siglip_gap_896": row(
            "SigLIP-SO400M/14, averages",
            patch_size=14,
            mlp_ratio=3.7362,
            input_shape=(896, 896, 3),
            **_SO400M,
            **_GAP,
        ),
        "vit_so400m_patch16_siglip_gap_256": row(
            "SigLIP-SO400M/16, averages",
            patch_size=16,
            mlp_ratio=3.7362,
            activation="gelu_tanh",
            input_shape=(256, 256, 3),
            **_SO400M,
            **_GAP,
        ),
        "vit_so400m_patch16_siglip_gap_384": row(
            "SigLIP-SO400M/16, averages",
            patch_size=16,
            mlp_ratio=3.7362,
            activation="gelu_tanh",
            input_shape=(384, 384, 3),
            **_SO400M,
            **_GAP,
        ),
        "vit_so400m_patch16_siglip_gap_512": row(
            "SigLIP-SO400M/16, averages",
            patch_size=16,
            mlp_ratio=3.7362,
            activation="gelu_tanh",
            input_shape=(512, 512, 3),
            **_SO400M,
            **_GAP,
        ),
        "vit_giantopt_patch16_siglip_gap_256": row(
            "SigLIP-g-opt/16, averages",
            patch_size=16,
            activation="gelu_tanh",
            input_shape=(256, 256, 3),
            **_G_OPT,
            **_GAP,
        ),
        "vit_giantopt_patch16_siglip_gap_384": row(
            "SigLIP-g-opt/16, averages",
            patch_size=16,
            activation="gelu_tanh",
            input_shape=(384, 384, 3),
            **_G_OPT,
            **_GAP,
        ),
    },
    paper="https://arxiv.org/abs/2303.15343",
)
_add(
    {
        "vit_small_patch14_dinov2": row(
            "DINOv2-S/14", patch_size=14, layer_scale=1e-05, input_shape=(518, 518, 3), **SMALL
        ),
        "vit_base_patch14_dinov2": row(
            "DINOv2-B/14", patch_size=14, layer_scale=1e-05, input_shape=(518, 518, 3), **BASE
        ),
        "vit_large_patch14_dinov2": row(
            "DINOv2-L/14", patch_size=14, layer_scale=1e-05, input_shape=(518, 518, 3), **LARGE
        ),
        "vit_giant_patch14_dinov2": row(
            "DINOv2-g/14",
            patch_size=14,
            width=1536,
            depth=40,
            heads=24,
            mlp_ratio=2.66667 * 2,
            layer_scale=1e-05,
            input_shape=(518, 518, 3),
            **_GLU,
        ),
        "vit_small_patch14_reg4_dinov2": row(
            "DINOv2-S/14, 4 registers",
            patch_size=14,
            layer_scale=1e-05,
            register_tokens=4,
            position_prefix=False,
            input_shape=(518, 518, 3),
            **SMALL,
        ),
        "vit_base_patch14_reg4_dinov2": row(
            "DINOv2-B/14, 4 registers",
            patch_size=14,
            layer_scale=1e-05,
            register_tokens=4,
            position_prefix=False,
            input_shape=(518, 518, 3),
            **BASE,
        ),
        "vit_large_patch14_reg4_dinov2": row(
            "DINOv2-L/14, 4 registers",
            patch_size=14,
            layer_scale=1e-05,
            register_tokens=4,
            position_prefix=False,
            input_shape=(518, 518, 3),
            **LARGE,
        ),
        "vit_giant_patch14_reg4_dinov2": row(
            "DINOv2-g/14, 4 registers",
            patch_size=14,
            width=1536,
            depth=40,
            heads=24,
            mlp_ratio=2.66667 * 2,
            layer_scale=1e-05,
            register_tokens=4,
            position_prefix=False,
            input_shape=(518, 518, 3),
            **_GLU,
        ),
    },
    paper="https://arxiv.org/abs/2304.07193",
)
_add(
    {
        "vit_wee_patch16_reg1_gap_256": row(
            "ViT-Wee/16, 1 register, averages",
            patch_size=16,
            width=256,
            depth=14,
            heads=4,
            mlp_ratio=5,
            register_tokens=1,
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_dwee_patch16_reg1_gap_256": row(
            "ViT-Wee/16, differential attention",
            patch_size=16,
            width=256,
            depth=14,
            heads=4,
            mlp_ratio=5,
            register_tokens=1,
            block="differential",
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_pwee_patch16_reg1_gap_256": row(
            "ViT-Wee/16, parallel blocks",
            patch_size=16,
            width=256,
            depth=16,
            heads=4,
            mlp_ratio=5,
            register_tokens=1,
            block="parallel",
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_dpwee_patch16_reg1_gap_256": row(
            "ViT-Wee/16, parallel blocks of differential attention",
            patch_size=16,
            width=256,
            depth=16,
            heads=4,
            mlp_ratio=5,
            register_tokens=1,
            block="differential_parallel",
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_little_patch16_reg1_gap_256": row(
            "ViT-Little/16, 1 register, averages",
            patch_size=16,
            width=320,
            depth=14,
            heads=5,
            mlp_ratio=5.6,
            register_tokens=1,
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_dlittle_patch16_reg1_gap_256": row(
            "ViT-Little/16, differential attention",
            patch_size=16,
            width=320,
            depth=14,
            heads=5,
            mlp_ratio=5.6,
            register_tokens=1,
            block="differential",
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_little_patch16_reg4_gap_256": row(
            "ViT-Little/16, 4 registers, averages",
            patch_size=16,
            width=320,
            depth=14,
            heads=5,
            mlp_ratio=5.6,
            register_tokens=4,
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_medium_patch16_reg1_gap_256": row(
            "ViT-M/16, 1 register, averages",
            patch_size=16,
            register_tokens=1,
            input_shape=(256, 256, 3),
            **MEDIUM,
            **_SBB,
        ),
        "vit_medium_patch16_reg4_gap_256": row(
            "ViT-M/16, 4 registers, averages",
            patch_size=16,
            register_tokens=4,
            input_shape=(256, 256, 3),
            **MEDIUM,
            **_SBB,
        ),
        "vit_mediumd_patch16_reg4_gap_256": row(
            "ViT-M-deep/16, 4 registers, averages",
            patch_size=16,
            width=512,
            depth=20,
            heads=8,
            register_tokens=4,
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_mediumd_patch16_reg4_gap_384": row(
            "ViT-M-deep/16, 4 registers, averages",
            patch_size=16,
            width=512,
            depth=20,
            heads=8,
            register_tokens=4,
            input_shape=(384, 384, 3),
            **_SBB,
        ),
        "vit_betwixt_patch16_reg1_gap_256": row(
            "ViT-b/16, 1 register, averages",
            patch_size=16,
            width=640,
            depth=12,
            heads=10,
            register_tokens=1,
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_betwixt_patch16_reg4_gap_256": row(
            "ViT-b/16, 4 registers, averages",
            patch_size=16,
            width=640,
            depth=12,
            heads=10,
            register_tokens=4,
            input_shape=(256, 256, 3),
            **_SBB,
        ),
        "vit_betwixt_patch16_reg4_gap_384": row(
            "ViT-b/16, 4 registers, averages",
            patch_size=16,
            width=640,
            depth=12,
            heads=10,
            register_tokens=4,
            input_shape=(384, 384, 3),
            **_SBB,
        ),
        "vit_base_patch16_reg4_gap_256": row(
            "ViT-B/16, 4 registers, averages",
            patch_size=16,
            class_token=False,
            position_prefix=False,
            pooling="avg",
            register_tokens=4,
            input_shape=(256, 256, 3),
            **BASE,
        ),
        "vit_so150m_patch16_reg4_map_256": row(
            "ViT-SO150M/16, 4 registers, attention pooling",
            patch_size=16,
            width=896,
            depth=18,
            heads=14,
            mlp_ratio=2.572,
            register_tokens=4,
            input_shape=(256, 256, 3),
            **_SIGLIP,
        ),
        "vit_so150m_patch16_reg4_gap_256": row(
            "ViT-SO150M/16, 4 registers, averages",
            patch_size=16,
            width=896,
            depth=18,
            heads=14,
            mlp_ratio=2.572,
            register_tokens=4,
            input_shape=(256, 256, 3),
            **_GAP,
        ),
        "vit_so150m_patch16_reg4_gap_384": row(
            "ViT-SO150M/16, 4 registers, averages",
            patch_size=16,
            width=896,
            depth=18,
            heads=14,
            mlp_ratio=2.572,
            register_tokens=4,
            input_shape=(384, 384, 3),
            **_GAP,
        ),
        "vit_so150m2_patch16_reg1_gap_256": row(
            "ViT-SO150M-2/16, 1 register, averages",
            patch_size=16,
            width=832,
            depth=21,
            heads=13,
            mlp_ratio=34 / 13,
            layer_scale=1e-05,
            qkv_bias=False,
            class_token=False,
            register_tokens=1,
            pooling="avg",
            input_shape=(256, 256, 3),
        ),
        "vit_so150m2_patch16_reg1_gap_384": row(
            "ViT-SO150M-2/16, 1 register, averages",
            patch_size=16,
            width=832,
            depth=21,
            heads=13,
            mlp_ratio=34 / 13,
            layer_scale=1e-05,
            qkv_bias=False,
            class_token=False,
            register_tokens=1,
            pooling="avg",
            input_shape=(384, 384, 3),
        ),
        "vit_so150m2_patch16_reg1_gap_448": row(
            "ViT-SO150M-2/16, 1 register, averages",
            patch_size=16,
            width=832,
            depth=21,
            heads=13,
            mlp_ratio=34 / 13,
            layer_scale=1e-05,
            qkv_bias=False,
            class_token=False,
            register_tokens=1,
            pooling="avg",
            input_shape=(448, 448, 3),
        ),
    },
    paper="https://arxiv.org/abs/2309.16588",
)
_add(
    {
        "vit_intern300m_patch14_448": row(
            "InternViT-300M/14",
            patch_size=14,
            layer_scale=0.1,
            final_norm=False,
            dynamic_size=True,
            input_shape=(448, 448, 3),
            **LARGE,
        ),
    },
    paper="https://arxiv.org/abs/2312.14238",
)
_add(
    {
        "aimv2_large_patch14_224": row(
            "AIMv2-L/14", patch_size=14, width=1024, depth=24, heads=8, mlp_ratio=2.75, **_AIMV2
        ),
        "aimv2_huge_patch14_224": row(
            "AIMv2-H/14", patch_size=14, width=1536, depth=24, heads=12, mlp_ratio=2.6667, **_AIMV2
        ),
        "aimv2_1b_patch14_224": row(
            "AIMv2-1B/14", patch_size=14, width=2048, depth=24, heads=16, mlp_ratio=2.75, **_AIMV2
        ),
        "aimv2_3b_patch14_224": row(
            "AIMv2-3B/14", patch_size=14, width=3072, depth=24, heads=24, mlp_ratio=2.6667, **_AIMV2
        ),
        "aimv2_large_patch14_336": row(
            "AIMv2-L/14",
            patch_size=14,
            width=1024,
            depth=24,
            heads=8,
            mlp_ratio=2.75,
            input_shape=(336, 336, 3),
            **_AIMV2,
        ),
        "aimv2_huge_patch14_336": row(
            "AIMv2-H/14",
            patch_size=14,
            width=1536,
            depth=24,
            heads=12,
            mlp_ratio=2.6667,
            input_shape=(336, 336, 3),
            **_AIMV2,
        ),
        "aimv2_1b_patch14_336": row(
            "AIMv2-1B/14",
            patch_size=14,
            width=2048,
            depth=24,
            heads=16,
            mlp_ratio=2.75,
            input_shape=(336, 336, 3),
            **_AIMV2,
        ),
        "aimv2_3b_patch14_336": row(
            "AIMv2-3B/14",
            patch_size=14,
            width=3072,
            depth=24,
            heads=24,
            mlp_ratio=2.6667,
            input_shape=(336, 336, 3),
            **_AIMV2,
        ),
        "aimv2_large_patch14_448": row(
            "AIMv2-L/14",
            patch_size=14,
            width=1024,
            depth=24,
            heads=8,
            mlp_ratio=2.75,
            input_shape=(448, 448, 3),
            **_AIMV2,
        ),
        "aimv2_huge_patch14_448": row(
            "AIMv2-H/14",
            patch_size=14,
            width=1536,
            depth=24,
            heads=12,
            mlp_ratio=2.6667,
            input_shape=(448, 448, 3),
            **_AIMV2,
        ),
        "aimv2_1b_patch14_448": row(
            "AIMv2-1B/14",
            patch_size=14,
            width=2048,
            depth=24,
            heads=16,
            mlp_ratio=2.75,
            input_shape=(448, 448, 3),
            **_AIMV2,
        ),
        "aimv2_3b_patch14_448": row(
            "AIMv2-3B/14",
            patch_size=14,
            width=3072,
            depth=24,
            heads=24,
            mlp_ratio=2.6667,
            input_shape=(448, 448, 3),
            **_AIMV2,
        ),
    },
    paper="https://arxiv.org/abs/2411.14402",
)
_add(
    {
        "vit_base_patch16_radio_v3": row("C-RADIOv3-B/16", layer_scale=1e-05, **BASE, **_RADIO_V3),
        "vit_huge_patch16_radio_v3": row("C-RADIOv3-H/16", **HUGE, **_RADIO_V3),
    },
    paper="https://arxiv.org/abs/2412.07679",
    reference=_ALIGNED,
)
_add(
    {
        "vit_large_patch16_radio_v3": row(
            "C-RADIOv3-L/16", layer_scale=1e-05, **LARGE, **_RADIO_V3
        ),
        "vit_giant_patch16_radio_v3": row(
            "C-RADIOv3-g/16", width=1536, depth=40, heads=24, **_RADIO_V3
        ),
    },
    paper="https://arxiv.org/abs/2412.07679",
    reference=_BILINEAR,
)
_add(
    {
        "vit_so400m_patch16_radio_v4": row(
            "C-RADIOv4-SO400M/16", mlp_ratio=4304 / 1152, **_SO400M, **_RADIO_V4
        ),
        "vit_huge_patch16_radio_v4": row("C-RADIOv4-H/16", **HUGE, **_RADIO_V4),
    },
    paper="https://arxiv.org/abs/2601.17237",
    reference=_BILINEAR,
)
