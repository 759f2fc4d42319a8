"""Scalars, text, pictures, histograms, graphs and embeddings, in files that TensorBoard reads."""

from __future__ import annotations

import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from flaxzoo._checks import check_size
from flaxzoo._explain import explained, missing_attribute
from flaxzoo._extras import require
from flaxzoo._figures import displayable, to_array
from flaxzoo._files import as_path
from flaxzoo._processes import silent
from flaxzoo.callbacks._graph import function_graph, model_graph, to_graph_def
from flaxzoo.callbacks._projector import EmbeddingFiles, Projector
from flaxzoo.errors import ArgumentError, CallbackError, DataError
from flaxzoo.model import Model


@explained
class EventWriter:
    """Writes what TensorBoard shows, at once and in the order of the calls.

    ``TensorBoard.writer`` is one: it counts the trainer's updates, so that ``step`` can be left
    out, and may be used from other callbacks, before ``fit`` and after it. Another may be made for
    a directory without any training.

    Tags with a ``/`` are grouped by what stands before it. Every call takes ``run``, the folder
    below ``log_dir`` that TensorBoard shows as one run: ``"train"`` unless told otherwise.

    Args:
      log_dir: the directory; made when something is written. None where it is not known yet.

    Attributes:
      log_dir: the directory, or None.

    Raises:
      MissingExtraError: tensorboardX is not installed.
      CallbackError: (from the methods) there is no ``log_dir`` yet, or it cannot be written.
      ArgumentError: (from the methods) an argument is not what it must be.
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None) -> None:
        _tensorboardx()
        self.log_dir = None if log_dir is None else as_path(log_dir)
        self._files: dict[str, Any] = {}
        self._projectors: dict[str, Projector] = {}
        # The trainer whose updates are counted, and their number when it was last seen.
        self._trainer: Any = None
        self._last_step = 0
        # Number of updates from which on files hide what older ones say; None for nothing.
        self._purge: int | None = None
        # How to write again what was written before the first training, which may have to hide all
        # that was there before it.
        self._before: list[Callable[[], None]] | None = None

    __getattr__ = missing_attribute

    @property
    def step(self) -> int:
        """The number of updates that calls without ``step`` are put at: the trainer's."""
        if self._trainer is not None:
            self._last_step = int(self._trainer.step)
        return self._last_step

    def scalar(self, tag: str, value: Any, step: int | None = None, *, run: str = "train") -> None:
        """Writes one number, for the Time Series tab.

        Args:
          tag: what the chart is called.
          value: a number, or an array with one.
          step: number of updates; by default the trainer's.
          run: the run to write to; ``"validation"`` is the other one that the callback has.
        """
        number = _number(tag, value)
        self._write(run, lambda file, at: file.add_scalar(tag, number, at), tag, step)

    def text(self, tag: str, text: str, step: int | None = None, *, run: str = "train") -> None:
        """Writes a text, which TensorBoard reads as Markdown.

        Args:
          tag: what the text is called.
          text: the text.
          step: number of updates; by default the trainer's.
          run: the run to write to.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"text must be a str, got {type(text).__name__}: {text!r}")
        self._write(run, lambda file, at: file.add_text(tag, text, at), tag, step)

    def image(self, tag: str, images: Any, step: int | None = None, *, run: str = "train") -> None:
        """Writes one image or several.

        Args:
          tag: what the images are called.
          images: ``[N, H, W]`` or ``[N, H, W, 1 | 3]``, uint8 or floats; floats that leave
            ``[0, 1]`` are stretched from their smallest and largest value. One of ``[H, W, 1 | 3]``
            is written alone.
          step: number of updates; by default the trainer's.
          run: the run to write to.

        Raises:
          ShapeError: another shape.
          DataError: no images.
        """
        array = np.asarray(images)
        if array.ndim == 3 and array.shape[-1] in (1, 3):
            array = array[None]
        shown = displayable(array, "images")
        shown = shown[..., None] if shown.ndim == 3 else shown
        self._write(
            run, lambda file, at: file.add_images(tag, shown, at, dataformats="NHWC"), tag, step
        )

    def figure(self, tag: str, figure: Any, step: int | None = None, *, run: str = "train") -> None:
        """Writes a Matplotlib figure as an image; needs the extra ``plots``.

        Args:
          tag: what the image is called.
          figure: a ``matplotlib.figure.Figure``, such as those of ``flaxzoo.plots``.
          step: number of updates; by default the trainer's.
          run: the run to write to.
        """
        kind = require("matplotlib.figure", extra="plots", purpose="EventWriter.figure").Figure
        if not isinstance(figure, kind):
            hint = "; pass axes.figure" if hasattr(figure, "figure") else ""
            raise ArgumentError(
                f"figure must be a matplotlib Figure, got {type(figure).__name__}{hint}"
            )
        pixels = to_array(figure)
        self._write(
            run, lambda file, at: file.add_image(tag, pixels, at, dataformats="HWC"), tag, step
        )

    def histogram(
        self, tag: str, values: Any, step: int | None = None, *, run: str = "train"
    ) -> None:
        """Writes how values are distributed; those that are not finite are left out and warned of.

        Args:
          tag: what the histogram is called.
          values: numbers of any shape.
          step: number of updates; by default the trainer's.
          run: the run to write to.

        Raises:
          DataError: there are no values.
        """
        array = np.asarray(values, np.float32).ravel()
        if not array.size:
            raise DataError(f"the histogram {tag!r} has no values")
        finite = array[np.isfinite(array)]
        if finite.size < array.size:
            warnings.warn(
                f"histogram {tag!r}: {array.size - finite.size:,} of {array.size:,} values are "
                "not finite and are left out",
                stacklevel=2,
            )
        if finite.size:
            self._write(run, lambda file, at: file.add_histogram(tag, finite, at), tag, step)

    def graph(self, model: Any, *inputs: Any, run: str = "train") -> None:
        """Writes the operations of a model or a function, for the Graphs tab; the last one counts.

        Nothing is computed. Operations are grouped by Linen module.

        Args:
          model: a ``flaxzoo.Model``, or any function that JAX can trace.
          *inputs: what it is called with, as arrays or ``jax.ShapeDtypeStruct``; a model whose
            input shape is known needs none.
          run: the run to write to.

        Raises:
          ShapeError: the input shape of the model is not known, or ``inputs`` do not fit.
        """
        if isinstance(model, Model):
            if len(inputs) > 1:
                raise ArgumentError(f"a model takes one batch of inputs, got {len(inputs)}")
            sample = inputs[0] if inputs else model.spec.sample()
            nodes = model_graph(model.module, model.shapes(sample), sample)
        elif callable(model):
            nodes = function_graph(model, *inputs)
        else:
            raise ArgumentError(
                f"model must be a flaxzoo.Model or a function, got {type(model).__name__}"
            )
        proto = require("tensorboardX.proto.event_pb2", extra="tensorboard", purpose="TensorBoard")
        event = proto.Event(graph_def=to_graph_def(nodes).SerializeToString())
        self._write(run, lambda file, at: file.file_writer.add_event(event, at), "graph")

    def embedding(
        self,
        name: str,
        vectors: Any,
        step: int | None = None,
        *,
        labels: Sequence[Any] | Mapping[str, Sequence[Any]] | None = None,
        images: Any = None,
        run: str = "train",
    ) -> None:
        """Writes vectors with labels and thumbnails, for the Projector tab.

        They are files beside the events: ``projector/<name>/<step>`` in the run's folder. Each step
        is an entry of its own in the tab's menu. TensorBoard looks for new ones when it starts.

        Args:
          name: of the embedding, without ``/``.
          vectors: ``[N, D]``, such as the features of a backbone.
          step: number of updates; by default the trainer's.
          labels: N labels, or several columns of them by name. What the tab's files cannot hold,
            tabs and line ends, becomes spaces.
          images: N thumbnails ``[N, H, W]`` or ``[N, H, W, 1 | 3]``; they are shrunk to at most 64
            pixels a side, and further where there are so many that they would not fit the 8,192
            pixels that TensorBoard takes.
          run: the run to write to.

        Raises:
          ShapeError: ``vectors`` are no matrix, or the others not as many.
          DataError: a vector is not finite, or there are none.
        """
        at = self._at(step)
        files = EmbeddingFiles(name, at, vectors, labels, images)
        put = functools.partial(self._put_embedding, run, files)
        put()
        self._remember(put)

    def hyperparameters(
        self, values: Mapping[str, Any], results: Mapping[str, Any], *, run: str = "train"
    ) -> None:
        """Writes settings beside what came of them, for the HParams tab.

        Args:
          values: settings by name; what is no number, text or bool is written as its text.
          results: numbers by name; those that are not finite are left out.
          run: the run to write to.
        """
        plain = {name: _plain(value) for name, value in values.items()}
        finite = {name: float(v) for name, v in results.items() if math.isfinite(v)}
        self._file(run).add_hparams(plain, finite, "hparams", self.step)

    def flush(self) -> None:
        """Brings what has been written to the disk; the latest may take a moment longer.

        tensorboardX writes in a thread, for which ``close`` waits.
        """
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Ends the files; a later call begins new ones."""
        for file in self._files.values():
            file.close()
        self._files, self._projectors = {}, {}

    def __getstate__(self) -> dict[str, Any]:
        # Files and trainers stay where they are; a copy begins files of its own.
        self.flush()
        kept = {"log_dir": self.log_dir, "_last_step": self.step, "_trainer": None, "_purge": None}
        before: list[Any] | None = None if self._before is None else []
        return {**kept, "_files": {}, "_projectors": {}, "_before": before}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, trainer: Any, log_dir: str | os.PathLike[str]) -> None:
        """Counts a trainer's updates from now on; ``TensorBoard`` calls it.

        Hides what an interrupted run wrote after the checkpoint that this one goes on from, and all
        of an earlier run if this one starts anew.
        """
        self.close()
        self.log_dir, self._trainer = as_path(log_dir), trainer
        start = self.step
        self._purge = start + 1 if start else 0
        before, self._before = self._before or [], None
        if not start:
            for write_again in before:
                write_again()

    def end(self) -> None:
        """Ends what ``begin`` began; what follows is put at the last update."""
        self._last_step, self._trainer, self._purge = self.step, None, None
        self.close()

    def keep_until_begin(self) -> None:
        """Remembers what is written until ``begin``, which may have to write it again."""
        self._before = []

    def _write(
        self, run: str, write: Callable[[Any, int], Any], tag: str, step: int | None = None
    ) -> None:
        if not isinstance(tag, str) or not tag:
            raise ArgumentError(f"tag must be a str that is not empty, got {tag!r}")
        at = self._at(step)
        put = functools.partial(self._put, run, write, at)
        put()
        self._remember(put)

    def _put(self, run: str, write: Callable[[Any, int], Any], step: int) -> None:
        if not silent():
            write(self._file(run), step)

    def _put_embedding(self, run: str, files: EmbeddingFiles) -> None:
        if silent():
            return
        # A folder without events would be no run.
        self._file(run).flush()
        if run not in self._projectors:
            self._projectors[run] = Projector(self._directory(run), self._purge)
        self._projectors[run].add(files)

    def _remember(self, put: Callable[[], None]) -> None:
        if self._before is not None:
            self._before.append(put)

    def _at(self, step: int | None) -> int:
        return self.step if step is None else check_size("step", step, minimum=0)

    def _directory(self, run: str) -> Path:
        if (
            not isinstance(run, str)
            or not run
            or ".." in Path(run).parts
            or Path(run).is_absolute()
        ):
            raise ArgumentError(f"run must be the name of a folder below log_dir, got {run!r}")
        if self.log_dir is None:
            raise CallbackError(
                "the writer has nowhere to write before fit: pass log_dir=, or use it in fit"
            )
        return self.log_dir / run

    def _file(self, run: str) -> Any:
        if run not in self._files:
            directory = self._directory(run)
            try:
                directory.mkdir(parents=True, exist_ok=True)
                # The name of an event file has the second only: two runs in one second would
                # share a file. TensorBoard reads files in the order of their names.
                self._files[run] = _tensorboardx().SummaryWriter(
                    str(directory),
                    purge_step=self._purge,
                    filename_suffix=f".{time.time_ns()}",
                )
            except OSError as error:
                raise CallbackError(
                    f"TensorBoard cannot write {directory}: {error.strerror}"
                ) from error
        return self._files[run]


def _tensorboardx() -> Any:
    return require("tensorboardX", extra="tensorboard", purpose="TensorBoard")


def _number(tag: str, value: Any) -> float:
    try:
        array = np.asarray(jax.device_get(value), np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.size != 1:
        raise ArgumentError(f"the value of {tag!r} must be one number, got {value!r}")
    return float(array.reshape(()))


def _plain(value: Any) -> Any:
    """A Python value that tensorboardX takes; anything else as its text."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
