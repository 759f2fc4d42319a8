"""AlexNet: five convolutions, three poolings and two wide layers before the classifier.

It is the paper's second form, all of whose channels see one another. The name and numbers are those
of torchvision's ``alexnet`` module. https://arxiv.org/abs/1404.5997
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxzoo._checks import check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.channels import flattened
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import PLAIN
from flaxzoo.layers.pool import adaptive_avg_pool, max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# torchvision makes no shallow network of this name.
CUT: dict[str, str] = {}
# Of each convolution, the kernel's size, the stride, the padding and whether pooling follows.
_CONVS = (
    (11, 4, 2, True),
    (5, 1, 2, True),
    (3, 1, 1, False),
    (3, 1, 1, False),
    (3, 1, 1, True),
)
# The height and width of the map that the wide layers see, whatever the image's.
_SIDE = 6


class AlexNet(Backbone):
    """An AlexNet without its classifier: convolutions, then two wide layers.

    It maps images ``[B, H, W, C]`` of at least 63 x 63 to vectors ``[B, hidden]``: the last map is
    averaged, or repeated, to 6 x 6.

    Attributes:
      widths: the channels of the five convolutions.
      hidden: the width of the two layers before the classifier.
      activation: by name or callable.
      dropout: the rate at which the units are dropped that each of the two sees; of the classifier,
        none are. torchvision's default, and the paper's, is 0.5.
    """

    smallest: ClassVar[int] = 63

    widths: Sequence[int] = (64, 192, 384, 256, 256)
    hidden: int = 4096
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    dropout: float = 0.0

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The layers by their places in torchvision's lists, where all that is computed counts."""
        options: dict[str, Any] = {"use_bias": True, **PLAIN, **self.dtypes}
        place, reduction = 0, 1
        for i, (size, stride, padding, pooled) in enumerate(_CONVS):
            name = f"features_{place}"
            fields = (self.widths[i], size, stride)
            conv = functools.partial(Conv, *fields, padding=padding, **options)
            yield Part(name, conv, takes="maps" if place else "images")
            reduction *= stride
            ends = f"features_{place + 1}" if pooled else None
            yield Part(name, self._activate, map=ends, reduction=reduction)
            place += 2
            if pooled:
                reduction *= 2
                ends = f"features_{place}" if i == len(_CONVS) - 1 else None
                yield Part(name, self._pool, map=ends, reduction=reduction)
                place += 1
        for place in (1, 4):
            name = f"classifier_{place}"
            wide = functools.partial(self._wide, name)
            yield Part(name, wide, (name,), takes="maps" if place == 1 else "vectors")

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """PyTorch's first parameters of a linear layer."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """None: the wide layers make vectors."""
        return {"pooling": None}

    def _activate(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return as_activation(self.activation)(x)

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return max_pool(x, 3, 2, 0)

    def _wide(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        if x.ndim == 4:
            x = flattened(adaptive_avg_pool(x, (_SIDE, _SIDE)))
        if self.dropout:
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = Dense(self.hidden, name=name, **PLAIN, **self.dtypes)(x)
        return as_activation(self.activation)(x)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        widths = check_widths("widths", self.widths)
        if len(widths) != len(_CONVS):
            raise ArgumentError(f"widths must be {len(_CONVS)} numbers, got {widths}")
        check_size("hidden", self.hidden)


variants(
    AlexNet,
    {"alexnet": row("AlexNet", head={"dropout": 0.0})},
    paper="https://arxiv.org/abs/1404.5997",
    reference=Reference(stem=("features_0",), classifier="classifier.6", package="torchvision"),
)
