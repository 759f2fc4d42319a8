"""The registry of architectures: a name, what builds it, and what is known of it.

A family is one file beside this one; importing it registers its names. Nothing imports it until
one of them is asked for: the catalogue's index says which file a name is in.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn

from flaxzoo._explain import folded
from flaxzoo.models import catalog
from flaxzoo.models.classifier import classifier
from flaxzoo.models.reference import Reference
from flaxzoo.registry import Registry, matching
from flaxzoo.tasks import get_task

# What lies in this package and is no family.
_CORE = frozenset(
    [
        "backbone",
        "build",
        "catalog",
        "classifier",
        "heads",
        "inception",
        "mobile_backbone",
        "patch_backbone",
        "reference",
        "registry",
        "stages",
    ]
)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What is known of a name in the zoo.

    Attributes:
      name: in the registry.
      factory: makes the module from the keywords of ``flaxzoo.models.get``.
      family: the module that registers it, such as ``flaxzoo.models.resnet``.
      title: one sentence.
      input_shape: of one example, without the batch; None where it depends on the data.
      task: a name of ``flaxzoo.tasks``.
      paper: where it is described.
      reference: how its names relate to those of reference checkpoints; None where there are none.
      inputs: from the keywords given to ``get`` to the ``ModelSpec``'s ``input_shape`` and
        ``input_dtype``, where these depend on them.
    """

    name: str
    factory: Callable[..., nn.Module]
    family: str = ""
    title: str = ""
    input_shape: tuple[int, ...] | None = None
    task: str = "classification"
    paper: str = ""
    reference: Reference | None = None
    inputs: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


class ModelRegistry(Registry[nn.Module]):
    """A registry that imports the file of a family when one of its names is asked for."""

    def __init__(self) -> None:
        super().__init__("model", skip=("parent", "name"))
        self.architectures: dict[str, Architecture] = {}

    def spelling(self, name: object) -> str | None:
        """As ``Registry.spelling``; no family of the index is imported for it."""
        if not isinstance(name, str):
            return None
        if name in catalog.names() or name in catalog.index()["aliases"]:
            return name
        known = super().spelling(name)
        if known is not None:
            return known
        return {folded(spelled): spelled for spelled in self._names()}.get(folded(name))

    def list(self, pattern: str = "*") -> list[str]:
        """Names that match a glob by name or alias, sorted; no family is imported for it."""
        aliases = self.aliases()
        matches = {aliases.get(name, name) for name in matching(self._names(), pattern)}
        return sorted(matches)

    def resolve(self, name: str) -> str:
        """The name an alias stands for, with its family imported; see ``Registry.resolve``."""
        self.load(name)
        return super().resolve(name)

    def architecture(self, name: str) -> Architecture:
        """What is known of a name or alias.

        Raises:
          UnknownNameError: (a KeyError) no architecture has that name; it lists the closest ones.
        """
        return self.architectures[self.resolve(name)]

    def load(self, name: str) -> None:
        """Imports the family of a name or alias, where there is one that is not imported yet."""
        spelled = self.spelling(name)
        family = catalog.names().get(catalog.index()["aliases"].get(spelled, spelled))
        if family is not None:
            importlib.import_module(f"flaxzoo.models.{family}")

    def _load_unindexed(self) -> None:
        """Imports the families that are newer than the index, as while one is being written."""
        for family in families():
            if family not in catalog.index()["families"]:
                importlib.import_module(f"flaxzoo.models.{family}")

    def aliases(self) -> dict[str, str]:
        """The name that each alias stands for."""
        return {**catalog.index()["aliases"], **self._snapshot()[1]}

    def _names(self) -> tuple[str, ...]:
        self._load_unindexed()
        return tuple(dict.fromkeys((*catalog.names(), *self.aliases(), *super()._names())))


MODELS = ModelRegistry()


def families() -> tuple[str, ...]:
    """The families of the package: the names of their files."""
    package = importlib.import_module("flaxzoo.models")
    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(name for name in modules if name not in _CORE)


