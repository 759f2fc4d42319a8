"""Weights that other packages publish, under the names that our models use.

One module for each source, each with ``names``, ``preprocess`` and ``load``, where it is known with
their ``LICENCE``, and the conversion of variables that the user already has.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from flaxzoo.errors import UnknownNameError, did_you_mean

__all__ = ["SOURCES", "licence", "load", "names", "preprocess"]

SOURCES = ("jax_resnet", "flaxmodels", "efficientnet_lite_pytorch")


def names(source: str) -> tuple[str, ...]:
    """The architectures, by our names, that a source has weights for.

    Args:
      source: one of ``SOURCES``.

    Raises:
      UnknownNameError: no such source.
    """
    return _module(source).names()


def licence(source: str) -> str:
    """The licence of a source's weights, where it states one; else an empty text.

    Args:
      source: one of ``SOURCES``.

    Raises:
      UnknownNameError: no such source.
    """
    return getattr(_module(source), "LICENCE", "")


def preprocess(name: str, source: str) -> dict[str, Any]:
    """How images become inputs for a source's weights.

    Args:
      name: of the architecture, such as ``"resnet50"``.
      source: one of ``SOURCES``.

    Returns:
      ``mean`` and ``std`` per channel of pixels in [0, 1], ``interpolation``, and ``crop``, the
      fraction of the shorter side that the centre crop keeps.

    Raises:
      UnknownNameError: no such source, or it has no weights for ``name``; it lists those it has.
    """
    return _module(source).preprocess(name)


def load(name: str, source: str) -> dict[str, Any]:
    """Loads a source's ImageNet weights for an architecture, downloading them if need be.

    Args:
      name: of the architecture, such as ``"resnet50"``.
      source: ``"jax_resnet"`` or ``"efficientnet_lite_pytorch"``, whose files are PyTorch's and
        need torch to be read, or ``"flaxmodels"``.

    Returns:
      ``{"params": {"backbone": ..., "head": ...}, "batch_stats": {"backbone": ...}}`` with NumPy
      arrays.

    Raises:
      UnknownNameError: no such source, or it has no weights for ``name``; it lists those it has.
      DownloadError: the file cannot be had, or is not what it should be; no part of it is kept.
      MissingExtraError: torch is not installed, or too old to read files safely; or a package that
        brings the weights is not installed (efficientnet_lite_pytorch).
      CheckpointError: the file of that package is damaged.
    """
    return _module(source).load(name)


def _module(source: str) -> ModuleType:
    if source not in SOURCES:
        raise UnknownNameError(
            f"unknown source of weights {source!r}.{did_you_mean(source, SOURCES)} "
            f"Sources: {', '.join(SOURCES)}"
        )
    return importlib.import_module(f"flaxzoo.weights.sources.{source}")
