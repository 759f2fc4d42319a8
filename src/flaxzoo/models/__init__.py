"""The zoo: ``get``, ``list``, ``info`` and ``register``, and the modules themselves.

Modules load when they are first used: ``flaxzoo.models.CNN`` imports the CNN's file alone.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
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
    classes: Sequence[str] | None = None,
    rng: Any = 0,
    **config: Any,
) -> Model:
    """Builds a model by name.

    Args:
      name: of an architecture, ``"resnet50"``, or of one with its weights' tag,
        ``"resnet50.a1_in1k"``.
      pretrained: True for the weights of the tag (without one, of the default tag), from the
        package or from the Hub; ``"hf:org/repo[@revision]"`` for a repository of the Hub;
        ``"jax_resnet"`` or ``"flaxmodels"`` for that package's weights; the path of a
        ``.safetensors``, ``.pth``, ``.h5`` or ``.npz`` file, or of a directory that ``Model.save``,
        ``Model.save_pretrained`` or timm wrote, whose configuration then holds where the
        arguments below say nothing else; False for none, and then ``variables`` is None until
        ``init``.
      num_classes: width of the head; 0 returns the backbone's pooled features. With pretrained
        weights of another width the head is freshly initialised; by default it is theirs.
      input_shape: of one example, where it is not the architecture's or the weights' own.
      in_channels: of images ``[H, W, in_channels]``; the kernel of pretrained weights is summed or
        repeated to fit.
      classes: their names, in the order of the outputs; they give ``num_classes``, too.
      rng: an int seed or a key, for a freshly initialised head of a pretrained model.
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
    from flaxzoo.weights.pretrained import load_pretrained, read_weights
    from flaxzoo.weights.tags import catalog_entry, tags

    base, tag = _split(name)
    config = MODELS.current_keywords(base, config, warn=True)
    asked = _asked(pretrained, num_classes, input_shape, in_channels, classes, config)
    entry: dict[str, Any] = catalog_entry(base, tag) if tag or pretrained is True else {}
    model = _build(base, asked, entry, _width(entry))
    if pretrained is False or pretrained is None:
        return model
    # What can't be built is told before a download.
    model.shapes()
    weights = read_weights(base, pretrained, tag)
    if pretrained is not True:
        # The catalogue's accuracy is that of its own weights.
        entry = {**entry, "top1": None, **weights.facts}
    reference = facts(base)["reference"]
    theirs = weights.num_classes(reference)
    if reference is not None and "classes" not in entry:
        usual = catalog_entry(base, None) if tags(base) else {}
        # As many classes as the usual weights: theirs.
        entry["classes"] = usual.get("classes") if _width(usual) == theirs else None
    model = _build(base, asked, entry, theirs if theirs is not None else -1)
    return load_pretrained(
        model,
        weights,
        fresh_head=asked.num_classes is not None,
        adapt_channels=asked.in_channels is not None or asked.input_shape is not None,
        rng=rng,
    )


class _Asked(NamedTuple):
    """What the caller of ``get`` asked for, checked."""

    num_classes: int | None
    input_shape: tuple[int, ...] | None
    in_channels: int | None
    classes: tuple[str, ...] | None
    config: Mapping[str, Any]


# timm's keywords, for those who come from there.
_TIMM = {
    "in_chans": "in_channels",
    "global_pool": "pooling",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "act_layer": "activation",
    "norm_layer": "norm",
    "features_only": "features",
    "checkpoint_path": "pretrained",
}


def _asked(
    pretrained: Any,
    num_classes: Any,
    input_shape: Any,
    in_channels: Any,
    classes: Any,
    config: Mapping[str, Any],
) -> _Asked:
    """The arguments of ``get`` that hold for every model.

    Raises:
      ValueError, TypeError, UnknownArgumentError: as ``get`` says.
    """
    from flaxzoo._checks import check_size, check_widths
    from flaxzoo.errors import UnknownArgumentError

    if not isinstance(pretrained, bool | str | os.PathLike) and pretrained is not None:
        raise TypeError(
            f"pretrained must be True, False, the name of a source or a path, got {pretrained!r}"
        )
    for key in config:
        if key in _TIMM:
            raise UnknownArgumentError(f"timm's {key!r} is called {_TIMM[key]!r} here")
    if input_shape is not None:
        check_widths("input_shape", input_shape)
        input_shape = tuple(int(size) for size in input_shape)
    check_size("in_channels", in_channels, optional=True)
    if in_channels is not None and input_shape is not None and input_shape[-1] != in_channels:
        raise ValueError(f"in_channels={in_channels} contradicts input_shape={input_shape}")
    check_size("num_classes", num_classes, minimum=0, optional=True)
    if classes is not None:
        classes = tuple(str(name) for name in classes)
        if num_classes not in (None, len(classes)):
            raise ValueError(f"num_classes={num_classes}, but classes has {len(classes)} names")
        num_classes = len(classes)
    if num_classes is not None:
        # NumPy's ints are not JSON's.
        num_classes = int(num_classes)
        if num_classes and config.get("features") is True:
            raise ValueError(
                f"features=True returns maps, which num_classes={num_classes} can't change"
            )
    return _Asked(num_classes, input_shape, in_channels, classes, config)


