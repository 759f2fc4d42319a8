"""Progress in the terminal and in notebooks."""

from __future__ import annotations

import sys
import time
from typing import Any, ClassVar, TextIO

from flaxzoo._checks import check_flag, check_number
from flaxzoo._explain import explained
from flaxzoo.callbacks.base import Callback, default_for
from flaxzoo.errors import ArgumentError


@explained
@default_for("progress")
class ProgressBar(Callback):
    """A bar per epoch with running averages, then a line of a table.

    The averages are over all of the epoch's batches so far, merged on the device; they are read
    only when the bar is refreshed, of a step that is already finished. Where the output is not a
    terminal or a notebook, only the table is printed.

    Args:
      interval: seconds between refreshes.
      bar: whether to show the bar.
      table: whether to print a line per epoch.
      file: where the table goes; by default standard output. The bar goes to standard error.
    """

    main_only: ClassVar[bool] = True

    def __init__(
        self,
        *,
        interval: float = 0.5,
        bar: bool = True,
        table: bool = True,
        file: TextIO | None = None,
    ) -> None:
        self.interval = check_number("interval", interval, minimum=0)
        self.bar = check_flag("bar", bar)
        self.table = check_flag("table", table)
        if file is not None and not hasattr(file, "write"):
            raise ArgumentError(f"file must be open for text, such as sys.stderr, got {file!r}")
        self.file = file
        self._bar: Any = None
        self._columns: tuple[str, ...] = ()
        self._begin = 0.0
        self._refreshed = 0.0
        self._running: Any = None
        self._step = 0

    def on_train_begin(self, trainer: Any) -> None:
        """Starts a new table."""
        self._columns = ()

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Opens the epoch's bar."""
        self._begin = self._refreshed = time.perf_counter()
        self._step = trainer.step
        self._running = None
        self._close()
        if self.bar:
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=trainer.steps_per_epoch,
                desc=f"epoch {epoch + 1}/{trainer.epochs}",
                unit="step",
                leave=False,
                # None shows the bar on a terminal or in a notebook only.
                disable=None,
                # Wide enough for a line of a terminal, whatever its width.
                dynamic_ncols=True,
                mininterval=self.interval,
            )

    def on_step_end(self, trainer: Any, step: int, metrics: Any) -> None:
        """Moves the bar; at times, also shows the averages so far."""
        if self._bar is None or self._bar.disable:
            return
        now = time.perf_counter()
        if self._running is not None and now - self._refreshed >= self.interval:
            self._refreshed = now
            # Without this batch: its step may still be running.
            values = self._running.compute()
            self._bar.set_postfix(
                {name: f"{float(value):.4g}" for name, value in values.items()}, refresh=False
            )
        self._running = metrics if self._running is None else self._running.merge(metrics)
        # A call may have taken several steps.
        self._bar.update(step - self._step)
        self._step = step

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """Replaces the bar by a line of the table."""
        self._close()
        if self.table:
            self._print_row(trainer, epoch, logs)

    def on_train_end(self, trainer: Any) -> None:
        """Removes a bar that an interrupted epoch left."""
        self._close()

    def _print_row(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        columns = ("epoch", "seconds", *logs)
        total = f"{trainer.epochs}"
        widths = [
            max(len(name), 2 * len(total) + 1 if i == 0 else 8) for i, name in enumerate(columns)
        ]
        if columns != self._columns:
            self._columns = columns
            self._print("  ".join(n.rjust(w) for n, w in zip(columns, widths, strict=True)))
        seconds = time.perf_counter() - self._begin
        cells = [f"{epoch + 1}/{total}", f"{seconds:.1f}", *map(_number, logs.values())]
        self._print("  ".join(c.rjust(w) for c, w in zip(cells, widths, strict=True)))

    def _print(self, line: str) -> None:
        print(line, file=self.file if self.file is not None else sys.stdout, flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _number(value: float) -> str:
    """Four decimals for values of common size, else three significant digits."""
    value = float(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return f"{value:.2e}"
