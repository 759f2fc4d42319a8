"""What the families of Inception share: convolutions and blocks of branches as parts.

It is no family: it registers no name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import flax.linen as nn
import jax

from flaxzoo._checks import check_number
from flaxzoo.layers.auxiliary import sow_logits
from flaxzoo.layers.branches import Branches, Step, Unit, scaled
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import PLAIN
from flaxzoo.models.backbone import Backbone, Part

# A block's branches, as ``flaxzoo.layers.branches.Branches`` takes them.
Branching: TypeAlias = tuple[tuple[Step, ...], ...]


class Inception(Backbone, kw_only=True):
    """The base of Inception's backbones.

    Attributes:
      width_factor: what all widths are multiplied by.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    smallest: ClassVar[int] = 75

    width_factor: float = 1.0
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float = 1e-3
    remat: bool | str = False

    @property
    def options(self) -> dict[str, Any]:
        """What convolutions and blocks get from the network as it is."""
        names = ("norm", "norm_epsilon", "activation")
        return {**{name: getattr(self, name) for name in names}, **self.dtypes}

    @nn.nowrap
    def unit(self, unit: Unit, **options: Any) -> Part:
        """A convolution as a part.

        Args:
          unit: the convolution, whose name is the part's.
          **options: fields of the part.
        """
        size = (scaled(unit.features, self.width_factor), unit.size, unit.stride)
        build = functools.partial(ConvNorm, *size, padding=unit.padding, **self.options)
        return Part(unit.name, build, **options)

    @nn.nowrap
    def block(self, name: str, branches: Branching, kind: Any = Branches, **options: Any) -> Part:
        """A block of branches as a part.

        Args:
          name: the part's.
          branches: what ``flaxzoo.layers.branches.Branches`` takes.
          kind: the module class, or a partial of it.
          **options: fields of the part.
        """
        build = functools.partial(kind, branches, width_factor=self.width_factor, **self.options)
        return Part(name, build, remat=self.remat, **options)

    def classify(self, kind: Any, name: str, weight: float, x: jax.Array, train: bool) -> jax.Array:
        """Hands over the logits of an auxiliary classifier, in training, and returns the map.

        Args:
          kind: a partial of its class, called with ``width_factor``, the convolutions' fields as
            pairs and the dtypes.
          name: the submodule's.
          weight: what its loss is multiplied by.
          x: the map that it sees.
          train: whether this is a training step.
        """
        if train or self.is_initializing():
            fields = {key: value for key, value in self.options.items() if key not in self.dtypes}
            own = {"width_factor": self.width_factor, "fields": tuple(fields.items())}
            sow_logits(self, kind(name=name, **own, **self.dtypes)(x, train), weight)
        return x

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones, and PyTorch's first parameters of a linear layer."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_number("width_factor", self.width_factor, above=0)
