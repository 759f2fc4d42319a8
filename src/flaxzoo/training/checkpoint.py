"""Checkpoints of a run, through Orbax: atomic, asynchronous, the best and the last kept."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from flaxzoo._files import as_path
from flaxzoo._trees import by_path, compare, flatten, map_by_path, unflatten
from flaxzoo._version import __version__
from flaxzoo.errors import CheckpointError, DataError
from flaxzoo.training.refreezing import with_freezing
from flaxzoo.training.state import TrainState
from flaxzoo.weights.files import save_variables

FORMAT = "flaxzoo.checkpoint"
_VERSION = 1
# What of a TrainState changes in training; the rest is configuration.
_FIELDS = ("params", "batch_stats", "collections", "opt_state", "step", "rng")


def state_arrays(state: TrainState) -> dict[str, Any]:
    """The arrays of a state by path, such as ``opt_state/0/mu/backbone/conv_0/kernel``."""
    return {
        path: leaf
        for name in _FIELDS
        for path, leaf in by_path({name: getattr(state, name)}).items()
    }


def with_arrays(state: TrainState, arrays: Mapping[str, Any]) -> TrainState:
    """The state with the arrays of another that ``state_arrays`` gave."""
    tree = {name: getattr(state, name) for name in _FIELDS}
    return state.replace(**map_by_path(lambda path, _: arrays[path], tree))


def to_bytes(state: TrainState) -> bytes:
    """A state's arrays as ``flax.serialization`` bytes (msgpack), for one small file.

    ``flax.serialization.to_bytes(state)`` works as well; this leaves the configuration out.
    """
    return serialization.msgpack_serialize(jax.tree.map(np.asarray, unflatten(state_arrays(state))))


def from_bytes(state: TrainState, data: bytes) -> TrainState:
    """A state with the arrays that ``to_bytes`` wrote.

    Args:
      state: a state of the same model, optimizer and frozen parameters.
      data: the bytes.

    Raises:
      CheckpointError: the bytes are damaged, or of another model or optimizer.
    """
    try:
        arrays = flatten(serialization.msgpack_restore(data))
    except Exception as error:
        raise CheckpointError(f"the bytes are not a serialised state ({error})") from error
    compare(state_arrays(state), arrays, source="the serialised state")
    return with_arrays(state, {name: jnp.asarray(leaf) for name, leaf in arrays.items()})


def export_safetensors(state: TrainState, path: str | os.PathLike[str]) -> None:
    """Writes the state's variables for inference, as ``models.get(pretrained=path)`` reads them.

    Raises:
      DataError: the file cannot be written.
    """
    save_variables(path, state.eval_variables)


class Checkpoints:
    """A directory with one checkpoint per saved step.

    Args:
      directory: the directory, which the first save makes.
      keep: how many of the latest to keep; None keeps all.
      keep_best: how many of the best to keep besides, by the score given to ``save``.
      asynchronous: whether files are written in the background while training goes on.

    Raises:
      DataError: the directory cannot be made or written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int | None = 1,
        keep_best: int = 1,
        asynchronous: bool = True,
    ) -> None:
        self.directory = as_path(directory).absolute()
        self._keep, self._keep_best = keep, keep_best
        self._asynchronous = asynchronous
        self._manager: Any = None

    def save(
        self,
        state: TrainState,
        step: int,
        meta: Mapping[str, Any],
        *,
        score: float | None = None,
    ) -> Path:
        """Saves a state; one of the same step is replaced.

        The arrays are copied before this returns, so that the caller may donate them.

        Args:
          state: what to save.
          step: the number of updates that it has taken.
          meta: what else belongs to it; JSON.
          score: how good it is, higher being better; None if nobody knows.

        Returns:
          The checkpoint's directory, complete once ``wait`` has returned.
        """
        import orbax.checkpoint as ocp

        manager = self._open()
        path = self.directory / str(step)
        if step in manager.all_steps():
            manager.wait_until_finished()
            manager.delete(step)
        document = {"format": FORMAT, "version": _VERSION, "flaxzoo": __version__, **meta}
        try:
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(unflatten(state_arrays(state))),
                    meta=ocp.args.JsonSave(document),
                ),
                metrics=None if score is None else {"score": float(score)},
                force=True,
            )
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}") from error
        return path

    def set_aside(self, run: str, step: int) -> Path | None:
        """Moves what another run has left out of the way.

        Its checkpoints would count as the latest or the best, and the new ones be deleted in
        their stead.

        Args:
          run: the present run's identity; checkpoints with another are set aside.
          step: where the present run stands; it has abandoned those that are later.

        Returns:
          Where the whole directory has been moved, or None if all in it is this run's.
        """
        steps = saved_steps(self.directory)
        if all(saved <= step and self._is_of(run, saved) for saved in steps):
            return None
        number = 1
        while (target := self.directory.with_name(f"{self.directory.name}.{number}")).exists():
            number += 1
        self.directory.rename(target)
        warnings.warn(
            f"{self.directory} held checkpoints of another run; they are now in {target}",
            stacklevel=3,
        )
        return target

    def _is_of(self, run: str, step: int) -> bool:
        try:
            return read_meta(self.directory / str(step)).get("run") == run
        except CheckpointError:
            return False

    def wait(self) -> None:
        """Returns when all saves are on disk."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and stops the writer's threads."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp
            from orbax.checkpoint import checkpoint_managers as policies

            require_writable(self.directory)
            # LatestN(None) keeps all.
            keep: list[Any] = [policies.LatestN(self._keep)]
            if self._keep_best:
                keep.append(
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics["score"],
                        n=self._keep_best,
                        keep_checkpoints_without_metrics=False,
                    )
                )
            with _quiet():
                self._manager = ocp.CheckpointManager(
                    self.directory,
                    options=ocp.CheckpointManagerOptions(
                        preservation_policy=policies.AnyPreservationPolicy(keep),
                        # Without it the scores are not written, and a resumed run's best forgotten.
                        best_fn=lambda metrics: metrics["score"],
                        enable_async_checkpointing=self._asynchronous,
                    ),
                )
        return self._manager


def saved_steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps of the finished checkpoints in a directory, ascending; reads, never writes."""
    directory = as_path(directory)
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit() and p.is_dir())


