"""Peak memory of a training step: ResNet-50, ViT-S/16 and an LSTM, with and without remat.

Each candidate has a process of its own that builds the network with random parameters, compiles,
and takes three steps of Adam with a donated state. Three figures, in MiB:

* planned: what XLA's `memory_analysis` says the compiled step needs at once: arguments, outputs
  (donated buffers count once) and temporaries, which are also given alone; torch has no such plan;
* resident: the process's peak memory during the steps, libraries included, and what it had before
  them. On Linux the peak is reset after compilation; elsewhere it is the peak since the start;
* device: the accelerator's own peak (`memory_stats()["peak_bytes_in_use"]`), on GPU and TPU; the
  whole process's, with initialisation.

The ratio is of the resident peak, or of the device's where there is one: medians over the
processes, which take turns. A peer that is not installed is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _memory import (
    LSTM_BATCH,
    LSTM_STEPS,
    LSTM_WIDTH,
    LSTMS,
    compiled_sizes,
    device_peak,
    forget_peak,
    resident,
)
from _resnet50 import CANDIDATES, VITS
from _timing import environment, write_results

NETWORKS: dict[str, dict[str, Any]] = {"resnet50": CANDIDATES, "vit": VITS, "lstm": LSTMS}
TITLES = {
    "resnet50": "ResNet-50, batch {batch} at 224 x 224",
    "vit": "ViT-S/16, batch {batch} at 224 x 224",
    "lstm": f"LSTM of {LSTM_WIDTH} units, batch {LSTM_BATCH} x {LSTM_STEPS} steps",
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "jax-resnet", "torch", "timm")
FIGURES = ("planned", "temporary", "before", "resident", "device")
STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=8, help="images in the batch")
    parser.add_argument("--runs", type=int, default=3, help="processes of each candidate")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--worker", nargs=2, metavar=("NETWORK", "NAME"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*options.worker, batch=options.batch, file=options.file)))
        return
    env = environment(PACKAGES)
    print(", ".join(f"{key} {value}" for key, value in env.items()), flush=True)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory) / "resnet50.safetensors")
        if "resnet50" in options.networks:
            from startup import WRITE

            subprocess.run([sys.executable, "-c", WRITE, file], check=True)
        for network in options.networks:
            results[network] = measure(network, options.runs, options.batch, file)
            title = TITLES[network].format(batch=options.batch)
            print(f"\n## {title}\n\n{report(results[network])}", flush=True)
    if options.json:
        arguments = {key: getattr(options, key) for key in ("networks", "batch", "runs")}
        write_results(options.json, env, arguments, rows(results))


def work(network: str, name: str, *, batch: int, file: str) -> dict[str, Any]:
    """The figures of one candidate, which has this process to itself, or why there are none."""
    candidate = NETWORKS[network][name]()
    try:
        candidate.imports()
    except ImportError as error:
        return {"missing": str(error).partition("\n")[0]}
    import numpy as np

    rng = np.random.default_rng(0)
    if network != "lstm":
        inputs = rng.standard_normal((batch, 224, 224, 3), np.float32)
        candidate.build()
        # Of the others the numbers play no part.
        candidate.load(file if network == "resnet50" else None)
        candidate.begin()
    else:
        inputs = rng.standard_normal((LSTM_BATCH, LSTM_STEPS, LSTM_WIDTH), np.float32)
        candidate.begin(inputs)
    labels = (np.arange(len(inputs)) % 2).astype(np.int32)
    if not hasattr(candidate, "lower"):
        figures = {"before": resident()}
        forget_peak()
        for _ in range(STEPS):
            candidate.step(inputs, labels)
        figures["device"] = device_peak("torch")
    else:
        figures = run_compiled(candidate, inputs, labels)
    figures["resident"] = resident("VmHWM")
    return {key: value for key, value in figures.items() if value is not None}


def run_compiled(candidate: Any, inputs: Any, labels: Any) -> dict[str, Any]:
    """Compiles a JAX candidate's step and takes it a few times with a donated state."""
    import jax

    lowered, arguments = candidate.lower(inputs, labels)
    program = lowered.compile()
    # Nothing else may hold on to the state that the first step is to reuse.
    state, *batch = jax.device_put(arguments)
    vars(candidate).clear()
    del arguments
    before = resident()
    forget_peak()
    for _ in range(STEPS):
        state, *_ = jax.block_until_ready(program(state, *batch))
    return {**compiled_sizes(program), "before": before, "device": device_peak("jax")}


def measure(network: str, runs: int, batch: int, file: str) -> dict[str, Any]:
    """Name to each figure's MiB in each round, or to why there are none."""
    names = list(NETWORKS[network])
    found: dict[str, Any] = {name: {} for name in names}
    for i in range(runs):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            if isinstance(found[name], str):
                continue
            command = [sys.executable, __file__, "--worker", network, name]
            command += ["--file", file, "--batch", str(batch)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            if "missing" in figures:
                found[name] = figures["missing"]
                continue
            for key, value in figures.items():
                found[name].setdefault(key, []).append(value)
    return found


def report(found: dict[str, Any]) -> str:
    """A Markdown table of medians, the spread and ratios to the first row."""
    # Ours is first, and never missing.
    measured = next(iter(found.values()))
    figure = "device" if "device" in measured else "resident"
    heads = ["MiB (medians)", *FIGURES, f"{figure}, min - max", "memory relative to ours"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, values in found.items():
        if isinstance(values, str):
            lines.append(f"| {name} | {values} |" + " |" * (len(heads) - 2))
            continue
        cells = [
            f"{statistics.median(values[key]):.0f}" if key in values else "-" for key in FIGURES
        ]
        spread, ratio = "-", "-"
        if figure in values:
            spread = f"{min(values[figure]):.0f} - {max(values[figure]):.0f}"
            pairs = zip(values[figure], measured[figure], strict=True)
            ratio = f"{statistics.median(mine / ours for mine, ours in pairs):.2f}"
        lines.append(f"| {name} | {' | '.join([*cells, spread, ratio])} |")
    return "\n".join(lines)


def rows(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every figure, for a results file; a missing peer has a reason instead."""
    return [
        {"network": network, "name": name}
        | ({"missing": figures} if isinstance(figures, str) else {"mebibytes": figures})
        for network, values in found.items()
        for name, figures in values.items()
    ]


if __name__ == "__main__":
    main()
