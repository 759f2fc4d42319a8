"""The dense layer."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from flaxzoo.layers.initializers import FanInBias, bias_initializer
from flaxzoo.layers.lowering.convolution import dot_general


class Dense(nn.Dense):
    """Flax's Dense: ``x @ kernel + bias`` over the last axis.

    Parameters and numbers are Flax's: ``kernel`` ``[C, features]`` and ``bias`` ``[features]``.
    """

    dot_general: Any = dot_general

    @nn.nowrap
    def param(self, name: str, init_fn: Any, *args: Any, **options: Any) -> Any:
        """Makes a parameter; a bias comes after the kernel, whose fan-in it may ask for."""
        if isinstance(init_fn, FanInBias):
            init_fn = bias_initializer(init_fn, self.get_variable("params", "kernel").shape)
        return super().param(name, init_fn, *args, **options)
