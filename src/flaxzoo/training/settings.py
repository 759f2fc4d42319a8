"""The settings of a run in ``trainer.json``, beside its checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import flaxzoo.losses as losses
import flaxzoo.metrics as metrics
import flaxzoo.optimizers as optimizers
import flaxzoo.schedules as schedules
from flaxzoo._config import NotJsonableError, from_json, to_json
from flaxzoo._files import entry, read_json, understanding, write_json
from flaxzoo._version import __version__
from flaxzoo.errors import CheckpointError
from flaxzoo.model import Model
from flaxzoo.models.build import module_of
from flaxzoo.precision import PrecisionPolicy
from flaxzoo.spec import ModelSpec
from flaxzoo.training.sharding_rules import there_are

_FORMAT = "flaxzoo.trainer"
_VERSION = 1
_FILE = "trainer.json"
# What every file holds; others, such as ``run``, have been added since.
_ENTRIES: dict[str, tuple[type, ...]] = {
    "version": (int,),
    "model": (dict, type(None)),
    "inputs": (dict, type(None)),
    "settings": (dict,),
    "objects": (list,),
    "seed": (int,),
    "total_steps": (int, type(None)),
}
# The key that marks an object written as its configuration.
_KIND = "__kind__"


def write(
    directory: Path,
    spec: ModelSpec,
    settings: Mapping[str, Any],
    inputs: Any,
    facts: Mapping[str, Any],
) -> None:
    """Writes ``trainer.json``.

    Args:
      directory: the directory of the run.
      spec: the model's description.
      settings: the trainer's keywords; those that a file cannot hold are noted by name.
      inputs: a batch of inputs, for its structure, or None.
      facts: whatever else ``read`` is to give back.

    Raises:
      DataError: the directory cannot be written.
    """
    written, objects = {}, []
    for key, value in settings.items():
        try:
            written[key] = to_json(value, _encode)
        except NotJsonableError:
            objects.append(key)
    try:
        model = spec.to_json() if spec.config is not None else None
    except ValueError:
        model = None
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "flaxzoo": __version__,
        "model": model,
        "inputs": None if inputs is None else _shapes_to_json(inputs),
        "settings": written,
        "objects": objects,
        **facts,
    }
    write_json(directory / _FILE, document, indent=2)


def read(directory: Path) -> dict[str, Any]:
    """Reads ``trainer.json``.

    Raises:
      CheckpointError: it is missing, damaged, or of something else.
    """
    path = directory / _FILE
    document = read_json(
        path,
        error=CheckpointError,
        content="settings of a flaxzoo run",
        missing=f"{directory} is not a run: it has no {_FILE}",
    )
    if document.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not the settings of a flaxzoo run")
    for name, kinds in _ENTRIES.items():
        entry(document, name, *kinds, label=str(path), error=CheckpointError)
    if document["version"] > _VERSION:
        raise CheckpointError(f"{path} is of a later format; pip install -U flaxzoo")
    return document


def restore(
    directory: Path, document: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The trainer's keywords from ``read``'s document and what the caller gives again.

    Raises:
      CheckpointError: a setting that the file could not hold is not given again, or one that it
        holds is not understood.
    """
    missing = [key for key in document["objects"] if key not in overrides]
    if missing:
        raise CheckpointError(
            f"{directory}: {', '.join(missing)} was given as an object; pass it again: "
            f"Trainer.load(directory, {missing[0]}=...)"
        )
    settings = dict(overrides)
    for key, value in document["settings"].items():
        if key not in settings:
            with _understanding(directory, f"settings.{key}"):
                settings[key] = from_json(value, _decode)
    if "devices" not in overrides:
        settings["devices"] = there_are(settings.get("devices"))
    return settings


def restore_inputs(directory: Path, document: Mapping[str, Any]) -> Any:
    """The structure of a batch of inputs, with ``jax.ShapeDtypeStruct`` leaves, or None.

    Raises:
      CheckpointError: it is not understood.
    """
    inputs = document["inputs"]
    with _understanding(directory, "inputs"):
        return None if inputs is None else _shapes_from_json(inputs)


def restore_model(directory: Path, document: Mapping[str, Any]) -> Model:
    """The run's model, without variables.

    Raises:
      CheckpointError: it is not from the registry, or not understood.
    """
    if document["model"] is None:
        raise CheckpointError(
            f"{directory}: the model is not from the registry; pass it: "
            "Trainer.load(directory, model=...)"
        )
    with _understanding(directory, "model"):
        spec = ModelSpec.from_json(document["model"])
        return Model(module_of(spec), None, spec)


def _understanding(directory: Path, name: str) -> contextlib.AbstractContextManager[None]:
    return understanding(name, label=str(directory / _FILE), error=CheckpointError)


def _encode(value: Any) -> dict[str, Any] | None:
    if isinstance(value, jax.sharding.Mesh):
        return {_KIND: "mesh", "axes": dict(value.shape)}
    if isinstance(value, jax.sharding.PartitionSpec):
        return {_KIND: "axes", "each": tuple(value)}
    if isinstance(value, schedules.Schedule):
        return {_KIND: "schedule", "name": value.name, **dict(value.options)}
    if isinstance(value, PrecisionPolicy):
        return {_KIND: "precision", **value.config}
    for kind, cls in (
        ("loss", losses.Loss),
        ("metric", metrics.MetricSpec),
        ("optimizer", optimizers.Optimizer),
        ("regularizer", losses.Regularizer),
    ):
        if isinstance(value, cls) and value.config is not None:
            return {_KIND: kind, **value.config}
    return None


def _decode(config: dict[str, Any]) -> Any:
    kind = config.pop(_KIND, None)
    if kind is None:
        return config
    if kind == "mesh":
        # Of any number of devices: what there is takes its place.
        return config["axes"]
    if kind == "axes":
        return config["each"]
    if kind == "schedule":
        return schedules.get(config.pop("name"), **config)
    from_config = {
        "loss": losses.from_config,
        "metric": metrics.from_config,
        "optimizer": optimizers.from_config,
        "regularizer": lambda options: losses.Regularizer(**options),
        "precision": lambda options: PrecisionPolicy(**options),
    }
    return from_config[kind](config)


def _shapes_to_json(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {"mapping": {key: _shapes_to_json(value) for key, value in tree.items()}}
    if isinstance(tree, tuple | list):
        return {"sequence": [_shapes_to_json(value) for value in tree]}
    # One example: the batch size is no part of the model.
    return {"shape": [1, *tree.shape[1:]], "dtype": str(tree.dtype)}


def _shapes_from_json(data: Mapping[str, Any]) -> Any:
    if "mapping" in data:
        return {key: _shapes_from_json(value) for key, value in data["mapping"].items()}
    if "sequence" in data:
        return tuple(_shapes_from_json(value) for value in data["sequence"])
    dtype = jax.dtypes.canonicalize_dtype(data["dtype"])
    return jax.ShapeDtypeStruct(tuple(data["shape"]), dtype)
