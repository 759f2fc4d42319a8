"""DenseNet: each layer sees the outputs of all layers of its block before it, joined.

Names and numbers are those of timm's ``densenet`` module: ``d`` behind the depth is a stem of three
3 x 3 convolutions, ``blur`` one whose pooling blurs.

References:
  DenseNet: https://arxiv.org/abs/1608.06993
  Blur-pool: https://arxiv.org/abs/1904.11486
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import as_choice, check_choice, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import FanIn, HeNormal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import normalise_and_activate
from flaxzoo.layers.pool import anti_alias, max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

CUT = {"layers": "block_config"}
# The widths of the stem's convolutions before the last one, in growths.
_STEMS: Mapping[str, tuple[float, ...]] = {"conv7": (), "deep": (1.0, 1.0), "tiered": (0.75, 1.5)}
_ANTI_ALIASING = ("avg", "blur")
# What layers and transitions get from the network as it is.
_PASSED_ON = ("activation", "norm", "dtype", "param_dtype")


class PreActConv(Layer):
    """What layers and transitions share: convolutions with a norm and an activation before them.

    Attributes:
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
    """

    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"

    @nn.nowrap
    def conv(
        self, x: jax.Array, features: int, size: int, names: tuple[str, str], train: bool
    ) -> jax.Array:
        """Normalises, activates and convolves ``[B, H, W, C]`` to ``[B, H, W, features]``.

        Args:
          x: maps.
          features: channels of the output.
          size: the kernel's side.
          names: those of the norm and of the convolution.
          train: whether a BatchNorm uses the batch's statistics.
        """
        act = as_activation(self.activation)
        x = normalise_and_activate(self.norm, names[0], x, act, train=train, **self.dtypes)
        return Conv(features, size, kernel_init=HeNormal("fan_in"), name=names[1], **self.dtypes)(x)


class DenseLayer(PreActConv, kw_only=True):
    """A 1 x 1 and a 3 x 3 convolution, whose output is joined to the input.

    Parameters are named as those of timm's ``DenseLayer``.

    Attributes:
      growth: the channels that the layer adds.
      bottleneck: the channels between the convolutions, as a multiple of the growth.
      dropout: the rate at which units of the output are dropped.
    """

    growth: int
    bottleneck: int = 4
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, C + growth]``."""
        y = self.conv(x, self.bottleneck * self.growth, 1, ("norm1", "conv1"), train)
        y = self.conv(y, self.growth, 3, ("norm2", "conv2"), train)
        y = nn.Dropout(self.dropout, name="drop")(y, deterministic=not train)
        return jnp.concatenate([x, y], axis=-1)


