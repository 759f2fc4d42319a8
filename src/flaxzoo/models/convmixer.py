"""ConvMixer: patches that one depthwise convolution after another mixes, on one map throughout.

The layout is a vision transformer's, with a large kernel in place of attention: patches, then
blocks of one width. Names and numbers are those of timm's ``convmixer`` module: the width, the
depth, and perhaps the sizes of kernels and patches.

References:
  ConvMixer: https://arxiv.org/abs/2201.09792
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import PLAIN
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}
# How layers begin: as PyTorch's.


class MixerLayers(Layer):
    """What the stem and the blocks share: their fields, and layers that are activated, then normed.

    Attributes:
      width: channels of the output.
      activation: by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
    """

    width: int = 768
    activation: Any = "gelu"
    norm: Any = "batch"

    def layer(
        self, x: jax.Array, size: int, names: tuple[str, str], train: bool, **options: Any
    ) -> jax.Array:
        """Computes ``norm(activation(conv(x)))``."""
        options |= {"use_bias": True, **PLAIN, **self.dtypes}
        x = as_activation(self.activation)(Conv(self.width, size, name=names[0], **options)(x))
        return call_norm(make_norm(self.norm, names[1], **self.dtypes), x, train=train)


class Stem(MixerLayers):
    """A convolution of patches, and the norm behind its activation.

    Attributes:
      patch_size: height and width of a patch.
    """

    patch_size: int = 7

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / patch_size, W / patch_size, width]``."""
        options: dict[str, Any] = {"stride": self.patch_size, "padding": 0}
        return self.layer(x, self.patch_size, ("conv", "norm"), train, **options)


class MixerBlock(MixerLayers):
    """A depthwise convolution, whose branch is added to its input, and a layer on each pixel.

    Attributes:
      kernel_size: of the depthwise convolution.
    """

    kernel_size: int = 7

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        names = ("conv_dw", "norm_dw")
        x = x + self.layer(x, self.kernel_size, names, train, groups=self.width)
        return self.layer(x, 1, ("conv_pw", "norm_pw"), train)


class ConvMixer(Backbone):
    """A ConvMixer without its classifier: a stem of patches and blocks of one width.

    It maps images ``[B, H, W, C]`` to ``[B, H / patch_size, W / patch_size, width]``; what is no
    whole patch is not seen. Maps are those behind each block.

    Attributes:
      width: channels of all maps.
      depth: number of blocks.
      kernel_size: of the depthwise convolutions; odd.
      patch_size: height and width of a patch.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    width: int = 768
    depth: int = 32
    kernel_size: int = 9
    patch_size: int = 7
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``blocks_0`` and so on."""
        own: dict[str, Any] = {"width": self.width, "activation": self.activation}
        own |= {"norm": self.norm, **self.dtypes}
        yield Part(
            "stem", functools.partial(Stem, patch_size=self.patch_size, **own), takes="images"
        )
        for i in range(self.depth):
            yield Part(
                f"blocks_{i}",
                functools.partial(MixerBlock, kernel_size=self.kernel_size, **own),
                map=f"blocks_{i}",
                reduction=self.patch_size,
                remat=self.remat,
            )

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map; the classifier begins as PyTorch's."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("width", "depth", "kernel_size", "patch_size"):
            check_size(name, getattr(self, name))
        if self.kernel_size % 2 == 0:
            raise ArgumentError(
                f"kernel_size must be odd, so that maps keep their size, got {self.kernel_size}"
            )


variants(
    ConvMixer,
    {
        "convmixer_1536_20": row("ConvMixer-1536/20", width=1536, depth=20),
        "convmixer_768_32": row("ConvMixer-768/32", kernel_size=7, activation="relu"),
        "convmixer_1024_20_ks9_p14": row(
            "ConvMixer-1024/20 of patches of 14 x 14", width=1024, depth=20, patch_size=14
        ),
    },
    paper="https://arxiv.org/abs/2201.09792",
    reference=Reference(
        stem=("stem/conv",),
        classifier="head",
        renamed=(
            ("stem/conv", "stem.0"),
            ("stem/norm", "stem.2"),
            ("conv_dw", "0.fn.0"),
            ("norm_dw", "0.fn.2"),
            ("conv_pw", "1"),
            ("norm_pw", "3"),
        ),
    ),
)
