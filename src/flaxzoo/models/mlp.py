"""The multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import as_choice, check_rate, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head
from flaxzoo.models.registry import register, takes_fields_of

_NORMS = ("batch", "layer", "rms")
# What the axes of one example are called in messages.
_AXES = {1: "F", 2: "H, W", 3: "H, W, C"}


class MLP(nn.Module):
    """Dense layers with optional normalisation, dropout and residual connections.

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
      dtype: of the computation; None keeps the promotion of inputs and parameters.
      param_dtype: of the parameters.
    """

    features: Sequence[int] = (256, 128)
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    activate_final: bool = False
    norm: str | None = None
    dropout: float = 0.0
    residual: bool = False
    input_ndim: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """The layers, ``dense_0`` and so on, each with its norm.

        Raises:
          ValueError: a field holds what it does not take.
        """
        norm = self._check_fields()
        found = {f"dense_{i}": (f"dense_{i}", f"norm_{i}") for i in range(len(self.features))}
        plain = list(found) if norm is None else [] if self.activate_final else [list(found)[-1]]
        return found | {name: (name,) for name in plain}

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes ``[..., features[-1]]`` from ``[..., *example]``; any leading batch axes.

        Raises:
          ShapeError: ``x`` has fewer axes than one example.
          ValueError: a field holds what it does not take: an unknown norm, a width below 1, no
            widths, a rate outside [0, 1).
        """
        return self.run_stages(x, train=train)

    @nn.compact
    def run_stages(
        self, x: jax.Array, start: int = 0, stop: int | None = None, *, train: bool = False
    ) -> jax.Array:
        """Computes the stages ``start`` to ``stop`` of ``stages()``.

        Args:
          x: examples, or what the stage before returns, ``[..., features[start - 1]]``.
          start: number of the first stage.
          stop: number of the first one that is left out; None for none.
          train: whether Dropout drops and BatchNorm uses the batch's statistics.

        Raises:
          ShapeError, ValueError: as a call does.
        """
        norm = self._check_fields()
        if not start:
            x = self._flatten(x)
        activation = as_activation(self.activation)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, width in list(enumerate(self.features))[start:stop]:
            y = nn.Dense(width, name=f"dense_{i}", **dtypes)(x)
            if i < len(self.features) - 1 or self.activate_final:
                y = self._normalise(y, norm, f"norm_{i}", train=train)
                y = activation(y)
                if self.dropout:
                    # Named, so that a slice draws what the whole network does.
                    drop = nn.Dropout(self.dropout, name=f"Dropout_{i}")
                    y = drop(y, deterministic=not train)
            x = x + y if self.residual and x.shape[-1] == width else y
        return x

    @nn.nowrap
    def _flatten(self, x: jax.Array) -> jax.Array:
        """Examples ``[..., *example]`` as vectors."""
        if x.ndim < self.input_ndim:
            axes = _AXES.get(self.input_ndim) or ", ".join(f"D{i}" for i in range(self.input_ndim))
            raise ShapeError(
                f"inputs must be [..., {axes}], with {self.input_ndim} axes in each example, "
                f"got shape {list(x.shape)}"
            )
        batch = x.shape[: x.ndim - self.input_ndim]
        return x.reshape(*batch, math.prod(x.shape[x.ndim - self.input_ndim :]))

    @nn.nowrap
    def _check_fields(self) -> str | None:
        """Raises ValueError for what a field does not take; returns the kind of norm."""
        check_widths("features", self.features, allow_empty=True)
        if not self.features:
            raise ValueError("features must name at least one layer's width, got an empty sequence")
        check_rate("dropout", self.dropout)
        check_size("input_ndim", self.input_ndim)
        return as_choice("norm", self.norm, _NORMS)

    def _normalise(self, x: jax.Array, norm: str | None, name: str, *, train: bool) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if norm is None:
            return x
        if norm == "batch":
            return nn.BatchNorm(use_running_average=not train, name=name, **dtypes)(x)
        norm_class = nn.LayerNorm if norm == "layer" else nn.RMSNorm
        return norm_class(name=name, **dtypes)(x)


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
