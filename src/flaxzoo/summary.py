"""The layer table of a module: parameters, bytes, output shapes and FLOPs."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxzoo._calls import call_module
from flaxzoo._flops import count_flops
from flaxzoo._trees import flatten


@dataclasses.dataclass(frozen=True)
class Layer:
    """One row: a module and what it holds itself, its submodules included."""

    path: str
    kind: str
    output: str
    parameters: int
    bytes: int
    flops: int
    depth: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A layer table with totals; ``print`` it, or read its fields.

    Attributes:
      name: of the model.
      inputs: the shape and dtype that the numbers are for, one example.
      layers: one row per module in the order of the forward pass.
      parameters: number of trainable numbers.
      bytes: memory of all variables, the BatchNorm statistics included.
      flops: of one example's forward pass; two per multiply-add (timm's and torchvision's
        "GFLOPs" are half of this).
      trainable: number of parameters that training changes; None where nothing is frozen.
    """

    name: str
    inputs: str
    layers: tuple[Layer, ...]
    parameters: int
    bytes: int
    flops: int
    trainable: int | None = None

    def __str__(self) -> str:
        rows = [("layer", "kind", "output", "parameters", "MFLOPs")]
        rows += [
            (
                "  " * layer.depth + layer.path.rpartition("/")[2],
                layer.kind,
                layer.output,
                f"{layer.parameters:,}",
                f"{layer.flops / 1e6:,.3f}",
            )
            for layer in self.layers
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        frozen = "" if self.trainable is None else f" ({self.trainable:,} trainable)"
        return "\n".join(
            [
                f"{self.name}: input {self.inputs}",
                *lines,
                f"parameters {self.parameters:,}{frozen}, {self.bytes / 2**20:,.2f} MiB, "
                f"{self.flops / 1e6:,.2f} MFLOPs for one example",
            ]
        )


def summarize(module: nn.Module, variables: Any, inputs: Any, *, name: str = "") -> Summary:
    """Builds the table without computing anything.

    Args:
      module: an unbound Linen module.
      variables: its variables, as arrays or ``jax.ShapeDtypeStruct``.
      inputs: one batch of inputs, likewise; the table is for a batch of this size.
      name: for the first line.
    """
    calls: dict[tuple[str, ...], tuple[str, str]] = {}

    def record(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = next_fun(*args, **kwargs)
        if context.method_name == "__call__":
            calls.setdefault(context.module.path, (type(context.module).__name__, _shapes(out)))
        return out

    def forward(variables: Any, inputs: Any) -> Any:
        return nn.apply(lambda m, x: call_module(m, x, train=False), module)(variables, inputs)

    with nn.intercept_methods(record):
        flops = count_flops(forward, variables, inputs)
    leaves = {tuple(path.split("/")): leaf for path, leaf in flatten(variables).items()}
    layers = []
    # A module finishes after its submodules; parents first reads better.
    order = sorted(calls, key=lambda path: _first_call(path, list(calls)))
    for path in order:
        kind, output = calls[path]
        own = {key: leaf for key, leaf in leaves.items() if key[1 : 1 + len(path)] == path}
        layers.append(
            Layer(
                path="/".join(path) or kind,
                kind=kind,
                output=output,
                parameters=sum(_size(v) for k, v in own.items() if k[0] == "params"),
                bytes=sum(_bytes(v) for v in own.values()),
                flops=sum(n for stack, n in flops.items() if _within(stack, path)),
                depth=len(path),
            )
        )
    return Summary(
        name=name or type(module).__name__,
        inputs=_shapes(inputs),
        layers=tuple(layers),
        parameters=sum(_size(v) for k, v in leaves.items() if k[0] == "params"),
        bytes=sum(_bytes(v) for v in leaves.values()),
        flops=flops.total(),
    )


def _first_call(path: tuple[str, ...], finished: list[tuple[str, ...]]) -> tuple[int, int]:
    inside = [i for i, other in enumerate(finished) if other[: len(path)] == path]
    return min(inside), len(path)


def _within(stack: tuple[str, ...], path: tuple[str, ...]) -> bool:
    # The stack begins with the class of the outermost module; scans and remats add parts of
    # their own between module names, so the path is looked for as a subsequence.
    parts = iter(stack[1:])
    return all(name in parts for name in path)


def _size(leaf: Any) -> int:
    return int(np.prod(leaf.shape))


def _bytes(leaf: Any) -> int:
    return _size(leaf) * leaf.dtype.itemsize


def _shapes(tree: Any) -> str:
    return ", ".join(
        f"{leaf.dtype}{list(leaf.shape)}"
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "shape")
    )
