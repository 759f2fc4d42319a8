"""The optimizer of a run by groups: what is frozen, at which rate, and since when it trains."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import optax

import flaxzoo.optimizers as optimizers
import flaxzoo.schedules as schedules
from flaxzoo._checks import check_number
from flaxzoo._config import cache_key
from flaxzoo._explain import explained
from flaxzoo._programs import cleared
from flaxzoo._trees import flatten, unflatten
from flaxzoo._warnings import warn
from flaxzoo.errors import UnknownArgumentError
from flaxzoo.optimizers import Optimizer, partition
from flaxzoo.schedules import Schedule
from flaxzoo.training.freezing import TRAIN, freeze
from flaxzoo.training.rates import Shifted, decayed, rate_entries, unmatched_error

# What acts on all groups together, from the inside out; the rest belongs to each of them.
_AROUND = ("clip_norm", "ema_decay", "accumulate_steps")

# Parameters that began to train after the run did, by the update that they began at.
Cohorts = tuple[tuple[int, frozenset[str]], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """How the state of a ``Groups.tx`` is nested, from the outside in.

    Attributes:
      frozen: whether some parameters are.
      accumulate: whether gradients are accumulated.
      average: whether the parameters are averaged.
      clip: whether gradients are clipped.
      labels: the groups' labels, to the update that each began at; a single group has no
        partition around it.
    """

    frozen: bool
    accumulate: bool
    average: bool
    clip: bool
    labels: Mapping[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """An optimizer and how it came about, so that it can be made again for other groups.

    Attributes:
      plan: the options.
      paths: the paths of all parameters.
      frozen: the paths of the frozen ones.
      cohorts: the paths of those that began to train later.
      optimizer: the optimizer of what trains.
      tx: the transformation of the whole tree of parameters.
      form: how ``tx``'s state is nested.
    """

    plan: Plan
    paths: tuple[str, ...]
    frozen: frozenset[str]
    cohorts: Cohorts
    optimizer: Optimizer
    tx: optax.GradientTransformation
    form: Form

    def __reduce__(self) -> Any:
        return _build, (self.plan, self.paths, self.frozen, self.cohorts)

    def rates(self, update: int) -> dict[str, float]:
        """The learning rate of each entry at the ``update``-th update, from 0."""
        schedules = {entry: self.plan.schedule(entry) for entry in self.plan.rates or (TRAIN,)}
        return {k: float(rate(update)) for k, rate in schedules.items() if rate is not None}

    def rates_by_path(self, update: int) -> dict[str, float]:
        """The learning rate of each parameter that trains, where the optimizer says it."""
        now, entries = self.rates(update), self.plan.entries(self.paths, self.frozen)
        return {path: now[entry] for path, entry in entries.items() if entry in now}


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The options of an optimizer, its learning rates among them.

    Attributes:
      optimizer: a name, a factory or a transformation.
      learning_rate: one rate for all parameters, or None.
      rates: patterns to learning rates, or None where there is one for all.
      options: further options of ``flaxzoo.optimizers.as_optimizer``.
    """

    optimizer: Any
    learning_rate: Any
    rates: Mapping[str, Any] | None
    options: Mapping[str, Any]

    def __reduce__(self) -> Any:
        # Equal options give the same plan, where it is read in the process that wrote it.
        options = dict(self.options)
        return _remembered, (self.optimizer, self.learning_rate, self.rates, options)

    def whole(self) -> Optimizer:
        """The optimizer of a model all of which trains, at one rate."""
        return self._make(self.learning_rate, everything=True)

    def build(
        self,
        paths: tuple[str, ...],
        frozen: frozenset[str] = frozenset(),
        cohorts: Cohorts = (),
    ) -> Groups:
        """Makes the optimizer by groups; equal arguments give the same object.

        Args:
          paths: the paths of all parameters.
          frozen: the paths of the frozen ones.
          cohorts: see ``Groups``.

        Warns:
          UserWarning: a transformation that may clip over all parameters together, out of reach
            from here, is divided.
        """
        groups = _build(self, paths, frozen, cohorts)
        if len(groups.form.labels) > 1 and not _is_known(self.optimizer):
            name = self._make(self._rate(next(iter(self.rates or (TRAIN,)))), everything=True).name
            warn(
                f"optimizer {name!r} is not one of flaxzoo.optimizers by name, and "
                f"each of {len(groups.form.labels)} groups of parameters gets one of its own: if "
                "it clips by a norm, or scales, over all parameters together, it does so by group "
                "from here on. clip_norm= is of the norm over all groups"
            )
        return groups

    def check(self) -> None:
        """Makes what needs no parameters, so that a wrong option shows.

        Raises:
          As ``plan``.
        """
        for rate in (self.learning_rate,) if self.rates is None else self.rates.values():
            optimizer = self._make(rate, everything=True)
            if self.rates is not None and "per_example_gradients" in optimizer.needs:
                raise ValueError(
                    f"optimizer {optimizer.name!r} clips the gradient of an example over all "
                    "parameters together, which its privacy rests on: it takes one learning rate"
                )

    def entries(self, paths: Iterable[str], frozen: frozenset[str]) -> dict[str, str]:
        """Which entry of ``rates`` each parameter that trains follows.

        Raises:
          UnknownNameError: (a KeyError) one of them has none.
        """
        trainable = [path for path in paths if path not in frozen]
        if self.rates is None:
            return dict.fromkeys(trainable, TRAIN)
        chosen = rate_entries(paths, self.rates)
        if missing := [path for path in trainable if path not in chosen]:
            raise unmatched_error(missing, self.rates)
        return {path: chosen[path] for path in trainable}

    def schedule(self, entry: str) -> Any:
        """The schedule of an entry; None where the optimizer does not say."""
        return self._make(self._rate(entry), everything=True).learning_rate

    def _rate(self, entry: str) -> Any:
        return self.learning_rate if self.rates is None else self.rates[entry]

    def _make(self, rate: Any, *, everything: bool, start: int = 0) -> Optimizer:
        """One optimizer, with all options or with those of a single group alone."""
        options = dict(self.options)
        if self.rates is not None and not isinstance(rate, str):
            options.pop("schedule_options", None)
        if rate is not None:
            options["learning_rate"] = rate
        whole = optimizers.as_optimizer(self.optimizer, **options)
        if everything and not start:
            return whole
        if not everything:
            options = {key: value for key, value in options.items() if key not in _AROUND}
        if not isinstance(self.optimizer, optax.GradientTransformation | optax.MultiSteps):
            rate = whole.learning_rate
            if rate is not None and not _is_constant(rate):
                # Names of schedules know the length of training in updates now.
                options.pop("schedule_options", None)
                options["learning_rate"] = Shifted(rate, start) if start else rate
        return optimizers.as_optimizer(self.optimizer, **options)


