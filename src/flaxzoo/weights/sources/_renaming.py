"""Which leaf of another package's variables becomes which of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from flaxzoo._trees import SHOWN, unflatten
from flaxzoo.errors import CheckpointError, UnknownNameError, did_you_mean
from flaxzoo.weights.values import check_values

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_Entry = TypeVar("_Entry")


class Renaming:
    """Collects the pairs while a converter walks along a network, then moves the leaves.

    Arrays keep their layout, but where a converter says another: the packages are Flax's own, with
    kernels in HWIO.

    Attributes:
      leaves: the other package's leaves by path, ``params/Conv_0/kernel``.
    """

    def __init__(self, leaves: Mapping[str, Any]) -> None:
        self.leaves = leaves
        self._origins: dict[str, str] = {}
        self._layouts: dict[str, Callable[[Any], Any]] = {}

    def conv(
        self,
        ours: str,
        origin: str,
        *,
        bias: bool = False,
        layout: Callable[[Any], Any] | None = None,
    ) -> None:
        """A convolution or dense layer of the backbone, or of the head.

        Args:
          ours: its path in our network.
          origin: its path in the other package's.
          bias: whether it has one.
          layout: from their kernel to ours, where the two are of another shape.
        """
        if layout is not None:
            self._layouts[f"params/{ours}/kernel"] = layout
        for leaf in ("kernel", "bias") if bias else ("kernel",):
            self._origins[f"params/{ours}/{leaf}"] = f"params/{origin}/{leaf}"

    def norm(self, ours: str, origin: str) -> None:
        """A BatchNorm with its statistics."""
        for collection, leaf in (
            ("params", "scale"),
            ("params", "bias"),
            ("batch_stats", "mean"),
            ("batch_stats", "var"),
        ):
            self._origins[f"{collection}/{ours}/{leaf}"] = f"{collection}/{origin}/{leaf}"

    def apply(self, source: str) -> dict[str, Any]:
        """Our variables.

        Args:
          source: what the leaves are, to begin the error's message with.

        Raises:
          CheckpointError: a leaf is missing, is left over, or holds other than finite
            floating-point numbers; it lists the first ten of each.
        """
        used = set(self._origins.values())
        parts = [
            f"{len(paths)} {what}: {', '.join(paths[:SHOWN])}{' ...' * (len(paths) > SHOWN)}"
            for what, paths in (
                ("missing", [path for path in self._origins.values() if path not in self.leaves]),
                ("without a place", [path for path in self.leaves if path not in used]),
            )
            if paths
        ]
        if parts:
            raise CheckpointError(
                f"{source} are not a network that flaxzoo has. {'. '.join(parts)}"
            )
        check_values({path: self.leaves[path] for path in self._origins.values()}, source=source)
        leaves = {ours: self.leaves[path] for ours, path in self._origins.items()}
        for ours, layout in self._layouts.items():
            leaves[ours] = layout(leaves[ours])
        return unflatten(leaves)


def pick(table: Mapping[str, _Entry], name: str, source: str) -> _Entry:
    """The table's entry of an architecture.

    Raises:
      UnknownNameError: there is none; it lists those there are.
    """
    if name not in table:
        raise UnknownNameError(
            f"{source} has no weights for {name!r}.{did_you_mean(name, table)} "
            f"It has some for {', '.join(table)}; pretrained=True has more"
        )
    return table[name]


def numbered(names: Iterable[str], prefix: str) -> list[str]:
    """Those that are ``prefix`` and a number, as Flax names submodules, in order."""
    matches = [n for n in names if n.startswith(prefix) and n[len(prefix) :].isdecimal()]
    return sorted(matches, key=lambda n: int(n[len(prefix) :]))
