"""What a run recorded, epoch by epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any

import flaxzoo.plots as plots
from flaxzoo._explain import missing_attribute
from flaxzoo.errors import UnknownNameError, did_you_mean


class _Curves(dict[str, list[float | None]]):
    """Metrics by name."""

    def __missing__(self, name: str) -> Any:
        raise UnknownNameError(
            f"history has no metric {name!r}.{did_you_mean(str(name), self)} "
            f"It has: {', '.join(self) or 'none yet'}"
        )


@dataclasses.dataclass
class History:
    """Metrics per epoch.

    ``history["val_loss"]`` is a list with one number per epoch; a metric that an epoch lacks (a
    validation every other epoch) is None there.

    Attributes:
      epochs: the numbers of the epochs, from 0.
      metrics: for each name, one value for each of ``epochs``.
    """

    epochs: list[int] = dataclasses.field(default_factory=list)
    metrics: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)

    def append(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Adds one epoch."""
        for name in logs:
            self.metrics.setdefault(name, [None] * len(self.epochs))
        self.epochs.append(epoch)
        for name, values in self.metrics.items():
            values.append(None if name not in logs else float(logs[name]))

    @property
    def history(self) -> dict[str, list[float | None]]:
        """``metrics``, as Keras calls it; an unknown name is answered."""
        return _Curves(self.metrics)

    @property
    def epoch(self) -> list[int]:
        """``epochs``, as Keras calls it."""
        return self.epochs

    def keys(self) -> KeysView[str]:
        """The names of the metrics."""
        return self.metrics.keys()

    def values(self) -> ValuesView[list[float | None]]:
        """The lists of the metrics."""
        return self.metrics.values()

    def items(self) -> ItemsView[str, list[float | None]]:
        """Names and lists of the metrics."""
        return self.metrics.items()

    def __getitem__(self, name: str) -> list[float | None]:
        return self.history[name]

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def last(self) -> dict[str, float | None]:
        """The last epoch's metrics; empty before the first."""
        return {name: values[-1] for name, values in self.metrics.items() if values}

    def plot(self) -> Any:
        """Draws the curves.

        Returns:
          The matplotlib Figure.

        Raises:
          MissingExtraError: matplotlib is not installed.
        """
        return plots.history(self)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that ``from_json`` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> History:
        """The inverse of ``to_json``.

        Raises:
          KeyError, TypeError, ValueError: it is something else.
        """
        epochs, metrics = list(data["epochs"]), dict(data["metrics"])
        for name, values in metrics.items():
            if len(values) != len(epochs):
                raise ValueError(f"{name} has {len(values)} values for {len(epochs)} epochs")
        return cls(epochs=epochs, metrics=metrics)

    if not TYPE_CHECKING:
        __getattr__ = missing_attribute

    def __str__(self) -> str:
        if not self.epochs:
            return "History(no epochs)"
        names = list(self.metrics)
        rows = [["epoch", *names]]
        rows += [
            [str(epoch + 1)]
            + [
                "-" if self.metrics[name][i] is None else f"{self.metrics[name][i]:.4f}"
                for name in names
            ]
            for i, epoch in enumerate(self.epochs)
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
