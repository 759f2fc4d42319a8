"""Changing what is frozen in the middle of a run, without losing the rest of its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from flaxzoo._checks import check_choice, check_size
from flaxzoo._explain import explained
from flaxzoo._trees import by_path, copied, flatten, map_by_path
from flaxzoo.layers.lowering.initialise import filled
from flaxzoo.models.stages import groups_of as groups_of_stages
from flaxzoo.models.stages import stage_paths
from flaxzoo.training.freezing import TRAIN, FreezeSpec, frozen_paths, module_and_params
from flaxzoo.training.param_groups import Form, Groups

if TYPE_CHECKING:
    from flaxzoo.training.state import TrainState

# States of optax that count the updates of the run, for a schedule.
_COUNTING = (
    optax.ScaleByScheduleState,
    optax.InjectHyperparamsState,
    optax.InjectStatefulHyperparamsState,
)


@explained
def refreeze(
    state: TrainState, freeze: FreezeSpec = None, *, freeze_until: int | str | None = None
) -> TrainState:
    """Changes what is frozen in the middle of a run.

    What goes on training keeps its optimizer state bitwise. What begins to train gets an
    optimizer state of its own, whose moments and bias corrections start anew, at the learning
    rate of the run's present update: with the run's count instead, the first steps of Adam would
    be three times too long. What is frozen from now on stays at the value it trains at (not at
    an average of ``ema_decay`` or of a schedule-free optimizer) and drops its state.

    With ``accumulate_steps``, gradients that have been accumulated are kept; those of what begins
    to train count as zero before this.

    What begins to train has an optimizer of its own. ``clip_norm`` is of the norm over all that
    trains nevertheless; a clipping inside a transformation of the user's own, such as
    ``optax.chain(optax.clip_by_global_norm(1.0), ...)``, is by group from then on: use
    ``clip_norm=``.

    Args:
      state: what ``create_train_state`` made; it is left as it is.
      freeze: what not to train from now on, as for ``create_train_state``; None for nothing.
      freeze_until: the first stage that trains from now on; what either of the two names is frozen.

    Returns:
      A new state, whose arrays are those of ``state`` where they are the same. The next step
      compiles, as another part of the model has gradients.

    Raises:
      UnknownNameError: (a KeyError) a pattern or stage matches nothing, or what begins to train
        has no learning rate.
      ValueError: the optimizer is not of ``create_train_state``, or keeps a state that cannot be
        divided.

    Warns:
      UserWarning: an optimizer that is not one by name is divided into groups.
    """
    frozen = frozen_paths(state.module, state.params, freeze, freeze_until)
    if frozen == state.frozen:
        return state
    groups = groups_of(state)
    steps = groups.optimizer.accumulate_steps
    update = int(state.step) // steps
    since = {path: start for start, paths in groups.cohorts for path in paths}
    since |= dict.fromkeys(state.frozen - frozen, update)
    new = groups.plan.build(groups.paths, frozen, _cohorts(since, frozen))
    if len(new.form.labels) > 1 and "per_example_gradients" in new.optimizer.needs:
        raise ValueError(
            f"optimizer {new.optimizer.name!r} clips the gradient of an example over all "
            "parameters together, which its privacy rests on: what it trains cannot change"
        )
    if not new.form.accumulate and int(state.step) % steps:
        raise ValueError(
            f"the optimizer accumulates gradients over {steps} steps inside itself and is between "
            "two updates: refreeze after an update, or pass accumulate_steps to the state instead"
        )
    return _with_groups(state, new, _transplanted(state, groups, new, update))


def freezing_to_json(state: TrainState) -> dict[str, Any]:
    """What is frozen and what began to train when, for ``with_freezing``."""
    return {
        "frozen": sorted(state.frozen),
        "cohorts": [[start, sorted(paths)] for start, paths in groups_of(state).cohorts],
    }


def with_freezing(state: TrainState, document: Mapping[str, Any]) -> TrainState:
    """A state of the structure that another had which ``freezing_to_json`` described.

    Args:
      state: a new one of the same model and options.
      document: what ``freezing_to_json`` gave.

    Raises:
      ValueError: ``document`` is of another model.
    """
    groups = groups_of(state)
    frozen = frozenset(document["frozen"])
    since = {path: int(start) for start, paths in document["cohorts"] for path in paths}
    if strange := sorted((frozen | set(since)) - set(groups.paths)):
        raise ValueError(f"the model has no parameter {strange[0]!r}")
    new = groups.plan.build(groups.paths, frozen, _cohorts(since, frozen))
    return _with_groups(state, new, _fresh(state, new))


@explained
def unfreezing_schedule(
    model: Any, *, every: int = 1, start: int = 0, by: str = "group"
) -> dict[int, FreezeSpec]:
    """Epochs to what is frozen from then on: the head trains first, then one part more at a time.

    Args:
      model: a ``Model`` with variables or a known input shape; its backbone has stages.
      every: epochs from one unfreezing to the next.
      start: epoch from which the head alone trains.
      by: ``"group"`` unfreezes the stages of one group together, such as all blocks of ``layer4``;
        ``"stage"`` one after another.

    Returns:
      For ``callbacks.GradualUnfreezing``; in the last entry nothing is frozen.

    Raises:
      TypeError: ``model`` is not a ``Model``.
      UninitializedError: the model has no variables and does not know its input shape.
      ArgumentError: ``every`` or ``start`` is out of range, or ``by`` is none of the two.

    Source: Howard and Ruder, ULMFiT (https://arxiv.org/abs/1801.06146), section 3.3.
    """
    every, start = check_size("every", every), check_size("start", start, minimum=0)
    check_choice("by", by, ("group", "stage"))
    parts: list[tuple[str, list[str]]] = []
    module, params = module_and_params(model)
    groups = groups_of_stages(module)
    for name, paths in stage_paths(module, params).items():
        group = groups[name] if by == "group" else name
        if parts and parts[-1][0] == group:
            parts[-1][1].extend(paths)
        elif paths:
            parts.append((group, list(paths)))
    schedule: dict[int, FreezeSpec] = {}
    for i in range(len(parts)):
        left = [path for _, paths in parts[: len(parts) - 1 - i] for path in paths]
        schedule[start + i * every] = left or None
    return schedule


def groups_of(state: TrainState) -> Groups:
    """How a state's optimizer is divided, also where that is into one group alone.

    Raises:
      ValueError: the optimizer is not of ``create_train_state``.
    """
    built = state.optimizer if state.groups is None else state.groups.tx
    if state.plan is None or built is not state.tx:
        raise ValueError(
            "the state's optimizer was replaced by hand: create_train_state makes one whose "
            "frozen parameters can change"
        )
    return state.groups or state.plan.build(tuple(flatten(state.params)))


def _cohorts(since: Mapping[str, int], frozen: frozenset[str]) -> tuple[Any, ...]:
    by_start: dict[int, set[str]] = {}
    for path, start in since.items():
        if start and path not in frozen:
            by_start.setdefault(start, set()).add(path)
    return tuple((start, frozenset(paths)) for start, paths in sorted(by_start.items()))


def _fresh(state: TrainState, groups: Groups) -> Any:
    """A new optimizer state, where the old one lies."""
    places = None if state.sharding is None else state.sharding.of
    # Copies: what is new may share no buffer with the parameters, as both may be donated.
    return copied(filled(groups.tx.init, state.params, places=places))


def _with_groups(state: TrainState, groups: Groups, opt_state: Any) -> TrainState:
    if state.sharding is not None:
        # Counters that were set anew are on one device.
        opt_state = state.sharding.placed(opt_state)
    return state.replace(
        tx=groups.tx,
        opt_state=opt_state,
        frozen=groups.frozen,
        optimizer=groups.optimizer,
        groups=groups,
    )


def _transplanted(state: TrainState, old: Groups, new: Groups, update: int) -> Any:
    """``new``'s state, with all that ``old``'s has of it."""
    fresh = _fresh(state, new)
    layers, cores = _open(state.opt_state, old.form)
    fresh_layers, fresh_cores = _open(fresh, new.form)
    built = isinstance(new.plan.optimizer, optax.GradientTransformation | optax.MultiSteps)
    for label, core in fresh_cores.items():
        if built:
            # Its schedules are out of reach, so that they are told the time instead.
            fresh_cores[label] = core = _at(core, update)
        if label in cores and new.form.labels[label] == update:
            # A group that has taken no step yet may grow.
            fresh_cores[label] = _known(core, cores[label])
        elif label in cores:
            fresh_cores[label] = _carried(core, cores[label], new.optimizer.name)
    return _close(fresh, new.form, layers, fresh_layers, fresh_cores)


def _open(opt_state: Any, form: Form) -> tuple[dict[str, Any], dict[str, Any]]:
    """The states of what acts on all groups, and those of the groups by label."""
    layers: dict[str, Any] = {}
    if form.frozen:
        opt_state = opt_state.inner_states[TRAIN].inner_state
    if form.accumulate:
        layers["accumulate"], opt_state = opt_state, opt_state.inner_opt_state
    if form.average:
        layers["average"], opt_state = opt_state, opt_state.inner
    if form.clip:
        opt_state = opt_state[1]
    if len(form.labels) == 1:
        return layers, dict.fromkeys(form.labels, opt_state)
    return layers, {label: opt_state.inner_states[label].inner_state for label in form.labels}


def _close(
    fresh: Any,
    form: Form,
    layers: Mapping[str, Any],
    fresh_layers: Mapping[str, Any],
    cores: Mapping[str, Any],
) -> Any:
    """The inverse of ``_open``, in the shape of ``fresh``."""
    whole = fresh
    if form.frozen:
        fresh = fresh.inner_states[TRAIN].inner_state
    inner = fresh
    if form.accumulate:
        inner = inner.inner_opt_state
    if form.average:
        inner = inner.inner
    if form.clip:
        clip, inner = inner
    if len(form.labels) == 1:
        (core,) = cores.values()
    else:
        core = inner._replace(
            inner_states={
                label: inner.inner_states[label]._replace(inner_state=cores[label])
                for label in inner.inner_states
            }
        )
    if form.clip:
        core = (clip, core)
    if form.average:
        old, new = layers["average"], fresh_layers["average"]
        core = old._replace(mean=_known(new.mean, old.mean), inner=core)
    if form.accumulate:
        old, new = layers["accumulate"], fresh_layers["accumulate"]
        core = old._replace(acc_grads=_known(new.acc_grads, old.acc_grads), inner_opt_state=core)
    if form.frozen:
        states = dict(whole.inner_states)
        states[TRAIN] = states[TRAIN]._replace(inner_state=core)
        core = whole._replace(inner_states=states)
    return core


def _known(fresh: Any, old: Any) -> Any:
    """``fresh`` with the leaves of ``old`` that have the same path."""
    known = by_path(old)
    return map_by_path(known.get, fresh)


def _carried(fresh: Any, old: Any, name: str) -> Any:
    """The state ``old``, without what ``fresh`` has no more."""
    known = by_path(old)
    for path, leaf in by_path(fresh).items():
        if path not in known or jnp.shape(known[path]) != jnp.shape(leaf):
            raise ValueError(
                f"optimizer {name!r} keeps a state over all parameters together ({path}), which "
                "cannot be divided: what it trains cannot change in the middle of a run"
            )
    return _known(fresh, old)


def _at(state: Any, update: int) -> Any:
    """A new state whose schedules are at the ``update``-th update of the run."""

    def counts(node: Any) -> bool:
        return isinstance(node, (*_COUNTING, optax.contrib.ScheduleFreeState))

    def at(node: Any) -> Any:
        if not counts(node):
            return node
        if isinstance(node, optax.contrib.ScheduleFreeState):
            inner = _at(node.base_optimizer_state, update)
            step = jnp.full_like(node.step_count, update)
            return node._replace(base_optimizer_state=inner, step_count=step)
        node = node._replace(count=jnp.full_like(node.count, update))
        if isinstance(node, optax.ScaleByScheduleState):
            return node
        node = node._replace(inner_state=_at(node.inner_state, update))
        if isinstance(node, optax.InjectHyperparamsState):
            return node
        states = {
            name: own._replace(count=jnp.full_like(own.count, update))
            if getattr(own, "_fields", ()) == ("count",)
            else own
            for name, own in node.hyperparams_states.items()
        }
        return node._replace(hyperparams_states=states)

    return jax.tree.map(at, state, is_leaf=counts)


__all__ = ["refreeze", "unfreezing_schedule"]