def plan(optimizer: Any, learning_rate: Any, options: Mapping[str, Any]) -> Plan:
    """The plan of an optimizer; equal arguments give the same object.

    Args:
      optimizer: a name, a factory or a transformation.
      learning_rate: one rate for all parameters, a mapping from patterns to rates, or None.
      options: further options of ``flaxzoo.optimizers.as_optimizer``; and ``schedule_start``, the
        step at which the schedules begin that are given by name and span ``total_steps``.

    Raises:
      UnknownNameError: a name is not registered.
      UnknownArgumentError: an option that does not go with the optimizer.
      ValueError: an option is out of range.
    """
    options = dict(options)
    if start := options.pop("schedule_start", 0):
        learning_rate = _begun_at(start, optimizer, learning_rate, options)
        if callable(learning_rate):
            options.pop("schedule_options", None)
    # As numbers, which can be compared.
    options = {
        k: v.item() if isinstance(v, jax.Array) and not v.ndim else v for k, v in options.items()
    }
    if isinstance(learning_rate, jax.Array):
        learning_rate = check_number("learning_rate", learning_rate, minimum=0)
    bare = learning_rate is None and not set(options) - {"total_steps"}
    if bare and isinstance(optimizer, Optimizer) and optimizer.config:
        # One that was made by name: taken apart, so that it can be made again by groups.
        config = dict(optimizer.config)
        optimizer, learning_rate = config.pop("name"), config.pop("learning_rate", None)
        options = {**config, **options}
    if not isinstance(learning_rate, Mapping):
        return _remembered(optimizer, learning_rate, None, options)
    built = isinstance(optimizer, optax.GradientTransformation | optax.MultiSteps)
    if built and learning_rate:
        raise UnknownArgumentError(
            "a built GradientTransformation has its learning rate inside it and takes none by "
            "group: pass a name or a factory such as optax.adamw, or join transformations with "
            "flaxzoo.optimizers.partition"
        )
    rates = {
        pattern: rate
        if callable(rate) or isinstance(rate, str)
        else check_number(f"learning_rate[{pattern!r}]", rate, minimum=0)
        for pattern, rate in learning_rate.items()
    }
    return _remembered(optimizer, None, rates, options)


