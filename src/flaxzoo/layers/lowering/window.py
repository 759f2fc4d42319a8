"""How a convolution moves over its input."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Window:
    """How a two-dimensional convolution moves over its input: along height, then width."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1


# No axis to move along: the inputs are ``[N, C]``, the kernel ``[C, features]``.
MATMUL = Window((), (), ())
