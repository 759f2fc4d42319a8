"""What is known about a model besides its numbers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo._checks import is_size
from flaxzoo._config import from_json, to_json
from flaxzoo.activations import to_config
from flaxzoo.errors import ArgumentError, ShapeError, UnknownNameError
from flaxzoo.preprocess import Preprocess
from flaxzoo.tasks import get_task


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What is known about a model besides its numbers.

    Attributes:
      name: in the registry, or the module's class for one of your own.
      tag: which pretrained weights it has or began with, as in ``cnn.digits``; None for none.
      config: the keywords that ``flaxzoo.models.get(name, **config)`` builds the module from;
        None for a module that is not from the registry.
      head: the fields of a ``flaxzoo.models.Head`` that has replaced the architecture's own.
      input_shape: of one example, without the batch; None where it is not known yet.
      input_dtype: of the inputs.
      declared: whether ``input_shape`` was asked for, so that data of another shape is a mistake,
        rather than being the architecture's usual one.
      task: a name of ``flaxzoo.tasks``: ``"classification"``, ``"reconstruction"`` or
        ``"features"``.
      classes: the names of the classes, in the order of the outputs.
      preprocess: how images become inputs; None for other inputs.
      description: one sentence.
      paper: reference of the architecture.
      licence: of the pretrained weights.
      tags: all pretrained weights of this architecture, the default first.
      top1: published accuracy of ``tag``'s weights, in percent.
      parameters: how many the model has with this configuration; None where nobody has counted,
        which ``flaxzoo.models.info`` and ``Model.summary`` do.
      gflops: billions of operations for one example, two per multiply-add; None likewise.
      certificate: how far the architecture is from its reference implementation on the same
        weights, which ``flaxzoo.models.info`` looks up: the largest relative differences of
        ``logits``, ``features`` and ``stages``, what was ``compared``, the ``input_shape`` and the
        ``versions``, the reference's first; None where nothing was compared. ``certified`` has it
        in words.
    """

    name: str
    tag: str | None = None
    config: Mapping[str, Any] | None = None
    head: Mapping[str, Any] | None = None
    input_shape: tuple[int, ...] | None = None
    input_dtype: str = "float32"
    declared: bool = False
    task: str = "classification"
    classes: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    description: str = ""
    paper: str = ""
    licence: str = ""
    tags: tuple[str, ...] = ()
    top1: float | None = None
    parameters: int | None = None
    gflops: float | None = None
    certificate: Mapping[str, Any] | None = None

    def __hash__(self) -> int:
        # Configurations are dictionaries, which have no hash.
        return hash((self.name, self.tag, self.input_shape, self.task, self.classes))

    def __post_init__(self) -> None:
        get_task(self.task)

    def sample(self) -> jax.ShapeDtypeStruct:
        """The shape and dtype of a batch of one example.

        Raises:
          ShapeError: the input shape is not known.
        """
        if self.input_shape is None:
            raise ShapeError(
                f"the input shape of {self.name!r} is not known: pass inputs=<a batch>, as in "
                "model.init(rng=0, inputs=batch), or input_shape= to create_train_state"
            )
        return jax.ShapeDtypeStruct((1, *self.input_shape), jnp.dtype(self.input_dtype))

    def with_inputs(self, inputs: Any) -> ModelSpec:
        """The spec of the model when it is initialised for a batch of inputs.

        Args:
          inputs: the batch, or its shape and dtype; anything but one array changes nothing.

        Raises:
          ShapeError: the model was asked for with another ``input_shape``.
        """
        if not hasattr(inputs, "shape"):
            return self
        shape = tuple(inputs.shape[1:])
        dtype = str(jax.dtypes.canonicalize_dtype(inputs.dtype))
        if self.declared and shape != self.input_shape:
            raise ShapeError(
                f"inputs must have shape [B, {', '.join(map(str, self.input_shape or ()))}], for "
                f"which the model {self.name!r} was made (input_shape), got {list(inputs.shape)}"
            )
        preprocess = self.preprocess
        if preprocess is not None and preprocess.input_shape != shape:
            fits = len(shape) == 3 and shape[-1] in (1, 3)
            preprocess = dataclasses.replace(preprocess, input_shape=shape) if fits else None
        spec = dataclasses.replace(
            self, input_shape=shape, input_dtype=dtype, preprocess=preprocess
        )
        return spec if shape == self.input_shape else spec.uncounted()

    def uncounted(self) -> ModelSpec:
        """The spec without numbers that hold for another configuration."""
        return dataclasses.replace(self, parameters=None, gflops=None)

    def __str__(self) -> str:
        lines = [f"{self.name}{'.' + self.tag if self.tag else ''}: {self.description}"]
        facts: dict[str, Any] = {
            "task": self.task,
            "input": None
            if self.input_shape is None
            else f"{self.input_dtype} [B, {', '.join(map(str, self.input_shape))}]",
        }
        facts |= {
            "parameters": None if self.parameters is None else f"{self.parameters:,}",
            "GFLOPs": None if self.gflops is None else f"{self.gflops:.4g}",
            "pretrained": ", ".join(f"{self.name}.{tag}" for tag in self.tags) or "none",
            "top-1": None if self.top1 is None else f"{self.top1} %",
            "licence": self.licence,
            "classes": self._classes(),
            "images": self._images(),
            "paper": self.paper,
            "certified": self.certified,
        }
        lines += [f"  {key:<10} {value}" for key, value in facts.items() if value]
        return "\n".join(lines)

    @property
    def certified(self) -> str | None:
        """The certificate in words, or None where there is none."""
        if self.certificate is None:
            return None
        line = self.certificate
        maps = max(line["stages"].values(), default=None)
        numbers = [f"logits {line['logits']:.1e}", *([] if maps is None else [f"maps {maps:.1e}"])]
        height, width = line["input_shape"][:2]
        size = height if height == width else f"{height} x {width}"
        # The first of the versions is that of what it was compared with.
        package, version = next(iter(line["versions"].items()))
        return f"{', '.join(numbers)} against {package} {version} at {size} px, {line['compared']}"

    def _images(self) -> str | None:
        images = self.preprocess
        if images is None:
            return None
        crop = "" if images.crop is None else f", {images.crop_mode} crop {images.crop}"
        mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (images.mean, images.std))
        return f"{images.interpolation}{crop}, mean {mean}, std {std}"

    def _classes(self) -> str | None:
        if not self.classes:
            return None
        return (
            f"{len(self.classes)}: {', '.join(self.classes[:3])}{', ...' * (len(self.classes) > 3)}"
        )

    def has_config(self, **changes: Any) -> bool:
        """Whether a file can hold how the module is built, after these changes to the spec."""
        if self.config is None:
            return False
        try:
            dataclasses.replace(self, **changes).to_json()
        except ValueError:
            return False
        return True

    def to_json(self) -> dict[str, Any]:
        """A dictionary that ``from_json`` reads back.

        Raises:
          ValueError: the configuration holds something that JSON cannot, such as a function.
        """
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.preprocess is not None:
            data["preprocess"] = dataclasses.asdict(self.preprocess)
        for name in ("config", "head"):
            if data[name] is not None:
                data[name] = {key: _config_value(key, v) for key, v in data[name].items()}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The inverse of ``to_json``; unknown keys of later versions are ignored.

        Raises:
          ArgumentError: a field has a value of the wrong kind; the message names it.
          UnknownNameError: there is no such task.
        """
        if not isinstance(data, Mapping) or "name" not in data:
            raise ArgumentError(f"spec must be an object with a name, got {data!r}")
        known = {f.name for f in dataclasses.fields(cls)}
        values = {key: from_json(value) for key, value in data.items() if key in known}
        for key, value in values.items():
            takes, fits = _IN_FILES[key]
            if not fits(value):
                raise ArgumentError(f"spec.{key} must be {takes}, got {value!r}")
        if values.get("preprocess") is not None:
            fields = {f.name for f in dataclasses.fields(Preprocess)}
            options = {k: v for k, v in values["preprocess"].items() if k in fields}
            try:
                values["preprocess"] = Preprocess(**options)
            except (TypeError, ValueError, UnknownNameError) as error:
                raise ArgumentError(f"spec.preprocess: {error}") from error
        return cls(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_dtype(value: Any) -> bool:
    with contextlib.suppress(TypeError):
        return isinstance(value, str) and jnp.dtype(value).kind in "biufcV"
    return False


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(map(fits, value))


_TEXT = ("text", _is_text)
_OBJECT = ("an object or null", _or_none(lambda value: isinstance(value, Mapping)))
_NUMBER = ("a number or null", _or_none(_is_number))
# What a file may say of each field: in words, and whether a value that was read is that.
_IN_FILES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": _TEXT,
    "tag": ("text or null", _or_none(_is_text)),
    "config": _OBJECT,
    "head": _OBJECT,
    "input_shape": ("a list of ints of at least 1, or null", _or_none(_all(is_size))),
    "input_dtype": ("the name of a dtype of numbers", _is_dtype),
    "declared": ("true or false", lambda value: isinstance(value, bool)),
    "task": _TEXT,
    "classes": (
        "a list of names, or null",
        _or_none(_all(lambda value: _is_text(value) or _is_number(value))),
    ),
    "preprocess": _OBJECT,
    "description": _TEXT,
    "paper": _TEXT,
    "licence": _TEXT,
    "tags": ("a list of text", _all(_is_text)),
    "top1": _NUMBER,
    "parameters": _NUMBER,
    "gflops": _NUMBER,
    "certificate": _OBJECT,
}


def _config_value(key: str, value: Any) -> Any:
    with contextlib.suppress(TypeError):
        if isinstance(value, type) and key.endswith("dtype"):
            # The types of Python, such as float, are dtypes only under such a name.
            return jnp.dtype(value).name
        return to_json(value, lambda part: to_config(part) if callable(part) else None)
    raise ValueError(
        f"the argument {key}={value!r} cannot be written to a file. Register an activation "
        "under a name (flaxzoo.activations.register) and pass the name; save a model with "
        "modules of your own as flaxzoo.Model(model.module, model.variables)"
    )
