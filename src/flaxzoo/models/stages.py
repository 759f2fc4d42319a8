"""A backbone as an ordered sequence of named stages: what belongs to each, and running some.

A module takes part by two methods:

* ``stages()`` gives the names of its stages in the order of the forward pass, and with each name
  the submodules that belong to it (paths below the module, such as ``("conv1", "bn1")``);
* ``run_stages(x, start, stop, *, train=False, **options)`` computes the stages from number
  ``start`` up to, without, ``stop``; what it returns, the next range takes.

All backbones of the zoo have both, and a ``Sequential`` (Flax's or jax-resnet's) has its layers.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from flaxzoo._trees import SHOWN, flatten, prefixes
from flaxzoo.errors import UnknownNameError, did_you_mean
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Identity


def stages_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The stages of a module, in the order of the forward pass.

    Args:
      module: one with a method ``stages``, a ``Sequential``, or a ``Classifier``. A
        ``Classifier`` has the stages of its backbone and then ``head``; a backbone without stages
        counts as one, called ``backbone``. An ``Identity`` on either side is no stage.

    Returns:
      From the name of each stage to the paths of the submodules that belong to it.

    Raises:
      TypeError: the module has no stages, or its ``stages`` returns something else.
    """
    if isinstance(module, Classifier):
        return _classifier_stages(module)
    named = as_staged(module)
    if named is None:
        raise TypeError(
            f"a {type(module).__name__} has no stages: give it the method stages(), which returns "
            "a dictionary from each stage's name to the names of its submodules, or make it the "
            "backbone of a flaxzoo.Classifier, whose stages are then 'backbone' and 'head'"
        )
    stages = named.stages()
    if not isinstance(stages, Mapping):
        raise TypeError(
            f"{type(module).__name__}.stages() must return a dictionary from each stage's name to "
            f"the names of its submodules, got {stages!r}"
        )
    return {str(name): _children(module, name, value) for name, value in stages.items()}


def _children(module: nn.Module, name: str, value: Any) -> tuple[str, ...]:
    """The submodules of one stage, checked."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(
            f"{type(module).__name__}.stages() must give a tuple of submodules for the stage "
            f"{name!r}, got {value!r}"
        )
    return tuple(str(child) for child in value)


def _classifier_stages(module: Classifier) -> dict[str, tuple[str, ...]]:
    stages: dict[str, tuple[str, ...]] = {}
    backbone, head = module.backbone, module.head
    if not isinstance(backbone, Identity):
        inner = {} if as_staged(backbone) is None else stages_of(backbone)
        for name, children in inner.items():
            # An LSTM with a linear layer of its own calls that its head.
            name = "backbone/head" if name == "head" else name
            stages[name] = tuple(f"backbone/{child}" for child in children)
        # Without a stage there is still the work between them: a CNN of no layers flattens.
        stages = stages or {"backbone": ("backbone",)}
    if not isinstance(head, Identity):
        stages["head"] = ("head",)
    return stages


def shared_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The submodules of other stages that a stage reads, such as learnt frequencies.

    Args:
      module: as for ``stages_of``; where it has a method ``shared``, as backbones of the zoo have.

    Returns:
      From the names of stages that read any to paths as those of ``stages_of``.
    """
    in_classifier = isinstance(module, Classifier)
    owner = module.backbone if in_classifier else module
    shared = dict(owner.shared()) if callable(getattr(owner, "shared", None)) else {}
    prefix = "backbone/" if in_classifier else ""
    return {name: tuple(prefix + child for child in children) for name, children in shared.items()}


def depths_of(module: nn.Module) -> dict[str, str]:
    """The group of equal depth of each stage, for layer-wise decay of learning rates.

    Args:
      module: as for ``stages_of``; where it has a method ``depths``, as backbones of the zoo have,
        it says which stages are of one depth.

    Returns:
      From the name of each stage, in the order of the forward pass, to the name of its group: by
      default its own, and ``"head"`` for what a ``Classifier`` counts with its head.

    Raises:
      TypeError: the module has no stages.
    """
    in_classifier = isinstance(module, Classifier)
    owner = module.backbone if in_classifier else module
    depths = dict(owner.depths()) if callable(getattr(owner, "depths", None)) else {}
    if in_classifier:
        # A stage of the backbone's with that name has another one here.
        depths.pop("head", None)
    return {name: depths.get(name, name) for name in stages_of(module)}


def groups_of(module: nn.Module) -> dict[str, str]:
    """The group of each stage, for unfreezing one group after another.

    Args:
      module: as for ``stages_of``; where it has a method ``stage_groups``, as backbones of the
        zoo have, its groups are taken.

    Returns:
      From the name of each stage, in the order of the forward pass, to the name of its group: by
      default its own up to the first number.

    Raises:
      TypeError: the module has no stages.
    """
    owner = module.backbone if isinstance(module, Classifier) else module
    named = dict(owner.stage_groups()) if hasattr(owner, "stage_groups") else {}
    return {name: named.get(name) or _numbered(name) for name in stages_of(module)}


