"""From a name and what was asked for to a module and all that is known about it, once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from flaxzoo._checks import check_size, check_widths
from flaxzoo._config import from_json
from flaxzoo._words import TIMM
from flaxzoo.activations import as_activation
from flaxzoo.classes import class_names
from flaxzoo.errors import ShapeError, UnknownArgumentError, UnknownNameError
from flaxzoo.layers.lowering.initialise import variable_shapes
from flaxzoo.models import catalog
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head
from flaxzoo.models.registry import MODELS, Architecture
from flaxzoo.preprocess import Preprocess
from flaxzoo.spec import ModelSpec
from flaxzoo.summary import summarize
from flaxzoo.tasks import get_task

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_USUAL = {"preprocess": {**_IMAGENET, "interpolation": "bicubic", "crop": 0.875}}


@dataclasses.dataclass(frozen=True)
class Request:
    """What the caller of ``flaxzoo.models.get`` asked for, checked.

    Attributes:
      num_classes: width of the classifier; None for the weights' or the architecture's own.
      input_shape: of one example; None likewise.
      in_channels: of images; None likewise.
      classes: their names.
      config: what the architecture takes besides.

    Raises:
      ValueError: a value is out of range, or two contradict each other.
      UnknownArgumentError: a keyword has another name here than in timm.
    """

    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    in_channels: int | None = None
    classes: tuple[str, ...] | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in self.config:
            if key in TIMM:
                raise UnknownArgumentError(f"timm's {key!r} is called {TIMM[key]!r} here")
        self._check_shape()
        self._check_classes()

    def _check_shape(self) -> None:
        if self.input_shape is not None:
            check_widths("input_shape", self.input_shape)
            object.__setattr__(self, "input_shape", tuple(int(size) for size in self.input_shape))
        check_size("in_channels", self.in_channels, optional=True)
        channels = self.input_shape[-1] if self.input_shape else None
        if self.in_channels is not None and channels not in (None, self.in_channels):
            raise ValueError(
                f"in_channels={self.in_channels} contradicts input_shape={self.input_shape}"
            )

    def _check_classes(self) -> None:
        check_size("num_classes", self.num_classes, minimum=0, optional=True)
        width = self.num_classes
        if self.classes is not None:
            classes = tuple(str(name) for name in self.classes)
            if width not in (None, len(classes)):
                raise ValueError(f"num_classes={width}, but classes has {len(classes)} names")
            object.__setattr__(self, "classes", classes)
            width = len(classes)
        if width is not None:
            # NumPy's ints are not JSON's.
            object.__setattr__(self, "num_classes", int(width))
            if width and self.config.get("features") is True:
                raise ValueError(
                    f"features=True returns maps, which num_classes={width} can't change"
                )


def find(name: str) -> tuple[Architecture, str | None]:
    """The architecture and the tag of ``name`` or ``name.tag``.

    Raises:
      UnknownNameError: no such architecture.
    """
    text = os.fspath(name) if isinstance(name, os.PathLike) else str(name)
    base, _, tag = text.partition(".")
    repository = text.removeprefix("hf_hub:").removeprefix("hf-hub:").removeprefix("hf:")
    if "/" in repository and base not in MODELS:
        known = repository.rpartition("/")[2].partition(".")[0]
        name = MODELS.spelling(known) or "<architecture>"
        raise UnknownNameError(
            f"{text!r} is a repository: flaxzoo.models.get({name!r}, "
            f"pretrained='hf:{repository}'), or flaxzoo.Model.from_pretrained({repository!r})"
        )
    return MODELS.architecture(base if base in MODELS else text), tag or None


def build(
    architecture: Architecture,
    request: Request,
    entry: Mapping[str, Any] | None = None,
    width: int | None = None,
) -> tuple[nn.Module, ModelSpec]:
    """A module and all that is known about it.

    Args:
      architecture: from ``find``.
      request: what the caller asked for, which comes before all else.
      entry: what is known of the weights, in the catalogue's form; None for none.
      width: how many classes the weights tell apart, -1 if they have no classifier; None if
        there are none to fit.

    Raises:
      UnknownArgumentError: (a TypeError) a keyword that the architecture does not take.
      ValueError: a field of the module holds what it does not take.
    """
    entry = entry or {}
    # What files hold under a keyword's former name counts under its present one.
    config = {
        **MODELS.current_keywords(architecture.name, entry.get("config", {})),
        **request.config,
    }
    classes = request.num_classes
    if classes is None:
        classes = width if width is not None and width >= 0 else entry_width(entry)
    if classes is not None:
        config["num_classes"] = classes
    if width is not None and config.get("num_classes") != width:
        # The published accuracy and the names of the classes are those of another head.
        entry = {**entry, "classes": None, "top1": None, "task": architecture.task}
    shape = _sized(architecture, request, entry)
    if shape is not None and "input_shape" in MODELS.parameters(architecture.name):
        config["input_shape"] = shape
    config = as_config(config)
    module = MODELS.get(architecture.name, **config)
    return module, _spec(architecture, config, request, entry)


def module_of(spec: ModelSpec) -> nn.Module:
    """The module that a spec describes.

    Args:
      spec: of a model from the registry (``spec.config`` is not None), whose head may have been
        replaced by another ``Head``.

    Raises:
      UnknownNameError: the architecture is not in the registry.
      UnknownArgumentError: its configuration holds what the architecture does not take.
    """
    # A file never says where else to read from.
    config = {k: v for k, v in (spec.config or {}).items() if k != "pretrained"}
    module: Any = MODELS.get(spec.name, **as_config(MODELS.current_keywords(spec.name, config)))
    if spec.head is None:
        return module
    return Classifier(backbone=module.backbone, head=Head(**as_config(spec.head)))


def counted(module: nn.Module, spec: ModelSpec) -> ModelSpec:
    """The spec with parameters and FLOPs, counted from the layers' shapes where it has none."""
    if spec.parameters is not None or spec.input_shape is None:
        return spec
    shapes = variable_shapes(module, spec.sample())
    table = summarize(module, shapes, spec.sample(), name=spec.name)
    return dataclasses.replace(spec, parameters=table.parameters, gflops=table.flops / 1e9)


