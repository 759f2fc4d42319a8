"""The loop around the steps: ``fit``, ``evaluate`` and ``predict``."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np

from flaxzoo._checks import check_flag, check_size
from flaxzoo._explain import explained
from flaxzoo._host import as_host, is_array_like
from flaxzoo._inputs import check_inputs
from flaxzoo._meshes import shape_of
from flaxzoo._processes import silent
from flaxzoo._spread import gathered, local
from flaxzoo.callbacks.base import Callback, CallbackList
from flaxzoo.data.arrays import pad_batch
from flaxzoo.data.batch import INPUT_KEYS, Batch, as_batch
from flaxzoo.data.batch import batch_size as count
from flaxzoo.data.prefetch import prefetch_to_device
from flaxzoo.errors import DataError
from flaxzoo.metrics import MetricCollection
from flaxzoo.training.agreement import agree_on_fit, agree_on_state
from flaxzoo.training.batch_groups import Group, one_of, size_of
from flaxzoo.training.checkpoint import require_writable
from flaxzoo.training.compiled import Flat, evaluate_and_total, pack, unpacked
from flaxzoo.training.feed import Feed
from flaxzoo.training.freezing import FreezeSpec
from flaxzoo.training.history import History
from flaxzoo.training.inspection import inspect
from flaxzoo.training.interrupts import StopRequest, stop_requests
from flaxzoo.training.run import Run
from flaxzoo.training.sharding import StateSharding
from flaxzoo.training.shared_paths import check_shared
from flaxzoo.training.state import check_optimizer_options
from flaxzoo.training.step import as_configured, complete, empty_totals, predict_step, prepare

F = TypeVar("F", bound=Callable[..., Any])


def _in_one_thread(fit: F) -> F:
    """The method, refused in a second thread before it has touched anything."""

    @functools.wraps(fit)
    def alone(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._carry.training():
            return fit(self, *args, **kwargs)

    return cast(F, alone)


@explained
class Trainer(Run):
    """Trains a model; a ``Run`` keeps what belongs to it, and writes and reads its files.

    The state is made at the first ``fit``, ``evaluate`` or ``build``, when the input shape and
    the length of training are known; the trainer then donates it from step to step, so read
    ``trainer.model`` for variables that stay.

    Args:
      model: a ``flaxzoo.Model`` or a Linen module.
      optimizer: a name of ``flaxzoo.optimizers``, or any optax transformation.
      learning_rate: a float, a schedule, or a schedule's name, which then spans each ``fit``; by
        default the optimizer's own. A mapping gives groups their own; see ``create_train_state``.
      loss: a name of ``flaxzoo.losses``, a ``Loss`` or a function; see ``create_train_state``.
      metrics: names of ``flaxzoo.metrics`` or functions; see ``create_train_state``.
      freeze: what not to train; see ``create_train_state``.
      freeze_until: the first stage that trains; see ``create_train_state``.
      freeze_batch_norm: whether BatchNorm keeps its running statistics; see
        ``create_train_state``.
      layer_decay: the factor of the learning rate from a stage to the one before it; see
        ``create_train_state``.
      augment: what to do to training batches; see ``create_train_state``.
      precision: in which the model computes; see ``create_train_state``.
      seed: an int that selects the initialisation, dropout and the order of the data.
      run_dir: where checkpoints and logs go; made at the first ``fit``.
      steps_per_call: how many steps are handed to the device at once, in one compiled call. More
        than one is faster where a step takes little longer than handing it over; the numbers are
        those of single steps. Callbacks see every such call; see ``Callback.due_at``.
      devices: the devices that train, None for one, ``"all"``, a number or a mesh; see
        ``create_train_state``.
      sharding: how they divide the parameters, ``"replicated"``, ``"fsdp"`` or rules; see
        ``create_train_state``.
      **optimizer_options: ``clip_norm``, ``weight_decay``, ``accumulate_steps``, ...

    Attributes:
      history: ``History`` of all epochs.
      epochs: number of epochs that the current or last ``fit`` goes to.
      steps_per_epoch: number of batches in an epoch of the current or last ``fit``; None where the
        data does not tell.
      stop_training: a callback sets it to end training after the current step.
    """

    def __init__(
        self,
        model: Any,
        *,
        optimizer: Any = "adam",
        learning_rate: Any = None,
        loss: Any = None,
        metrics: Any = None,
        freeze: FreezeSpec = None,
        freeze_until: int | str | None = None,
        freeze_batch_norm: bool = False,
        layer_decay: float | None = None,
        augment: Any = None,
        precision: Any = None,
        seed: int = 0,
        run_dir: str | os.PathLike[str] | None = None,
        steps_per_call: int = 1,
        devices: Any = None,
        sharding: Any = "replicated",
        **optimizer_options: Any,
    ) -> None:
        check_optimizer_options(Trainer, optimizer, optimizer_options)
        super().__init__(
            model,
            seed=seed,
            run_dir=run_dir,
            steps_per_call=steps_per_call,
            optimizer=optimizer,
            learning_rate=learning_rate,
            loss=loss,
            metrics=metrics,
            freeze=freeze,
            freeze_until=freeze_until,
            freeze_batch_norm=freeze_batch_norm or None,
            layer_decay=layer_decay,
            augment=augment,
            devices=devices,
            sharding=None if devices is None and sharding == "replicated" else sharding,
            precision=precision,
            **optimizer_options,
        )
        self.epochs = 0
        self.steps_per_epoch: int | None = None
        self.stop_training = False

    # --- training ------------------------------------------------------------------------------

    @explained
    @_in_one_thread
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
            returns one; see ``flaxzoo.training.feed.Feed``. In several processes arrays and data
            sets that know their epochs are the same in all, of which each reads its own part;
            anything else gives each process batches of its own.
          epochs: how many to train; with ``resume`` the total that the run is to reach. A schedule
            by name whose shape depends on the length of training spans just these: a new ``fit``
            begins it anew, while ``resume`` stretches it over all epochs. A run that was loaded
            first goes through what is left of its schedule.
          batch_size: examples per batch, for arrays: of all devices and processes together.
          validation_data: data in the same forms, evaluated after each epoch.
          steps_per_epoch: batches per epoch; needed for endless iterables.
          validation_steps: batches per validation; needed for endless iterables.
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
          CheckpointError: ``resume`` found a checkpoint of another model, or only damaged ones.
          RuntimeError: ``fit`` of this trainer runs in another thread.
          DistributedError: several processes differ, or do not share ``run_dir``.

        Warns:
          UserWarning: the last checkpoint is damaged, and ``resume`` goes on from one before; or
            the schedule is over before the fit is, which goes on at a rate of next to 0.
        """
        check_size("epochs", epochs)
        check_size("validation_steps", validation_steps, optional=True)
        for name, flag in (("shuffle", shuffle), ("progress", progress), ("resume", resume)):
            check_flag(name, flag)
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
                batch_size=batch_size,
                steps_per_epoch=validation_steps,
                allow_short=True,
                name="validation_data",
            )
        self._look_around(feed, validation, epochs=epochs, batch_size=batch_size)
        self._note_preprocess(train_data)
        self.steps_per_epoch, self._nothing = feed.steps_per_epoch, None
        self._build_for(feed, epochs)
        self._note_classes(train_data, inspect(self.state, feed, training=True))
        if validation is not None:
            inspect(self.state, validation)
        if resume:
            self._resume(called)
        elif not self._loaded:
            # What an earlier fit left unfinished is over: this data need not be the same.
            self._batch, self._carry.totals, self._saved_totals = 0, None, None
            for data in filter(None, (feed, validation)):
                data.first_epoch = self._epoch
        self._loaded = False
        agree_on_state(self.state, {"step": self.step, "epoch": self._epoch, "batch": self._batch})
        self.epochs = epochs if resume else self._epoch + epochs
        self._span(feed, self.epochs, resume=resume)
        self.stop_training = False
        self._callbacks = called
        called.load_states(self._callback_states)
        self._callback_states = {}
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(stop_requests())
            called.train_begin(self, stack)
            # Only now: a callback may find that another run is writing there.
            self._write_settings()
            while self._epoch < self.epochs and not self.stop_training and not stop:
                self._run_epoch(feed, validation, stop)
            if stop:
                stack.callback(self._interrupted, stop)
        return self.history

    def _look_around(self, feed: Feed, validation: Feed | None, **call: int) -> None:
        """Whether other processes do the same, and whether there is a place to write."""
        own = {"steps_per_call": self.steps_per_call, "seed": self.seed}
        agree_on_fit(feed, validation, self._settings, {**call, **own})
        if self.run_dir is not None:
            require_writable(self.run_dir)
            check_shared(self.run_dir)

    def _run_epoch(self, feed: Feed, validation: Feed | None, stop: StopRequest) -> None:
        epoch, start = self._epoch, self._batch
        self._callbacks.epoch_begin(self, epoch)
        if self._saved_totals is not None:
            self._carry.totals = self._first_totals(feed.first())
        for item in self._ahead(feed, epoch, start, **self._grouping()):
            if not self._carry.has_totals:
                batch = one_of(item.batch) if isinstance(item, Group) else item
                self._carry.totals = self._first_totals(batch)
            with self._carry.lock:
                metrics = self._carry.advance(item)
                self.step += size_of(item)
                self._batch += size_of(item)
            if self._callbacks.watches_steps:
                self._callbacks.step_end(self, self.step, local(unpacked(metrics)))
            stop.look()
            if self.stop_training or stop:
                break
        if stop or (self.stop_training and self._batch != self.steps_per_epoch):
            # In mid-epoch: the epoch is unfinished, and resumes where it is.
            return
        totals, self._carry.totals = self._carry.totals, None
        logs = _values(totals, feed.name) if totals is not None else {}
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
        shapes = jax.tree.map(shape_of, self._carry.current)
        # Arrays have been looked at as a whole; targets may still be missing.
        check = complete if feed.checked else prepare
        items = feed.items(epoch, start, prepare=functools.partial(check, shapes), **grouping)
        sharding = shapes.sharding
        if sharding is not None:
            items = map(functools.partial(_placed, sharding), items)
        # On CPU there is nothing to copy to, and a thread would take a core from the step.
        return items if jax.default_backend() == "cpu" else prefetch_to_device(items)

    def _interrupted(self, stop: StopRequest) -> None:
        where = ""
        if self.run_dir is not None:
            path = self._callbacks.interrupted(self) or self._save_checkpoint(self.run_dir)
            where = f" Step {self.step} is saved in {path}; fit(..., resume=True) goes on from it."
        if not silent():
            print(f"\nStopped by {stop.signal.name}.{where}", flush=True)  # type: ignore[union-attr]
        if stop.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    # --- using ---------------------------------------------------------------------------------

    @explained
    def evaluate(
        self, data: Any, *, batch_size: int = 64, steps: int | None = None
    ) -> dict[str, float]:
        """The loss and metrics over a data set, exact for any batch sizes.

        Args:
          data: data in the forms that ``fit`` takes.
          batch_size: examples per batch, for arrays.
          steps: how many batches to look at, for endless iterables.

        Returns:
          Metric names to floats.
        """
        feed = Feed(
            data, batch_size=batch_size, steps_per_epoch=steps, allow_short=True, name="data"
        )
        self._build_for(feed, None)
        inspect(self.state, feed)
        return self._evaluate(feed)

    @explained
    def predict(self, inputs: Any, *, batch_size: int = 64) -> Any:
        """The model's outputs, as NumPy arrays.

        Args:
          inputs: arrays, already preprocessed, or an iterable of batches, as for ``fit``; targets
            in it are passed over. ``trainer.model.predict`` takes files. Several processes pass
            the same inputs, and each gets all outputs.
          batch_size: examples per forward pass, for arrays.

        Raises:
          DataError: there is nothing to predict, or a value is not finite.
          ShapeError: the inputs do not fit the model.
        """
        if isinstance(inputs, Mapping):
            named = any(key in inputs for key in INPUT_KEYS)
            inputs = as_batch(inputs) if named else Batch(inputs)
        elif is_array_like(inputs):
            inputs = as_host(inputs, "inputs")
        elif isinstance(inputs, list):
            # A list holds batches; two arrays in it are no pair of inputs and targets.
            inputs = functools.partial(iter, inputs)
        feed = Feed(inputs, batch_size=batch_size, allow_short=True, name="inputs")
        feed.pad = False
        first = feed.first()
        size = count(first)
        self.build(first.inputs)
        outputs = []
        with self._carry.borrowed() as state:
            for batch in feed.epoch(0):
                check_inputs(state.module, state.variables, batch.inputs)
                rows = count(batch)
                # A short last batch is filled up, so that nothing recompiles.
                filled = pad_batch(batch.inputs, size)[0] if rows < size else batch.inputs
                output = predict_step(state, filled)
                output = gathered(output)
                outputs.append(jax.tree.map(lambda x, rows=rows: np.asarray(x)[:rows], output))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)

    def _evaluate(self, feed: Feed, epoch: int = 0) -> dict[str, float]:
        totals, step = None, as_configured(evaluate_and_total)
        with self._carry.borrowed() as state:
            flat = Flat.of(state)
            for batch in self._ahead(feed, epoch):
                if totals is None:
                    totals = pack(empty_totals(state, batch))
                    if state.sharding is not None:
                        totals = state.sharding.everywhere(totals)
                totals = step(flat, batch, totals)
            return _values(unpacked(totals), feed.name)


def _placed(sharding: StateSharding, item: Batch | Group) -> Batch | Group:
    """A batch, or a group of them, divided among the devices of a state."""
    axis = 1 if isinstance(item, Group) else 0
    if sharding.several_processes:
        return sharding.placed_part(item, axis)
    return sharding.placed_batch(item, axis)


def _values(totals: MetricCollection, name: str) -> dict[str, float]:
    """The metrics of an epoch; averages over nothing would be a perfect 0."""
    totals = local(totals)
    values = totals.compute()
    if not float(totals["loss"].count):
        raise DataError(f"{name} has the weight 0 for every example: nothing counts")
    return values
