"""What belongs to a run: its model, settings, state and history, where it stands, its files."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

import flaxzoo.optimizers as optimizers
import flaxzoo.schedules as schedules
from flaxzoo._checks import check_flag, check_size
from flaxzoo._explain import explained, missing_attribute
from flaxzoo._files import as_path, entry, understanding
from flaxzoo._meshes import shape_of
from flaxzoo._pickling import packed, unpacked
from flaxzoo._processes import from_main, silent
from flaxzoo._random import as_key
from flaxzoo._spread import gathered, local
from flaxzoo._trees import copied
from flaxzoo._warnings import warn
from flaxzoo.callbacks.base import CallbackList
from flaxzoo.data.batch import Batch
from flaxzoo.errors import ArgumentError, CheckpointError, DataError
from flaxzoo.metrics import MetricCollection
from flaxzoo.model import Model
from flaxzoo.preprocess import model_inputs
from flaxzoo.summary import Summary
from flaxzoo.training import settings as settings_file
from flaxzoo.training.checkpoint import Checkpoints, require_writable, restore, saved_steps
from flaxzoo.training.compiled import Carry
from flaxzoo.training.feed import Feed
from flaxzoo.training.freezing import FreezeSpec
from flaxzoo.training.history import History
from flaxzoo.training.marks import marked
from flaxzoo.training.noted import facts, with_classes, with_facts, with_preprocess
from flaxzoo.training.planning import TrainingPlan, plan_of
from flaxzoo.training.rates import idle_updates
from flaxzoo.training.refreezing import freezing_to_json, refreeze, with_freezing
from flaxzoo.training.sharding_rules import say_of_others
from flaxzoo.training.state import (
    TrainState,
    as_model,
    check_settings,
    create_train_state,
    each_rate,
    in_precision,
    with_schedule,
)
from flaxzoo.training.step import empty_totals, prepare

# What each checkpoint holds of where the run stands.
_POSITION: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "batch": (int,),
    "run": (str,),
    "totals": (list, type(None)),
    "history": (dict,),
    "callbacks": (dict,),
}


class Run:
    """Keeps what a ``Trainer`` trains: all that a checkpoint and ``trainer.json`` hold.

    The state is made when the input shape and the length of training are known. Whoever trains it
    donates it from step to step, so read ``model`` for variables that stay.

    Args:
      model: a ``flaxzoo.Model`` or a Linen module.
      seed: an int that selects the initialisation, dropout and the order of the data.
      run_dir: where checkpoints and logs go; made when something is written there.
      steps_per_call: how many steps are handed to the device at once.
      **settings: options of ``create_train_state``.

    Attributes:
      history: ``History`` of all epochs.
      step: number of updates so far.
      run: tells this run's checkpoints from those of others in the same directory.

    Raises:
      UnknownNameError: (a KeyError) a name among the settings is not registered.
      UnknownArgumentError: (a TypeError) an option that the optimizer does not take.
      TypeError: ``model`` is neither of the two.
      ValueError: a number is out of range.
    """

    def __init__(
        self,
        model: Any,
        *,
        seed: int = 0,
        run_dir: str | os.PathLike[str] | None = None,
        steps_per_call: int = 1,
        **settings: Any,
    ) -> None:
        self._model = in_precision(as_model(model), settings.get("precision"))
        self._fresh = self._model.variables is None
        check_size("steps_per_call", steps_per_call)
        self.steps_per_call = int(steps_per_call)
        self._settings = dict(settings)
        for key in ("metrics", "freeze"):
            self._settings[key] = _rereadable(settings.get(key))
        self.seed = check_size("seed", seed, minimum=0)
        self.run_dir = None if run_dir is None else as_path(run_dir)
        self.history = History()
        self.step = 0
        self.run = uuid.uuid4().hex
        self._carry = Carry()
        self._total_steps: int | None = None
        # A schedule by name needs the length of training, which the first fit tells.
        self._provisional = False
        # The step at which it begins, and whether its length was given or read, not a fit's own.
        self._schedule_start = 0
        self._length_given = False
        self._inputs: Any = None
        # Whether the run has been read from files, and goes on where they say.
        self._loaded = False
        # Whether what is frozen has changed since the state was made.
        self._refrozen = False
        # Where the run stands: finished epochs, batches of the next one, and its metrics so far.
        self._epoch = 0
        self._batch = 0
        self._saved_totals: list[Any] | None = None
        # Metrics of nothing, for the data of this fit: making them takes as long as many steps.
        self._nothing: MetricCollection | None = None
        self._callbacks = CallbackList()
        self._callback_states: dict[str, Any] = {}
        check_settings(self._settings)
        if self._model.variables is not None and not self._needs_length():
            self.build()

    # --- copies and other processes ------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        parts = self._parts()
        return {"state": parts.pop("state"), "data": packed(parts)}

    def __setstate__(self, parts: dict[str, Any]) -> None:
        self._take({"state": parts["state"], **unpacked(parts["data"])})

    def __copy__(self) -> Self:
        # Two that share a state would take it from each other.
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Functions are shared: nothing needs to be picklable.
        # Devices are shared as well: those of older JAX cannot be copied.
        memo[id(self._settings.get("devices"))] = self._settings.get("devices")
        copy_of = type(self).__new__(type(self))
        copy_of._take(copy.deepcopy(self._parts(), memo))
        return copy_of

    def _parts(self) -> dict[str, Any]:
        """All that the run is, at one step; callbacks belong to a ``fit``, and stay behind."""
        with self._carry.lock:
            totals = self.position()["totals"]
            parts = {**vars(self), "_saved_totals": totals, "state": copied(self._carry.current)}
        for name in ("_carry", "_callbacks", "_nothing"):
            del parts[name]
        return parts

    def _take(self, parts: dict[str, Any]) -> None:
        state = parts.pop("state")
        vars(self).update(parts, _carry=Carry(), _callbacks=CallbackList(), _nothing=None)
        self.state = state

    # --- the state -----------------------------------------------------------------------------

    @property
    def state(self) -> TrainState | None:
        """The training state, None until it is made; its arrays are gone after the next step.

        A thread other than the one that ``fit`` runs in gets a copy, of the last whole step.
        """
        return self._carry.state

    @state.setter
    def state(self, value: TrainState | None) -> None:
        self._carry.state = value

    @explained
    def build(self, inputs: Any = None, *, total_steps: int | None = None) -> TrainState:
        """Makes the state, once.

        Args:
          inputs: a batch of inputs, for models whose input shape is not known.
          total_steps: length of training, for a learning rate that is given as a schedule's name;
            the schedule then goes on from ``fit`` to ``fit`` until its end.

        Returns:
          The state.
        """
        self._length_given = self._length_given or total_steps is not None
        return self._made(inputs, total_steps)

    def _made(self, inputs: Any, total_steps: int | None) -> TrainState:
        before = self._carry.current
        if before is None or (self._provisional and total_steps is not None):
            self._provisional = total_steps is None and self._needs_length()
            if self._provisional:
                total_steps = 1
            state = create_train_state(
                self._model,
                rng=self.seed,
                inputs=inputs,
                total_steps=total_steps,
                **self._settings,
            )
            self._total_steps = total_steps
            if before is not None and self._refrozen:
                state = with_freezing(state, freezing_to_json(before))
            # The model keeps its own variables: the trainer's will be donated.
            self.state = copied(state)
            self._note_inputs(inputs)
        return self.state  # type: ignore[return-value]

    def _build_for(self, feed: Feed, epochs: int | None) -> None:
        """Makes the state for some data, and for a length of training where ``epochs`` tells it."""
        if epochs is not None and self._settings.get("devices") is None:
            say_of_others(self._carry.current)
        inputs = feed.first().inputs
        if self._carry.current is not None and not (self._provisional and epochs is not None):
            if epochs is not None:
                self._note_inputs(inputs)
            return
        total = None
        if self._needs_length() and epochs is not None:
            if feed.steps_per_epoch is None:
                raise DataError(
                    f"learning_rate={self._settings['learning_rate']!r} spans the run, but "
                    f"{feed.name} does not tell its length: pass steps_per_epoch"
                )
            total = epochs * feed.steps_per_epoch
        self._made(inputs, total)

    def _span(self, feed: Feed, epochs: int, *, resume: bool) -> None:
        """Lets schedules by name span a ``fit`` that ends after so many epochs of the run.

        A new ``fit`` begins them anew, one that resumes stretches them over the whole run. A length
        that was given, or read with a run, is first gone through to its end.
        """
        rounds = epochs - self._epoch
        if feed.steps_per_epoch is None or rounds <= 0:
            return
        end = self.step + rounds * feed.steps_per_epoch - self._batch
        if self._needs_length():
            start, length = self._schedule_start, self._total_steps or 0
            if resume:
                length = end - start
            elif not self._length_given or self.step >= start + length:
                start, length, self._length_given = self.step, end - self.step, False
            self._set_schedule(start, length)
        if said := idle_updates(self.state.optimizer, self.step, end):  # type: ignore[union-attr]
            warn(said)

    def _set_schedule(self, start: int, length: int) -> None:
        if (start, length) != (self._schedule_start, self._total_steps):
            self.state = with_schedule(
                self.state,  # type: ignore[arg-type]
                self._settings,
                total_steps=length,
                start=start,
            )
            self._schedule_start, self._total_steps = start, length

    def _needs_length(self) -> bool:
        rates = each_rate(self._settings["learning_rate"])
        return any(isinstance(rate, str) and schedules.needs_total_steps(rate) for rate in rates)

    def _note_inputs(self, inputs: Any) -> None:
        """Whoever saves the model or loads the run is told the size that it was trained on."""
        if inputs is not None:
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
            self._inputs = model_inputs(self._model.spec.preprocess, shapes)
            spec = self._model.spec.with_inputs(self._inputs)
            self._model = dataclasses.replace(self._model, spec=spec)

    def _note_preprocess(self, data: Any) -> None:
        """Predicting from files is to see what training has seen of them."""
        spec = with_preprocess(self._model.spec, data, fresh=self._fresh)
        if spec is not self._model.spec:
            self._model = dataclasses.replace(self._model, spec=spec)
            if self._carry.current is not None:
                self.state = self.state.replace(preprocess=spec.preprocess)  # type: ignore[union-attr]

    def _note_classes(self, data: Any, outputs: Any) -> None:
        """A model without names for its classes takes those of what it is trained on."""
        loss = self.state.loss  # type: ignore[union-attr]
        spec = with_classes(self._model.spec, data, outputs, loss)
        self._model = dataclasses.replace(self._model, spec=spec)

    @explained
    def refreeze(self, freeze: FreezeSpec = None, *, freeze_until: int | str | None = None) -> None:
        """Changes what is frozen from the next step on; see ``flaxzoo.transfer.refreeze``.

        It counts from then on, instead of what the trainer was made with; checkpoints hold it.

        Args:
          freeze: what not to train, as the trainer takes it; None for nothing.
          freeze_until: the first stage that trains, as the trainer takes it.

        Raises:
          RuntimeError: there is no state yet.
          As ``flaxzoo.transfer.refreeze``.
        """
        if self.state is None:
            raise RuntimeError("there is nothing to refreeze before fit, evaluate or build")
        state = refreeze(self.state, freeze, freeze_until=freeze_until)
        self._refrozen = self._refrozen or state is not self.state
        self.state = state

    # --- what it looks like --------------------------------------------------------------------

    def __repr__(self) -> str:
        optimizer = _describe(self._settings["optimizer"])
        name = self._model.spec.name
        return f"{type(self).__name__}({name}, {optimizer}, epoch {self._epoch}, step {self.step})"

    if not TYPE_CHECKING:
        __getattr__ = missing_attribute

    @property
    def model(self) -> Model:
        """The model with the current variables, copied: it stays as it is.

        Another thread may ask while ``fit`` runs, and gets those of the last step. In several
        processes each gets all of them, and where they are divided all processes have to ask.
        """
        with self._carry.lock:
            state = self._carry.current
            if state is None:
                return self._model
            return self._model.with_variables(copied(gathered(state.eval_variables)))

    @property
    def inputs(self) -> Any:
        """The batch, or its shapes, that the state was made for; None where none was needed."""
        return self._inputs

    def model_with_state(self) -> Model:
        """The model with the current variables, not copied: valid until the next step."""
        state = self.state
        if state is None:
            return self._model
        return self._model.with_variables(gathered(state.eval_variables))

    @property
    def learning_rate(self) -> float | None:
        """At the current step, the head's if groups differ; None where the optimizer hides it."""
        state = self._carry.current
        optimizer = None if state is None else state.optimizer
        if optimizer is None or optimizer.learning_rate is None:
            return None
        return float(optimizer.learning_rate(self.step // optimizer.accumulate_steps))

    @property
    def group_learning_rates(self) -> dict[str, float]:
        """At the current step, by entry of a ``learning_rate`` that is a mapping; else empty.

        Those of frozen groups are what they would train at.
        """
        state: Any = self._carry.current
        if state is None or not isinstance(self._settings["learning_rate"], Mapping):
            return {}
        return state.groups.rates(self.step // state.optimizer.accumulate_steps)

    def hyperparameters(self) -> dict[str, str | int | float | bool]:
        """The run's settings, flat, for logs."""
        values = {"model": self._model.spec.name, "seed": self.seed, **self._settings}
        if values["learning_rate"] is None and isinstance(values["optimizer"], str):
            values["learning_rate"] = optimizers.default_learning_rate(values["optimizer"])
        return {
            key: value if isinstance(value, str | int | float | bool) else _describe(value)
            for key, value in values.items()
            if value is not None
        }

    @explained
    def summary(self) -> Summary:
        """The model's layer table, with what trains, and at which rate where rates differ."""
        summary = self.model_with_state().summary()
        state = self._carry.current
        return summary if state is None else marked(summary, state, self.step)

    @explained
    def plan(
        self, train_data: Any = None, *, batch_size: int = 32, compiled: bool = False
    ) -> TrainingPlan:
        """What training will take, before anything is computed: ``print`` it.

        What trains, at which rate and with which decay, how the devices divide it, and the bytes
        that each of them needs. Nothing is initialised, so a model that does not fit can be asked
        for as well.

        Args:
          train_data: what ``fit`` is to be given, whose first batch is looked at; by default
            images of the model's own size.
          batch_size: examples per batch, for arrays; see ``fit``.
          compiled: whether to compile the step, as ``fit`` would, and to tell what the compiler
            says of memory and of what the devices send each other. This takes ``train_data``.

        Returns:
          A ``TrainingPlan``.

        Raises:
          ArgumentError: ``compiled`` without ``train_data``.
          DataError: the data is empty.
          ShapeError: the input shape of the model is not known, and there is no ``train_data``.
        """
        check_size("batch_size", batch_size)
        check_flag("compiled", compiled)
        if compiled and train_data is None:
            raise ArgumentError(
                "compiled=True compiles the step of a whole batch, for which the model does not "
                "know the targets: pass train_data, as fit takes it"
            )
        if train_data is None:
            inputs = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype),
                self._model.spec.sample() if self._inputs is None else self._inputs,
            )
            batch = Batch(inputs)
        else:
            feed = Feed(train_data, batch_size=batch_size, allow_short=True, name="train_data")
            batch = feed.first()
        state = self._carry.current
        if state is None:
            state = self._abstract(batch.inputs)
        shapes = jax.tree.map(shape_of, (state, batch))
        return plan_of(*shapes, name=self._model.spec.name, step=self.step, compiling=compiled)

    def _abstract(self, inputs: Any) -> TrainState:
        """The state that ``build`` would make, with shapes for arrays."""
        length = 1 if self._needs_length() else None
        make = functools.partial(
            create_train_state, self._model, inputs=inputs, total_steps=length, **self._settings
        )
        return jax.eval_shape(lambda key: make(rng=key), as_key(self.seed))

    @property
    def position_in_epoch(self) -> int:
        """Number of batches of the present epoch so far."""
        return self._batch

    # --- metrics of the epoch so far -----------------------------------------------------------

    def _first_totals(self, batch: Batch) -> MetricCollection:
        """The metrics that the epoch starts or, after a resume, goes on with."""
        if self._nothing is None:
            self._nothing = empty_totals(self.state, prepare(self.state, batch))  # type: ignore[arg-type]
        totals = self._nothing
        if self._saved_totals is not None:
            leaves, treedef = jax.tree.flatten(totals)
            if len(leaves) != len(self._saved_totals):
                raise CheckpointError(
                    "the run stopped within an epoch, whose metrics so far are of other metrics "
                    "than the trainer's: give it those that it had"
                )
            saved = [
                jnp.asarray(np.asarray(value, leaf.dtype).reshape(leaf.shape))
                for value, leaf in zip(self._saved_totals, leaves, strict=True)
            ]
            totals, self._saved_totals = jax.tree.unflatten(treedef, saved), None
        return totals

    # --- files ---------------------------------------------------------------------------------

    @explained
    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes the settings and a checkpoint, from which ``load`` and ``fit`` go on.

        Returns:
          The checkpoint's directory.

        Raises:
          DataError: the directory cannot be written.
          RuntimeError: there is no state yet.
        """
        if self.state is None:
            raise RuntimeError("there is nothing to save before fit, evaluate or build")
        directory = as_path(directory)
        require_writable(directory)
        self._write_settings(directory)
        return self._save_checkpoint(directory)

    @classmethod
    @explained
    def load(
        cls,
        directory: str | os.PathLike[str],
        *,
        which: int | str = "last",
        model: Any = None,
        **overrides: Any,
    ) -> Self:
        """Reads what ``save``, ``ModelCheckpoint`` or an interrupted ``fit`` wrote.

        Args:
          directory: the run's directory.
          which: ``"last"``, ``"best"`` or a step.
          model: the model, where it is not from the registry.
          **overrides: ``optimizer``, ``loss``, ``metrics`` or ``freeze`` where they were given as
            objects, which a file cannot hold; another ``steps_per_call``.

        Returns:
          A trainer whose ``fit`` goes on, from mid-epoch if need be, with ``run_dir`` set.

        Raises:
          CheckpointError: no run, a damaged one, one of another model, or a setting that has to
            be given is not.
        """
        directory = as_path(directory)
        document = settings_file.read(directory)
        if model is None:
            model = settings_file.restore_model(directory, document)
        model = as_model(model)
        spec = with_facts(model.spec, document.get("noted"))
        model = dataclasses.replace(model, spec=spec)
        saved = settings_file.restore(directory, document, overrides)
        # Runs of before there was such a thing took one step at a time.
        calls = {"steps_per_call": document.get("steps_per_call", 1)}
        run = cls(model, seed=document["seed"], run_dir=directory, **{**calls, **saved})
        inputs = settings_file.restore_inputs(directory, document)
        run.build(inputs, total_steps=document["total_steps"])
        run._restore(directory / "checkpoints", which)
        if document.get("run") not in (None, run.run):
            raise CheckpointError(
                f"{directory}: trainer.json is of another run than the checkpoints: a later one in "
                "this directory has saved none. Give each run a directory of its own"
            )
        return run

    def position(self) -> dict[str, Any]:
        """Where the run stands, as JSON; a checkpoint holds it beside the arrays."""
        totals = self._saved_totals
        if self._carry.has_totals:
            whole = jax.tree.leaves(local(self._carry.totals))
            totals = [np.asarray(leaf).tolist() for leaf in whole]
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "step": self.step,
            "run": self.run,
            "totals": totals,
            "history": self.history.to_json(),
            "callbacks": self._callbacks.states(),
            "freezing": freezing_to_json(self._carry.current) if self._refrozen else None,  # type: ignore[arg-type]
            "schedule": {"start": self._schedule_start, "total_steps": self._total_steps},
        }

    def _save_checkpoint(self, directory: Path) -> Path:
        checkpoints = Checkpoints(directory / "checkpoints", keep=None)
        checkpoints.begin(self.run, self.step)
        try:
            # Of one step, should another thread train meanwhile.
            with self._carry.lock:
                return checkpoints.save(self.state, self.step, self.position())  # type: ignore[arg-type]
        finally:
            checkpoints.close()

    def _resume(self, callbacks: CallbackList) -> None:
        """Goes on from the last checkpoint, if there is one and this run has not begun."""
        directory = callbacks.checkpoint_directory(self)
        if directory is None:
            if self.run_dir is None:
                raise ValueError("resume=True needs Trainer(..., run_dir=...)")
            directory = self.run_dir / "checkpoints"
        # A trainer that has been loaded, or has trained, goes on from where it is.
        if self.step == 0 and from_main("resume", lambda: saved_steps(directory)):
            self._restore(directory, "last")

    def _restore(self, directory: Path, which: int | str) -> None:
        state, meta = restore(directory, self.state, which)  # type: ignore[arg-type]
        label = f"{directory / str(int(state.step))}: meta/metadata"
        for name, kinds in _POSITION.items():
            entry(meta, name, *kinds, label=label, error=CheckpointError)
        with understanding("history", label=label, error=CheckpointError):
            history = History.from_json(meta["history"])
        self.state = state
        self._refrozen = meta.get("freezing") is not None
        self.step = int(state.step)
        self._epoch, self._batch = meta["epoch"], meta["batch"]
        self._carry.totals, self._saved_totals = None, meta["totals"]
        self.history = history
        self._callback_states = meta["callbacks"]
        self.run = meta["run"]
        if self._needs_length() and meta.get("schedule") is not None:
            with understanding("schedule", label=label, error=CheckpointError):
                self._set_schedule(meta["schedule"]["start"], meta["schedule"]["total_steps"])
        self._provisional, self._loaded = False, True

    def _write_settings(self, directory: Path | None = None) -> None:
        directory = directory or self.run_dir
        if directory is not None and not silent():
            settings_file.write(
                directory,
                self._model.spec,
                self._settings,
                self._inputs,
                {
                    "run": self.run,
                    "seed": self.seed,
                    "total_steps": self._total_steps,
                    "steps_per_call": self.steps_per_call,
                    "noted": facts(self._model.spec),
                },
            )


def _rereadable(setting: Any) -> Any:
    # What can be read only once would be gone after the first look.
    one = isinstance(setting, str | Mapping) or callable(setting)
    one = one or not isinstance(setting, Iterable)
    return setting if one else tuple(setting)


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_describe(item)}" for key, item in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(_describe, value))
    return str(getattr(value, "name", None) or getattr(value, "__name__", None) or value)
