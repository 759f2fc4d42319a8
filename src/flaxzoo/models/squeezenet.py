"""SqueezeNet: few channels squeeze what a layer sees, before 1 x 1 and 3 x 3 kernels expand it.

The classifier looks at each pixel, and its answers are averaged. Names and numbers are those of
torchvision's ``squeezenet`` module. https://arxiv.org/abs/1602.07360
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import FanIn, Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pool import max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# torchvision makes no shallow networks of these names.
CUT: dict[str, str] = {}
# He's numbers for what a ReLU follows, uniform.
_KERNELS = FanIn(2.0)


class Fire(Layer):
    """Squeezes the channels by a 1 x 1 kernel, then expands them by 1 x 1 and by 3 x 3 kernels.

    Attributes:
      features: the output's channels, half of them from each size of kernel.
      squeezed: the channels between.
      activation: behind each convolution, by name or callable.
    """

    features: int
    squeezed: int
    activation: str | Callable[[jax.Array], jax.Array] = "relu"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``; training changes nothing."""
        del train
        conv: Any = functools.partial(Conv, use_bias=True, kernel_init=_KERNELS, **self.dtypes)
        act, half = as_activation(self.activation), self.features // 2
        x = act(conv(self.squeezed, 1, name="squeeze")(x))
        expanded = [conv(half, size, name=f"expand{size}x{size}")(x) for size in (1, 3)]
        return act(jnp.concatenate(expanded, axis=-1))


class SqueezeNet(Backbone):
    """A SqueezeNet without its classifier: a convolution, then stages of ``Fire``, each pooled.

    It maps images ``[B, H, W, C]`` to about ``[B, H / 16, W / 16, widths[-1]]``: the first
    convolution has no padding.

    Attributes:
      layers: the numbers of blocks of the stages; pooling begins each.
      widths: the output's channels of each block, all stages together.
      squeeze: by how much fewer channels there are between.
      stem_width: the first convolution's channels.
      stem_size: the height and width of its kernel.
      activation: by name or callable.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    # The larger stem leaves a pixel of these.
    smallest: ClassVar[int] = 7

    layers: Sequence[int]
    widths: Sequence[int] = (128, 128, 256, 256, 384, 384, 512, 512)
    squeeze: int = 8
    stem_width: int = 64
    stem_size: int = 3
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The layers by their places in torchvision's list, where activations and pooling count."""
        options: dict[str, Any] = {
            "padding": "VALID",
            "use_bias": True,
            "kernel_init": _KERNELS,
            **self.dtypes,
        }
        stem = functools.partial(Conv, self.stem_width, self.stem_size, 2, **options)
        yield Part("features_0", stem, takes="images")
        yield Part("features_0", self._activate, map="features_1", reduction=2)
        place, widths = 2, iter(self.widths)
        for n, count in enumerate(self.layers, 2):
            place += 1
            yield Part(f"features_{place}", self._pool, ())
            for i in range(count):
                name, width = f"features_{place}", next(widths)
                sizes = (width, width // self.squeeze, self.activation)
                block = functools.partial(Fire, *sizes, **self.dtypes)
                ends = name if i == count - 1 else None
                own: dict[str, Any] = {"group": f"stage{n}", "remat": self.remat}
                yield Part(name, block, map=ends, reduction=2**n, **own)
                place += 1

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones, a classifier of pixels, and how its kernel is drawn."""
        own = {"pixelwise": True, "activation": self.activation, "kernel_init": Normal(0.01)}
        return {**super().head_options(), **own}

    def _activate(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return as_activation(self.activation)(x)

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return max_pool(x, 3, 2, 0, ceil=True)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        count, widths = (
            sum(check_widths("layers", self.layers)),
            check_widths("widths", self.widths),
        )
        check_size("squeeze", self.squeeze)
        if len(widths) != count or any(width % (2 * self.squeeze) for width in widths):
            raise ArgumentError(
                f"widths must be {count} multiples of {2 * self.squeeze}, twice squeeze, one for "
                f"each block of layers={tuple(self.layers)}; got {widths}"
            )
        check_size("stem_width", self.stem_width)
        check_size("stem_size", self.stem_size)


variants(
    SqueezeNet,
    {
        "squeezenet1_0": row("SqueezeNet 1.0", layers=(3, 4, 1), stem_width=96, stem_size=7),
        "squeezenet1_1": row("SqueezeNet 1.1, pooled earlier", layers=(2, 2, 4)),
    },
    paper="https://arxiv.org/abs/1602.07360",
    reference=Reference(
        stem=("features_0",),
        classifier="classifier.1",
        layouts=(("params/head/fc/kernel", "pointwise"),),
        package="torchvision",
    ),
)
