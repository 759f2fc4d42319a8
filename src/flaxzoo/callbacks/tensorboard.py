"""TensorBoard logs: scalars, images, text, the graph, embeddings, hyper-parameters, profiles."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.errors import FlaxError

from flaxzoo._checks import check_flag, check_function, check_size, is_size
from flaxzoo._explain import explained
from flaxzoo._files import as_path
from flaxzoo._spread import gathered
from flaxzoo._trees import flatten
from flaxzoo.callbacks.base import Callback, path_in_run
from flaxzoo.callbacks.embeddings import Embeddings, as_embeddings
from flaxzoo.callbacks.event_writer import EventWriter
from flaxzoo.debug import start_trace
from flaxzoo.errors import CallbackError, ShapeError
from flaxzoo.plots import prediction_grid


@explained
class TensorBoard(Callback):
    """Writes what TensorBoard shows; needs the extra ``tensorboard``.

    Training and validation are two runs, ``train`` and ``validation``, below the log directory,
    so that TensorBoard draws them in one chart. The horizontal axis is the number of updates.
    What a resumed run writes replaces what was logged after its starting point. ``writer`` takes
    whatever else is to be seen, from other callbacks as well.

    ====================  ========================================================
    tag                   what
    ====================  ========================================================
    ``epoch/<metric>``    the epoch's metrics, in both runs, and ``learning_rate``
    ``step/<metric>``     one batch's metrics, every ``every_steps`` updates
    ``parameters/<path>`` histograms, every ``histogram_every`` epochs
    ``sample/...``        the sample and what the model makes of it
    ``images/<name>``     what ``images`` returned
    ``model/summary``     the layer table, as text
    (Graphs)              the operations of the model, by module
    (Projector)           the features of ``embeddings``
    ``hparam/<metric>``   the last metrics beside the hyper-parameters
    ====================  ========================================================

    Args:
      log_dir: the directory; by default ``tensorboard`` in the trainer's run directory.
      every_steps: number of updates between the scalars of single batches; 0 for none.
      histogram_every: number of epochs between histograms of all parameters; 0, the default, for
        none, as every parameter is copied to the host for them.
      sample: ``images`` or ``(images, labels)``, a few examples ``[N, H, W, C]``. A classifier's
        predictions are drawn as a grid (extra ``plots``), a model that returns images has its
        outputs shown.
      sample_every: number of epochs between looks at the sample.
      class_names: what the grid of predictions shows instead of class ids.
      images: function of ``(trainer, epoch)`` that returns images ``[N, H, W, C]`` by name.
      graph: whether to write the model's graph, from its shapes alone.
      embeddings: examples whose features the Projector tab shows: inputs, ``(inputs, labels)`` or
        ``flaxzoo.callbacks.Embeddings``.
      profile_steps: first and last update to record with ``jax.profiler``, counted from 1, for
        the Profile tab. Leave out the first update: it compiles.

    Attributes:
      writer: the ``EventWriter`` of these logs.

    Raises:
      MissingExtraError: tensorboardX is not installed.
      ArgumentError: a setting is out of range.
      CallbackError: ``profile_steps`` are no range; in training, no place to write.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        every_steps: int = 100,
        histogram_every: int = 0,
        sample: Any = None,
        sample_every: int = 1,
        class_names: Sequence[str] | None = None,
        images: Callable[[Any, int], Mapping[str, Any]] | None = None,
        graph: bool = True,
        embeddings: Any = None,
        profile_steps: tuple[int, int] | None = None,
    ) -> None:
        self.writer = EventWriter(log_dir)
        # Only a fit tells whether it goes on from what is in the directory.
        self.writer.keep_until_begin()
        if profile_steps is not None and not _is_range(profile_steps):
            raise CallbackError(
                f"profile_steps must be (first, last) with 1 <= first <= last, got {profile_steps}"
            )
        self.log_dir = None if log_dir is None else as_path(log_dir)
        self.every_steps = check_size("every_steps", every_steps, minimum=0)
        self.histogram_every = check_size("histogram_every", histogram_every, minimum=0)
        self.sample, self.labels = sample if isinstance(sample, tuple) else (sample, None)
        self.sample_every = check_size("sample_every", sample_every)
        self.class_names = class_names
        self.images = check_function("images", images, optional=True)
        self.graph = check_flag("graph", graph)
        self.embeddings = as_embeddings(embeddings)
        self.profile_steps = profile_steps
        self._pending: tuple[int, Any] | None = None
        self._open = False
        self._step = 0
        self._last: dict[str, float] = {}
        self._tracing = False

    def on_train_begin(self, trainer: Any) -> None:
        """Opens the logs; writes the model's summary, its graph and the sample's inputs."""
        if self.log_dir is None:
            self.log_dir = path_in_run(trainer, "tensorboard", "TensorBoard", "log_dir")
        if self._tracing:
            # An exception ended the last run within its profile.
            self._stop_trace(trainer)
        if self.embeddings is not None:
            self.embeddings.check(trainer.model_with_state())
        self.writer.begin(trainer, self.log_dir)
        self._step, self._last, self._pending = int(trainer.step), {}, None
        self.writer.text("model/summary", _code_block(self._summary(trainer)))
        self._open = True
        if self.graph:
            self._write_graph(trainer)
        if self.sample is not None:
            self.writer.image("sample/inputs", self.sample)
        self._profile(trainer)

    def on_step_end(self, trainer: Any, step: int, metrics: Any) -> None:
        """Writes the scalars of an earlier batch, whose step is finished by now."""
        self._step = step
        self._write_pending()
        if self.every_steps and step % self.every_steps == 0:
            self._pending = (step, metrics)
        self._profile(trainer)

    def due_at(self, step: int) -> bool:
        """At the steps whose batch is logged, and where a profile begins and ends."""
        first, last = self.profile_steps or (0, 0)
        logged = bool(self.every_steps) and step % self.every_steps == 0
        return logged or (bool(last) and step in (first - 1, last))

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """Writes the epoch's scalars, and at times histograms, images and embeddings."""
        self._write_pending()
        rate = {} if trainer.learning_rate is None else {"learning_rate": trainer.learning_rate}
        for name, value in {**rate, **logs}.items():
            run = "validation" if name.startswith("val_") else "train"
            self.writer.scalar(f"epoch/{name.removeprefix('val_')}", value, run=run)
        self._last = dict(logs)
        if _due(epoch, self.histogram_every):
            self._write_histograms(trainer)
        if self.sample is not None and _due(epoch, self.sample_every):
            self._write_sample(trainer)
        if self.images is not None:
            for name, images in self.images(trainer, epoch).items():
                self.writer.image(f"images/{name}", images)
        if self.embeddings is not None and _due(epoch, self.embeddings.every):
            self._write_embeddings(trainer, self.embeddings)
        self.writer.flush()

    def on_train_end(self, trainer: Any) -> None:
        """Writes the hyper-parameters with the last metrics, and closes the logs."""
        if not self._open:
            # The logs could not be opened.
            return
        self._open = False
        self._write_pending()
        if self._tracing:
            self._stop_trace(trainer)
        # Where an error ends training, there is nothing to look at.
        failed = isinstance(sys.exception(), Exception)
        if self.embeddings is not None and not (self.embeddings.every or failed):
            self._write_embeddings(trainer, self.embeddings)
        results = {f"hparam/{name}": value for name, value in self._last.items()}
        self.writer.hyperparameters(trainer.hyperparameters(), results)
        self.writer.end()

    def _summary(self, trainer: Any) -> str:
        model = trainer.model_with_state()
        try:
            return str(model.summary())
        except (FlaxError, ShapeError):
            # A module of the user's own: nobody has said what it takes, or it needs a key.
            return repr(model)

    def _write_graph(self, trainer: Any) -> None:
        model = trainer.model_with_state()
        known = model.spec.input_shape is not None
        try:
            self.writer.graph(model, model.spec.sample() if known else trainer.inputs)
        except (FlaxError, TypeError, ValueError) as error:
            # It may train though it does not run as it is, without a key for one.
            reason = str(error).partition("\n")[0]
            warnings.warn(f"TensorBoard has no graph of {model!r}: {reason}", stacklevel=2)

    def _write_pending(self) -> None:
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        for name, value in metrics.compute().items():
            self.writer.scalar(f"step/{name}", value, step)

    def _write_histograms(self, trainer: Any) -> None:
        for path, leaf in flatten(gathered(trainer.state.params)).items():
            values = np.asarray(leaf, np.float32).ravel()
            values = values[np.isfinite(values)]
            if values.size:
                self.writer.histogram(f"parameters/{path}", values)

    def _write_sample(self, trainer: Any) -> None:
        inputs = np.asarray(self.sample)
        outputs = np.asarray(trainer.model_with_state()(inputs), np.float32)
        if outputs.shape == inputs.shape:
            self.writer.image("sample/outputs", outputs)
        elif outputs.ndim == 2 and outputs.shape[1] > 1:
            figure = prediction_grid(
                inputs, self.labels, np.asarray(jax.nn.softmax(outputs)), self.class_names
            )
            self.writer.figure("sample/predictions", figure)

    def _write_embeddings(self, trainer: Any, sample: Embeddings) -> None:
        model = trainer.model_with_state()
        vectors = sample.vectors(model)
        if not np.isfinite(vectors).all():
            # Whoever watches for NaN says more; the logs are not what should end training.
            warnings.warn(
                f"no embeddings of step {trainer.step}: the features are not finite", stacklevel=2
            )
            return
        labels = sample.named(self.class_names or model.spec.classes)
        self.writer.embedding(sample.name, vectors, labels=labels, images=sample.pictures())

    def _profile(self, trainer: Any) -> None:
        if self.profile_steps is None:
            return
        first, last = self.profile_steps
        if self._tracing and self._step >= last:
            self._stop_trace(trainer)
        elif not self._tracing and self._step == first - 1:
            jax.block_until_ready(trainer.state.params)
            start_trace(Path(self.log_dir or "."))
            self._tracing = True

    def _stop_trace(self, trainer: Any) -> None:
        # The last step may still be running.
        jax.block_until_ready(trainer.state.params)
        jax.profiler.stop_trace()
        self._tracing = False


def _code_block(text: str) -> str:
    # TensorBoard reads Markdown; indented text keeps its columns.
    return "\n".join("    " + line for line in text.splitlines())


def _due(epoch: int, every: int) -> bool:
    return bool(every) and (epoch + 1) % every == 0


def _is_range(value: Any) -> bool:
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(is_size, value))
    return pair and value[0] <= value[1]
