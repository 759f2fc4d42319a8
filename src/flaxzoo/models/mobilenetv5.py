"""MobileNet V5: the image tower of Gemma 3n, whose last two maps are joined.

The blocks are those of MobileNet V4, universal inverted residuals and attention whose heads share
keys; norms divide by the root mean square, and nothing depends on the batch. Names and numbers are
those of timm's ``mobilenetv5`` module; ``enc`` pads as TensorFlow does and has no classifier.

References:
  MobileNet V4, of whose blocks it is: https://arxiv.org/abs/2404.10518
  Gemma 3n: https://ai.google.dev/gemma/docs/gemma-3n
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_number, check_size
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import HeNormal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.universal_residual import UniversalResidual
from flaxzoo.models.backbone import Part
from flaxzoo.models.mobile_backbone import RENAMED, MobileBackbone, round_width
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}


class FusionAdapter(Layer):
    """Joins maps of several resolutions to one of few pixels: timm's adapter for language models.

    Parameters are named as timm's ``MobileNetV5MultiScaleFusionAdapter``: ``ffn`` and ``norm``.

    Attributes:
      features: the channels of the output.
      size: its height and width.
      ratio: the channels inside, as a multiple of those of all maps.
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
    """

    features: int = 2048
    size: int = 16
    ratio: float = 2.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu_tanh"
    norm: Any = "rms"
    norm_epsilon: float | None = None

    @nn.compact
    def __call__(self, x: Sequence[jax.Array], train: bool = False) -> jax.Array:
        """Maps several ``[B, H, W, C]``, the largest first, to ``[B, size, size, features]``."""
        y = jnp.concatenate([nearest(part, x[0].shape[1:3]) for part in x], -1)
        names = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")
        own = {name: getattr(self, name) for name in names}
        sizes = ("kernel_sizes", "expand_kernel_sizes", "project_kernel_sizes")
        own |= {"hidden": round_width(y.shape[-1] * self.ratio), "skip": False}
        own |= dict.fromkeys(sizes, (0,))
        y = self.of_size(UniversalResidual(self.features, name="ffn", **own)(y, train))
        options = {"epsilon": self.norm_epsilon, "dtype": self.dtype}
        norm = make_norm(self.norm, "norm", param_dtype=self.param_dtype, **options)
        return call_norm(norm, y, train=train)

    @nn.nowrap
    def of_size(self, x: jax.Array) -> jax.Array:
        """The map in the output's size: means of whole windows, else between neighbours."""
        (batch, height, width), size = x.shape[:3], self.size
        if height % size or width % size:
            shape = (batch, size, size, x.shape[-1])
            return jax.image.resize(x, shape, "linear", antialias=False)
        windows = (batch, size, height // size, size, width // size, x.shape[-1])
        return x if height == width == size else x.reshape(windows).mean((2, 4))


def nearest(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Repeats pixels of ``[B, H, W, C]`` where the map is smaller than ``size``."""
    if x.shape[1] >= size[0] and x.shape[2] >= size[1]:
        return x
    rows, columns = (
        np.arange(after) * before // after for before, after in zip(x.shape[1:3], size, strict=True)
    )
    return x.at[:, rows[:, None], columns].get(mode="promise_in_bounds")


class MobileNetV5(MobileBackbone):
    """A MobileNet V5 without its classifier: a stem, stages of blocks, and what joins two maps.

    It maps images ``[B, H, W, C]`` of any size to ``[B, size, size, fusion_width]``. From the
    last stage on what goes from part to part is a tuple of the last map of the stage before and
    that of the stage.

    Attributes:
      fusion_width: the channels of the joined map.
      fusion_size: its height and width, whatever the images'.
      fusion_ratio: the channels inside the layers that join, as a multiple of those of both maps.
    """

    stem_names: ClassVar[tuple[str, ...]] = ("conv_stem",)

    stem_width: int = 64
    activation: Any = "gelu_tanh"
    norm: Any = "rms"
    layer_scale: float | None = 1e-5
    fusion_width: int = 2048
    fusion_size: int = 16
    fusion_ratio: float = 2.0

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, the blocks ``blocks_0_0`` and so on, and ``msfa``."""
        last = f"blocks_{len(self.blocks) - 1}_"
        options: dict[str, Any] = {"remat": False, "view": operator.itemgetter(1)}
        for part in super().parts():
            if part.name.startswith(last):
                run = functools.partial(self._beside, part)
                takes = "maps" if part.name == f"{last}0" else None
                part = dataclasses.replace(
                    part, run=run, owns=part.submodules, takes=takes, **options
                )
            yield part
        names = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")
        own = {name: getattr(self, name) for name in names}
        own |= {"size": self.fusion_size, "ratio": self.fusion_ratio}
        join: Callable[..., nn.Module] = functools.partial(FusionAdapter, self.fusion_width, **own)
        yield Part("msfa", join, takes=None, depth="head")

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        names = ("padding", "activation", "norm", "norm_epsilon")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        options |= {"use_bias": True, "bias_init": zeros, "kernel_init": HeNormal()}
        options |= {"name": "conv_stem", **self.dtypes}
        return ConvNorm(self.stem_width, self.stem_kernel_size, 2, **options)(x, train)

    def _beside(self, part: Part, x: Any, train: bool) -> tuple[jax.Array, jax.Array]:
        """Computes a block of the last stage, and hands on the map before that stage."""
        before, y = x if isinstance(x, tuple) else (x, x)
        block = functools.partial(part.run)
        kind = self.stored(block.func, part.remat)
        return before, kind(*block.args, name=part.name, **block.keywords)(y, train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        if len(self.blocks) < 2:
            raise ArgumentError(f"blocks must have two stages at least, got {len(self.blocks)}")
        for name in ("fusion_width", "fusion_size"):
            check_size(name, getattr(self, name))
        check_number("fusion_ratio", self.fusion_ratio, above=0)


_PREFIX = "model.vision_tower.timm_model."


def convert(tensors: Mapping[str, Any], _backbone: Any) -> Mapping[str, Any]:
    """The names of timm for the tensors of Gemma 3n's files, of which the image tower is taken."""
    if f"{_PREFIX}conv_stem.conv.weight" not in tensors:
        return tensors
    inside = {name: value for name, value in tensors.items() if name.startswith(_PREFIX)}
    return {name.removeprefix(_PREFIX): value for name, value in inside.items()}


REFERENCE = Reference(
    stem=("conv_stem/conv",),
    classifier="classifier",
    renamed=(*RENAMED, (r"(query|key|value|output)_(proj|down_conv|norm)", r"\1.\2")),
    convert=convert,
)

_STEM = (
    ("er_s2_e4_c128", "er_r2_e4_c128"),
    (
        "uir_a3_k5_s2_e6_c256",
        "uir_a5_k0_e4_c256",
        "uir_a3_k0_e4_c256",
        "uir_a5_k0_e4_c256",
        "uir_a3_k0_e4_c256",
    ),
)
_300M = (
    *_STEM,
    (
        "uir_a5_k5_s2_e6_c640",
        "uir_r7_a5_k0_e4_c640",
        "uir_a0_k0_e1_c640",
        *("mqa_h12_v2_d64_c640", "uir_a0_k0_e2_c640") * 14,
    ),
    (
        "uir_a5_k5_s2_e6_c1280",
        *("mqa_h16_d96_c1280", "uir_a0_k0_e2_c1280") * 19,
    ),
)
_BASE = (
    *_STEM,
    (
        "uir_a5_k5_s2_e6_c512",
        "uir_r2_a5_k0_e4_c512",
        "uir_a0_k0_e1_c512",
        *("mqa_h8_d64_c512", "uir_a0_k0_e2_c512") * 6,
    ),
    (
        "uir_a5_k5_s2_e6_c1024",
        *("mqa_h16_d64_c1024", "uir_a0_k0_e2_c1024") * 7,
    ),
)

variants(
    MobileNetV5,
    {
        "mobilenetv5_300m": row("MobileNet V5-300M", blocks=_300M, input_shape=(768, 768, 3)),
        "mobilenetv5_300m_enc": row(
            "MobileNet V5-300M as TensorFlow pads, without a classifier",
            blocks=_300M,
            input_shape=(768, 768, 3),
            num_classes=0,
            padding="SAME",
        ),
        "mobilenetv5_base": row("MobileNet V5-Base", blocks=_BASE, input_shape=(256, 256, 3)),
    },
    paper="https://arxiv.org/abs/2404.10518",
    reference=REFERENCE,
)