def _numbered(name: str) -> str:
    match = re.match(r"\D*\d+(?=_|$)", name)
    return match[0] if match else name


def stage_paths(module: nn.Module, params: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Which parameters belong to which stage.

    Args:
      module: as for ``stages_of``.
      params: its parameters, or their shapes; nested dictionaries. Another collection, such as
        ``batch_stats``, will do as well.

    Returns:
      From the name of each stage, in the order of the forward pass, to the paths of its
      parameters, such as ``"backbone/layer1_0/conv1/kernel"``. A stage without parameters has
      none.

    Raises:
      TypeError: the module has no stages.
      ValueError: a parameter belongs to no stage.
    """
    stages = stages_of(module)
    owners = {child: name for name in reversed(stages) for child in stages[name]}
    owned: dict[str, list[str]] = {name: [] for name in stages}
    lost: list[str] = []
    for path in flatten(params):
        owner = next((owners[group] for group in prefixes(path)[::-1] if group in owners), None)
        (lost if owner is None else owned[owner]).append(path)
    if lost:
        more = " ..." if len(lost) > SHOWN else ""
        raise ValueError(
            f"the stages of {type(module).__name__} do not say where these belong: "
            f"{', '.join(lost[:SHOWN])}{more}. Stages: {', '.join(stages)}"
        )
    return {name: tuple(paths) for name, paths in owned.items()}


def position(stages: Iterable[str] | Mapping[str, str], where: int | str) -> int:
    """The number of a stage.

    Args:
      stages: the names of all stages, in order; or ``groups_of`` them, whose groups count then.
      where: a number as in Python's slices, so that -1 is the last stage and ``len(names)`` is
        behind it; a stage's name; or that of a group, ``"layer3"``, for its first stage, here
        ``"layer3_0"``.

    Returns:
      An int from 0 to ``len(names)``.

    Raises:
      UnknownNameError: (a KeyError) no stage has this name or number; it lists the closest.
      TypeError: ``where`` is neither.
    """
    names = tuple(stages)
    if isinstance(where, numbers.Integral) and not isinstance(where, bool):
        index = int(where)
        if not -len(names) <= index <= len(names):
            raise UnknownNameError(
                f"no stage {index}: the {len(names)} stages are 0 to {len(names) - 1}, or "
                f"{-len(names)} to -1 from the end: {_listed(names)}"
            )
        return index + len(names) if index < 0 else index
    if not isinstance(where, str):
        raise TypeError(f"a stage is given by its name or number, got {where!r}")
    if where in names:
        return names.index(where)
    named = stages if isinstance(stages, Mapping) else {}
    for index, name in enumerate(names):
        if named.get(name) == where or name.startswith(f"{where}_"):
            return index
    groups = (name.rpartition("_")[0] for name in names if "_" in name)
    hint = did_you_mean(where, dict.fromkeys((*named.values(), *groups, *names)))
    raise UnknownNameError(f"no stage {where!r}.{hint} Stages: {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 2 * SHOWN:
        return ", ".join(names)
    return ", ".join((*names[:SHOWN], "...", *names[-SHOWN:]))


class Layers(nn.Module):
    """The layers of a ``Sequential`` as stages, ``layers_0``, ``layers_1``, ...

    The names are those that Flax gives the parameters of a ``Sequential``; layers without any, such
    as ``nn.relu``, count as well, so that numbers are those of ``module.layers``.

    Attributes:
      layers: modules and functions, each called with what the one before returns.
    """

    layers: Sequence[Callable[..., Any]]

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """Each layer by itself."""
        names = (f"layers_{i}" for i in range(len(self.layers)))
        return {name: (name,) for name in names}

    def __call__(self, x: Any, **options: Any) -> Any:
        """Calls all layers, the first with the options."""
        return self.run_stages(x, **options)

    def run_stages(
        self,
        x: Any,
        start: int = 0,
        stop: int | None = None,
        *,
        train: bool = False,
        **options: Any,
    ) -> Any:
        """Calls the layers ``start`` to ``stop``; a tuple or dictionary in between is spread out.

        ``train`` is not passed on: a ``Sequential`` does not know it either.
        """
        del train
        for number, layer in enumerate(self.layers[start:stop], start):
            if number and isinstance(x, tuple):
                x = layer(*x, **options)
            elif number and isinstance(x, dict):
                x = layer(**x, **options)
            else:
                x = layer(x, **options)
            options = {}
        return x


def as_staged(module: nn.Module) -> Any | None:
    """The module, in the form that has ``stages``; None where there is none.

    It has ``run_stages`` as well if the module can be sliced.
    """
    if callable(getattr(module, "stages", None)):
        return module
    layers = getattr(module, "layers", None)
    # jax-resnet's is a class of its own; importing it to ask would be dear.
    sequential = any(cls.__name__ == "Sequential" for cls in type(module).__mro__)
    if sequential and isinstance(layers, Sequence) and all(map(callable, layers)):
        return Layers(tuple(layers))
    return None
