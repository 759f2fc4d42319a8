"""What is known of names without building anything: one JSON a family, and an index of them.

``<family>.json`` stands for ``flaxzoo/models/<family>.py`` and holds the usual input shape,
parameters and GFLOPs of each architecture, and an entry for each set of pretrained weights, under
``name.tag``. ``<family>.certificates.json`` holds how far each of its names is from timm's, as
``scripts/certify.py`` measured it. ``index.json`` says which family a name is of and which tags it
has, so that asking for one name reads one family; ``scripts/make_catalog.py`` writes it and the
first.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from flaxzoo.errors import UnknownNameError, closest, did_you_mean


@functools.cache
def index() -> Mapping[str, Any]:
    """``families`` (family to name to tags, the default first) and ``aliases`` (to names)."""
    return _read("index")


@functools.cache
def names() -> Mapping[str, str]:
    """The family of each architecture in the index, by name."""
    return {name: family for family, rows in index()["families"].items() for name in rows}


@functools.cache
def document(family: str) -> Mapping[str, Any]:
    """The content of a family's file; sections without entries where it has none."""
    empty: dict[str, Any] = {"architectures": {}, "weights": {}}
    return {**empty, **_read(family)} if family in index()["families"] else empty


def known(name: str) -> Mapping[str, Any]:
    """``input_shape``, ``parameters``, ``gflops``, ... of an architecture, as far as known."""
    return document(names().get(name, ""))["architectures"].get(name, {})


@functools.cache
def certificates(family: str) -> Mapping[str, Any]:
    """The ledger of a family by name, empty where nothing was compared yet."""
    return _read(f"{family}.certificates", missing={})


def certificate(name: str) -> Mapping[str, Any] | None:
    """The line of an architecture in its family's ledger, or None."""
    return certificates(names().get(name, "")).get(name)


def tags(name: str) -> tuple[str, ...]:
    """The tags of an architecture's weights, the default first."""
    return tuple(index()["families"].get(names().get(name, ""), {}).get(name, ()))


def entry(name: str, tag: str | None) -> Mapping[str, Any]:
    """What is known of the weights ``name.tag``; no tag means the default one.

    Raises:
      UnknownNameError: the model has no such weights; it lists those there are.
    """
    available = tags(name)
    if not available:
        near = closest(name, (other for other in names() if tags(other)))
        similar = f" Weights of similar names: {', '.join(near)}." if near else ""
        raise UnknownNameError(
            f"model {name!r} has no pretrained weights.{similar} "
            "flaxzoo.models.list(pretrained=True) lists all there are; "
            "pretrained=<path> reads a file of yours"
        )
    if tag is None:
        tag = available[0]
    if tag not in available:
        hint = did_you_mean(tag, available)
        raise UnknownNameError(
            f"unknown weights {name + '.' + tag!r}.{hint} Tags of {name!r}: {', '.join(available)}"
        )
    return document(names()[name])["weights"][f"{name}.{tag}"]


def weights() -> Iterator[tuple[str, str]]:
    """``name.tag`` and the family of all pretrained weights."""
    for family, rows in index()["families"].items():
        for name, available in rows.items():
            for tag in available:
                yield f"{name}.{tag}", family


def licence(key: str) -> str:
    """The licence of the weights ``name.tag``, of the catalogue."""
    name = key.partition(".")[0]
    return document(names()[name])["weights"][key]["licence"]


def _read(file: str, missing: Any = None) -> Any:
    """The content of a file; where it is absent, ``missing``, unless that is None."""
    path = resources.files("flaxzoo.models.catalog").joinpath(f"{file}.json")
    if missing is not None and not path.is_file():
        return missing
    return json.loads(path.read_text("utf-8"))
