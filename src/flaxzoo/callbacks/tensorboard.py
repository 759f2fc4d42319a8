"""TensorBoard logs: scalars, images, text, histograms, hyper-parameters and profiles."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxzoo._checks import check_size
from flaxzoo._explain import explained
from flaxzoo._extras import require
from flaxzoo._figures import displayable, to_array
from flaxzoo._files import as_path
from flaxzoo._trees import flatten
from flaxzoo.callbacks.base import Callback, path_in_run
from flaxzoo.debug import start_trace
from flaxzoo.errors import CallbackError, ShapeError
from flaxzoo.plots import prediction_grid


@explained
class TensorBoard(Callback):
    """Writes what TensorBoard shows; needs the extra ``tensorboard``.

    Training and validation are two runs, ``train`` and ``validation``, below the log directory,
    so that TensorBoard draws them in one chart. The horizontal axis is the number of updates.
    What a resumed run writes replaces what was logged after its starting point.

    ====================  ========================================================
    tag                   what
    ====================  ========================================================
    ``epoch/<metric>``    the epoch's metrics, in both runs, and ``learning_rate``
    ``step/<metric>``     one batch's metrics, every ``every_steps`` updates
    ``parameters/<path>`` histograms, every ``histogram_every`` epochs
    ``sample/...``        the sample and what the model makes of it
    ``images/<name>``     what ``images`` returned
    ``model/summary``     the layer table, as text
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
      profile_steps: first and last update to record with ``jax.profiler``, counted from 1, for
        the Profile tab. Leave out the first update: it compiles.

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
        profile_steps: tuple[int, int] | None = None,
    ) -> None:
        self._module = require("tensorboardX", extra="tensorboard", purpose="TensorBoard")
        if profile_steps is not None and not 1 <= profile_steps[0] <= profile_steps[1]:
            raise CallbackError(
                f"profile_steps must be (first, last) with 1 <= first <= last, got {profile_steps}"
            )
        self.log_dir = None if log_dir is None else as_path(log_dir)
        self.every_steps = check_size("every_steps", every_steps, minimum=0)
        self.histogram_every = check_size("histogram_every", histogram_every, minimum=0)
        self.sample, self.labels = sample if isinstance(sample, tuple) else (sample, None)
        self.sample_every = check_size("sample_every", sample_every)
        self.class_names = class_names
        self.images = images
        self.profile_steps = profile_steps
        self._writers: dict[str, Any] = {}
        self._pending: tuple[int, Any] | None = None
        # Number of updates at the start of this run, and now.
        self._start = self._step = 0
        self._last: dict[str, float] = {}
        self._tracing = False

    def on_train_begin(self, trainer: Any) -> None:
        """Opens the logs; writes the model's summary and the sample's inputs."""
        if self.log_dir is None:
            self.log_dir = path_in_run(trainer, "tensorboard", "TensorBoard", "log_dir")
        self._close()
        if self._tracing:
            # An exception ended the last run within its profile.
            self._stop_trace(trainer)
        self._start = self._step = int(trainer.state.step)
        self._last, self._pending = {}, None
        writer = self._writer("train")
        writer.add_text("model/summary", _code_block(self._summary(trainer)), self._step)
        if self.sample is not None:
            self._write_images("sample/inputs", self.sample)
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
        """Writes the epoch's scalars, and at times histograms and images."""
        self._write_pending()
        rate = {} if trainer.learning_rate is None else {"learning_rate": trainer.learning_rate}
        for name, value in {**rate, **logs}.items():
            run = "validation" if name.startswith("val_") else "train"
            tag = f"epoch/{name.removeprefix('val_')}"
            self._writer(run).add_scalar(tag, float(value), self._step)
        self._last = dict(logs)
        if self.histogram_every and (epoch + 1) % self.histogram_every == 0:
            self._write_histograms(trainer)
        if self.sample is not None and (epoch + 1) % self.sample_every == 0:
            self._write_sample(trainer)
        if self.images is not None:
            for name, images in self.images(trainer, epoch).items():
                self._write_images(f"images/{name}", images)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, trainer: Any) -> None:
        """Writes the hyper-parameters with the last metrics, and closes the logs."""
        if not self._writers:
            # The logs could not be opened.
            return
        self._write_pending()
        if self._tracing:
            self._stop_trace(trainer)
        values = {name: _plain(value) for name, value in trainer.hyperparameters().items()}
        results = {f"hparam/{k}": float(v) for k, v in self._last.items() if math.isfinite(v)}
        self._writer("train").add_hparams(values, results, "hparams", self._step)
        self._close()

    def _writer(self, run: str) -> Any:
        if run not in self._writers:
            directory = Path(self.log_dir or ".") / run
            try:
                directory.mkdir(parents=True, exist_ok=True)
                # Hides what an interrupted run logged after the checkpoint that this one goes on
                # from, and all of an earlier run if this one starts anew.
                purge = self._start + 1 if self._start else 0
                # The name of an event file has the second only: two runs in one second would
                # share a file. TensorBoard reads files in the order of their names.
                self._writers[run] = self._module.SummaryWriter(
                    str(directory), purge_step=purge, filename_suffix=f".{time.time_ns()}"
                )
            except OSError as error:
                raise CallbackError(
                    f"TensorBoard cannot write {directory}: {error.strerror}"
                ) from error
        return self._writers[run]

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _summary(self, trainer: Any) -> str:
        try:
            return str(trainer.model.summary())
        except ShapeError:
            # A module of the user's own: nobody has said what it takes.
            return repr(trainer.model)

    def _write_pending(self) -> None:
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        for name, value in metrics.compute().items():
            self._writer("train").add_scalar(f"step/{name}", float(value), step)

    def _write_histograms(self, trainer: Any) -> None:
        for path, leaf in flatten(trainer.state.params).items():
            values = np.asarray(leaf, np.float32).ravel()
            values = values[np.isfinite(values)]
            if values.size:
                self._writer("train").add_histogram(f"parameters/{path}", values, self._step)

    def _write_sample(self, trainer: Any) -> None:
        inputs = np.asarray(self.sample)
        outputs = np.asarray(trainer.model_with_state()(inputs), np.float32)
        if outputs.shape == inputs.shape:
            self._write_images("sample/outputs", outputs)
        elif outputs.ndim == 2 and outputs.shape[1] > 1:
            figure = prediction_grid(
                inputs, self.labels, np.asarray(jax.nn.softmax(outputs)), self.class_names
            )
            grid = to_array(figure)
            self._writer("train").add_image(
                "sample/predictions", grid, self._step, dataformats="HWC"
            )

    def _write_images(self, tag: str, images: Any) -> None:
        shown = displayable(images, "images")
        if shown.ndim == 3:
            shown = shown[..., None]
        self._writer("train").add_images(tag, shown, self._step, dataformats="NHWC")

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


def _plain(value: Any) -> Any:
    """A Python value that tensorboardX takes; anything else as its text."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
