"""The zoo: ``get``, ``list``, ``info`` and ``register``, and the modules themselves.

Modules load when they are first used: ``flaxzoo.models.CNN`` imports the CNN's file alone.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from flaxzoo.models.registry import MODELS, facts, register

if TYPE_CHECKING:
    from flaxzoo.model import Model
    from flaxzoo.models.autoencoder import AutoEncoder, ConvAutoEncoder
    from flaxzoo.models.classifier import Classifier
    from flaxzoo.models.cnn import CNN
    from flaxzoo.models.heads import Head
    from flaxzoo.models.lstm import LSTM
    from flaxzoo.models.mlp import MLP
    from flaxzoo.spec import ModelSpec

__all__ = [
    "CNN",
    "LSTM",
    "MLP",
    "AutoEncoder",
    "Classifier",
    "ConvAutoEncoder",
    "Head",
    "get",
    "info",
    "list",
    "register",
]

# One file per family; each registers its variants when it is imported.
_FAMILIES = ("autoencoder", "cnn", "lstm", "mlp")
_CLASSES = {
    "AutoEncoder": "autoencoder",
    "CNN": "cnn",
    "Classifier": "classifier",
    "ConvAutoEncoder": "autoencoder",
    "Head": "heads",
    "LSTM": "lstm",
    "MLP": "mlp",
}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module 'flaxzoo.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flaxzoo.models.{_CLASSES[name]}"), name)


def __dir__() -> builtins.list[str]:
    return sorted(__all__)


def get(
    name: str,
    *,
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    **config: Any,
) -> Model:
    """Builds a model by name.

    Args:
      name: of an architecture, ``"cnn"``, or of one with its weights' tag, ``"cnn.digits"``.
      pretrained: True for the weights of the tag (without one, of the default tag); the path of a
        ``.safetensors`` file or of a directory that ``Model.save`` wrote; False for none, and then
        ``variables`` is None until ``init``.
      num_classes: width of the head; 0 returns the backbone's features. With pretrained weights
        of another width the head is freshly initialised.
      input_shape: of one example, where it is not the architecture's own.
      **config: what the architecture takes besides; ``info`` and a wrong keyword's error list it.

    Returns:
      A ``flaxzoo.Model``.

    Raises:
      UnknownNameError: (a KeyError) no such architecture or tag; it lists the closest ones.
      UnknownArgumentError: (a TypeError) a keyword that the architecture does not take.
      CheckpointError: the weights are missing, damaged or of another model.
      ValueError: ``num_classes`` is not an int of at least 0, or ``input_shape`` no sequence of
        sizes.

    Example:
      >>> model = get("cnn", num_classes=2, input_shape=(32, 32, 3)).init(rng=0)
    """
    from flaxzoo.layers.checks import check_widths
    from flaxzoo.model import Model
    from flaxzoo.weights.pretrained import catalog_entry, load_pretrained

    _load_families()
    base, _, tag = str(name).partition(".")
    base = MODELS.resolve(base) if base in MODELS else MODELS.resolve(name)
    entry = {}
    if tag or pretrained is True:
        entry = catalog_entry(base, tag or None)
        config = {**entry["config"], **config}
        input_shape = input_shape or tuple(entry["input_shape"])
    takes = MODELS.parameters(base)
    if input_shape is not None:
        check_widths("input_shape", input_shape)
    if num_classes is not None:
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:
            raise ValueError(f"num_classes must be an int of at least 0, got {num_classes!r}")
        config["num_classes"] = num_classes
    if input_shape is not None and "input_shape" in takes:
        config["input_shape"] = tuple(input_shape)
    config = {key: _hashable(value) for key, value in config.items()}
    for key in ("dtype", "param_dtype"):
        # A name from a file and a type from code are the same dtype, and one compiled function.
        if config.get(key) is not None:
            config[key] = jnp.dtype(config[key])
    module = MODELS.get(base, **config)
    spec = _spec(base, config, input_shape, entry)
    model = Model(module, None, spec)
    return load_pretrained(model, pretrained) if pretrained else model


def list(pattern: str = "*", *, pretrained: bool = False) -> builtins.list[str]:
    """Names of architectures that match a glob, sorted.

    Args:
      pattern: such as ``"resnet*"``.
      pretrained: whether to list ``name.tag`` of the pretrained weights instead.
    """
    import fnmatch

    from flaxzoo.weights.pretrained import catalog

    _load_families()
    if pretrained:
        return sorted(key for key in catalog() if fnmatch.fnmatchcase(key, pattern))
    return MODELS.list(pattern)


def info(name: str) -> ModelSpec:
    """What is known about an architecture or its weights; ``print`` it.

    Raises:
      UnknownNameError: no such architecture or tag.
    """
    from flaxzoo.weights.pretrained import catalog_entry

    _load_families()
    base, _, tag = str(name).partition(".")
    base = MODELS.resolve(base) if base in MODELS else MODELS.resolve(name)
    entry = catalog_entry(base, tag) if tag else {}
    shape = tuple(entry["input_shape"]) if entry else None
    return _spec(base, dict(entry.get("config", {})), shape, entry)


def _spec(
    name: str, config: dict[str, Any], input_shape: tuple[int, ...] | None, entry: dict[str, Any]
) -> ModelSpec:
    from flaxzoo.preprocess import Preprocess
    from flaxzoo.spec import ModelSpec
    from flaxzoo.weights.pretrained import tags

    known = facts(name)
    derive = known.pop("inputs")
    spec = ModelSpec(
        name=name,
        config=config,
        description=MODELS.info(name).summary,
        tags=tags(name),
        **known,
    )
    if derive is not None:
        spec = dataclasses.replace(spec, **derive(config))
    if input_shape is not None:
        spec = dataclasses.replace(spec, input_shape=tuple(input_shape), declared=True)
    if entry:
        same_head = config.get("num_classes") == entry["config"].get("num_classes")
        spec = dataclasses.replace(
            spec,
            tag=entry["tag"],
            licence=entry["licence"],
            classes=tuple(entry["classes"]) if same_head else None,
            top1=entry["top1"] if same_head else None,
        )
    shape = spec.input_shape or ()
    if spec.task == "classification" and len(shape) == 3 and shape[-1] in (1, 3):
        options = {k: _hashable(v) for k, v in entry.get("preprocess", {}).items()}
        spec = dataclasses.replace(
            spec,
            preprocess=Preprocess(input_shape=spec.input_shape, **options),  # type: ignore[arg-type]
        )
    return spec


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) <= {"name", "kwargs"}:
        # An activation with options, as config.json holds it.
        from flaxzoo.activations import as_activation

        return as_activation(value)
    return tuple(_hashable(v) for v in value) if isinstance(value, builtins.list | tuple) else value


def _load_families() -> None:
    for family in _FAMILIES:
        importlib.import_module(f"flaxzoo.models.{family}")
