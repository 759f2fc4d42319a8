"""The history of a run as a CSV file."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, ClassVar

from flaxzoo._explain import explained
from flaxzoo._files import as_path, write_atomically
from flaxzoo.callbacks.base import Callback, path_in_run
from flaxzoo.errors import CallbackError, DataError


@explained
class CSVLogger(Callback):
    """Writes a row per epoch to a CSV file: ``epoch`` (from 0) and the epoch's metrics.

    Numbers are written so that they read back exactly. A run that starts at epoch 0 replaces the
    file; a resumed run keeps the rows of the epochs before it. A metric that first appears in a
    later epoch gets a column of its own at the end, empty in the rows before.

    Args:
      path: the file; by default ``history.csv`` in the trainer's run directory.

    Raises:
      CallbackError: (in training) there is neither a path nor a run directory, or the file
        cannot be written.
    """

    main_only: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else as_path(path)
        self._columns: list[str] = []
        self._begun = False

    def on_train_begin(self, trainer: Any) -> None:
        """Finds out where to write."""
        if self.path is None:
            self.path = path_in_run(trainer, "history.csv", "CSVLogger", "path")
        self._begun = False

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """Adds the epoch's row."""
        path = self.path if self.path is not None else Path("history.csv")
        row = {"epoch": str(epoch), **{name: repr(float(value)) for name, value in logs.items()}}
        try:
            if self._begun and set(row) <= set(self._columns):
                with path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self._columns).writerow(row)
                return
            # The first row of this run, or a new column: the file is written again.
            kept = self._rows_before(path, epoch) if epoch > 0 else []
            self._columns = list(dict.fromkeys(name for r in (*kept, row) for name in r))
            _write_csv(path, self._columns, [*kept, row])
            self._begun = True
        except OSError as error:
            raise CallbackError(f"CSVLogger cannot write {path}: {error.strerror}") from error
        except DataError as error:
            raise CallbackError(f"CSVLogger {error}") from error

    def _rows_before(self, path: Path, epoch: int) -> list[dict[str, str]]:
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [
                {name: value or "" for name, value in row.items() if name is not None}
                for row in csv.DictReader(file)
            ]
        # A row that was cut off when the last run died has no number to go by or is repeated.
        return [r for r in rows if r.get("epoch", "").isdigit() and int(r["epoch"]) < epoch]


def _write_csv(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    """Replaces the file in one move, so that a crash leaves the old one or the new one."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)
