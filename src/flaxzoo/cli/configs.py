"""What ``--set`` gives, as a model takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_sequences(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a lone value a sequence of one where the model takes sequences: ``features=32``.

    Args:
      name: the model's name, without a tag.
      config: the keywords that it is given.

    Returns:
      The keywords; those the model does not take are left for it to refuse.
    """
    from flaxzoo.models.registry import MODELS

    takes = MODELS.parameters(name)
    return {
        key: (value,)
        if key in takes
        and isinstance(takes[key].default, tuple)
        and not isinstance(value, tuple | list)
        else value
        for key, value in config.items()
    }


def describe(name: str, config: Mapping[str, Any]) -> str:
    """``model 'mlp' with features=(32,)``, to begin a message with."""
    settings = ", ".join(f"{key}={value!r}" for key, value in config.items())
    return f"model {name!r}" + (f" with {settings}" if settings else "")
