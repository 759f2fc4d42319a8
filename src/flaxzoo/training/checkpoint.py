"""Checkpoints of a run: which are kept, and which is read; written in the background."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  whose end comes before that of what is registered later
import contextlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from flaxzoo._explain import explained
from flaxzoo._files import as_path, digest_of_arrays, failures_told, sole_writer
from flaxzoo._finite import check_finite
from flaxzoo._processes import from_main, several
from flaxzoo._spread import is_spread, local
from flaxzoo._trees import by_path, compare, flatten, map_by_path, unflatten
from flaxzoo._warnings import warn
from flaxzoo.errors import CheckpointError, DataError
from flaxzoo.training import _checkpoint_files as _files
from flaxzoo.training.refreezing import with_freezing
from flaxzoo.training.shared_paths import check_shared
from flaxzoo.training.state import TrainState
from flaxzoo.weights.files import save_variables

# The entry of ``to_bytes`` that holds the digest of all others.
_DIGEST = "sha256"
# What of a TrainState changes in training; the rest is configuration.
_FIELDS = ("params", "batch_stats", "collections", "opt_state", "step", "rng", "loss_scale")
# A path that states have which scale their loss.
_SCALE = "loss_scale/scale"


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


@explained
def to_bytes(state: TrainState) -> bytes:
    """A state's arrays as ``flax.serialization`` bytes (msgpack), for one small file.

    ``flax.serialization.to_bytes(state)`` works as well; this leaves the configuration out, and
    adds the SHA-256 of the arrays.
    """
    arrays = {path: np.asarray(leaf) for path, leaf in state_arrays(state).items()}
    tree = {**unflatten(arrays), _DIGEST: digest_of_arrays(arrays)}
    return serialization.msgpack_serialize(tree)


@explained
def from_bytes(state: TrainState, data: bytes) -> TrainState:
    """A state with the arrays that ``to_bytes`` wrote.

    Args:
      state: a state of the same model, optimizer and frozen parameters.
      data: the bytes.

    Raises:
      CheckpointError: the bytes are damaged, or of another model or optimizer.

    Warns:
      UserWarning: parameters are not finite, or have more bits than JAX holds here.
    """
    source = "the serialised state"
    try:
        arrays = flatten(serialization.msgpack_restore(data))
        digest = arrays.pop(_DIGEST, None)
        damaged = digest is not None and digest != digest_of_arrays(arrays)
    except Exception as error:
        raise CheckpointError(f"the bytes are not a serialised state ({error})") from error
    if damaged:
        raise CheckpointError(f"{source} is damaged: its arrays are not what was written (SHA-256)")
    compare(state_arrays(state), arrays, source=source)
    arrays = {
        path: jnp.asarray(leaf, _as_here(leaf.dtype, source, path)) for path, leaf in arrays.items()
    }
    _tell_of_diverged(arrays, source)
    return with_arrays(state, arrays)


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
        self._held = contextlib.ExitStack()
        self._writer: threading.Thread | None = None
        self._failure: Exception | None = None
        _UNFINISHED.add(self)
        # The score of each checkpoint that counts when old ones go.
        self._scores: dict[int, float | None] | None = None

    def begin(self, run: str, step: int) -> None:
        """Takes the directory until ``close``, and puts out of the way what is not this run's.

        Checkpoints of another run would count as the latest or the best, and the new ones be
        deleted in their stead; so would this run's own that are later than where it stands. They
        are moved to a directory beside this one, with a warning. A damaged one keeps its place
        under the name ``<step>.damaged``.

        Args:
          run: the present run's identity; it may begin again while it has the directory.
          step: where the present run stands; it has abandoned those that are later.

        Raises:
          DataError: the directory cannot be made or written, or another run is writing there.
        """
        require_writable(self.directory)
        check_shared(self.directory)
        from_main(f"the checkpoints in {self.directory}", lambda: self._begin(run, step))

    def _begin(self, run: str, step: int) -> None:
        if _WRITING.get(self.directory.resolve()) == run:
            return
        self._held.enter_context(_sole_run(self.directory, run))
        target = _files.unused(self.directory.with_name(f"{self.directory.name}.1"))
        with failures_told(self.directory):
            apart = self._set_apart(run, step, target)
        for reason, steps in apart.items():
            moved = f"they are now in {target} ({', '.join(map(str, steps))})"
            warn(f"{self.directory} held checkpoints of {reason}; {moved}")

    def _set_apart(self, run: str, step: int, target: Path) -> dict[str, list[int]]:
        """Moves what is not of this run's past; returns what that is of, and the steps."""
        apart: dict[str, list[int]] = {}
        _files.sweep(self.directory)
        for saved in saved_steps(self.directory):
            folder = _files.folder_of(self.directory, saved)
            try:
                reason = _reason_to_move(folder, saved, run, step)
            except _files.DamagedCheckpointError as error:
                damaged = _files.unused(self.directory / f"{saved}.damaged")
                folder.rename(damaged)
                warn(f"{error}; it is now {damaged}")
                continue
            if reason:
                target.mkdir(exist_ok=True)
                folder.rename(target / str(saved))
                apart.setdefault(reason, []).append(saved)
        return apart

    def save(
        self,
        state: TrainState,
        step: int,
        meta: Mapping[str, Any],
        *,
        score: float | None = None,
    ) -> Path:
        """Saves a state.

        The arrays are copied before this returns, so that the caller may donate them. What is
        saved already, arrays and all, is not saved again; another checkpoint of the same step is
        replaced, and stays until the new one is whole.

        Args:
          state: what to save.
          step: the number of updates that it has taken.
          meta: what else belongs to it; JSON.
          score: how good it is, higher being better; None if nobody knows, or if that has been
            said of these arrays before.

        Returns:
          The checkpoint's directory, complete once ``wait`` has returned.

        Raises:
          DataError: the directory cannot be written, or the checkpoint before could not be.
        """
        self.wait()
        require_writable(self.directory)
        if several():
            return self._save_together(state, step, {**meta, "score": score})
        arrays = {path: np.array(leaf) for path, leaf in state_arrays(state).items()}
        # What JSON cannot hold is told here, and not from another thread.
        document = json.loads(
            json.dumps({**meta, "score": None if score is None else float(score)})
        )
        if self._asynchronous:
            self._writer = threading.Thread(
                target=self._write_behind, args=(step, arrays, document), name=f"checkpoint {step}"
            )
            self._writer.start()
        else:
            self._write(step, arrays, document)
        return self.directory / str(step)

    def _save_together(self, state: TrainState, step: int, meta: dict[str, Any]) -> Path:
        """Saves in several processes, which all wait until it is on disk.

        What is written in the background would need copies of what the devices hold, and may not
        talk to the other processes while they compute.
        """
        meta = json.loads(json.dumps(meta))
        arrays = local(state_arrays(state))
        whole = not any(map(is_spread, arrays.values()))

        def prepared() -> dict[str, Any]:
            digest = (
                digest_of_arrays({k: np.asarray(x) for k, x in arrays.items()}) if whole else ""
            )
            return {"saved": self._is_saved(step, digest, meta), "meta": meta, "digest": digest}

        plan = from_main(f"checkpoint {step}", prepared)
        if not plan["saved"]:
            _files.write_together(
                self.directory, step, state_arrays(state), plan["meta"], plan["digest"]
            )
        from_main(
            f"older checkpoints than {step}", lambda: self._rotate(step, plan["meta"]["score"])
        )
        return self.directory / str(step)

    def _write_behind(self, *job: Any) -> None:
        try:
            self._write(*job)
        except Exception as error:
            self._failure = error

    def _write(self, step: int, arrays: Mapping[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Writes one, and does away with those that it supersedes."""
        with _files.ORBAX:
            if not self._is_saved(step, digest_of_arrays(arrays), meta):
                _files.write(self.directory, step, arrays, meta)
            self._rotate(step, meta["score"])

    def _is_saved(self, step: int, digest: str, meta: dict[str, Any]) -> bool:
        """Whether this is there already; else ``meta`` gets the score of the same arrays before.

        Nobody has a digest of arrays that lie in several processes: their step tells them.
        """
        folder = _files.folder_of(self.directory, step)
        try:
            saved = _files.read_meta(folder)
            _files.check_files(folder, saved)
        except CheckpointError:
            return False
        # Those of before have no digests: they are written anew, and keep their score.
        known = (saved.get("sha256") or {}).get("arrays")
        if saved.get("run") != meta.get("run") or known not in (None, digest):
            return False
        if meta["score"] is None:
            meta["score"] = saved.get("score")
        return known is not None and all(saved.get(key) == value for key, value in meta.items())

    def _rotate(self, step: int, score: float | None) -> None:
        if self._keep is None:
            return
        if self._scores is None:
            self._scores = dict(_scores(self.directory)[0])
        self._scores[step] = score
        steps = sorted(self._scores)
        kept = {step, *steps[-self._keep :], *_by_score(self._scores)[: self._keep_best]}
        for old in set(steps) - kept:
            with failures_told(self.directory):
                _files.discard(_files.folder_of(self.directory, old))
            del self._scores[old]

    def wait(self) -> None:
        """Returns when all saves are on disk.

        Raises:
          DataError: one could not be written.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits, and lets others write to the directory."""
        with self._held:
            self.wait()


def _reason_to_move(folder: Path, saved: int, run: str, step: int) -> str:
    """What a checkpoint is of that is not in this run's past; nothing of one that is.

    Raises:
      DamagedCheckpointError: it is damaged, as far as one has to know.
    """
    try:
        meta = _files.read_meta(folder)
        if saved > step:
            _files.check_files(folder, meta)
    except _files.DamagedCheckpointError:
        raise
    except CheckpointError:
        return "another run"
    if meta.get("run") != run:
        return "another run"
    return f"later steps than {step}, where this run goes on" if saved > step else ""


# All that may still be writing when the interpreter ends.
_UNFINISHED: weakref.WeakSet[Checkpoints] = weakref.WeakSet()


def _finish() -> None:
    for checkpoints in list(_UNFINISHED):
        try:
            checkpoints.wait()
        except DataError as error:
            warn(str(error))


# Orbax writes with executors, which take no more work once the interpreter ends: what atexit or a
# thread that is waited for does comes too late.
if hasattr(threading, "_register_atexit"):
    threading._register_atexit(_finish)

# The directories in which runs of this process save, and which runs.
_WRITING: dict[Path, str] = {}


@contextlib.contextmanager
def _sole_run(directory: Path, run: str) -> Iterator[None]:
    with sole_writer(directory, "checkpoints"):
        _WRITING[directory.resolve()] = run
        try:
            yield
        finally:
            del _WRITING[directory.resolve()]


def saved_steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps of the finished checkpoints in a directory, ascending; reads, never writes."""
    return _files.saved_steps(as_path(directory))


def restore(
    directory: str | os.PathLike[str], state: TrainState, which: int | str = "last"
) -> tuple[TrainState, dict[str, Any]]:
    """Reads a checkpoint; the directory is left as it is, whatever happens.

    What was frozen when it was written is frozen in the state that comes back, and its arrays have
    the dtypes that they were saved with. Where the last or the best one is damaged the next that
    is whole is taken, with a warning.

    Args:
      directory: the directory with all checkpoints.
      state: a state of the same model and optimizer; the result has its configuration.
      which: a step, ``"last"`` or ``"best"``.

    Returns:
      The state, and the ``meta`` that was saved with it.

    Raises:
      CheckpointError: there is none, it is damaged, or it is of another model or optimizer; the
        message names the directory and the first files or arrays that differ.

    Warns:
      UserWarning: another checkpoint is taken in place of a damaged one; or numbers of 64 bits
        become narrower, as JAX does not hold such here.
    """
    directory = as_path(directory).absolute()
    if not several():
        return _first_whole(directory, which, lambda folder: _read(folder, state))

    def whole(folder: Path) -> str:
        _files.check_files(folder, _files.read_meta(folder))
        return str(folder)

    # The process of index 0 looks which checkpoint is whole, for all.
    name = f"the checkpoints in {directory}"
    folder = Path(from_main(name, lambda: _first_whole(directory, which, whole)))
    return _read(folder, state, checked=True)


def _first_whole(directory: Path, which: int | str, read: Callable[[Path], Any]) -> Any:
    """What ``read`` makes of the first checkpoint of the choice that is not damaged."""
    steps, damage = _choice(directory, which)
    for step in steps:
        folder = _files.folder_of(directory, step)
        try:
            result = read(folder)
        except _files.DamagedCheckpointError as error:
            if not folder.is_dir():
                # The run that writes here has just replaced it by a later one.
                return _first_whole(directory, which, read)
            damage.append(error)
            continue
        if damage:
            warn(f"{'; '.join(map(str, damage))}. The checkpoint of step {step} is taken instead")
        return result
    raise damage[0] if len(damage) == 1 else CheckpointError("; ".join(map(str, damage)))


def _read(
    folder: Path, state: TrainState, *, checked: bool = False
) -> tuple[TrainState, dict[str, Any]]:
    source = f"checkpoint {folder}"
    meta = _files.read_meta(folder)
    if not checked:
        _files.check_files(folder, meta)
    if meta.get("freezing") is not None:
        # What is frozen had changed since the run began, and with it the optimizer's state.
        try:
            state = with_freezing(state, meta["freezing"])
        except ValueError as error:
            raise CheckpointError(
                f"checkpoint {folder} does not fit this model: {error}"
            ) from error
    expected = state_arrays(state)

    def wanted(saved: dict[str, Any]) -> dict[str, Any]:
        _check_scaled(expected, saved, source)
        compare(expected, saved, source=source, owner=_owner(expected, saved))
        # Where it was trained may not be here: everything goes to where the state is.
        return {
            path: jax.ShapeDtypeStruct(
                leaf.shape, _as_here(saved[path].dtype, source, path), sharding=leaf.sharding
            )
            for path, leaf in expected.items()
        }

    arrays = _files.read_arrays(folder, wanted)
    _tell_of_diverged(arrays, source)
    return with_arrays(state, arrays), meta


def _check_scaled(expected: Mapping[str, Any], saved: Mapping[str, Any], source: str) -> None:
    ours, theirs = (_SCALE in leaves for leaves in (expected, saved))
    if ours != theirs:
        what = "holds the scale of a float16 loss" if theirs else "holds no scale of the loss"
        words = "'float16'" if theirs else "'float32' or 'bfloat16'"
        raise CheckpointError(
            f"{source} {what}, as this run's precision does not have it: precision={words} goes on "
            "with it, and flaxzoo.Trainer(trainer.model, precision=...) begins anew from its model"
        )


def _as_here(dtype: Any, source: str, path: str) -> Any:
    here = jax.dtypes.canonicalize_dtype(dtype)
    if here != dtype and jnp.issubdtype(dtype, jnp.inexact):
        warn(
            f"{source}: {path} was saved in {dtype} and is read in {here}; for all of its digits "
            "call jax.config.update('jax_enable_x64', True) first"
        )
    return here


def _tell_of_diverged(arrays: Mapping[str, Any], source: str) -> None:
    for path, leaf in local(arrays).items():
        if path.startswith("params/") and not is_spread(leaf):
            try:
                check_finite(leaf, path)
            except DataError as error:
                warn(f"{source}: {error}: the run had diverged before it was saved")
                return


def _owner(expected: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    # Where only the optimizer's arrays differ, it is the optimizer that is another.
    def model(flat: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return {k: tuple(x.shape) for k, x in flat.items() if not k.startswith("opt_state/")}

    same = model(expected) == model(saved)
    return "this optimizer and its options (the model fits)" if same else "this model"


def _choice(directory: Path, which: int | str) -> tuple[list[int], list[Exception]]:
    """The steps that ``which`` can stand for, the first choice first, and what is damaged.

    Raises:
      CheckpointError: the directory has no such checkpoint; it lists those there are.
    """
    steps = saved_steps(directory)
    if not steps:
        raise CheckpointError(f"{directory} holds no checkpoint")
    if which == "last":
        return steps[::-1], []
    if which == "best":
        scores, damage = _scores(directory)
        best = _by_score(scores)
        if not best:
            raise (
                damage[0]
                if damage
                else CheckpointError(
                    f"{directory}: no checkpoint was saved with a score, so none is the best; "
                    f"steps: {', '.join(map(str, steps))}"
                )
            )
        return best, damage
    if which not in steps:
        raise CheckpointError(
            f"{directory} has no checkpoint of step {which!r}; it has "
            f"{', '.join(map(str, steps))}, 'last' and 'best'"
        )
    return [int(which)], []


def _scores(directory: Path) -> tuple[dict[int, float | None], list[Exception]]:
    """The scores of the checkpoints that can be read, and why others cannot."""
    scores: dict[int, float | None] = {}
    damage: list[Exception] = []
    for step in saved_steps(directory):
        folder = _files.folder_of(directory, step)
        try:
            scores[step] = _files.read_meta(folder).get("score")
        except CheckpointError as error:
            # One that is gone has made room for a later one.
            if folder.is_dir():
                damage.append(error)
    return scores, damage


def _by_score(scores: Mapping[int, float | None]) -> list[int]:
    """The steps that have a score, the best first; of equal ones the later."""
    known = [(score, step) for step, score in scores.items() if score is not None]
    return [step for _, step in sorted(known, reverse=True)]


def require_writable(directory: Path) -> None:
    """Makes a directory and a file in it, so that a run fails before it trains, not after.

    Raises:
      DataError: it cannot be made or written; the message names it.
    """
    probe = directory / ".writable"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {directory}: {error.strerror or error}") from error


__all__ = [
    "Checkpoints",
    "export_safetensors",
    "from_bytes",
    "restore",
    "saved_steps",
    "to_bytes",
]
