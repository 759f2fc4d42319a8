"""What the devices of a compiled program send to each other, read from the program itself.

XLA puts collective operations in where arrays that lie on several devices meet. They are there in
the text of the compiled program, each with the shape of its result and the devices that take part,
so the bytes that a step moves need not be guessed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

# What one device sends for each byte of the result, with n devices in a ring, as NCCL's and the
# TPUs' own rings do it (Patarasu and Yuan, "Bandwidth optimal all-reduce algorithms", 2009).
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: float(n - 1),
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-broadcast": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
_KINDS = "|".join(sorted(_SENT, key=len, reverse=True))
_OPERATION = re.compile(rf"= (?P<result>.*?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(?P<dtype>[a-z]\w*)\[(?P<shape>[\d,]*)\]")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(r"\b(?:to_apply|calls|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Three spellings of who takes part: lists, an array of so many groups by so many, axes of a mesh.
_LISTS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
# XLA's names of dtypes that are not NumPy's with a number behind a letter.
_BYTES = {"pred": 1, "bf16": 2, "s4": 1, "u4": 1, "token": 0}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between devices in a compiled program.

    Attributes:
      kind: XLA's name, such as ``"all-reduce"``.
      size: bytes of its result on one device.
      devices: how many take part in each group.
      count: how often one call of the program does it; what is in a loop counts each time.
    """

    kind: str
    size: int
    devices: int
    count: int = 1

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one call of the program, by the ring algorithms."""
        return self.count * self.size * _SENT[self.kind](max(self.devices, 1))


def collectives(compiled: Any) -> tuple[Collective, ...]:
    """The operations between devices in a compiled program, in the order of its text.

    Args:
      compiled: what ``jax.jit(f).lower(...).compile()`` returns, or its text (HLO).

    Returns:
      One entry an operation; those in a loop whose number of turns XLA does not know count once.
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    bodies, entry = _computations(text)
    turns: dict[str, int] = {}
    _visit(bodies, entry, 1, turns)
    return tuple(
        dataclasses.replace(operation, count=turns[name])
        for name, lines in bodies.items()
        if turns.get(name)
        for operation in map(_operation, lines)
        if operation is not None
    )


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the one that is the program."""
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            name = begins["name"]
            entry = name if begins["entry"] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _visit(bodies: dict[str, list[str]], name: str, times: int, turns: dict[str, int]) -> None:
    """Adds to ``turns`` how often each computation runs that this one calls, itself included."""
    turns[name] = turns.get(name, 0) + times
    for line in bodies.get(name, ()):
        trips = _TRIPS.search(line)
        for called in _called(line):
            _visit(bodies, called, times * (int(trips[1]) if trips else 1), turns)


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    if branches := _BRANCHES.search(line):
        yield from (name.strip().lstrip("%") for name in branches[1].split(","))


def _operation(line: str) -> Collective | None:
    match = _OPERATION.search(line)
    if match is None:
        return None
    sizes = [_size(array) for array in _ARRAY.finditer(match["result"])]
    if match["start"] and match["kind"] in ("all-gather", "collective-permute"):
        # What starts one returns its operands, too, before its results (and a context behind).
        sizes = sizes[len(sizes) // 2 :] if match["kind"] == "all-gather" else sizes[1:2]
    return Collective(match["kind"], sum(sizes), _devices(line))


def _size(array: re.Match[str]) -> int:
    shape = [int(size) for size in array["shape"].split(",") if size]
    dtype = array["dtype"]
    if dtype not in _BYTES:
        digits = re.search(r"\d+", dtype)
        _BYTES[dtype] = int(digits[0]) // 8 if digits else jnp.dtype(dtype).itemsize
    return math.prod(shape) * _BYTES[dtype]


def _devices(line: str) -> int:
    if lists := _LISTS.search(line):
        return len(lists[1].split(","))
    if iota := _IOTA.search(line):
        return int(iota[1])
    if mesh := _MESH.search(line):
        sizes = dict(axis.split("=") for axis in mesh[1].split(","))
        return math.prod(int(sizes[axis.strip()]) for axis in mesh[2].split(","))
    # A permutation names pairs: each device sends to one other.
    return 2 if "source_target_pairs=" in line else 1