def _begun_at(start: int, optimizer: Any, rate: Any, options: Mapping[str, Any]) -> Any:
    """A learning rate, or several by pattern, whose schedules that span the run begin at a step."""
    if isinstance(rate, Mapping):
        return {key: _begun_at(start, optimizer, one, options) for key, one in rate.items()}
    if not (isinstance(rate, str) and schedules.needs_total_steps(rate)):
        return rate
    made: Any = optimizers.as_optimizer(optimizer, **options, learning_rate=rate)
    return Shifted(made.learning_rate, -(start // made.accumulate_steps))


def decayed_plan(
    optimizer: Any, learning_rate: Any, factors: Mapping[str, float], options: Mapping[str, Any]
) -> Plan:
    """A plan with layer-wise learning-rate decay.

    Args:
      optimizer: a name or a factory.
      learning_rate: the rate of the head; None for the optimizer's own.
      factors: as ``flaxzoo.training.rates.decay_factors`` gives them.
      options: further options, as ``plan`` takes them.

    Raises:
      As ``plan``; also UnknownArgumentError where there is no learning rate to decay.
    """
    if isinstance(learning_rate, Mapping):
        raise UnknownArgumentError(
            "layer_decay decays one learning rate; with rates by group, write the decayed ones "
            "in (flaxzoo.transfer.layer_decay_rates gives them)"
        )
    whole = plan(optimizer, learning_rate, options)
    rate = whole.schedule(TRAIN)
    built = isinstance(whole.optimizer, optax.GradientTransformation | optax.MultiSteps)
    if rate is None or built:
        raise UnknownArgumentError(
            "layer_decay needs a learning rate to decay: pass the optimizer as a name or a "
            "factory that takes one"
        )
    options = {key: value for key, value in whole.options.items() if key != "schedule_options"}
    base = float(rate(0)) if _is_constant(rate) else rate
    return plan(whole.optimizer, decayed(factors, base), options)


@explained
def group_rates(
    optimizer: Any, params: Mapping[str, Any], rates: Mapping[str, Any], **options: Any
) -> Optimizer:
    """One optimizer whose learning rate differs between groups of parameters.

    Each group has an optimizer of its own, joined by ``flaxzoo.optimizers.partition``.
    ``clip_norm`` is of the norm over all groups, and accumulation and averaging are in step.
    Optimizers that estimate one step size for all parameters, or search along a line, do so by
    group. So does a clipping that is inside the optimizer, such as ``optax.clip_by_global_norm`` in
    a factory's ``optax.chain``: use ``clip_norm=``.
    ``create_train_state`` and ``Trainer`` take ``rates`` as ``learning_rate``.

    Args:
      optimizer: a name of ``flaxzoo.optimizers`` or a factory such as ``optax.adamw``.
      params: the parameters, or their shapes.
      rates: patterns, as ``freeze`` takes them, to learning rates: numbers, schedules or names
        of schedules. The last entry that matches a parameter wins; ``"*"`` is for what no other
        one matches.
      **options: as for ``flaxzoo.optimizers.get``.

    Returns:
      An optimizer over the whole tree of parameters.

    Raises:
      UnknownNameError: (a KeyError) a pattern matches nothing, or a parameter has no rate.
      UnknownArgumentError: ``optimizer`` is built already: its rate is inside it.
      ValueError: a rate is out of range, an entry is for nothing, or the optimizer's privacy
        does not allow groups.

    Warns:
      UserWarning: the optimizer is a factory that is not registered, and is divided.
    """
    return plan(optimizer, rates, options).build(tuple(flatten(params))).optimizer


@functools.lru_cache(maxsize=512)
def _build(plan: Plan, paths: tuple[str, ...], frozen: frozenset[str], cohorts: Cohorts) -> Groups:
    plan.check()
    entries = plan.entries(paths, frozen)
    since = {path: start for start, group in cohorts for path in group}
    # Entries of one rate, such as those of a stage, share a group.
    first: dict[Any, int] = {}
    number = {
        entry: first.setdefault(_key(plan._rate(entry)), i)
        for i, entry in enumerate(plan.rates or (TRAIN,))
    }
    labels: dict[str, str] = {}
    parts: dict[str, tuple[Any, int]] = {}
    for path, entry in entries.items():
        start = since.get(path, 0)
        label = TRAIN if plan.rates is None else f"rate_{number[entry]}"
        label += f"_from_{start}" if start else ""
        labels[path] = label
        parts.setdefault(label, (plan._rate(entry), start))
    parts = parts or {TRAIN: (plan._rate(next(iter(plan.rates or (TRAIN,)))), 0)}
    inner = _joined(plan, paths, labels, parts)
    if any(start for _, start in parts.values()) or len(parts) > 1:
        # Rates are told by the run's updates, the head's first.
        leading = next((e for p, e in entries.items() if p.startswith("head/")), None)
        leading = leading or list(dict.fromkeys(entries.values()))[-1]
        inner = Optimizer(
            inner.init,
            inner.update,
            name=inner.name,
            learning_rate=plan.schedule(leading),
            accumulate_steps=inner.accumulate_steps,
            needs=inner.needs,
        )
    tx: optax.GradientTransformation = inner
    if frozen:
        tx = freeze(inner, unflatten(dict.fromkeys(paths)), lambda path: path in frozen)
    form = Form(
        frozen=bool(frozen),
        accumulate=(plan.options.get("accumulate_steps") or 1) > 1,
        average=plan.options.get("ema_decay") is not None,
        clip=plan.options.get("clip_norm") is not None,
        labels={label: start for label, (_, start) in sorted(parts.items())},
    )
    return Groups(plan, paths, frozen, cohorts, inner, tx, form)


def _joined(
    plan: Plan,
    paths: tuple[str, ...],
    labels: Mapping[str, str],
    parts: Mapping[str, tuple[Any, int]],
) -> Optimizer:
    """The optimizer over all groups, each of which is a rate and the update that it began at."""
    if len(parts) == 1:
        ((rate, start),) = parts.values()
        return plan._make(rate, everything=True, start=start)
    groups = {
        label: plan._make(rate, everything=False, start=start)
        for label, (rate, start) in sorted(parts.items())
    }
    # Frozen parameters are masked out by what is around this.
    tree = unflatten({path: labels.get(path, optax.MaskedNode()) for path in paths})
    around = {key: plan.options[key] for key in _AROUND if plan.options.get(key) is not None}
    return optimizers.as_optimizer(partition(groups, tree), **around)


def _is_known(optimizer: Any) -> bool:
    """Whether what acts on all parameters together is among the options, and not inside."""
    if isinstance(optimizer, str):
        return True
    if isinstance(optimizer, Optimizer):
        config = optimizer.config or {}
        return "name" in config and config.get("clip_norm") is None
    while isinstance(optimizer, functools.partial):
        optimizer = optimizer.func
    registry = optimizers.REGISTRY
    return any(registry.entry(name) is optimizer for name in registry.list())


def _is_constant(rate: Any) -> bool:
    return isinstance(rate, Schedule) and rate.name == "constant"


def _key(rate: Any) -> Any:
    try:
        return cache_key(rate)
    except TypeError:
        return id(rate)


_PLANS: dict[Any, Plan] = {}
cleared(_PLANS.clear)
cleared(_build.cache_clear)


def _remembered(
    optimizer: Any, learning_rate: Any, rates: Mapping[str, Any] | None, options: dict[str, Any]
) -> Plan:
    new = Plan(optimizer, learning_rate, rates, options)
    order = None if rates is None else tuple(rates)
    try:
        key = cache_key((cache_key(optimizer), learning_rate, order, rates, options))
    except TypeError:  # an array or another unhashable object among the options
        return new
    if len(_PLANS) >= 256:
        _PLANS.clear()
    return _PLANS.setdefault(key, new)
