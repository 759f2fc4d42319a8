"""Pretrained variables for a model, from a file or from the package itself."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from flaxzoo.errors import CheckpointError, UnknownNameError, did_you_mean
from flaxzoo.weights.files import load_variables
from flaxzoo.weights.trees import compare, flatten, unflatten

if TYPE_CHECKING:
    from flaxzoo.model import Model


@functools.cache
def catalog() -> dict[str, dict[str, Any]]:
    """The weights that ship with the package, by ``name.tag``."""
    text = resources.files("flaxzoo.weights").joinpath("catalog.json").read_text("utf-8")
    return json.loads(text)


def tags(name: str) -> tuple[str, ...]:
    """The tags of a model's weights, the default first."""
    return tuple(key.partition(".")[2] for key in catalog() if key.partition(".")[0] == name)


def catalog_entry(name: str, tag: str | None) -> dict[str, Any]:
    """The catalogue's entry for ``name.tag``; no tag means the default one.

    Raises:
      UnknownNameError: the model has no such weights; it lists those there are.
    """
    known = tags(name)
    if not known:
        raise UnknownNameError(
            f"model {name!r} has no pretrained weights. "
            f"Models that have some: {', '.join(catalog())}. "
            "Pass a .safetensors file as pretrained=..."
        )
    if tag is None:
        tag = known[0]
    if tag not in known:
        hint = did_you_mean(tag, known)
        raise UnknownNameError(
            f"unknown weights {name + '.' + tag!r}.{hint} Tags of {name!r}: {', '.join(known)}"
        )
    return catalog()[f"{name}.{tag}"]


def load_pretrained(model: Model, source: bool | str | os.PathLike[str]) -> Model:
    """Returns ``model`` with the variables of ``source``.

    Args:
      model: its variables need not be initialised; a head of another width than the weights'
        is the one difference allowed, and is then freshly initialised.
      source: True for the packaged weights of ``model.spec.tag`` (or the default tag), or the
        path of a ``.safetensors`` file or of a directory that ``Model.save`` wrote.

    Raises:
      UnknownNameError: the model has no such packaged weights.
      CheckpointError: the file is missing, damaged, or of another model.
    """
    if source is True:
        entry = catalog_entry(model.spec.name, model.spec.tag)
        with resources.as_file(resources.files("flaxzoo.weights") / entry["file"]) as path:
            found = flatten(load_variables(path))
    else:
        path = Path(source)  # type: ignore[arg-type]
        if path.is_dir():
            path = path / "model.safetensors"
        elif path.suffix != ".safetensors":
            raise CheckpointError(
                f"{path}: weights are read from a .safetensors file or a directory that "
                "Model.save wrote"
            )
        found = flatten(load_variables(path))
    return fill(model, found, source=str(path))


def fill(model: Model, found: dict[str, Any], *, source: str) -> Model:
    """Puts flat variables into a model, initialising only a head of another width."""
    expected = flatten(model.shapes())
    heads = [k for k in expected if k.startswith("params/head/")]
    found_heads = [k for k in found if k.startswith("params/head/")]
    same = {k: expected[k].shape for k in heads} == {k: found[k].shape for k in found_heads}
    if heads and not same:
        backbone = {k: v for k, v in expected.items() if "/head/" not in k}
        kept = {k: v for k, v in found.items() if "/head/" not in k}
        compare(backbone, kept, source=source)
        fresh = flatten(model.init().variables or {})
        flat = {k: kept.get(k, fresh[k]) for k in expected}
    elif not heads and found_heads:
        kept = {k: v for k, v in found.items() if "/head/" not in k}
        compare(expected, kept, source=source)
        flat = {k: kept[k] for k in expected}
    else:
        compare(expected, found, source=source)
        flat = {k: found[k] for k in expected}
    # As wide as the model wants them, not as the file has them.
    arrays = {name: jnp.asarray(leaf, expected[name].dtype) for name, leaf in flat.items()}
    return dataclasses.replace(model, variables=unflatten(arrays))
