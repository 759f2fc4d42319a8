"""A backbone and a head: the shape of every classifier in the zoo."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from flaxzoo._calls import call_module
from flaxzoo._explain import explained
from flaxzoo.layers.initializers import LecunNormal
from flaxzoo.models.heads import Head, Identity


@explained
class Classifier(nn.Module):
    """``head(backbone(inputs))`` with the parameter groups ``backbone`` and ``head``.

    The two groups are what makes freezing, re-heading and feature extraction the same for every
    architecture. Either part may be any Linen module, yours included; ``train`` is passed to
    those that take it.

    Attributes:
      backbone: maps inputs to features.
      head: maps features to predictions.
    """

    backbone: nn.Module
    head: nn.Module

    def __post_init__(self) -> None:
        """Tells a ``Head`` that pools in its backbone's own way what that is."""
        options = getattr(self.backbone, "pooling_options", None)
        if type(self.head) is Head and self.head.pooling == "auto" and options is not None:
            self.head = self.head.clone(**options())
        super().__post_init__()

    def __call__(self, inputs: Any, *, train: bool = False, **options: Any) -> jax.Array:
        """Computes the predictions, usually logits ``[B, num_classes]``.

        Args:
          inputs: what the backbone takes.
          train: whether this is a training step.
          **options: go to the backbone, such as an LSTM's ``lengths``.
        """
        features = self.features(inputs, train=train, **options)
        return call_module(self.head, features, train=train)

    def features(self, inputs: Any, *, train: bool = False, **options: Any) -> jax.Array:
        """The backbone's output; use it as ``apply(..., method="features")``."""
        return call_module(self.backbone, inputs, train=train, **options)


def classifier(backbone: Any, num_classes: int = 1000, **options: Any) -> Classifier:
    """A backbone with the head that is usual for it.

    Args:
      backbone: whose ``head_options()`` are the usual fields of its ``Head``. One that returns all
        its feature maps gets no head.
      num_classes: width of the classifier.
      **options: fields of ``flaxzoo.models.Head`` that are not the usual ones.
    """
    if backbone.feature_maps:
        return Classifier(backbone=backbone, head=Identity())
    usual: dict[str, Any] = {
        "kernel_init": LecunNormal(),
        "dtype": backbone.dtype,
        "param_dtype": backbone.param_dtype,
        **backbone.head_options(),
    }
    return Classifier(backbone=backbone, head=Head(num_classes, **{**usual, **options}))