def register(
    name: str | Callable[..., nn.Module] | None = None,
    *,
    aliases: Iterable[str] = (),
    override: bool = False,
    renamed: Mapping[str, str] | None = None,
    **known: Any,
) -> Any:
    """Decorator that adds an architecture to the zoo.

    Args:
      name: under which ``flaxzoo.models.get`` finds it; by default the callable's own name.
      aliases: other names.
      override: whether to replace an entry of the same name.
      renamed: from keywords that the architecture had to those that it has now.
      **known: fields of ``Architecture``: ``input_shape``, ``task``, ``paper``, ``reference``,
        ``inputs``; ``title`` is by default the first sentence of the callable's docstring.

    Returns:
      A decorator for a Linen module class, or for a function that returns a Linen module.

    Raises:
      ValueError: the name or an alias is taken and ``override`` is false.
      UnknownNameError: there is no such ``task``.
      TypeError: ``known`` has a key that is no field.
    """
    if callable(name):
        return register()(name)

    def add(entry: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        key = name or entry.__name__
        title = " ".join((inspect.getdoc(entry) or "").partition("\n\n")[0].split())
        usual = {"title": title, "family": entry.__module__}
        architecture = Architecture(key, entry, **{**usual, **known})
        get_task(architecture.task)
        for taken in (key, *aliases):
            # A name of the zoo is taken also before its family is imported.
            MODELS.load(taken)
        MODELS.register(key, aliases=aliases, override=override, renamed=renamed)(entry)
        MODELS.architectures[key] = architecture
        return entry

    return add


@dataclasses.dataclass(frozen=True)
class Row:
    """One name in the table of a family; ``row`` makes it."""

    title: str
    fields: Mapping[str, Any]
    paper: str | None = None
    head: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    input_shape: tuple[int, int, int] | None = None
    num_classes: int = 1000


def row(
    title: str,
    /,
    *,
    paper: str | None = None,
    head: Mapping[str, Any] | None = None,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int = 1000,
    **fields: Any,
) -> Row:
    """One name in the table of a family.

    Args:
      title: one phrase for ``flaxzoo.models.info``.
      paper: where it is described, if not in the family's paper.
      head: fields of ``flaxzoo.models.Head`` that are not the network's usual ones; a ``dropout``
        among them holds whatever rate is asked for, which is then the network's alone.
      input_shape: ``[H, W, C]`` of one image, if not the family's; a network with a field of this
        name gets it, too.
      num_classes: the usual number of classes: 0 where the reference has no classifier.
      **fields: of the network; whoever asks for the name may give others.
    """
    return Row(title, fields, paper, head or {}, input_shape, num_classes)


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
      network: the backbone, a subclass of ``flaxzoo.models.backbone.Backbone``; a field
        ``dropout`` of it gets the rate that its head has.
      rows: by name.
      paper: where the family is described.
      reference: how its names relate to those of reference checkpoints.
      input_shape: the usual ``[H, W, C]`` of one image.
      renamed: from keywords that the family had to those that it has now.
    """
    # The file of the table, which may use the network of another.
    family = sys._getframe(1).f_globals["__name__"]
    for name, variant in rows.items():
        register(
            name,
            family=family,
            title=variant.title,
            input_shape=variant.input_shape or input_shape,
            paper=variant.paper or paper,
            reference=reference,
            renamed=renamed,
        )(_image_classifier(network, name, variant, variant.input_shape or input_shape))


def _image_classifier(
    network: type[nn.Module], name: str, variant: Row, input_shape: tuple[int, int, int]
) -> Callable[..., nn.Module]:
    fields = dict(variant.fields)
    taken = {field.name for field in dataclasses.fields(network)}
    if "input_shape" in taken:
        fields["input_shape"] = input_shape

    def build(
        num_classes: int = variant.num_classes,
        pooling: str | None = "auto",
        dropout: float = 0.0,
        features: bool = False,
        **options: Any,
    ) -> nn.Module:
        if "dropout" in taken:
            options["dropout"] = dropout
        if "auxiliary" in taken and isinstance(options.get("auxiliary"), bool):
            options["auxiliary"] = num_classes if options["auxiliary"] else 0
        backbone: Any = network(**{**fields, **options}, feature_maps=features)
        head = {"dropout": dropout, **variant.head}
        if pooling != "auto":
            head["pooling"] = pooling
        return classifier(backbone, num_classes, **head)

    build.__name__, build.__doc__ = name, variant.title
    return takes_fields_of(network, defaults=fields)(build)


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
