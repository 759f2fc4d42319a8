"""MLP: dense layers over flattened inputs, for tables, digits and first steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import as_choice, check_size, check_widths
from flaxzoo._explain import explained
from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head
from flaxzoo.models.registry import register, takes_fields_of

_NORMS = ("batch", "layer", "rms")
# What the axes of one example are called in messages.
_AXES = {1: "F", 2: "H, W", 3: "H, W, C"}


@explained
class MLP(Backbone):
    """Dense layers with optional normalisation, dropout and residual connections.

    Maps ``[..., *example]``, with any leading batch axes, to ``[..., features[-1]]``.

    Attributes:
      features: width of each layer; the last one is the output's.
      activation: by name or callable, after every layer but the last.
      activate_final: whether the last layer is normalised and activated too, as a backbone's is.
      norm: ``"batch"``, ``"layer"``, ``"rms"`` or None (or ``"none"``), between a layer and its
        activation.
      dropout: rate in [0, 1) applied after each activation.
      residual: whether a layer's input is added to its output where the widths agree.
      input_ndim: how many trailing axes are one example, flattened to one: 1 takes
        ``[..., features]``, 3 takes images ``[..., H, W, C]``.
    """

    # The name of no norm is one of its norms.
    unusual = ("norm",)

    features: Sequence[int] = (256, 128)
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    activate_final: bool = False
    norm: str | None = None
    dropout: float = 0.0
    residual: bool = False
    input_ndim: int = 1

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """Flattened examples, then the layers ``dense_0``, ``dense_1`` and so on."""
        yield Part("dense_0", self._flatten, takes=None)
        for i, width in enumerate(self.features):
            is_output = i == len(self.features) - 1 and not self.activate_final
            norm = () if is_output or self._norm is None else (f"norm_{i}",)
            layer = functools.partial(self._layer, i, width, is_output)
            yield Part(f"dense_{i}", layer, owns=(f"dense_{i}", *norm), takes=None)

    def _layer(self, i: int, width: int, is_output: bool, x: jax.Array, train: bool) -> jax.Array:
        y = nn.Dense(width, name=f"dense_{i}", **self.dtypes)(x)
        if not is_output:
            if self._norm == "batch":
                y = nn.BatchNorm(use_running_average=not train, name=f"norm_{i}", **self.dtypes)(y)
            elif self._norm is not None:
                norm = nn.LayerNorm if self._norm == "layer" else nn.RMSNorm
                y = norm(name=f"norm_{i}", **self.dtypes)(y)
            y = as_activation(self.activation)(y)
            if self.dropout:
                # Named, so that a slice draws what the whole network does.
                y = nn.Dropout(self.dropout, name=f"Dropout_{i}")(y, deterministic=not train)
        return x + y if self.residual and x.shape[-1] == width else y

    def _flatten(self, x: jax.Array, train: bool) -> jax.Array:
        """Examples ``[..., *example]`` as vectors."""
        del train
        if x.ndim < self.input_ndim:
            axes = _AXES.get(self.input_ndim) or ", ".join(f"D{i}" for i in range(self.input_ndim))
            raise ShapeError(
                f"inputs must be [..., {axes}], with {self.input_ndim} axes in each example, "
                f"got shape {list(x.shape)}"
            )
        batch = x.shape[: x.ndim - self.input_ndim]
        return x.reshape(*batch, math.prod(x.shape[x.ndim - self.input_ndim :]))

    @property
    def _norm(self) -> str | None:
        return as_choice("norm", self.norm, _NORMS)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("features", self.features, allow_empty=True)
        if not self.features:
            raise ValueError("features must name at least one layer's width, got an empty sequence")
        check_size("input_ndim", self.input_ndim)
        as_choice("norm", self.norm, _NORMS)


@register("mlp", input_shape=(28, 28, 1))
@takes_fields_of(MLP, without=("activate_final", "input_ndim"))
def mlp(
    num_classes: int = 10, *, input_shape: tuple[int, ...] = (28, 28, 1), **fields: Any
) -> Classifier:
    """Multi-layer perceptron over flattened inputs: hidden layers 256 and 128 by default."""
    check_widths("input_shape", input_shape)
    backbone = MLP(activate_final=True, input_ndim=len(input_shape), **fields)
    head = {k: fields[k] for k in ("dtype", "param_dtype") if k in fields}
    return Classifier(backbone=backbone, head=Head(num_classes, **head))
