"""How a convolution moves over its input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Window:
    """How a two-dimensional convolution moves over its input: along height, then width."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1


# No axis to move along: the inputs are ``[N, C]``, the kernel ``[C, features]``.
MATMUL = Window((), (), ())


def output_size(images: Sequence[int], kernel: Sequence[int], window: Window) -> list[int]:
    """Returns how often a kernel of a shape fits, along height and width, images of a shape."""
    return [
        (n + low + high - (k - 1) * d - 1) // s + 1
        for n, (low, high), k, d, s in zip(
            images[1:3], window.padding, kernel[:2], window.dilation, window.strides, strict=True
        )
    ]
