"""What a process keeps of 100 architectures, 100 losses, 100 trainers: memory and memory maps.

Each kind has a process of its own, which does one after the other:

* architectures: an MLP of another width each time, its forward pass and two training steps;
* losses: one model, with a loss that is defined again (a lambda) each time, and two steps;
* trainers: a new `Trainer` each time, with a fit, a validation and a prediction.

A round alone goes before ("before"); then come all ("after"), and `fz.clear_caches()` ("cleared").
Resident memory in MB, memory maps as `/proc/self/maps` has them: Linux gives a process 65,530
(`vm.max_map_count`), and what asks for one more dies. Nothing is measured against a peer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _timing import environment, write_results

PACKAGES = ("jax", "jaxlib", "flax", "optax")
MOMENTS = ("before", "after", "cleared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--count", type=int, default=100, help="how many of each kind")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--worker", metavar="KIND", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(soak(KINDS[options.worker], options.count)))
        return
    figures = {kind: run(kind, options.count) for kind in options.kinds}
    print(table(figures, options.count))
    if options.json:
        write_results(
            options.json,
            environment=environment(PACKAGES),
            arguments={"count": options.count},
            rows=[{"kind": kind, **figure} for kind, figure in figures.items()],
        )


def run(kind: str, count: int) -> dict[str, Any]:
    """The figures of a kind, from a process of its own."""
    command = [sys.executable, __file__, "--worker", kind, "--count", str(count)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def table(figures: dict[str, dict[str, Any]], count: int) -> str:
    """A table in Markdown, a row for each kind."""
    lines = [
        f"| {count} | MB before | after | cleared | maps before | after | cleared | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, figure in figures.items():
        cells = [f"{figure[moment][what]:,}" for what in ("mb", "maps") for moment in MOMENTS]
        lines.append(f"| {kind} | {' | '.join(cells)} | {figure['seconds']} |")
    return "\n".join(lines)


def soak(use: Callable[[int], None], count: int) -> dict[str, Any]:
    """Memory and maps after the first, after all, and after the caches are cleared."""
    import flaxzoo as fz

    use(0)
    figures: dict[str, Any] = {"before": memory()}
    start = time.perf_counter()
    for i in range(1, count + 1):
        use(i)
    figures["seconds"] = round(time.perf_counter() - start)
    figures["after"] = memory()
    fz.clear_caches()
    return {**figures, "cleared": memory()}


def memory() -> dict[str, int]:
    """Resident memory in MB, and the number of memory maps."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    maps = len(Path("/proc/self/maps").read_text().splitlines())
    return {"mb": round(pages * 4096 / 1e6), "maps": maps}


X = np.random.default_rng(0).random((8, 6), np.float32)
LABELS = np.arange(8) % 3
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


def model(width: int = 8) -> Any:
    import flaxzoo as fz

    return fz.models.get("mlp", input_shape=(6,), features=(width,), num_classes=3).init(0)


def steps(model: Any, targets: np.ndarray, **options: Any) -> None:
    import flaxzoo as fz

    state = fz.create_train_state(model, **options)
    for _ in range(2):
        state, _ = fz.train_step(state, (X, targets))


def architecture(number: int) -> None:
    network = model(8 + number)
    network(X)
    steps(network, LABELS)


def loss(number: int) -> None:
    steps(model(), ONE_HOT, loss=lambda outputs, targets: (outputs - targets) ** 2)


def trainer(number: int) -> None:
    import flaxzoo as fz

    run = fz.Trainer(model(), metrics=["accuracy"])
    data = (X, LABELS)
    run.fit(data, batch_size=4, validation_data=data, progress=False)
    run.predict(X)


KINDS = {"architectures": architecture, "losses": loss, "trainers": trainer}

if __name__ == "__main__":
    main()
