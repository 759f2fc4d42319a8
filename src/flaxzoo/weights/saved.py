"""What ``Model.save`` writes: ``config.json`` and ``model.safetensors`` under our own names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._config import hashable_module
from flaxzoo._files import as_path, write_text
from flaxzoo._version import __version__
from flaxzoo.errors import CheckpointError
from flaxzoo.layers.lowering.initialise import variable_shapes
from flaxzoo.models.build import module_of
from flaxzoo.spec import ModelSpec
from flaxzoo.weights.files import load_variables, save_variables

_FORMAT = 1


def save(
    module: nn.Module, variables: Any, spec: ModelSpec, directory: str | os.PathLike[str]
) -> None:
    """Writes a model into a directory.

    Raises:
      DataError: the directory cannot be written.
    """
    directory = as_path(directory)
    document = {
        "format": "flaxzoo.model",
        "format_version": _FORMAT,
        "flaxzoo": __version__,
        "module": type(module).__name__,
        "spec": spec.to_json(),
    }
    text = json.dumps(document, indent=2) + "\n"
    save_variables(directory / "model.safetensors", variables)
    write_text(directory / "config.json", text)


def read_saved(
    directory: str | os.PathLike[str], module: nn.Module | None = None
) -> tuple[nn.Module, Any, ModelSpec]:
    """Reads what ``save`` wrote.

    Args:
      directory: where it is.
      module: the module, for one that is not from the registry (a head of your own).

    Returns:
      The module, its variables and what is known of them.

    Raises:
      CheckpointError: a file is missing, damaged, or of another model, or the module is not in
        the registry and was not given.
    """
    directory = as_path(directory)
    document = _read_config(directory / "config.json")
    spec = document["spec"]
    if module is None:
        if spec.config is None:
            raise CheckpointError(
                f"{directory}: holds {document['module']!r}, which is not from the registry; "
                "pass the module: Model.load(directory, module=...)"
            )
        module = module_of(spec)
    module = hashable_module(module)
    expected = None if spec.input_shape is None else variable_shapes(module, spec.sample())
    variables = load_variables(directory / "model.safetensors", expected)
    return module, jax.tree.map(jnp.asarray, variables), spec


def _read_config(path: Path) -> dict[str, Any]:
    """The document, with the spec read."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this a saved model?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != "flaxzoo.model":
        hint = ""
        if isinstance(document, dict) and {"flaxzoo", "architecture"} & set(document):
            hint = "; flaxzoo.Model.from_pretrained reads it"
        raise CheckpointError(f"{path}: not what Model.save writes{hint}")
    try:
        if document["format_version"] > _FORMAT:
            raise CheckpointError(
                f"{path}: written by flaxzoo {document.get('flaxzoo')} in a later format; "
                "pip install -U flaxzoo"
            )
        return {"module": str(document["module"]), "spec": ModelSpec.from_json(document["spec"])}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(f"{path}: not understood ({reason})") from error
