"""What train_step.py and inference.py share: candidates, the check of their values, the tables."""

from __future__ import annotations

import argparse
import functools
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _peers import AT_ONCE
from _timing import environment, results, table, write_results
from _workers import Measured, here, measure, serve
from _works import BFLOAT16, DTYPES, FLOAT32, IN_BFLOAT16, RESNETS, TRANSFORMERS, WORKS

OURS, COMPILED = "flaxzoo", "torch.compile"
SEVERAL = f"{OURS}, {AT_ONCE} steps at once"
_SMALL = ("cnn", "mlp", "lstm")
# Name to the module and the function that make it, and the works that it has.
PEERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    OURS: ("_peers", "flaxzoo", tuple(WORKS)),
    SEVERAL: ("_peers", "flaxzoo_several", tuple(WORKS)),
    "plain Linen": ("_peers", "plain_linen", (*RESNETS[:3], *_SMALL)),
    "jax-resnet": ("_peers", "jax_resnet", RESNETS),
    "flaxmodels": ("_peers", "flaxmodels", RESNETS[:2]),
    "torch": ("_peers_torch", "eager", tuple(WORKS)),
    COMPILED: ("_peers_torch", "compiled", tuple(WORKS)),
    "Keras on JAX": ("_peers_keras", "keras", ("resnet50", *_SMALL)),
    "jaxnn": ("_peers", "jaxnn", ("vit_small_patch16_224",)),
    "zeromodels": ("_peers_keras", "zeromodels", TRANSFORMERS),
}
# Peers that are told to compute in bfloat16; the others' rows say that they are not.
TOLD = (OURS, SEVERAL, "plain Linen", "torch", COMPILED)
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "jax-resnet", "flaxmodels"),
    *("torch", "timm", "keras", "jaxnn", "zeromodels"),
)
# Of the first loss, or of the largest logit, where both start from the same weights.
TOLERANCE = 1e-4
# Of the losses after updates: Keras has another epsilon in Adam, and torch's LSTM two biases.
LATER = 5e-3
# Of both in bfloat16, which has three digits and is rounded to in different places.
ROUGH = 5e-2


def main(kind: str, doc: str) -> None:
    """The command line of a script.

    Args:
      kind: ``"train"`` or ``"inference"``.
      doc: the script's docstring.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS)[1:], metavar="PEER")
    parser.add_argument(
        "--compile",
        nargs="*",
        choices=WORKS,
        metavar="WORK",
        help="time torch.compile too, for these works or all: it compiles for up to a minute",
    )
    parser.add_argument("--dtype", choices=DTYPES, default=FLOAT32, help="to compute in")
    parser.add_argument("--rounds", type=int, default=15, help="of each work, at most")
    parser.add_argument("--seconds", type=float, default=25.0, help="for the rounds of a work")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    peers = list(PEERS)[1:] if options.peers is None else options.peers
    works = [w for w in options.works if options.dtype == FLOAT32 or w in IN_BFLOAT16]
    # Without a work after it the option means all of them.
    to_compile = [] if options.compile is None else options.compile or list(WORKS)
    env = environment(PACKAGES)
    print(", ".join(f"{key} {value}" for key, value in env.items()), flush=True)
    for work in options.works:
        if work not in works:
            print(f"\n{WORKS[work].title}: not run, it is float32 only", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        writer = [sys.executable, here("_works.py"), directory, *works]
        subprocess.run(writer, check=True)
        for work in works:
            commands, left_out = candidates(
                work, kind, peers, to_compile, directory, dtype=options.dtype
            )
            measured = measure(
                commands,
                rounds=options.rounds,
                seconds=options.seconds,
                check=functools.partial(check, work, dtype=options.dtype),
                # They share the memory of a GPU.
                environ={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            )
            missing = {**measured.missing, **left_out}
            print(f"\n{report(work, measured, missing)}", flush=True)
            rows += results(measured.timings, missing, work=work, title=WORKS[work].title)
    if options.json:
        arguments = {key: getattr(options, key) for key in ("works", "rounds", "seconds", "dtype")}
        arguments |= {"kind": kind, "peers": peers, "compile": to_compile}
        write_results(options.json, env, arguments, rows)


def candidates(
    work: str,
    kind: str,
    peers: Sequence[str],
    to_compile: Sequence[str],
    weights: str,
    *,
    dtype: str = FLOAT32,
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The workers' commands of all that have a work, and why others were left out."""
    names = [name for name in (OURS, *peers) if work in PEERS[name][2]]
    if kind == "inference" and SEVERAL in names:
        names.remove(SEVERAL)
    left_out = {}
    if COMPILED in names and work not in to_compile:
        names.remove(COMPILED)
        left_out[COMPILED] = f"not run: --compile {work}"
    if dtype == BFLOAT16:
        left_out |= {name: "float32 only" for name in names if name not in TOLD}
        names = [name for name in names if name in TOLD]
    start = [sys.executable, here("_steps.py"), work, kind, weights]
    return {name: [*start, name, dtype] for name in names}, left_out


def check(work: str, ready: Mapping[str, Mapping[str, Any]], *, dtype: str = FLOAT32) -> None:
    """Compares the losses or logits of those that started from the same weights.

    Args:
      work: its name.
      ready: name to what the worker said first.
      dtype: that they compute in.

    Raises:
      SystemExit: they differ, so that the times would compare different things.
    """
    if OURS not in ready:
        raise SystemExit(f"{work}: flaxzoo itself did not run")
    expected = ready[OURS]["values"]
    first, later = (TOLERANCE, LATER) if dtype == FLOAT32 else (ROUGH, ROUGH)
    for name, facts in ready.items():
        if not facts["same_weights"]:
            continue
        for i, (found, ours) in enumerate(zip(facts["values"], expected, strict=False)):
            if not distance(found, ours) <= (later if i else first):
                raise SystemExit(
                    f"{work}: {name} computes something else in call {i + 1}: {found[:4]}, "
                    f"flaxzoo {ours[:4]}"
                )


def distance(found: list[float], expected: list[float]) -> float:
    """The largest difference, relative to the largest expected value."""
    ours, theirs = np.asarray(found), np.asarray(expected)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def report(work: str, measured: Measured, missing: Mapping[str, str]) -> str:
    """A heading, the table, and what ours reaches in GFLOP/s."""
    gflop = measured.ready[OURS]["gflop"]
    lines = [
        f"## {WORKS[work].title}",
        table(measured.timings, baseline=OURS, missing=missing),
        f"{measured.rounds} rounds on {measured.ready[OURS]['device']}",
    ]
    if gflop and OURS in measured.timings:
        lines[-1] += f"; {gflop / measured.timings[OURS].median:.0f} GFLOP/s by {OURS}"
    return "\n\n".join(lines)


def _worker(work: str, kind: str, weights: str, peer: str, dtype: str) -> None:
    module, function, _ = PEERS[peer]
    # The others take none.
    told = (dtype,) if peer in TOLD else ()
    serve(lambda: getattr(importlib.import_module(module), function)(work, kind, weights, *told))


if __name__ == "__main__":
    # Beside this file, wherever it is called from.
    sys.path.insert(0, str(Path(__file__).parent))
    _worker(*sys.argv[1:])
