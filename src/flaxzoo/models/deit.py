"""DeiT: vision transformers trained on ImageNet alone, by distillation or a better recipe.

The first generation has the layers of ViT; its distilled names have a second token and a second
classifier, which another network taught. DeiT III scales its branches and gives its class token no
position. Names and numbers are those of timm's ``deit`` module.

References:
  DeiT: https://arxiv.org/abs/2012.12877
  DeiT III: https://arxiv.org/abs/2204.07118
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from flaxzoo.errors import ArgumentError
from flaxzoo.models import vision_transformer
from flaxzoo.models.patch_backbone import BASE, HUGE, LARGE, MEDIUM, SMALL, TINY
from flaxzoo.models.registry import row, variants
from flaxzoo.models.vision_transformer import VisionTransformer


class DistilledVisionTransformer(VisionTransformer):
    """A vision transformer with a distillation token behind the class token.

    Its own classifiers have a linear layer for each of the two and return the mean of both; without
    classes their features are the mean of both tokens. ``VisionTransformer`` says what the other
    fields are; ``class_token`` is True and there are no registers.

    Attributes:
      pooling: ``"prefix"``, the mean of the two tokens, which the distilled head takes; another
        way for heads of one classifier.
      distilled_training: whether these classifiers return both layers' logits in training, a pair,
        for a loss each: of the labels and of the teacher's. In inference it is always the mean.
    """

    pooling: str | None = "prefix"
    distilled_training: bool = False

    distillation_token = True

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        distilled = "pair" if self.distilled_training else "mean"
        return {**super().head_options(), "distilled": distilled}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name, only in (("class_token", True), ("register_tokens", 0), ("pool_prefix", False)):
            if getattr(self, name) != only:
                raise ArgumentError(
                    f"{name} must be {only!r} of a distilled network, got {getattr(self, name)!r}"
                )
        super().check_fields()


def _convert(tensors: Mapping[str, Any], backbone: VisionTransformer) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files, whose scales are the blocks' own."""
    renamed = {re.sub(r"\.gamma_(\d)$", r".ls\1.gamma", k): v for k, v in tensors.items()}
    convert: Any = vision_transformer.REFERENCE.convert
    return convert(renamed, backbone)


REFERENCE = dataclasses.replace(
    vision_transformer.REFERENCE,
    head=(*vision_transformer.REFERENCE.head, ("fc_dist", "head_dist")),
    convert=_convert,
)

# For scripts/certify.py: timm's distilled class does not spell its keywords out.
CUT = {"depth": "depth"}

# The habits of the third generation.
_III: dict[str, Any] = {"position_prefix": False, "layer_scale": 1e-6}
_384 = (384, 384, 3)

variants(
    VisionTransformer,
    {
        "deit_tiny_patch16_224": row("DeiT-Ti/16", patch_size=16, **TINY),
        "deit_small_patch16_224": row("DeiT-S/16", patch_size=16, **SMALL),
        "deit_base_patch16_224": row("DeiT-B/16", patch_size=16, **BASE),
        "deit_base_patch16_384": row("DeiT-B/16", patch_size=16, input_shape=_384, **BASE),
    },
    paper="https://arxiv.org/abs/2012.12877",
    reference=REFERENCE,
)
variants(
    DistilledVisionTransformer,
    {
        "deit_tiny_distilled_patch16_224": row("DeiT-Ti/16, distilled", patch_size=16, **TINY),
        "deit_small_distilled_patch16_224": row("DeiT-S/16, distilled", patch_size=16, **SMALL),
        "deit_base_distilled_patch16_224": row("DeiT-B/16, distilled", patch_size=16, **BASE),
        "deit_base_distilled_patch16_384": row(
            "DeiT-B/16, distilled", patch_size=16, input_shape=_384, **BASE
        ),
    },
    paper="https://arxiv.org/abs/2012.12877",
    reference=REFERENCE,
)
variants(
    VisionTransformer,
    {
        "deit3_small_patch16_224": row("DeiT III-S/16", patch_size=16, **SMALL, **_III),
        "deit3_small_patch16_384": row(
            "DeiT III-S/16", patch_size=16, input_shape=_384, **SMALL, **_III
        ),
        "deit3_medium_patch16_224": row("DeiT III-M/16", patch_size=16, **MEDIUM, **_III),
        "deit3_base_patch16_224": row("DeiT III-B/16", patch_size=16, **BASE, **_III),
        "deit3_base_patch16_384": row(
            "DeiT III-B/16", patch_size=16, input_shape=_384, **BASE, **_III
        ),
        "deit3_large_patch16_224": row("DeiT III-L/16", patch_size=16, **LARGE, **_III),
        "deit3_large_patch16_384": row(
            "DeiT III-L/16", patch_size=16, input_shape=_384, **LARGE, **_III
        ),
        "deit3_huge_patch14_224": row("DeiT III-H/14", patch_size=14, **HUGE, **_III),
    },
    paper="https://arxiv.org/abs/2204.07118",
    reference=REFERENCE,
)
