"""The catalogue of pretrained weights: which there are, where they lie, what they expect.

Two data files: ``catalog/packaged.json`` for what ships with flaxzoo, and ``catalog/timm.json`` for
what the Hub's ``timm`` repositories hold, which ``scripts/make_catalog.py`` writes from timm.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from flaxzoo.errors import UnknownNameError, closest, did_you_mean


@functools.cache
def catalog() -> dict[str, dict[str, Any]]:
    """All pretrained weights, by ``name.tag``; those of one architecture have its default first."""
    return {**_read("packaged.json"), **_read("timm.json")["weights"]}


@functools.cache
def usual_shapes() -> dict[str, tuple[int, ...]]:
    """The input shape ``[H, W, C]`` of architectures whose usual one is not their family's."""
    document = _read("timm.json")
    shapes = {k: tuple(v) for k, v in document["untrained"].items()}
    for key, entry in document["weights"].items():
        shapes.setdefault(key.partition(".")[0], tuple(entry["input_shape"]))
    return shapes


@functools.cache
def _tags() -> dict[str, tuple[str, ...]]:
    tags: dict[str, tuple[str, ...]] = {}
    for key in catalog():
        name, _, tag = key.partition(".")
        tags[name] = (*tags.get(name, ()), tag)
    return tags


def tags(name: str) -> tuple[str, ...]:
    """The tags of an architecture's weights, the default first."""
    return _tags().get(name, ())


def catalog_entry(name: str, tag: str | None) -> dict[str, Any]:
    """The catalogue's entry for ``name.tag``; no tag means the default one.

    Raises:
      UnknownNameError: the model has no such weights; it lists those there are.
    """
    known = tags(name)
    if not known:
        near = closest(name, _tags())
        some = f" Weights of similar names: {', '.join(near)}." if near else ""
        raise UnknownNameError(
            f"model {name!r} has no pretrained weights.{some} "
            "flaxzoo.models.list(pretrained=True) lists all there are; "
            "pretrained=<path> reads a file of yours"
        )
    if tag is None:
        tag = known[0]
    if tag not in known:
        hint = did_you_mean(tag, known)
        raise UnknownNameError(
            f"unknown weights {name + '.' + tag!r}.{hint} Tags of {name!r}: {', '.join(known)}"
        )
    return catalog()[f"{name}.{tag}"]


def _read(file: str) -> dict[str, Any]:
    text = resources.files("flaxzoo.weights").joinpath("catalog", file).read_text("utf-8")
    return json.loads(text)