def entry_width(entry: Mapping[str, Any]) -> int | None:
    """How many classes the classifier of catalogued weights tells apart."""
    return entry.get("num_classes", entry.get("config", {}).get("num_classes"))


def as_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords in the form that makes equal modules of equal settings.

    Raises:
      ValueError: a dtype is none.
    """
    values = {key: from_json(value, _decoded) for key, value in config.items()}
    for key in ("dtype", "param_dtype"):
        # A name from a file and a type from code are the same dtype, and one compiled function.
        if values.get(key) is not None:
            try:
                values[key] = jnp.dtype(values[key])
            except TypeError:
                raise ValueError(
                    f"{key} must be a dtype such as jnp.bfloat16 or 'bfloat16', got {values[key]!r}"
                ) from None
    return values


def _sized(
    architecture: Architecture, request: Request, entry: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """The input shape that the module is built for, where something asks for a certain one."""
    sized = "input_shape" in MODELS.parameters(architecture.name)
    fixed = entry.get("input_shape") if sized or "file" in entry else None
    shape = request.input_shape or (tuple(fixed) if fixed else None)
    if shape is not None and request.in_channels is not None and len(shape) == 3:
        shape = (*shape[:2], request.in_channels)
    if (
        entry.get("fixed_input_size")
        and request.input_shape is not None
        and not sized
        and tuple(request.input_shape[:2]) != tuple(entry["input_shape"][:2])
    ):
        raise ShapeError(
            f"the weights {architecture.name}.{entry.get('tag')} are for images of "
            f"{entry['input_shape'][:2]} alone, got input_shape={request.input_shape}"
        )
    return shape


def _spec(
    architecture: Architecture,
    config: dict[str, Any],
    request: Request,
    entry: Mapping[str, Any],
) -> ModelSpec:
    name = architecture.name
    known = catalog.known(name)
    if architecture.reference is not None and "preprocess" not in entry:
        # Of weights that say nothing, and of none, what the usual ones expect.
        entry = {**_usual(name), **entry}
    spec = ModelSpec(
        name=name,
        config=config,
        description=architecture.title,
        tags=catalog.tags(name),
        input_shape=tuple(known.get("input_shape") or architecture.input_shape or ()) or None,
        task=architecture.task,
        paper=architecture.paper,
    )
    if architecture.inputs is not None:
        spec = dataclasses.replace(spec, **architecture.inputs(config))
    shape = request.input_shape or entry.get("input_shape") or spec.input_shape
    shape = _with_channels(name, shape, request.in_channels)
    bare = config.get("features") is True or config.get("num_classes") == 0
    spec = dataclasses.replace(
        spec,
        input_shape=shape,
        declared=request.input_shape is not None,
        tag=entry.get("tag"),
        licence=entry.get("licence", ""),
        classes=request.classes or _classes(config, entry),
        top1=_top1(entry, shape),
        task="features" if bare else entry.get("task", architecture.task),
    )
    counted = entry if "parameters" in entry else known
    if _is_counted(architecture, config, shape, counted):
        parameters, gflops = counted.get("parameters"), counted.get("gflops")
        spec = dataclasses.replace(spec, parameters=parameters, gflops=gflops)
    return dataclasses.replace(spec, preprocess=_preprocess(spec, entry))


def _with_channels(name: str, shape: Any, channels: int | None) -> tuple[int, ...] | None:
    shape = None if shape is None else tuple(shape)
    if channels is None:
        return shape
    if shape is None or len(shape) != 3:
        raise ValueError(
            f"in_channels is for images [H, W, C], {name!r} takes "
            f"{'inputs of any shape' if shape is None else list(shape)}"
        )
    return (*shape[:2], channels)


def _is_counted(
    architecture: Architecture, config: Mapping[str, Any], shape: Any, counted: Mapping[str, Any]
) -> bool:
    """Whether the catalogue's parameters and FLOPs are those of this configuration."""
    if tuple(counted.get("input_shape") or ()) != tuple(shape or ()):
        return False
    parameters = MODELS.parameters(architecture.name)
    usual = {key: p.default for key, p in parameters.items()} | {"input_shape": shape}
    if "num_classes" in counted:
        usual["num_classes"] = counted["num_classes"]
    return all(key in usual and usual[key] == value for key, value in config.items())


