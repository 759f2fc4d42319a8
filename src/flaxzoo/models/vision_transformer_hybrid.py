"""Hybrids: vision transformers whose tokens are the pixels of a convolutional network's map.

The network is a ResNet V2 of standardised convolutions (R+ViT), a ResNet-D, or a few convolutions
(the image tower of MobileCLIP-B); blocks and heads are those of ViT. Names and numbers are those of
timm's ``vision_transformer_hybrid`` module.

References:
  ViT and its hybrids: https://arxiv.org/abs/2010.11929
  How to train your ViT: https://arxiv.org/abs/2106.10270
  MobileCLIP: https://arxiv.org/abs/2311.17049
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxzoo._checks import check_choice
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import FanIn, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.patch_embed import check_image_size
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.resnet_v2 import ResNetV2Stem, ResNetV2Trunk
from flaxzoo.models import vision_transformer
from flaxzoo.models.registry import row, variants
from flaxzoo.models.resnet import ResNet
from flaxzoo.models.vision_transformer import VisionTransformer

_TRUNKS = ("resnet_v2", "resnet_d", "convolutions")
# Of MobileCLIP's three convolutions: a quarter of the tokens' width, twice, and all of it.
_STRIDES = (4, 2, 2)


class HybridEmbed(Layer):
    """Images to a grid of tokens: a convolutional network ``backbone``, and ``proj`` of its pixels.

    Parameters are named as those of timm's ``HybridEmbed``.

    Attributes:
      features: the width of a token.
      patch_size: height and width of a patch of the network's map.
      trunk: as a ``HybridVisionTransformer``'s; so are ``layers``, ``widths``, ``stem_width``.
      layers: see there.
      widths: see there.
      stem_width: see there.
    """

    features: int
    patch_size: int
    trunk: str
    layers: Sequence[int]
    widths: Sequence[int]
    stem_width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to tokens ``[B, rows, columns, features]``."""
        if self.trunk == "convolutions":
            return self.convolved(x, train, self.dtypes)
        size = self.patch_size
        x = self.network(name="backbone", **self.dtypes)(x, train=train)
        options: dict[str, Any] = {"use_bias": True, "padding": 0, "kernel_init": FanIn()}
        options |= {"bias_init": plain_bias, **self.dtypes}
        return Conv(self.features, size, stride=size, name="proj", **options)(x)

    def convolved(self, x: jax.Array, train: bool, dtypes: dict[str, Any]) -> jax.Array:
        """Returns what MobileCLIP's convolutions make of images; behind the last stands a bias."""
        width, last = self.features // 4, len(_STRIDES) - 1
        for i, stride in enumerate(_STRIDES[:-1]):
            options: dict[str, Any] = {"padding": 0, "activation": "gelu", **dtypes}
            x = ConvNorm(width, stride, stride, name=f"backbone_{i}", **options)(x, train)
        stride = _STRIDES[-1]
        options = {"padding": 0, "use_bias": True, "norm": None, **dtypes}
        options |= {"bias_init": plain_bias, "name": f"backbone_{last}"}
        return ConvNorm(self.features, stride, stride, **options)(x, train)

    @nn.nowrap
    def network(self, **options: Any) -> ResNetV2Stem | ResNetV2Trunk | ResNet:
        """Returns the ResNet whose last map is embedded.

        Raises:
          ValueError: it does not take the fields.
        """
        if self.trunk == "resnet_v2" and not self.layers:
            return ResNetV2Stem(width=self.stem_width, kernel_init=FanIn(), **options)
        sizes: dict[str, Any] = {"layers": self.layers, "stem_width": self.stem_width, **options}
        sizes["zero_init_residual"] = True
        if self.trunk == "resnet_v2":
            return ResNetV2Trunk(widths=self.widths[: len(self.layers)], **sizes)
        # Its stem ends twice as wide, its blocks four times.
        widths = tuple(width // 4 for width in self.widths[: len(self.layers)])
        sizes |= {"stem_width": self.stem_width // 2, "stem": "deep", "avg_down": True}
        return ResNet(widths=widths, **sizes)


class HybridVisionTransformer(VisionTransformer):
    """A vision transformer on the map of a convolutional network.

    ``VisionTransformer`` says what the other fields are; ``patch_norm`` and ``pre_norm`` are False.

    Attributes:
      patch_size: height and width of a patch of the network's map.
      trunk: ``"resnet_v2"``, ``"resnet_d"``, or ``"convolutions"``, three of 4 x 4, 2 x 2 and 2 x 2
        pixels whose widths follow from ``width``.
      trunk_layers: number of blocks of each stage of a ResNet; none for the stem of a
        ``"resnet_v2"`` alone.
      trunk_widths: channels of these stages.
      trunk_stem: channels of its stem.
    """

    patch_size: int = 1
    trunk: str = "resnet_v2"
    trunk_layers: Sequence[int] = (3, 4, 6, 3)
    trunk_widths: Sequence[int] = (256, 512, 1024, 2048)
    trunk_stem: int = 64

    @nn.nowrap
    def grid_of(self, shape: tuple[int, ...]) -> Grid:
        """The rows and columns of tokens of images ``[H, W, ...]``."""
        rows, columns = self._map_of(shape)
        return rows // self.patch_size, columns // self.patch_size

    @nn.nowrap
    def _map_of(self, shape: tuple[int, ...]) -> Grid:
        """The rows and columns of the convolutional network's map."""
        height, width = shape[:2]
        if self.trunk == "convolutions":
            for stride in _STRIDES:
                height, width = height // stride, width // stride
        else:
            for _ in range(1 + max(1, len(self.trunk_layers))):
                height, width = -(-height // 2), -(-width // 2)
        return height, width

    @property
    def reduction(self) -> int:
        """By how much maps are smaller than images."""
        stages = 3 if self.trunk == "convolutions" else max(1, len(self.trunk_layers))
        return 2 ** (stages + 1) * self.patch_size

    def _patches(self, x: jax.Array, train: bool) -> jax.Array:
        if not self.dynamic_size:
            check_image_size(x, self.input_shape, ", or dynamic_size=True")
        return self._embed(name="patch_embed", **self.dtypes)(x, train)

    @nn.nowrap
    def _embed(self, **options: Any) -> HybridEmbed:
        stages = (self.trunk_layers, self.trunk_widths, self.trunk_stem)
        return HybridEmbed(self.width, self.patch_size, self.trunk, *stages, **options)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_choice("trunk", self.trunk, _TRUNKS)
        for name in ("patch_norm", "pre_norm"):
            if getattr(self, name):
                raise ArgumentError(f"{name} must be False of a hybrid, got {getattr(self, name)}")
        if self.trunk == "convolutions" and self.patch_size != 1:
            raise ArgumentError(
                f"patch_size must be 1 for trunk='convolutions', got {self.patch_size}"
            )
        if self.trunk != "convolutions" and len(self.trunk_layers) > len(self.trunk_widths):
            raise ArgumentError(
                f"trunk_widths must have one for each of trunk_layers={tuple(self.trunk_layers)}, "
                f"got {tuple(self.trunk_widths)}"
            )
        super().check_fields()
        if self.trunk != "convolutions":
            self._embed(parent=None).network(parent=None).check_all()
        rows, columns = self._map_of(self.input_shape)
        if rows % self.patch_size or columns % self.patch_size:
            raise ArgumentError(
                f"input_shape must give a map of whole patches of patch_size={self.patch_size}, "
                f"got {self.input_shape}, whose map has {rows} x {columns} pixels"
            )


_APPLE = "image_encoder.model."
_RENAMED = (
    *((r"^patch_emb\.", "patch_embed.backbone."), (r"block\.conv", "conv"), (r"block\.norm", "bn")),
    *((r"^post_transformer_norm\.", "norm."), (r"pre_norm_mha\.0", "norm1")),
    *((r"pre_norm_mha\.1", "attn"), (r"pre_norm_ffn\.0", "norm2"), (r"qkv_proj\.", "qkv.")),
    *((r"pre_norm_ffn\.1", "mlp.fc1"), (r"pre_norm_ffn\.4", "mlp.fc2"), (r"out_proj\.", "proj.")),
    *((r"^transformer\.", "blocks."), (r"^pos_embed\.pos_embed\.pos_embed$", "pos_embed")),
    (r"^classifier\.proj$", "head.weight"),
)


def _convert(tensors: Mapping[str, Any], backbone: HybridVisionTransformer) -> Mapping[str, Any]:
    """Today's names for the tensors of Apple's files, and of timm's older ones."""
    if any(name.startswith(_APPLE) for name in tensors):
        converted: dict[str, Any] = {}
        for name, tensor in tensors.items():
            if name.startswith(_APPLE):
                name = name.removeprefix(_APPLE)
                for pattern, word in _RENAMED:
                    name = re.sub(pattern, word, name)
                converted[name] = (
                    tensor.reshape(tensor.shape[1:]) if name == "pos_embed" else tensor
                )
        if "head.weight" in converted:
            kernel = converted["head.weight"]
            converted["head.weight"] = kernel.T
            converted["head.bias"] = np.zeros(kernel.shape[1], kernel.dtype)
        tensors = converted
    convert: Callable[..., Any] = vision_transformer.REFERENCE.convert  # type: ignore[assignment]
    return convert(tensors, backbone)


REFERENCE = dataclasses.replace(
    vision_transformer.REFERENCE,
    stem=(
        "patch_embed/backbone/stem/conv",
        "patch_embed/backbone/conv",
        "patch_embed/backbone/conv1_0",
        "patch_embed/backbone_0/conv",
    ),
    convert=_convert,
    # Standardised kernels have one size, and rounding would grow from block to block.
    scales=(("*.norm3.weight", 0.25),),
)

# For scripts/certify.py: the blocks of the ResNets stay.
CUT = {"depth": "depth"}

_TI: dict[str, Any] = {"width": 192, "depth": 12, "heads": 3, "patch_size": 8, "trunk_layers": ()}
_S: dict[str, Any] = {"width": 384, "depth": 12, "heads": 6}
_B: dict[str, Any] = {"width": 768, "depth": 12, "heads": 12}
_L: dict[str, Any] = {"width": 1024, "depth": 24, "heads": 16}
_SHORT: dict[str, Any] = {"width": 768, "depth": 8, "heads": 8, "mlp_ratio": 3.0}
_R26: dict[str, Any] = {"trunk_layers": (2, 2, 2, 2)}
_R50: dict[str, Any] = {"trunk_layers": (3, 4, 6, 3)}
_R50_S16: dict[str, Any] = {"trunk_layers": (3, 4, 9)}
_384 = (384, 384, 3)

variants(
    HybridVisionTransformer,
    {
        "vit_tiny_r_s16_p8_224": row("ViT-Ti/8 on a ResNet's stem", **_TI),
        "vit_tiny_r_s16_p8_384": row("ViT-Ti/8 on a ResNet's stem", input_shape=_384, **_TI),
        "vit_small_r26_s32_224": row("R26+ViT-S/32", **_S, **_R26),
        "vit_small_r26_s32_384": row("R26+ViT-S/32", input_shape=_384, **_S, **_R26),
        "vit_base_r26_s32_224": row("R26+ViT-B/32", **_B, **_R26),
        "vit_base_r50_s16_224": row("R50+ViT-B/16", **_B, **_R50_S16),
        "vit_base_r50_s16_384": row("R50+ViT-B/16", input_shape=_384, **_B, **_R50_S16),
        "vit_large_r50_s32_224": row("R50+ViT-L/32", **_L, **_R50),
        "vit_large_r50_s32_384": row("R50+ViT-L/32", input_shape=_384, **_L, **_R50),
        "vit_small_resnet26d_224": row(
            "ViT-S/32 on ResNet-26-D", trunk="resnet_d", **_SHORT, **_R26
        ),
        "vit_small_resnet50d_s16_224": row(
            "ViT-S/16 on ResNet-50-D", trunk="resnet_d", trunk_layers=(3, 4, 6), **_SHORT
        ),
        "vit_base_resnet26d_224": row("ViT-B/32 on ResNet-26-D", trunk="resnet_d", **_B, **_R26),
        "vit_base_resnet50d_224": row("ViT-B/32 on ResNet-50-D", trunk="resnet_d", **_B, **_R50),
    },
    paper="https://arxiv.org/abs/2010.11929",
    reference=REFERENCE,
)
variants(
    HybridVisionTransformer,
    {
        "vit_base_mci_224": row(
            "MobileCLIP-B's image tower", trunk="convolutions", position_prefix=False, **_B
        ),
    },
    paper="https://arxiv.org/abs/2311.17049",
    reference=REFERENCE,
)
