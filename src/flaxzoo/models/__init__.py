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
    from flaxzoo.models.heads import Head, Identity
    from flaxzoo.models.lstm import LSTM
    from flaxzoo.models.mlp import MLP
    from flaxzoo.models.resnet import ResNet
    from flaxzoo.preprocess import Preprocess
    from flaxzoo.spec import ModelSpec

__all__ = [
    "CNN",
    "LSTM",
    "MLP",
    "AutoEncoder",
    "Classifier",
    "ConvAutoEncoder",
    "Head",
    "Identity",
    "ResNet",
    "get",
    "info",
    "list",
    "register",
]

# One file per family; each registers its variants when it is imported.
_FAMILIES = ("autoencoder", "cnn", "lstm", "mlp", "resnest", "resnet")
_CLASSES = {
    "AutoEncoder": "autoencoder",
    "CNN": "cnn",
    "Classifier": "classifier",
    "ConvAutoEncoder": "autoencoder",
    "Head": "heads",
    "Identity": "heads",
    "LSTM": "lstm",
    "MLP": "mlp",
    "ResNet": "resnet",
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
    in_channels: int | None = None,
    **config: Any,
) -> Model:
    """Builds a model by name.

    Args:
      name: of an architecture, ``"resnet50"``, or of one with its weights' tag,
        ``"resnet50.a1_in1k"``.
      pretrained: True for the weights of the tag (without one, of the default tag), from the
        package or from the Hub; ``"hf:org/repo[@revision]"`` for a repository of the Hub;
        ``"jax_resnet"`` or ``"flaxmodels"`` for that package's weights; the path of a
        ``.safetensors``, ``.pth``, ``.h5`` or ``.npz`` file or of a directory of ``Model.save``;
        False for none, and then ``variables`` is None until ``init``.
      num_classes: width of the head; 0 returns the backbone's pooled features. With pretrained
        weights of another width the head is freshly initialised; by default it is theirs.
      input_shape: of one example, where it is not the architecture's or the weights' own.
      in_channels: of images ``[H, W, in_channels]``; the kernel of pretrained weights is summed or
        repeated to fit.
      **config: what the architecture takes besides; ``info`` and a wrong keyword's error list it.

    Returns:
      A ``flaxzoo.Model``.

    Raises:
      UnknownNameError: (a KeyError) no such architecture or tag; it lists the closest ones.
      UnknownArgumentError: (a TypeError) a keyword that the architecture does not take.
      DownloadError: (an OSError) the weights can't be downloaded.
      CheckpointError: the weights are missing, damaged or of another model.
      ValueError: ``num_classes`` is not an int of at least 0, or ``input_shape`` no sequence of
        sizes.

    Example:
      >>> model = get("cnn", num_classes=2, input_shape=(32, 32, 3)).init(rng=0)
    """
    from flaxzoo.layers.checks import check_size, check_widths
    from flaxzoo.weights.pretrained import load_pretrained, read_weights
    from flaxzoo.weights.tags import catalog_entry

    base, tag = _split(name)
    entry: dict[str, Any] = {}
    if tag or pretrained is True:
        entry = catalog_entry(base, tag)
        config = {**entry.get("config", {}), **config}
    if input_shape is not None:
        check_widths("input_shape", input_shape)
        input_shape = tuple(input_shape)
    elif "file" in entry:
        # Packaged weights may fit no other shape.
        input_shape = tuple(entry["input_shape"])
    check_size("num_classes", num_classes, minimum=0, optional=True)
    check_size("in_channels", in_channels, optional=True)
    if num_classes and config.get("features") is True:
        raise ValueError(
            f"features=True returns maps, which num_classes={num_classes} can't change"
        )
    if not isinstance(pretrained, bool | str | os.PathLike) and pretrained is not None:
        raise TypeError(
            f"pretrained must be True, False, the name of a source or a path, got {pretrained!r}"
        )
    theirs = entry.get("num_classes", config.get("num_classes"))
    model = _build(base, config, num_classes, theirs, input_shape, in_channels, entry)
    if pretrained is False or pretrained is None:
        return model
    # The model was built first, so that a misspelt option is told before a download.
    weights = read_weights(base, pretrained, tag)
    theirs = weights.num_classes(facts(base)["reference"]) or theirs
    entry = entry or dict(weights.facts)
    model = _build(base, config, num_classes, theirs, input_shape, in_channels, entry)
    return load_pretrained(model, weights, fresh_head=num_classes is not None)


def _split(name: str) -> tuple[str, str | None]:
    """The architecture and the tag of ``name`` or ``name.tag``."""
    _load_families()
    base, _, tag = str(name).partition(".")
    base = MODELS.resolve(base) if base in MODELS else MODELS.resolve(name)
    return base, tag or None


