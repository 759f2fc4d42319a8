"""What ``devices=`` and ``sharding=`` say: which devices, and what divides each parameter."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from flaxzoo._checks import check_choice, is_size
from flaxzoo._globs import entry_of_each
from flaxzoo._meshes import DATA, of_shape, with_auto_axes
from flaxzoo._trees import flatten
from flaxzoo._warnings import warn
from flaxzoo.errors import ArgumentError, did_you_mean
from flaxzoo.models.classifier import Classifier
from flaxzoo.training.sharding import Specs, StateSharding, each_axis

# The axis of a mesh for the parts of wide layers.
MODEL = "model"
REPLICATED, FSDP = "replicated", "fsdp"

# Under "fsdp", parameters of fewer elements than these are whole on every device: to fetch one
# takes a device longer than the memory is worth, 256 KiB in float32.
MIN_SIZE = 2**16

# Whether a process has been told of the devices that it leaves alone.
_told = False


def say_of_others(state: Any) -> None:
    """Says once in a process that training uses one of several devices.

    Args:
      state: a state whose arrays may have been placed on several by hand, or None.
    """
    global _told
    count = jax.local_device_count()
    step = getattr(state, "step", None)
    by_hand = isinstance(step, jax.Array) and len(step.sharding.device_set) > 1
    if count > 1 and not _told and not by_hand:
        _told = True
        warn(
            f"training uses one of the {count} devices here ({jax.local_devices()[0].device_kind})"
            ": devices='all' divides each batch among them, with the same numbers, and devices=1 "
            "says that one is meant"
        )


def check_sharding(devices: Any, sharding: Any) -> None:
    """Checks the two arguments, as far as that takes no model.

    Raises:
      ArgumentError: one of them is none of what it takes, or there is a rule and no devices.
    """
    mesh, rules = as_mesh(devices), as_rules(sharding)
    if mesh is None and rules != REPLICATED:
        raise ArgumentError(
            f"sharding={sharding!r} divides a state among devices, and devices is None, which is "
            "one: say which, devices='all' for instance"
        )
    if mesh is not None and not isinstance(rules, str):
        for pattern, rule in rules.items():
            _check_axes(rule, mesh, pattern)


def as_mesh(devices: Any) -> Mesh | None:
    """The mesh that ``devices=`` stands for; None for one device, the default one.

    Raises:
      ArgumentError: it is none of what it takes, there are fewer devices, or a mesh has no axis
        ``"data"``.
    """
    if devices is None:
        return None
    if isinstance(devices, Mesh):
        _check_processes(devices)
        if DATA not in devices.axis_names:
            raise ArgumentError(
                f"devices: batches are divided along the axis 'data' of a mesh, and this one has "
                f"{', '.join(map(repr, devices.axis_names))}: "
                "jax.make_mesh((8,), ('data',)) for instance"
            )
        return with_auto_axes(devices)
    here = jax.devices()
    count = len(here) if isinstance(devices, str) and devices == "all" else devices
    if not is_size(count):
        raise ArgumentError(
            "devices must be None for one, 'all', a number of them or a jax.sharding.Mesh, got "
            f"{devices!r}"
        )
    if count > len(here):
        raise ArgumentError(
            f"devices={count}, but there {'is' if len(here) == 1 else 'are'} {len(here)} "
            f"({here[0].platform}): devices='all' takes those. On CPUs "
            f"jax.config.update('jax_num_cpu_devices', {count}), before JAX computes, simulates "
            "more"
        )
    mesh = Mesh(np.array(here[: int(count)]), (DATA,))
    _check_processes(mesh)
    return with_auto_axes(mesh)


def _check_processes(mesh: Mesh) -> None:
    """Refuses a mesh that leaves processes without a device.

    Raises:
      ArgumentError: it does.
    """
    with_device = {device.process_index for device in mesh.devices.flat}
    if len(with_device) < jax.process_count():
        idle = [str(i) for i in range(jax.process_count()) if i not in with_device]
        raise ArgumentError(
            f"devices: the mesh has {mesh.size} of {jax.device_count()} devices, and none of "
            f"process {', '.join(idle)}: every process needs one; devices='all' takes all"
        )


def there_are(devices: Any) -> Any:
    """What a run was trained on, or where there are fewer devices all of those.

    Args:
      devices: what ``devices=`` was; of a mesh the sizes of its axes by name.

    Warns:
      UserWarning: there are fewer. The numbers of a run do not depend on it.
    """
    mesh = isinstance(devices, Mapping)
    count, here = math.prod(devices.values()) if mesh else devices, len(jax.devices())
    if is_size(count) and count > here:
        warn(
            f"the run was trained on {count} devices and goes on with {here}, which is what there "
            "is: the numbers are the same. Trainer.load(directory, devices=...) chooses others"
        )
        return of_shape(devices) if mesh else "all"
    return of_shape(devices) if mesh else devices


def as_rules(sharding: Any) -> Any:
    """The word that ``sharding=`` is, "replicated" for None, or its rules with tuples for the axes.

    Raises:
      ArgumentError: it is neither, or a rule is none of what rules are.
    """
    if sharding is None:
        return REPLICATED
    if not isinstance(sharding, Mapping):
        return check_choice("sharding", sharding, (REPLICATED, FSDP), " or rules by pattern")
    rules: dict[str, Any] = {}
    for pattern, rule in sharding.items():
        if not isinstance(pattern, str):
            raise ArgumentError(f"sharding: a pattern must be text, got {pattern!r}")
        if isinstance(rule, str):
            named = f"sharding[{pattern!r}]"
            rules[pattern] = check_choice(named, rule, (REPLICATED, FSDP), " or axes of the mesh")
        elif isinstance(rule, PartitionSpec | tuple | list) and all(map(_is_axes, rule)):
            rules[pattern] = tuple(tuple(a) if isinstance(a, list) else a for a in rule)
        else:
            raise ArgumentError(
                f"sharding[{pattern!r}] must be 'replicated', 'fsdp' or, for each dimension, an "
                f"axis of the mesh or None, such as (None, 'model'), got {rule!r}"
            )
    return rules


def _is_axes(value: Any) -> bool:
    each = value if isinstance(value, tuple | list) else (value,)
    return value is None or all(isinstance(axis, str) for axis in each)


def state_sharding(
    devices: Any, sharding: Any, module: nn.Module, params: Mapping[str, Any]
) -> StateSharding | None:
    """What ``devices=`` and ``sharding=`` say about the parameters of a model.

    Args:
      devices: None, ``"all"``, a number of devices or a mesh.
      sharding: ``"replicated"``, ``"fsdp"``, or rules: patterns over paths, as for freezing, to
        these words or to axes of the mesh. The last one that matches wins, and ``"*"`` is for what
        no other one matches.
      module: the module; its backbone's ``tensor_rules()`` say what the axis ``"model"`` divides.
      params: nested dictionaries of parameters, or of their shapes.

    Returns:
      None where all is on the one default device.

    Raises:
      ArgumentError: as ``check_sharding``; or a rule does not fit a parameter.
      UnknownNameError: (a KeyError) a rule matches no parameter.
    """
    check_sharding(devices, sharding)
    mesh, rules = as_mesh(devices), as_rules(sharding)
    if mesh is None:
        return None
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in flatten(params).items()}
    tensor = _tensor_specs(module, shapes, mesh)
    chosen = dict.fromkeys(shapes, rules)
    if not isinstance(rules, str):
        followed = entry_of_each(shapes, rules, label="sharding")
        chosen = {path: rules[pattern] for path, pattern in followed.items()}
    specs = tuple(
        (path, shape, _spec(path, shape, chosen.get(path, REPLICATED), tensor.get(path), mesh))
        for path, shape in shapes.items()
    )
    _check_all_used(mesh, specs)
    if mesh.size == 1 and not isinstance(devices, Mesh):
        # The default device, where nothing is to be said about places.
        return None
    return StateSharding(mesh, specs)


def _spec(
    path: str, shape: tuple[int, ...], rule: Any, tensor: tuple[Any, ...] | None, mesh: Mesh
) -> tuple[Any, ...]:
    """The axis that divides each dimension of a parameter."""
    whole = (None,) * len(shape)
    if not isinstance(rule, str):
        return _explicit(path, shape, rule, mesh)
    spec = tensor or whole
    return _fsdp(shape, spec, mesh.shape[DATA]) if rule == FSDP else spec


def _fsdp(shape: tuple[int, ...], spec: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """With the largest dimension divided along the data axis that is free and that it divides."""
    if size == 1 or math.prod(shape) < MIN_SIZE:
        return spec
    free = [i for i, n in enumerate(shape) if spec[i] is None and n % size == 0]
    if not free:
        return spec
    # Of equal ones the last.
    largest = max(free, key=lambda i: (shape[i], i))
    return (*spec[:largest], DATA, *spec[largest + 1 :])


def _explicit(path: str, shape: tuple[int, ...], rule: Any, mesh: Mesh) -> tuple[Any, ...]:
    if len(rule) > len(shape):
        raise ArgumentError(
            f"sharding: {rule!r} names {len(rule)} dimensions, and {path!r} has {len(shape)}: "
            "write a rule for what has as many, '*/kernel' for instance"
        )
    spec = (*rule, *(None,) * (len(shape) - len(rule)))
    for n, axes in zip(shape, spec, strict=True):
        parts = math.prod(mesh.shape[axis] for axis in each_axis(axes))
        if n % parts:
            raise ArgumentError(
                f"sharding: {axes!r} divides by {parts}, which does not divide the {n} of {path!r} "
                f"{list(shape)}"
            )
    return spec


def _check_axes(rule: Any, mesh: Mesh, pattern: str) -> None:
    if isinstance(rule, str):
        return
    names = [axis for axes in rule for axis in each_axis(axes)]
    for axis in names:
        if axis not in mesh.axis_names:
            raise ArgumentError(
                f"sharding[{pattern!r}] names the axis {axis!r}, and the mesh has "
                f"{', '.join(map(repr, mesh.axis_names))}."
                f"{did_you_mean(str(axis), mesh.axis_names)} A mesh with a second axis is "
                "devices=jax.make_mesh((4, 2), ('data', 'model'))"
            )
    if len(set(names)) < len(names):
        raise ArgumentError(f"sharding[{pattern!r}] divides two dimensions by one axis: {rule!r}")


def _check_all_used(mesh: Mesh, specs: Specs) -> None:
    """Refuses a mesh of which an axis does nothing: devices along it would compute the same."""
    used = {axis for *_, spec in specs for axes in spec for axis in each_axis(axes)} | {DATA}
    idle = [name for name, size in mesh.shape.items() if size > 1 and name not in used]
    if idle:
        raise ArgumentError(
            f"devices: nothing is divided along the axis {idle[0]!r} of the mesh, whose "
            f"{mesh.shape[idle[0]]} devices would compute the same: name it in a rule, such as "
            f"sharding={{'*/kernel': (None, {idle[0]!r})}}, or leave it out"
        )


def _tensor_specs(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]], mesh: Mesh
) -> dict[str, tuple[Any, ...]]:
    """What a family divides along the axis ``"model"``, where that divides it."""
    if mesh.shape.get(MODEL, 1) == 1:
        return {}
    prefix = "backbone/" if isinstance(module, Classifier) else ""
    backbone: Any = getattr(module, "backbone", module)
    rules: dict[str, tuple[Any, ...]] = getattr(backbone, "tensor_rules", dict)()
    specs = {}
    for pattern, spec in rules.items():
        for path in fnmatch.filter(shapes, prefix + pattern):
            divides = len(spec) == len(shapes[path]) and all(
                axis is None or n % mesh.shape[MODEL] == 0
                for n, axis in zip(shapes[path], spec, strict=True)
            )
            if divides:
                specs[path] = spec
    return specs
