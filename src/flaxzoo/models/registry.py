"""The registry of architectures and what is known about each."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn

from flaxzoo.registry import Registry

MODELS: Registry[nn.Module] = Registry("model", skip=("parent", "name"))
_FACTS: dict[str, dict[str, Any]] = {}


def register(
    name: str | Callable[..., nn.Module] | None = None,
    *,
    aliases: Iterable[str] = (),
    override: bool = False,
    input_shape: tuple[int, ...] | None = None,
    task: str = "classification",
    paper: str = "",
    inputs: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Any:
    """Decorator that adds an architecture to the zoo.

    Args:
      name: under which ``flaxzoo.models.get`` finds it; by default the callable's own name.
      aliases: other names.
      override: whether to replace an entry of the same name.
      input_shape: of one example, without the batch.
      task: ``"classification"``, ``"reconstruction"`` or ``"features"``; the default loss and
        metrics of training follow from it.
      paper: its reference.
      inputs: from the keywords given to ``get`` to the spec's ``input_shape`` and ``input_dtype``,
        where these depend on them.

    Returns:
      A decorator for a Linen module class, or for a function that returns a Linen module.

    Raises:
      ValueError: the name or an alias is taken and ``override`` is false.
    """
    if callable(name):
        return register()(name)

    def add(entry: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        key = name or entry.__name__
        MODELS.register(key, aliases=aliases, override=override)(entry)
        _FACTS[key] = {
            "input_shape": input_shape,
            "task": task,
            "paper": paper,
            "inputs": inputs,
        }
        return entry

    return add


def facts(name: str) -> dict[str, Any]:
    """What ``register`` was told about the entry ``name``."""
    return dict(_FACTS[MODELS.resolve(name)])


def takes_fields_of(
    module: type[nn.Module], without: Iterable[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Lets a factory with ``**fields`` show, and be checked for, a module's fields.

    Args:
      module: whose dataclass fields the factory passes on.
      without: fields that the factory sets itself.
    """
    hidden = {"parent", "name", *without}

    def add_signature(factory: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            p
            for p in inspect.signature(factory).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        taken = {p.name for p in own}
        fields = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default
                if field.default is not dataclasses.MISSING
                else inspect.Parameter.empty,
                annotation=field.type,
            )
            for field in dataclasses.fields(module)
            if field.name not in hidden and field.name not in taken
        ]
        factory.__signature__ = inspect.Signature(own + fields)  # type: ignore[attr-defined]
        return factory

    return add_signature
