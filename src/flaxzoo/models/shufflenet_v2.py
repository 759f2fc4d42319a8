"""ShuffleNet V2: half of the channels pass by each block, and both halves are shuffled behind it.

Names and numbers are those of torchvision's ``shufflenetv2`` module.
https://arxiv.org/abs/1807.11164
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.channels import shuffled
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import PLAIN, FanIn
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import normalise_and_activate
from flaxzoo.layers.pool import max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# torchvision makes no shallow networks of these names.
CUT: dict[str, str] = {}
MODULE = "shufflenetv2"


class ShuffleBlock(Layer):
    """A block of two branches, the second 1 x 1, depthwise 3 x 3 and 1 x 1 (figure 3, c and d).

    At stride 1 the first is half of the channels as they are, at stride 2 both see all of them.

    Attributes:
      features: the output's channels, half of them from each branch.
      stride: of the depthwise convolutions.
      norm: behind each convolution, by name or module (``flaxzoo.layers.norm``).
      activation: behind each convolution of 1 x 1, by name or callable.
    """

    features: int
    stride: int = 1
    norm: Any = "batch"
    activation: str | Callable[[jax.Array], jax.Array] = "relu"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        half, act = self.features // 2, as_activation(self.activation)
        conv = functools.partial(self.conv, train=train)
        deep: dict[str, Any] = {"size": 3, "stride": self.stride}
        if self.stride == 1:
            passed, x = jnp.split(x, 2, axis=-1)
        else:
            passed = conv(x, "branch1", 0, x.shape[-1], None, **deep)
            passed = conv(passed, "branch1", 2, half, act)
        x = conv(x, "branch2", 0, half, act)
        x = conv(x, "branch2", 3, half, None, **deep)
        x = conv(x, "branch2", 5, half, act)
        return shuffled(jnp.concatenate([passed, x], axis=-1), 2)

    def conv(
        self,
        x: jax.Array,
        branch: str,
        place: int,
        features: int,
        activation: Callable[[jax.Array], jax.Array] | None,
        *,
        train: bool,
        size: int = 1,
        stride: int = 1,
    ) -> jax.Array:
        """Computes a convolution, depthwise where it is larger than a pixel, and its norm.

        The two are called by their places in a branch of torchvision's, where activations count.
        """
        options = {"groups": x.shape[-1] if size > 1 else 1, "kernel_init": FanIn(), **self.dtypes}
        x = Conv(features, size, stride, name=f"{branch}_{place}", **options)(x)
        norm = f"{branch}_{place + 1}"
        return normalise_and_activate(self.norm, norm, x, activation, train=train, **self.dtypes)


class ShuffleNetV2(Backbone):
    """A ShuffleNet V2 without its classifier: a stem, three stages, and a last 1 x 1 convolution.

    It maps images ``[B, H, W, C]`` to ``[B, H / 32, W / 32, last_width]``, rounded up.

    Attributes:
      widths: the channels of the three stages, even.
      layers: their numbers of blocks.
      stem_width: the first convolution's channels.
      last_width: the last one's.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      activation: by name or callable.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    widths: Sequence[int]
    layers: Sequence[int] = (4, 8, 4)
    stem_width: int = 24
    last_width: int = 1024
    norm: Any = "batch"
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, its pooling, the blocks ``stage2_0`` and so on, and ``conv5``."""
        options = {"norm": self.norm, "activation": self.activation, **self.dtypes}
        conv = functools.partial(ConvNorm, names=("0", "1"), **options)
        stem = functools.partial(conv, self.stem_width, 3, 2)
        yield Part("conv1", stem, map="conv1", reduction=2, takes="images")
        yield Part("conv1", self._pool, map="maxpool", reduction=4)
        for n, (count, width) in enumerate(zip(self.layers, self.widths, strict=True), 2):
            for i in range(count):
                block = functools.partial(ShuffleBlock, width, 1 if i else 2, **options)
                ends = f"stage{n}" if i == count - 1 else None
                own: dict[str, Any] = {"map": ends, "reduction": 2 ** (n + 1)}
                yield Part(f"stage{n}_{i}", block, remat=self.remat, **own)
        yield Part("conv5", functools.partial(conv, self.last_width))

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones, and PyTorch's first parameters of a linear layer."""
        return {**super().head_options(), **PLAIN}

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return max_pool(x)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        widths = check_widths("widths", self.widths)
        check_lengths(layers=self.layers, widths=self.widths)
        if any(width % 2 for width in widths):
            raise ArgumentError(f"widths must be even, for two halves, got {widths}")
        check_size("stem_width", self.stem_width)
        check_size("last_width", self.last_width)


variants(
    ShuffleNetV2,
    {
        "shufflenet_v2_x0_5": row("ShuffleNet V2 x0.5", widths=(48, 96, 192)),
        "shufflenet_v2_x1_0": row("ShuffleNet V2 x1.0", widths=(116, 232, 464)),
        "shufflenet_v2_x1_5": row("ShuffleNet V2 x1.5", widths=(176, 352, 704)),
        "shufflenet_v2_x2_0": row("ShuffleNet V2 x2.0", widths=(244, 488, 976), last_width=2048),
    },
    paper="https://arxiv.org/abs/1807.11164",
    reference=Reference(stem=("conv1/0",), package="torchvision"),
)
