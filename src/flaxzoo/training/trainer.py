"""The loop around the steps: ``fit``, ``evaluate``, ``predict``, ``save`` and ``load``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo import optimizers, schedules
from flaxzoo._checks import check_size
from flaxzoo.callbacks.base import Callback, CallbackList
from flaxzoo.data.arrays import check_finite, pad_batch
from flaxzoo.data.batch import INPUT_KEYS, Batch, as_batch
from flaxzoo.data.batch import batch_size as count
from flaxzoo.data.prefetch import prefetch_to_device
from flaxzoo.errors import DataError
from flaxzoo.metrics import MetricSpec
from flaxzoo.model import Model
from flaxzoo.summary import Summary
from flaxzoo.training import settings
from flaxzoo.training.batch_groups import Group, one_of, size_of
from flaxzoo.training.checkpoint import (
    Checkpoints,
    require_writable,
    restore,
    saved_steps,
)
from flaxzoo.training.compiled import Carry, Flat, evaluate_and_total, pack, unpacked
from flaxzoo.training.feed import Feed
from flaxzoo.training.freezing import FreezeSpec
from flaxzoo.training.history import History
from flaxzoo.training.inspection import inspect, length
from flaxzoo.training.interrupts import StopRequest, stop_requests
from flaxzoo.training.marks import marked
from flaxzoo.training.refreezing import freezing_to_json, refreeze, with_freezing
from flaxzoo.training.state import (
    TrainState,
    as_model,
    check_settings,
    create_train_state,
    each_rate,
)
from flaxzoo.training.step import as_configured, complete, empty_totals, predict_step, prepare


class Trainer:
    """Trains a model, and keeps what belongs to the run together.

    The state is made at the first ``fit``, ``evaluate`` or ``build``, when the input shape and
    the length of training are known; the trainer then donates it from step to step, so read
    ``trainer.model`` for variables that stay.

    Args:
      model: a ``flaxzoo.Model`` or a Linen module.
      optimizer: a name of ``flaxzoo.optimizers``, or any optax transformation.
      learning_rate: a float, a schedule, or a schedule's name, which then spans the first ``fit``;
        by default the optimizer's own. A mapping gives groups their own; see
        ``create_train_state``.
      loss: a name of ``flaxzoo.losses``, a ``Loss`` or a function; see ``create_train_state``.
      metrics: names of ``flaxzoo.metrics`` or functions; see ``create_train_state``.
      freeze: what not to train; see ``create_train_state``.
      freeze_until: the first stage that trains; see ``create_train_state``.
      freeze_batch_norm: whether BatchNorm keeps its running statistics; see
        ``create_train_state``.
      layer_decay: of the learning rate, by stage; see ``create_train_state``.
      augment: what to do to training batches; see ``create_train_state``.
      seed: of the initialisation, dropout and the order of the data.
      run_dir: where checkpoints and logs go; made at the first ``fit``.
      steps_per_call: how many steps are handed to the device at once, in one compiled call. More
        than one is faster where a step takes little longer than handing it over; the numbers are
        those of single steps. Callbacks see every such call; see ``Callback.due_at``.
      **optimizer_options: ``clip_norm``, ``weight_decay``, ``accumulate_steps``, ...

    Attributes:
      history: ``History`` of all epochs.
      epochs: number of epochs that the current or last ``fit`` goes to.
      steps_per_epoch: of the current or last ``fit``; None where the data does not tell.
      stop_training: a callback sets it to end training after the current step.
    """

    def __init__(
        self,
        model: Any,
        *,
        optimizer: Any = "adam",
        learning_rate: Any = None,
        loss: Any = None,
        metrics: Iterable[Any] | str | None = None,
        freeze: FreezeSpec = None,
        freeze_until: int | str | None = None,
        freeze_batch_norm: bool = False,
        layer_decay: float | None = None,
        augment: Any = None,
        seed: int = 0,
        run_dir: str | os.PathLike[str] | None = None,
        steps_per_call: int = 1,
        **optimizer_options: Any,
    ) -> None:
        self._model = as_model(model)
        check_size("steps_per_call", steps_per_call)
        self.steps_per_call = int(steps_per_call)
        self._settings: dict[str, Any] = {
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "loss": loss,
            "metrics": metrics if metrics is None or _is_one(metrics) else tuple(metrics),
            "freeze": _as_patterns(freeze),
            "freeze_until": freeze_until,
            "freeze_batch_norm": freeze_batch_norm or None,
            "layer_decay": layer_decay,
            "augment": augment,
            **optimizer_options,
        }
        self.seed = int(seed)
        self.run_dir = None if run_dir is None else Path(run_dir)
        self._carry = Carry()
        self.history = History()
        self.epochs = 0
        self.steps_per_epoch: int | None = None
        self.stop_training = False
        self.step = 0
        # Tells this run's checkpoints from those of others in the same directory.
        self.run = uuid.uuid4().hex
        self._total_steps: int | None = None
        # A schedule by name needs the length of training, which the first fit tells.
        self._provisional = False
        self._inputs: Any = None
        self._loaded = False
        # Whether what is frozen has changed since the state was made.
        self._refrozen = False
        # Where the run stands: finished epochs, batches of the next one, and its metrics so far.
        self._epoch = 0
        self._batch = 0
        self._saved_totals: list[Any] | None = None
        # Metrics of nothing, for the data of this fit: making them takes as long as many steps.
        self._nothing: Any = None
        self._callbacks = CallbackList()
        self._callback_states: dict[str, Any] = {}
        check_settings(self._settings)
        if self._model.variables is not None and not self._needs_length():
            self.build()

    # --- state ---------------------------------------------------------------------------------

    @property
    def state(self) -> TrainState | None:
        """The training state, None until it is made; its arrays are gone after the next step."""
        return self._carry.state

    @state.setter
    def state(self, value: TrainState | None) -> None:
        self._carry.state = value

    def build(self, inputs: Any = None, *, total_steps: int | None = None) -> TrainState:
        """Makes the state, once.

        Args:
          inputs: a batch of inputs, for models whose input shape is not known.
          total_steps: length of training, for a learning rate that is given as a schedule's name.

        Returns:
          The state.
        """
        before = self.state
        if self.state is not None and self._provisional and total_steps is not None:
            self.state = None
        if self.state is None:
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
            self.state = jax.tree.map(jnp.copy, state)
            self._note_inputs(inputs)
        return self.state

    def _note_inputs(self, inputs: Any) -> None:
        """Whoever saves the model or loads the run is told the size that it was trained on."""
        if inputs is not None:
            self._inputs = inputs
            spec = self._model.spec.with_inputs(inputs)
            self._model = dataclasses.replace(self._model, spec=spec)

    def _note_classes(self, data: Any) -> None:
        """A model without names for its classes takes those of what it is trained on."""
        names = getattr(data, "class_names", None)
        head = getattr(self._model.module, "head", None)
        if names and not self._model.spec.classes and len(names) == getattr(head, "num_classes", 0):
            spec = dataclasses.replace(self._model.spec, classes=tuple(map(str, names)))
            self._model = dataclasses.replace(self._model, spec=spec)

    @property
    def position_in_epoch(self) -> int:
        """Number of batches of the present epoch so far."""
        return self._batch

    @property
    def model(self) -> Model:
        """The model with the current variables, copied: it stays as it is."""
        if self.state is None:
            return self._model
        return self._model.with_variables(jax.tree.map(jnp.copy, self.state.eval_variables))

    def model_with_state(self) -> Model:
        """The model with the current variables, not copied: valid until the next step."""
        if self.state is None:
            return self._model
        return self._model.with_variables(self.state.eval_variables)

    @property
    def learning_rate(self) -> float | None:
        """At the current step, the head's if groups differ; None where the optimizer hides it."""
        optimizer = None if self.state is None else self.state.optimizer
        if optimizer is None or optimizer.learning_rate is None:
            return None
        return float(optimizer.learning_rate(self.step // optimizer.accumulate_steps))

    @property
    def group_learning_rates(self) -> dict[str, float]:
        """At the current step, by entry of a ``learning_rate`` that is a mapping; else empty.

        Those of frozen groups are what they would train at.
        """
        if self.state is None or not isinstance(self._settings["learning_rate"], Mapping):
            return {}
        state: Any = self.state
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

    def summary(self) -> Summary:
        """The model's layer table, with what trains, and at which rate where rates differ."""
        summary = self.model_with_state().summary()
        return summary if self.state is None else marked(summary, self.state, self.step)

    def refreeze(self, freeze: FreezeSpec = None, *, freeze_until: int | str | None = None) -> None:
        """Changes what is frozen from the next step on; see ``flaxzoo.transfer.refreeze``.

        It counts from then on, instead of what the trainer was made with; checkpoints hold it.

        Args:
          freeze: as for the trainer; None for nothing.
          freeze_until: likewise.

        Raises:
          RuntimeError: there is no state yet.
          As ``flaxzoo.transfer.refreeze``.
        """
        if self.state is None:
            raise RuntimeError("there is nothing to refreeze before fit, evaluate or build")
        state = refreeze(self.state, freeze, freeze_until=freeze_until)
        self._refrozen = self._refrozen or state is not self.state
        self.state = state

    # --- training ------------------------------------------------------------------------------

    def fit(
        self,
        train_data: Any,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation_data: Any = None,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        callbacks: Iterable[Callback] = (),
        shuffle: bool = True,
        progress: bool = True,
        resume: bool = False,
    ) -> History:
        """Trains for some epochs.

        A short last batch is filled up with examples of weight 0, so that its numbers are exact
        and nothing recompiles. Ctrl-C and SIGTERM end training after the current step: with a
        ``run_dir`` the state is saved there first, and the message says where.

        Args:
          train_data: arrays ``(inputs, targets)``, any iterable of batches, or a function that
            returns one; see ``flaxzoo.training.feed.Feed``.
          epochs: how many to train; with ``resume`` the total that the run is to reach.
          batch_size: examples per batch, for arrays.
          validation_data: likewise; evaluated after each epoch.
          steps_per_epoch: batches per epoch; needed for endless iterables.
          validation_steps: likewise for validation.
          callbacks: called in this order; see ``flaxzoo.callbacks``.
          shuffle: whether each epoch of arrays has an order of its own, set by the seed.
          progress: whether to show a progress bar.
          resume: whether to go on from the last checkpoint in ``run_dir``, if there is one. The
            run then ends bitwise as if it had never stopped.

        Returns:
          The history of all epochs of this trainer.

        Raises:
          DataError: empty data, values that are not finite, labels out of range, a batch size
            above the number of examples, a ``run_dir`` that cannot be written.
          ShapeError: the data does not fit the model or the loss.
          CheckpointError: ``resume`` found a checkpoint that is damaged or of another model.
        """
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        called = CallbackList(callbacks, ("progress",) if progress else ())
        feed = Feed(
            train_data,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=self.seed,
            steps_per_epoch=steps_per_epoch,
            name="train_data",
        )
        validation = None
        if validation_data is not None:
            validation = Feed(
                validation_data,
                batch_size=min(batch_size, length(validation_data) or batch_size),
                steps_per_epoch=validation_steps,
                name="validation_data",
            )
        self._note_classes(train_data)
        if self.run_dir is not None:
            require_writable(self.run_dir)
        self.steps_per_epoch, self._nothing = feed.steps_per_epoch, None
        self._build_for(feed, epochs)
        for data in filter(None, (feed, validation)):
            inspect(self.state, data)
        if resume:
            self._resume(called)
        elif not self._loaded:
            # What an earlier fit left unfinished is over: this data need not be the same.
            self._batch, self._carry.totals, self._saved_totals = 0, None, None
            for data in filter(None, (feed, validation)):
                data.first_epoch = self._epoch
        self._loaded = False
        self.epochs = epochs if resume else self._epoch + epochs
        self.stop_training = False
        self._callbacks = called
        called.load_states(self._callback_states)
        self._callback_states = {}
        self._write_settings()
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(stop_requests())
            called.train_begin(self, stack)
            while self._epoch < self.epochs and not self.stop_training and not stop:
                self._run_epoch(feed, validation, stop)
            if stop:
                stack.callback(self._interrupted, stop)
        return self.history

    def _run_epoch(self, feed: Feed, validation: Feed | None, stop: StopRequest) -> None:
        epoch, start = self._epoch, self._batch
        self._callbacks.epoch_begin(self, epoch)
        if self._saved_totals is not None:
            self._carry.totals = self._empty(feed.first())
        for item in self._ahead(feed, epoch, start, **self._grouping()):
            if not self._carry.has_totals:
                batch = one_of(item.batch) if isinstance(item, Group) else item
                self._carry.totals = self._empty(batch)
            metrics = self._carry.advance(item)
            self.step += size_of(item)
            self._batch += size_of(item)
            if self._callbacks.watches_steps:
                self._callbacks.step_end(self, self.step, unpacked(metrics))
            if self.stop_training or stop:
                break
        if stop or (self.stop_training and self._batch != self.steps_per_epoch):
            # In mid-epoch: the epoch is unfinished, and resumes where it is.
            return
        totals, self._carry.totals = self._carry.totals, None
        logs = totals.compute() if totals is not None else {}
        if validation is not None:
            results = self._evaluate(validation, epoch)
            val_logs = {f"val_{name}": value for name, value in results.items()}
            logs |= val_logs
            self._callbacks.validation_end(self, epoch, val_logs)
        self._epoch, self._batch = epoch + 1, 0
        self._callbacks.epoch_end(self, epoch, logs)

    def _grouping(self) -> dict[str, Any]:
        """Which batches from here on go to the device at once, for ``Feed.items``."""
        size = min(self.steps_per_call, self.steps_per_epoch or self.steps_per_call)
        if size == 1:
            return {}
        step, due_at = self.step, self._callbacks.due_at
        return {
            "size": size,
            # A callback that acts after a step in the middle would find the state of the last.
            "fits": lambda done: not any(due_at(step + done + i) for i in range(1, size)),
        }

    def _ahead(self, feed: Feed, epoch: int, start: int = 0, **grouping: Any) -> Iterator[Any]:
        # Its arrays are gone after the next step, and may be asked for in another thread.
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.state)
        # Arrays have been looked at as a whole; targets may still be missing.
        check = complete if feed.checked else prepare
        items = feed.items(epoch, start, prepare=functools.partial(check, shapes), **grouping)
        # On CPU there is nothing to copy to, and a thread would take a core from the step.
        return items if jax.default_backend() == "cpu" else prefetch_to_device(items)

    def _prepared(self, batch: Batch) -> Batch:
        return prepare(self.state, batch)  # type: ignore[arg-type]

    def _empty(self, batch: Batch) -> Any:
        if self._nothing is None:
            self._nothing = empty_totals(self.state, self._prepared(batch))  # type: ignore[arg-type]
        totals = self._nothing
        if self._saved_totals is not None:
            leaves, treedef = jax.tree.flatten(totals)
            saved = [
                jnp.asarray(np.asarray(value, leaf.dtype).reshape(leaf.shape))
                for value, leaf in zip(self._saved_totals, leaves, strict=True)
            ]
            totals, self._saved_totals = jax.tree.unflatten(treedef, saved), None
        return totals

    def _interrupted(self, stop: StopRequest) -> None:
        where = ""
        if self.run_dir is not None:
            path = self._callbacks.interrupted(self) or self._save_checkpoint(self.run_dir)
            where = f" Step {self.step} is saved in {path}; fit(..., resume=True) goes on from it."
        print(f"\nStopped by {stop.signal.name}.{where}", flush=True)  # type: ignore[union-attr]
        if stop.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    # --- using ---------------------------------------------------------------------------------

    def evaluate(
        self, data: Any, *, batch_size: int = 64, steps: int | None = None
    ) -> dict[str, float]:
        """The loss and metrics over a data set, exact for any batch sizes.

        Args:
          data: as for ``fit``.
          batch_size: examples per batch, for arrays.
          steps: how many batches to look at, for endless iterables.

        Returns:
          Metric names to floats.
        """
        feed = Feed(
            data,
            batch_size=min(batch_size, length(data) or batch_size),
            steps_per_epoch=steps,
            name="data",
        )
        self._build_for(feed, None)
        inspect(self.state, feed)
        return self._evaluate(feed)

    def predict(self, inputs: Any, *, batch_size: int = 64) -> Any:
        """The model's outputs, as NumPy arrays.

        Args:
          inputs: arrays, already preprocessed, or an iterable of batches, as for ``fit``; targets
            in it are passed over. ``trainer.model.predict`` takes files.
          batch_size: examples per forward pass, for arrays.

        Raises:
          DataError: there is nothing to predict, or a value is not finite.
          ShapeError: the inputs do not fit the model.
        """
        if isinstance(inputs, Mapping):
            named = any(key in inputs for key in INPUT_KEYS)
            inputs = as_batch(inputs) if named else Batch(inputs)
        elif isinstance(inputs, list):
            # A list holds batches; two arrays in it are no pair of inputs and targets.
            inputs = functools.partial(iter, inputs)
        feed = Feed(inputs, batch_size=min(batch_size, length(inputs) or batch_size), name="inputs")
        feed.pad = False
        first = feed.first()
        state, size = self.build(first.inputs), count(first)
        outputs = []
        for batch in feed.epoch(0):
            check_finite(batch.inputs, "inputs")
            rows = count(batch)
            # A short last batch is filled up, so that nothing recompiles.
            filled = pad_batch(batch.inputs, size)[0] if rows < size else batch.inputs
            made = predict_step(state, filled)
            outputs.append(jax.tree.map(lambda x, rows=rows: np.asarray(x)[:rows], made))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)

    def _evaluate(self, feed: Feed, epoch: int = 0) -> dict[str, float]:
        state, totals, step = Flat.of(self.state), None, as_configured(evaluate_and_total)
        for batch in self._ahead(feed, epoch):
            if totals is None:
                totals = pack(empty_totals(self.state, batch))  # type: ignore[arg-type]
            totals = step(state, batch, totals)
        return unpacked(totals).compute()

    # --- files ---------------------------------------------------------------------------------

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
        directory = Path(directory)
        require_writable(directory)
        self._write_settings(directory)
        return self._save_checkpoint(directory)

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        *,
        which: int | str = "last",
        model: Any = None,
        **overrides: Any,
    ) -> Trainer:
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
        directory = Path(directory)
        document = settings.read(directory)
        if model is None:
            model = settings.restore_model(directory, document)
        saved = settings.restore(directory, document, overrides)
        # Runs of before there was such a thing took one step at a time.
        calls = {"steps_per_call": document.get("steps_per_call", 1)}
        trainer = cls(model, seed=document["seed"], run_dir=directory, **{**calls, **saved})
        trainer.build(settings.restore_inputs(document), total_steps=document["total_steps"])
        trainer._restore(directory / "checkpoints", which)
        return trainer

    def position(self) -> dict[str, Any]:
        """Where the run stands, as JSON; a checkpoint holds it beside the arrays."""
        totals = None
        if self._carry.has_totals:
            totals = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(self._carry.totals)]
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "step": self.step,
            "run": self.run,
            "totals": totals,
            "history": self.history.to_json(),
            "callbacks": self._callbacks.states(),
            "freezing": freezing_to_json(self.state) if self._refrozen else None,  # type: ignore[arg-type]
        }

    def _save_checkpoint(self, directory: Path) -> Path:
        checkpoints = Checkpoints(directory / "checkpoints", keep=None)
        checkpoints.set_aside(self.run, self.step)
        path = checkpoints.save(
            self.state,  # type: ignore[arg-type]
            self.step,
            {**self.position(), "score": None},
        )
        checkpoints.close()
        return path

    def _resume(self, callbacks: CallbackList) -> None:
        directory = callbacks.checkpoint_directory(self)
        if directory is None:
            if self.run_dir is None:
                raise ValueError("resume=True needs Trainer(..., run_dir=...)")
            directory = self.run_dir / "checkpoints"
        # A trainer that has been loaded, or has trained, goes on from where it is.
        if self.step == 0 and saved_steps(directory):
            self._restore(directory, "last")

    def _restore(self, directory: Path, which: int | str) -> None:
        state, meta = restore(directory, self.state, which)  # type: ignore[arg-type]
        self.state = state
        self._refrozen = meta.get("freezing") is not None
        self.step = int(state.step)
        self._epoch, self._batch = meta["epoch"], meta["batch"]
        self._carry.totals, self._saved_totals = None, meta["totals"]
        self.history = History.from_json(meta["history"])
        self._callback_states = meta["callbacks"]
        self.run = meta["run"]
        self._provisional, self._loaded = False, True

    def _write_settings(self, directory: Path | None = None) -> None:
        directory = directory or self.run_dir
        if directory is not None:
            settings.write(
                directory,
                self._model.spec,
                self._settings,
                self._inputs,
                {
                    "seed": self.seed,
                    "total_steps": self._total_steps,
                    "steps_per_call": self.steps_per_call,
                },
            )

    # --- helpers -------------------------------------------------------------------------------

    def _needs_length(self) -> bool:
        rates = each_rate(self._settings["learning_rate"])
        return any(isinstance(rate, str) and schedules.needs_total_steps(rate) for rate in rates)

    def _build_for(self, feed: Feed, epochs: int | None) -> None:
        inputs = feed.first().inputs
        if self.state is not None and not (self._provisional and epochs is not None):
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
        self.build(inputs, total_steps=total)


def _as_patterns(freeze: FreezeSpec) -> FreezeSpec:
    if isinstance(freeze, str) or not isinstance(freeze, Iterable):
        return freeze
    # What can be read only once would be gone after the first look.
    return tuple(freeze)


def _is_one(metric: Any) -> bool:
    return isinstance(metric, str | MetricSpec) or callable(metric)


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_describe(item)}" for key, item in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(_describe, value))
    return str(getattr(value, "name", None) or getattr(value, "__name__", None) or value)
