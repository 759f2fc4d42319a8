"""What ``Model.save`` writes: ``config.json`` and ``model.safetensors`` under our own names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from flaxzoo._config import hashable_module
from flaxzoo._files import as_path
from flaxzoo._trees import flatten, unflatten
from flaxzoo._version import __version__
from flaxzoo.errors import CheckpointError
from flaxzoo.layers.lowering.initialise import variable_shapes
from flaxzoo.models.build import module_of
from flaxzoo.spec import ModelSpec
from flaxzoo.weights.described import FORMAT, naming, read_spec
from flaxzoo.weights.files import fit_variables
from flaxzoo.weights.folders import (
    CONFIG,
    DIGEST,
    SAVED,
    WEIGHTS,
    read_together,
    weights_digest,
    write_folder,
)
from flaxzoo.weights.readers import read_tensors
from flaxzoo.weights.values import as_weights


def save(
    module: nn.Module, variables: Any, spec: ModelSpec, directory: str | os.PathLike[str]
) -> None:
    """Writes a model into a directory; what is there is replaced whole or not at all.

    Raises:
      ValueError: its configuration holds a function that JSON cannot.
      DataError: the directory cannot be written.
    """
    document = {
        "format": SAVED,
        "format_version": FORMAT,
        "flaxzoo": __version__,
        "module": type(module).__name__,
        "spec": spec.to_json(),
    }
    write_folder(
        as_path(directory), flatten(variables), lambda sha256: {**document, DIGEST: sha256}
    )


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
    label = str(directory)
    return read_together(
        directory / CONFIG, label, lambda config: from_config(config, directory, label, module)
    )


def from_config(
    config: Mapping[str, Any], weights: Path, label: str, module: nn.Module | None
) -> tuple[nn.Module, Any, ModelSpec]:
    """What ``read_saved`` returns, for a configuration that has been read.

    Args:
      config: the content of ``config.json``.
      weights: the file of the weights, or its directory.
      label: names the model in messages.
      module: as for ``read_saved``.

    Raises:
      CheckpointError: as for ``read_saved``.
    """
    if config.get("format") != SAVED:
        ours = {"flaxzoo", "architecture"} & set(config)
        hint = "; flaxzoo.Model.from_pretrained reads it" if ours else ""
        raise CheckpointError(f"{label}: its {CONFIG} is not what Model.save writes{hint}")
    spec = read_spec(config, label)
    with naming(label):
        if module is None and spec.config is None:
            raise CheckpointError(
                f"{label}: holds {config['module']!r}, which is not from the registry; "
                "pass the module: Model.load(directory, module=...)"
            )
        module = module_of(spec) if module is None else hashable_module(module)
    expected = None if spec.input_shape is None else variable_shapes(module, spec.sample())
    source = str(weights / WEIGHTS if weights.is_dir() else weights)
    tensors = read_tensors(weights, sha256=weights_digest(config, label))
    leaves = flatten(fit_variables(tensors, source, expected))
    wanted = leaves if expected is None else flatten(expected)
    return module, unflatten(as_weights(leaves, wanted, source=source, own=True)), spec
