"""Features of a frozen backbone, computed once: in memory, or in a directory that can resume."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxzoo._explain import explained
from flaxzoo._files import as_path, sole_writer
from flaxzoo._processes import from_main, several, silent
from flaxzoo.errors import DataError
from flaxzoo.model import Model
from flaxzoo.training.agreement import compare
from flaxzoo.training.interrupts import StopRequest, stop_requests
from flaxzoo.training.shared_paths import check_shared
from flaxzoo.transfer import _fingerprints as fingerprints
from flaxzoo.transfer._extraction import Extraction
from flaxzoo.transfer._feature_files import MANIFEST, FeatureWriter, Manifest, rebuild


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Features:
    """What ``extract_features`` returns: features with their targets, as data to train on.

    ``Trainer.fit(features)`` takes it as it is, and ``features.arrays`` goes wherever arrays go:
    into ``train_test_split``, ``ArrayDataset``, scikit-learn.

    Attributes:
      inputs: what the head gets, ``[N, ...]``; a tree for a backbone that returns several arrays.
        Memory-mapped where it is in a directory.
      targets: the data's targets, in its order; None where it has none.
      weights: float32 ``[N]`` where the data weights its examples differently, else None.
      directory: the directory that they are in, or None.
    """

    inputs: Any
    targets: Any = None
    weights: Any = None
    directory: Path | None = None

    @property
    def arrays(self) -> tuple[Any, ...]:
        """``(inputs, targets)``, with the weights where there are some, or inputs alone."""
        if self.weights is not None:
            return (self.inputs, self.targets, self.weights)
        return (self.inputs,) if self.targets is None else (self.inputs, self.targets)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Features:
        """Memory-maps what ``extract_features(..., directory=...)`` wrote.

        Raises:
          DataError: there are no features, they are damaged, or the extraction has not ended.
        """
        directory = as_path(directory)
        manifest = Manifest.read(directory)
        if not manifest.complete:
            raise DataError(
                f"{directory}: not complete, {manifest.progress} done; run extract_features "
                "again with the same arguments, and it goes on from there"
            )
        arrays = [
            column.open(directory, manifest.examples, sha256)
            for column, sha256 in zip(manifest.columns, manifest.noted, strict=True)
        ]
        tree = rebuild(manifest.structure, arrays)
        return cls(tree["inputs"], tree["targets"], _unlike_one(tree["weights"]), directory)

    def __len__(self) -> int:
        """Number of examples."""
        return len(jax.tree.leaves(self.inputs)[0])

    def __repr__(self) -> str:
        parts = [f"{len(self)} examples", f"inputs {fingerprints.layout(self.inputs)}"]
        if self.targets is not None:
            parts.append(f"targets {fingerprints.layout(self.targets)}")
        if self.weights is not None:
            parts.append("weights")
        if self.directory is not None:
            parts.append(f"in {self.directory}")
        return f"Features({', '.join(parts)})"


@explained
def extract_features(
    model: Model,
    data: Any,
    *,
    directory: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    steps: int | None = None,
    pooling: str | None = None,
    dtype: Any = None,
    resume: bool = True,
    progress: bool = True,
) -> Features:
    """Runs a backbone once over a data set, in inference mode.

    A head that is trained on the result learns what it would learn on top of the frozen backbone,
    at a fraction of the cost, as long as the data are not augmented.

    With a ``directory`` of their own the features are written there as they come, in constant
    memory. An extraction that was stopped (Ctrl-C, ``kill -9``, a full disk) goes on where it
    was when it is called again with the same arguments, losing at most about a second's work, and
    one that is complete is only opened. Data whose order changes from call to call, such as a
    shuffling loader, cannot be resumed, and is refused. Of data in memory every value counts;
    of a stream the first batch alone is compared.

    Several processes pass the same model and data, and each gets all features; the directory, which
    must be one of all, is written by the one of index 0.

    Args:
      model: a ``Classifier``, whose backbone is run, or any other model, run as a whole.
      data: arrays, a data set with ``epoch()``, any iterable of batches or a function that
        returns one; see ``flaxzoo.training.feed.Feed``. Arrays and ``ArrayDataset`` are read in
        their own order; of other data sets it is the order of epoch 0. Examples of weight 0 are
        filling and are left out.
      directory: the directory to write to; None keeps the features in memory.
      batch_size: examples per forward pass, for arrays.
      steps: how many batches to read, for endless iterables.
      pooling: ``"avg"``, ``"max"``, ``"avg+max"``, ``"token"``, ``"prefix"`` or ``"auto"``, the
        backbone's own way, as in ``flaxzoo.models.Head``, to pool maps ``[B, H, W, C]`` or tokens
        ``[B, N, C]`` before they are stored: 49 times smaller for a ResNet, and the same to a
        ``Head`` with ``pooling="auto"``. None stores what the head gets.
      dtype: floating type to store features in, such as ``"float16"``; by default the network's.
      resume: False does away with what is in ``directory`` first.
      progress: whether to show a progress bar.

    Returns:
      ``Features``.

    Raises:
      UninitializedError: the model has no variables.
      DataError: empty data, values or features that are not finite, a directory that cannot be
        written or holds features of another model or other data (the message says what differs).
      ShapeError: the data does not fit the model.
      DistributedError: (a RuntimeError) several processes pass different data, or a directory
        that is not one of all.
    """
    run = Extraction(model, data, batch_size, steps, pooling, dtype)
    if several():
        compare({"the first batch of data": fingerprints.digest(tuple(run.first))})
    if directory is None:
        return _to_memory(run, progress)
    directory = as_path(directory)
    check_shared(directory)
    fresh = _manifest(run)
    with contextlib.ExitStack() as stack:

        def begin() -> dict[str, Any]:
            stack.enter_context(sole_writer(directory, "features"))
            return dataclasses.asdict(_plan(fresh, directory, resume))

        # Those that write nothing compute along: the arrays may be divided among all devices.
        manifest = Manifest.of(from_main(f"the features in {directory}", begin))
        if not manifest.complete:
            _to_directory(run, directory, manifest, progress)
        from_main(f"the end of the features in {directory}", lambda: None)
    return Features.load(directory)


def _to_memory(run: Extraction, progress: bool) -> Features:
    parts: list[list[np.ndarray]] = []
    with _bar(run, progress) as bar:
        for leaves in run.batches():
            parts.append(leaves)
            bar.update(1)
    arrays = [np.concatenate([part[i] for part in parts]) for i in range(len(run.columns))]
    tree = rebuild(run.structure, arrays)
    weights = tree["weights"]
    if len(weights) == 0:
        raise DataError("no example of the data has a weight above 0: there are no features")
    return Features(tree["inputs"], tree["targets"], _unlike_one(weights))


def _unlike_one(weights: np.ndarray) -> np.ndarray | None:
    return weights if np.any(weights != 1) else None


def _manifest(run: Extraction) -> Manifest:
    """That of an extraction of which nothing is done."""
    return Manifest(
        model=run.model.spec.name,
        fingerprint=run.fingerprint(),
        columns=run.columns,
        structure=run.structure,
        total_batches=run.total_batches,
    )


def _plan(fresh: Manifest, directory: Path, resume: bool) -> Manifest:
    """The manifest to go on from: the one that is there, if it is of this extraction."""
    if (directory / MANIFEST).exists() and resume:
        manifest = Manifest.read(directory)
        differs = fingerprints.differences(manifest.fingerprint, fresh.fingerprint)
        if differs or manifest.columns != fresh.columns or manifest.structure != fresh.structure:
            raise DataError(
                f"{directory} holds other features (of model {manifest.model!r}). What differs: "
                f"{'; '.join(differs) or 'their layout'}. Use another directory, or resume=False "
                "to replace them"
            )
        return manifest
    old: set[str] = set()
    if (directory / MANIFEST).exists():
        with contextlib.suppress(DataError):
            old = {column.file for column in Manifest.read(directory).columns}
    else:
        there = [column.file for column in fresh.columns if (directory / column.file).exists()]
        if there:
            raise DataError(
                f"{directory} holds {', '.join(there)}, but no {MANIFEST}: these are files of "
                "somebody else's. Use another directory"
            )
    # From here on the directory is this extraction's, with nothing done yet.
    fresh.write(directory)
    for name in old - {column.file for column in fresh.columns}:
        (directory / name).unlink(missing_ok=True)
    return fresh


def _to_directory(run: Extraction, directory: Path, manifest: Manifest, progress: bool) -> None:
    writes: Any = contextlib.nullcontext() if silent() else FeatureWriter(directory, manifest)
    with (
        _bar(run, progress, manifest.batches) as bar,
        stop_requests() as stop,
        writes as writer,
        contextlib.closing(run.batches(manifest.batches)) as batches,
    ):
        for leaves in batches:
            if writer is not None:
                writer.append(leaves)
            bar.update(1)
            stop.look()
            if stop:
                break
        else:
            if writer is not None:
                writer.finish()
    if stop:
        _interrupted(directory, manifest, stop)


def _interrupted(directory: Path, manifest: Manifest, stop: StopRequest) -> None:
    rest = "" if manifest.complete else "; extract_features with the same arguments goes on"
    if not silent():
        print(
            f"\nStopped by {stop.signal.name}. "  # type: ignore[union-attr]
            f"{manifest.progress} are in {directory}{rest}.",
            flush=True,
        )
    if stop.signal == signal.SIGTERM:
        raise SystemExit(128 + signal.SIGTERM)
    raise KeyboardInterrupt


def _bar(run: Extraction, progress: bool, done: int = 0) -> Any:
    from tqdm.auto import tqdm

    return tqdm(
        total=run.total_batches,
        initial=done,
        desc="features",
        unit="batch",
        leave=False,
        # None shows the bar on a terminal or in a notebook only.
        disable=None if progress and not silent() else True,
        dynamic_ncols=True,
    )
