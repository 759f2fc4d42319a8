"""The dense layer."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from flaxzoo.layers.lowering.convolution import dot_general


class Dense(nn.Dense):
    """Flax's Dense: ``x @ kernel + bias`` over the last axis.

    Parameters and numbers are Flax's: ``kernel`` ``[C, features]`` and ``bias`` ``[features]``.
    """

    dot_general: Any = dot_general