def restore(
    directory: str | os.PathLike[str], state: TrainState, which: int | str = "last"
) -> tuple[TrainState, dict[str, Any]]:
    """Reads a checkpoint; the directory is left as it is, whatever happens.

    What was frozen when it was written is frozen in the state that comes back.

    Args:
      directory: the directory with all checkpoints.
      state: a state of the same model and optimizer; the result has its configuration.
      which: a step, ``"last"`` or ``"best"``.

    Returns:
      The state, and the ``meta`` that was saved with it.

    Raises:
      CheckpointError: there is none, it is damaged, or it is of another model or optimizer; the
        message names the directory and the first arrays that differ.
    """
    import orbax.checkpoint as ocp

    directory = as_path(directory).absolute()
    step = find_step(directory, which)
    path = directory / str(step)
    meta = read_meta(path)
    if meta.get("freezing") is not None:
        # What is frozen had changed since the run began, and with it the optimizer's state.
        try:
            state = with_freezing(state, meta["freezing"])
        except ValueError as error:
            raise CheckpointError(f"checkpoint {path} does not fit this model: {error}") from error
    expected = state_arrays(state)
    try:
        with _quiet(), ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(path / "state")
            saved = flatten(getattr(metadata, "item_metadata", metadata).tree)
            compare(expected, saved, source=f"checkpoint {path}", owner=_owner(expected, saved))
            # Where it was trained may not be here: everything goes to where the state is.
            target = {
                k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
                for k, x in expected.items()
            }
            arrays = flatten(checkpointer.restore(path / "state", unflatten(target)))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {_one_line(error)}") from error
    return with_arrays(state, arrays), meta


def _owner(expected: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    # Where only the optimizer's arrays differ, it is the optimizer that is another.
    def model(flat: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return {k: tuple(x.shape) for k, x in flat.items() if not k.startswith("opt_state/")}

    same = model(expected) == model(saved)
    return "this optimizer and its options (the model fits)" if same else "this model"


def find_step(directory: Path, which: int | str) -> int:
    """The step that ``which`` stands for.

    Raises:
      CheckpointError: the directory has no such checkpoint; it lists those there are.
    """
    steps = saved_steps(directory)
    if not steps:
        raise CheckpointError(f"{directory} holds no checkpoint")
    if which == "last":
        return steps[-1]
    if which == "best":
        scored = {step: read_meta(directory / str(step)).get("score") for step in steps}
        known = {step: score for step, score in scored.items() if score is not None}
        if not known:
            raise CheckpointError(
                f"{directory}: no checkpoint was saved with a score, so none is the best; "
                f"steps: {', '.join(map(str, steps))}"
            )
        return max(known, key=lambda step: (known[step], step))
    if which not in steps:
        raise CheckpointError(
            f"{directory} has no checkpoint of step {which!r}; it has "
            f"{', '.join(map(str, steps))}, 'last' and 'best'"
        )
    return int(which)


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON that was saved with a checkpoint.

    Raises:
      CheckpointError: it is missing, damaged or not flaxzoo's.
    """
    import json

    file = path / "meta" / "metadata"
    try:
        meta = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is not a flaxzoo checkpoint: it has no {file.name}"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {file.name}: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a flaxzoo checkpoint")
    if meta["version"] > _VERSION:
        raise CheckpointError(
            f"{path} was written by flaxzoo {meta.get('flaxzoo')} in a later format; "
            "pip install -U flaxzoo"
        )
    return meta


def require_writable(directory: Path) -> None:
    """Makes a directory and a file in it, so that a run fails before it trains, not after.

    Raises:
      DataError: it cannot be made or written; the message names it.
    """
    probe = directory / ".writable"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(f"cannot write to {directory}: {error.strerror or error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Orbax logs each step of a routine save or read at WARNING.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


__all__ = [
    "Checkpoints",
    "export_safetensors",
    "from_bytes",
    "restore",
    "saved_steps",
    "to_bytes",
]