def _usual(name: str) -> Mapping[str, Any]:
    """How the images of an architecture's default weights are prepared, or ImageNet's usual way."""
    if not catalog.tags(name):
        return _USUAL
    entry = catalog.entry(name, None)
    keys = ("preprocess", "input_shape", "test_crop", "test_input_shape")
    return {key: entry[key] for key in keys if key in entry}


def _top1(entry: Mapping[str, Any], shape: Any) -> float | None:
    """The published accuracy at this size of images, where there is one."""
    usual, test = (tuple(entry.get(k) or ()) for k in ("input_shape", "test_input_shape"))
    shape = tuple(shape or ())
    if shape == usual or not usual:
        return entry.get("top1")
    return entry.get("test_top1") if shape == test and entry.get("top1") is not None else None


def _classes(config: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes, if the head still tells these apart."""
    classes: Sequence[str] | str | None = entry.get("classes")
    if isinstance(classes, str):
        classes = class_names(classes)
    width = config.get("num_classes")
    if classes is None or width not in (None, len(classes)):
        return None
    return tuple(classes)


def _preprocess(spec: ModelSpec, entry: Mapping[str, Any]) -> Preprocess | None:
    """How images become inputs of the spec's shape, as far as they can be images."""
    shape = spec.input_shape or ()
    if not get_task(spec.task).images or len(shape) != 3 or shape[-1] not in (1, 3):
        return None
    options = from_json(entry.get("preprocess") or {})
    usual, test = (tuple(entry.get(k) or ()) for k in ("input_shape", "test_input_shape"))
    if entry.get("test_crop") and shape == test != usual:
        options["crop"] = entry["test_crop"]
    return Preprocess(input_shape=shape, **options)


def _decoded(value: dict[str, Any]) -> Any:
    """An activation with options, as config.json holds it; another dictionary as it is."""
    return as_activation(value) if set(value) <= {"name", "kwargs"} else value