class Transition(PreActConv, kw_only=True):
    """A 1 x 1 convolution that halves the channels, and pooling that halves the sides.

    Attributes:
      anti_aliasing: how it pools, ``"avg"`` or ``"blur"`` (``flaxzoo.layers.pool``).
    """

    anti_aliasing: str = "avg"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H // 2, W // 2, C // 2]``; a blur rounds sides up."""
        x = self.conv(x, x.shape[-1] // 2, 1, ("norm", "conv"), train)
        return anti_alias(x, self.anti_aliasing, 2)


class DenseNet(Backbone):
    """A DenseNet without its classifier: a stem, blocks of dense layers, transitions between them.

    It maps images ``[B, H, W, C]`` of any size to ``[B, H / 32, W / 32, C']``. Maps are the stem's,
    those behind each block, and the last one behind the last norm.

    Attributes:
      layers: the number of dense layers of each block.
      growth: the channels that each of them adds; the stem has twice as many.
      bottleneck: the channels of the layers' 1 x 1 convolutions, as a multiple of the growth.
      stem: ``"conv7"``, one 7 x 7 convolution; ``"deep"``, three 3 x 3; ``"tiered"``, three whose
        widths grow.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      anti_aliasing: ``"avg"``, ``"blur"`` or None: how the stem's pooling shrinks the map.
      anti_alias_transitions: whether transitions shrink theirs in that way, too.
      block_dropout: the rate at which units of each dense layer's output are dropped.
      remat: whether dense layers are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (6, 12, 24, 16)
    growth: int = 32
    bottleneck: int = 4
    stem: str = "conv7"
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    anti_aliasing: str | None = None
    anti_alias_transitions: bool = False
    block_dropout: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the dense layers one by one, and a transition behind each block."""
        deep = len(_STEMS[self.stem])
        owns = (f"features_{kind}{i}" for i in range(deep + 1) for kind in ("conv", "norm"))
        yield Part("stem", self._stem, tuple(owns), takes="images", map="stem", reduction=2)
        yield Part("stem", self._pool, ())
        options = {name: getattr(self, name) for name in _PASSED_ON}
        layer = functools.partial(
            DenseLayer,
            growth=self.growth,
            bottleneck=self.bottleneck,
            dropout=self.block_dropout,
            **options,
        )
        pool = (self._low_pass if self.anti_alias_transitions else None) or "avg"
        transition = functools.partial(Transition, anti_aliasing=pool, **options)
        for n, count in enumerate(self.layers, 1):
            last = n == len(self.layers)
            for i in range(1, count + 1):
                name = f"features_denseblock{n}_denselayer{i}"
                complete = f"denseblock{n}" if i == count and not last else None
                yield Part(
                    name,
                    layer,
                    map=complete,
                    reduction=2 << n,
                    group=f"denseblock{n}",
                    remat=self.remat,
                )
            if not last:
                # timm counts a transition with the layer before it.
                yield Part(
                    f"features_transition{n}", transition, depth=name, group=f"denseblock{n}"
                )
        yield Part(
            "features_norm5",
            self._last,
            ("features_norm5",),
            map="norm5",
            reduction=2 << len(self.layers),
            depth="head",
        )

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        act = as_activation(self.activation)
        # A width in quarters of the growth is rounded down as timm's.
        widths = [
            int(4 * ratio) * (self.growth // 4) if ratio % 1 else int(ratio * self.growth)
            for ratio in (*_STEMS[self.stem], 2.0)
        ]
        size = 7 if len(widths) == 1 else 3
        for i, width in enumerate(widths):
            options: dict[str, Any] = {"kernel_init": HeNormal("fan_in"), **self.dtypes}
            x = Conv(width, size, stride=1 if i else 2, name=f"features_conv{i}", **options)(x)
            name = f"features_norm{i}"
            x = normalise_and_activate(self.norm, name, x, act, train=train, **self.dtypes)
        return x

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        if self._low_pass is None:
            return max_pool(x)
        return anti_alias(max_pool(x, stride=1), self._low_pass, 2)

    def _last(self, x: jax.Array, train: bool) -> jax.Array:
        act = as_activation(self.activation)
        name = "features_norm5"
        return normalise_and_activate(self.norm, name, x, act, train=train, **self.dtypes)

    @property
    def _low_pass(self) -> str | None:
        return as_choice("anti_aliasing", self.anti_aliasing, _ANTI_ALIASING)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones, and how timm draws the classifier's kernel."""
        return {**super().head_options(), "kernel_init": FanIn()}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        check_size("growth", self.growth, minimum=4)
        check_size("bottleneck", self.bottleneck)
        check_choice("stem", self.stem, tuple(_STEMS))
        as_choice("anti_aliasing", self.anti_aliasing, _ANTI_ALIASING)


def _convert(tensors: Mapping[str, Any], backbone: Any) -> dict[str, Any]:
    """Today's names for torchvision's files, which write ``norm.1`` for ``norm1``."""
    del backbone
    layer = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {layer.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}


variants(
    DenseNet,
    {
        "densenet121": row("DenseNet-121"),
        "densenet161": row("DenseNet-161", layers=(6, 12, 36, 24), growth=48),
        "densenet169": row("DenseNet-169", layers=(6, 12, 32, 32)),
        "densenet201": row("DenseNet-201", layers=(6, 12, 48, 32)),
        "densenet264d": row(
            "DenseNet-264 with a deep stem", layers=(6, 12, 64, 48), growth=48, stem="deep"
        ),
        "densenetblur121d": row(
            "DenseNet-121 with a deep stem and blurred pooling",
            stem="deep",
            anti_aliasing="blur",
            paper="https://arxiv.org/abs/1904.11486",
        ),
    },
    paper="https://arxiv.org/abs/1608.06993",
    reference=Reference(
        stem=("features_conv0",),
        classifier="classifier",
        renamed=(
            (r"features_(denseblock\d+)_(denselayer\d+)", r"features.\1.\2"),
            (r"features_(\w+)", r"features.\1"),
        ),
        convert=_convert,
    ),
)