def _build(
    base: str,
    config: Mapping[str, Any],
    num_classes: int | None,
    theirs: int | None,
    input_shape: tuple[int, ...] | None,
    in_channels: int | None,
    entry: Mapping[str, Any],
) -> Model:
    """A model without variables, and all that is known about it.

    ``theirs`` is how many classes the weights tell apart, ``num_classes`` how many are asked for.
    """
    from flaxzoo.model import Model

    takes = MODELS.parameters(base)
    width = theirs if num_classes is None else num_classes
    config = {**config, **({} if width is None else {"num_classes": width})}
    if width != theirs:
        # The published accuracy and the names of the classes are those of another head.
        entry = {**entry, "classes": None, "top1": None}
    if input_shape is not None and "input_shape" in takes:
        config["input_shape"] = input_shape
    config = {key: _hashable(value) for key, value in config.items()}
    for key in ("dtype", "param_dtype"):
        # A name from a file and a type from code are the same dtype, and one compiled function.
        if config.get(key) is not None:
            config[key] = jnp.dtype(config[key])
    module = MODELS.get(base, **config)
    return Model(module, None, _spec(base, config, input_shape, in_channels, entry))


def list(pattern: str = "*", *, pretrained: bool = False) -> builtins.list[str]:
    """Names of architectures that match a glob, sorted.

    Args:
      pattern: such as ``"resnet*"``.
      pretrained: whether to list ``name.tag`` of the pretrained weights instead.
    """
    import fnmatch

    from flaxzoo.weights.tags import catalog

    _load_families()
    if pretrained:
        return sorted(key for key in catalog() if fnmatch.fnmatchcase(key, pattern))
    return MODELS.list(pattern)


def info(name: str) -> ModelSpec:
    """What is known about an architecture or its weights; ``print`` it.

    Raises:
      UnknownNameError: no such architecture or tag.
    """
    from flaxzoo.weights.tags import catalog_entry

    base, tag = _split(name)
    entry = catalog_entry(base, tag) if tag else {}
    config = dict(entry.get("config", {}))
    if "num_classes" in entry:
        config["num_classes"] = entry["num_classes"]
    shape = tuple(entry["input_shape"]) if "file" in entry else None
    return _spec(base, config, shape, None, entry)


def _spec(
    name: str,
    config: dict[str, Any],
    input_shape: tuple[int, ...] | None,
    in_channels: int | None,
    entry: Mapping[str, Any],
) -> ModelSpec:
    from flaxzoo.spec import ModelSpec
    from flaxzoo.weights.tags import tags, usual_shapes

    known = facts(name)
    derive, reference = known.pop("inputs"), known.pop("reference")
    if reference is not None:
        known["input_shape"] = usual_shapes().get(name, known["input_shape"])
    spec = ModelSpec(
        name=name,
        config=config,
        description=MODELS.info(name).summary,
        tags=tags(name),
        **known,
    )
    if derive is not None:
        spec = dataclasses.replace(spec, **derive(config))
    shape = input_shape or entry.get("input_shape") or spec.input_shape
    if in_channels is not None:
        if shape is None or len(shape) != 3:
            raise ValueError(
                f"in_channels is for images [H, W, C], {name!r} takes "
                f"{'inputs of any shape' if shape is None else builtins.list(shape)}"
            )
        shape = (*shape[:2], in_channels)
    spec = dataclasses.replace(
        spec,
        input_shape=None if shape is None else tuple(shape),
        declared=input_shape is not None,
        tag=entry.get("tag"),
        licence=entry.get("licence", ""),
        classes=_classes(config, entry),
        top1=entry.get("top1"),
    )
    if config.get("features") is True:
        spec = dataclasses.replace(spec, task="features")
    return dataclasses.replace(spec, preprocess=_preprocess(spec, entry))


def _classes(config: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes, if the head still tells these apart."""
    classes = entry.get("classes")
    if isinstance(classes, str):
        from flaxzoo.classes import class_names

        classes = class_names(classes)
    wanted = config.get("num_classes")
    if classes is None or wanted not in (None, len(classes)):
        return None
    return tuple(classes)


def _preprocess(spec: ModelSpec, entry: Mapping[str, Any]) -> Preprocess | None:
    """How images become inputs of the spec's shape, as far as they can be images."""
    from flaxzoo.preprocess import Preprocess

    shape = spec.input_shape or ()
    if spec.task == "reconstruction" or len(shape) != 3 or shape[-1] not in (1, 3):
        return None
    options = {k: _hashable(v) for k, v in (entry.get("preprocess") or {}).items()}
    if entry.get("test_crop") and tuple(entry.get("test_input_shape") or ()) == shape:
        options["crop"] = entry["test_crop"]
    return Preprocess(input_shape=shape, **options)


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) <= {"name", "kwargs"}:
        # An activation with options, as config.json holds it.
        from flaxzoo.activations import as_activation

        return as_activation(value)
    return tuple(_hashable(v) for v in value) if isinstance(value, builtins.list | tuple) else value


def _load_families() -> None:
    for family in _FAMILIES:
        importlib.import_module(f"flaxzoo.models.{family}")
