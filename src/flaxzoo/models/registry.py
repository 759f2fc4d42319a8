"""The registry of architectures and what is known about each."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn

from flaxzoo.models.classifier import classifier
from flaxzoo.registry import Registry


@dataclasses.dataclass(frozen=True)
class Reference:
    """How an architecture's names relate to those of its reference checkpoints (timm's).

    The rule is in ``flaxzoo.weights.names``; a family declares here what goes beyond it.

    Attributes:
      stem: paths in the backbone that its first convolution may have; whichever exists has its
        kernel adapted to the number of input channels.
      head: from our path in ``head`` to the reference's prefix.
      ignored: globs of reference names that no leaf of ours takes.
    """

    stem: tuple[str, ...] = ()
    head: tuple[tuple[str, str], ...] = (("fc", "fc"),)
    ignored: tuple[str, ...] = ("*.num_batches_tracked",)


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
    reference: Reference | None = None,
    inputs: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Any:
    """Decorator that adds an architecture to the zoo.

    Args:
      name: under which ``flaxzoo.models.get`` finds it; by default the callable's own name.
      aliases: other names.
      override: whether to replace an entry of the same name.
      input_shape: of one example, without the batch.
      task: ``"classification"``, ``"reconstruction"`` or ``"features"``; the default loss and
        metrics of training follow from it.
      paper: where it is described.
      reference: how its names relate to those of timm's checkpoints, where these fit it.
      inputs: from the keywords given to ``get`` to the spec's ``input_shape`` and ``input_dtype``,
        where these depend on them.
      renamed: from keywords that the architecture had to those that it has now.

    Returns:
      A decorator for a Linen module class, or for a function that returns a Linen module.

    Raises:
      ValueError: the name or an alias is taken and ``override`` is false.
    """
    if callable(name):
        return register()(name)

    def add(entry: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        key = name or entry.__name__
        MODELS.register(key, aliases=aliases, override=override, renamed=renamed)(entry)
        _FACTS[key] = {
            "input_shape": input_shape,
            "task": task,
            "paper": paper,
            "reference": reference,
            "inputs": inputs,
        }
        return entry

    return add


def facts(name: str) -> dict[str, Any]:
    """What ``register`` was told about the entry ``name``."""
    return dict(_FACTS[MODELS.resolve(name)])


@dataclasses.dataclass(frozen=True)
class Row:
    """One name in the table of a family; ``row`` makes it."""

    title: str
    fields: Mapping[str, Any]
    paper: str | None = None


def row(title: str, /, *, paper: str | None = None, **fields: Any) -> Row:
    """One name in the table of a family.

    Args:
      title: one phrase for ``flaxzoo.models.info``.
      paper: where it is described, if not in the family's paper.
      **fields: of the network; whoever asks for the name may give others.
    """
    return Row(title, fields, paper)


def variants(
    network: type[nn.Module],
    rows: Mapping[str, Row],
    *,
    paper: str,
    reference: Reference | None,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    renamed: Mapping[str, str] | None = None,
) -> None:
    """Registers the image classifiers of a family.

    Args:
      network: the backbone, a subclass of ``flaxzoo.models.backbone.Backbone``.
      rows: by name.
      paper: where the family is described.
      reference: how its names relate to those of reference checkpoints.
      input_shape: the usual ``[H, W, C]`` of one image.
      renamed: from keywords that the family had to those that it has now.
    """
    for name, variant in rows.items():
        register(
            name,
            input_shape=input_shape,
            paper=variant.paper or paper,
            reference=reference,
            renamed=renamed,
        )(_image_classifier(network, name, variant))


def _image_classifier(
    network: type[nn.Module], name: str, variant: Row
) -> Callable[..., nn.Module]:
    def build(
        num_classes: int = 1000,
        pooling: str = "avg",
        dropout: float = 0.0,
        features: bool = False,
        **options: Any,
    ) -> nn.Module:
        backbone = network(**{**variant.fields, **options}, feature_maps=features)
        return classifier(backbone, num_classes, pooling=pooling, dropout=dropout)

    build.__name__, build.__doc__ = name, variant.title
    return takes_fields_of(network, defaults=variant.fields)(build)


def takes_fields_of(
    module: type[nn.Module],
    without: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Lets a factory with ``**fields`` show, and be checked for, a module's fields.

    Args:
      module: whose dataclass fields the factory passes on.
      without: fields that the factory sets itself.
      defaults: the factory's own, where they are not the module's.
    """
    # Whether a call returns maps is asked for by ``features``, in families that have any.
    hidden = {"parent", "name", "feature_maps", *without}
    own_defaults = defaults or {}

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
                default=own_defaults.get(
                    field.name,
                    inspect.Parameter.empty
                    if field.default is dataclasses.MISSING
                    else field.default,
                ),
                annotation=field.type,
            )
            for field in dataclasses.fields(module)
            if field.name not in hidden and field.name not in taken
        ]
        factory.__signature__ = inspect.Signature(own + fields)  # type: ignore[attr-defined]
        return factory

    return add_signature
