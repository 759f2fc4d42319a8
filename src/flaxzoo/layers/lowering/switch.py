"""The one switch of this package: the zoo's own formulations, or XLA's throughout.

``FLAXZOO_LOWERING=xla`` in the environment sets it for a process, ``with use("xla"):`` for a
thread. It is part of the key of JAX's caches: a function that was traced under one value is traced
again under the other.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

import jax

from flaxzoo.errors import did_you_mean

LOWERINGS = ("auto", "xla")
VARIABLE = "FLAXZOO_LOWERING"


def _checked(name: Any, argument: str) -> str:
    if name not in LOWERINGS:
        listed = " or ".join(map(repr, LOWERINGS))
        hint = did_you_mean(name, LOWERINGS) if isinstance(name, str) else ""
        raise ValueError(f"{argument} must be {listed}, got {name!r}" + (hint and f".{hint}"))
    return name


_CONTEXT: Any = jax.make_user_context(_checked(os.environ.get(VARIABLE) or "auto", VARIABLE))


def current() -> str:
    """Returns the lowering that holds here: ``"auto"`` or ``"xla"``."""
    return _CONTEXT.value


def use(lowering: str) -> AbstractContextManager[None]:
    """Returns a context in which layers are traced for this lowering.

    Args:
      lowering: ``"auto"`` for the zoo's formulations on CPUs and XLA's on accelerators; ``"xla"``
        for XLA's everywhere, with fresh parameters drawn by JAX.

    Raises:
      ValueError: it is neither.

    Example:
      >>> from flaxzoo.layers import lowering
      >>> with lowering.use("xla"):
      ...     lowering.current()
      'xla'
    """
    return _CONTEXT(_checked(lowering, "lowering"))


def is_plain() -> bool:
    """Returns whether everything is left to XLA."""
    return current() == "xla"


def is_divided(context: Any) -> bool:
    """Returns whether a primitive is lowered in a program for several devices.

    Args:
      context: what JAX gives a lowering rule.
    """
    return getattr(context.module_context.axis_context, "num_devices", 1) > 1