def _split(name: str) -> tuple[str, str | None]:
    """The architecture and the tag of ``name`` or ``name.tag``."""
    _load_families()
    base, _, tag = str(name).partition(".")
    base = MODELS.resolve(base) if base in MODELS else MODELS.resolve(name)
    return base, tag or None


def _build(base: str, asked: _Asked, entry: Mapping[str, Any], theirs: int | None) -> Model:
    """A model without variables, and all that is known about it.

    ``theirs`` is how many classes the weights tell apart, -1 if they have no head of the usual
    form; None if there are none to fit.
    """
    from flaxzoo.model import Model

    # What files hold under a keyword's former name counts under its present one.
    config = {**MODELS.current_keywords(base, entry.get("config", {})), **asked.config}
    width = asked.num_classes
    if width is None:
        width = theirs if theirs is not None and theirs >= 0 else _width(entry)
    if width is not None:
        config["num_classes"] = width
    if theirs is not None and config.get("num_classes") != theirs:
        # The published accuracy and the names of the classes are those of another head.
        entry = {**entry, "classes": None, "top1": None}
    input_shape = asked.input_shape
    if input_shape is None and "file" in entry:
        # Packaged weights may fit no other shape.
        input_shape = tuple(entry["input_shape"])
    if input_shape is not None and "input_shape" in MODELS.parameters(base):
        config["input_shape"] = input_shape
    config = _config(config)
    module = MODELS.get(base, **config)
    spec = _spec(base, config, input_shape, asked.in_channels, entry)
    if asked.classes is not None:
        spec = dataclasses.replace(spec, classes=asked.classes)
    return Model(module, None, spec)


def _width(entry: Mapping[str, Any]) -> int | None:
    """How many classes the head of catalogued weights tells apart."""
    return entry.get("num_classes", entry.get("config", {}).get("num_classes"))


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords in the form that makes equal modules of equal settings."""
    made = {key: _hashable(value) for key, value in config.items()}
    for key in ("dtype", "param_dtype"):
        # A name from a file and a type from code are the same dtype, and one compiled function.
        if made.get(key) is not None:
            try:
                made[key] = jnp.dtype(made[key])
            except TypeError:
                raise ValueError(
                    f"{key} must be a dtype such as jnp.bfloat16 or 'bfloat16', got {made[key]!r}"
                ) from None
    return made


def module_of(spec: ModelSpec) -> nn.Module:
    """The module that a spec describes.

    Args:
      spec: of a model from the registry (``spec.config`` is not None), whose head may have been
        replaced by another ``Head``.

    Raises:
      UnknownNameError: the architecture is not in the registry.
      UnknownArgumentError: its configuration holds what the architecture does not take.
    """
    from flaxzoo.models.classifier import Classifier
    from flaxzoo.models.heads import Head

    _load_families()
    # A file never says where else to read from.
    config = {k: v for k, v in (spec.config or {}).items() if k != "pretrained"}
    module = MODELS.get(spec.name, **_config(MODELS.current_keywords(spec.name, config)))
    if spec.head is None:
        return module
    return Classifier(backbone=module.backbone, head=Head(**_config(spec.head)))


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
    spec = _build(base, _Asked(None, None, None, None, {}), entry, None).spec
    if not tag and spec.tags:
        # Whoever asks for the pretrained model gets the default tag's.
        spec = dataclasses.replace(spec, licence=catalog_entry(base, None)["licence"])
    return spec


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
        if "preprocess" not in entry:
            # Of weights that say nothing, and of none, what the usual ones expect.
            entry = {**_usual(name), **entry}
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
        top1=_top1(entry, shape),
    )
    if config.get("features") is True or config.get("num_classes") == 0:
        spec = dataclasses.replace(spec, task="features")
    return dataclasses.replace(spec, preprocess=_preprocess(spec, entry))


def _usual(name: str) -> dict[str, Any]:
    """How the images of an architecture's default weights are prepared, or ImageNet's usual way."""
    from flaxzoo.weights.tags import catalog_entry, tags

    if tags(name):
        entry = catalog_entry(name, None)
        return {key: entry[key] for key in ("preprocess", "test_crop", "test_input_shape")}
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return {"preprocess": {"mean": mean, "std": std, "interpolation": "bicubic", "crop": 0.875}}


def _top1(entry: Mapping[str, Any], shape: Any) -> float | None:
    """The published accuracy at this size of images, where there is one."""
    usual, test = (tuple(entry.get(k) or ()) for k in ("input_shape", "test_input_shape"))
    shape = tuple(shape or ())
    if shape == usual or not usual:
        return entry.get("top1")
    return entry.get("test_top1") if shape == test and entry.get("top1") is not None else None


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
