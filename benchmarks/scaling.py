"""What devices send each other in a training step: from the compiled program, and on paper.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json

The step of ResNet-50 and of ViT-L is compiled for eight simulated devices, data parallel and FSDP;
nothing is computed. `flaxzoo.training.collectives` reads the operations between devices and their
bytes from its text. Beside them stands the closed form of the same strategy, which then says what
each of 8, 64 and 512 devices sends, and what time that takes at least on links of a known speed.

XLA's CPU backend writes the sum of a gradient that is divided afterwards as an all-reduce; GPUs and
TPUs make a reduce-scatter of it, which sends half. The closed form of FSDP counts it as that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import flaxzoo as fz
from flaxzoo.training.collectives import Collective

DEVICES = 8
# Name, and examples on each device in the step whose time is compared with.
WORKS = {"resnet50": 256, "vit_large_patch16_224": 64}
# Bytes a second that a device sends: NVLink 4 within a host of 8, one 400 Gb/s port each between.
LINKS = {8: 450e9, 64: 50e9, 512: 50e9}
# Dense bfloat16 operations a second of an H100, and the share that training reaches of them.
PEAK, SHARE = 989e12, 0.4


def compiled(name: str, sharding: str) -> Any:
    """The plan of a step on eight devices, with what it sends."""
    model = fz.models.get(name)
    shape = model.spec.input_shape
    # The number of examples changes nothing of what is sent, but for a few numbers of metrics.
    data = np.zeros((DEVICES, *shape), np.float32), np.zeros(DEVICES, np.int32)
    trainer = fz.Trainer(model, optimizer="adamw", devices=DEVICES, sharding=sharding)
    return trainer.plan(data, batch_size=DEVICES, compiled=True)


def closed_form(parameters: int, sharding: str, devices: int) -> float:
    """Bytes that each device sends in a step of float32, by the ring algorithms.

    Data parallel: gradients are summed, 2 (n - 1) / n of their bytes. FSDP: parameters are fetched
    for the forward pass and once more for the backward one, and gradients summed and divided, each
    (n - 1) / n.
    """
    size = 4 * parameters
    if sharding == "replicated":
        return Collective("all-reduce", size, devices).sent
    fetched = Collective("all-gather", size, devices, count=2).sent
    return fetched + Collective("reduce-scatter", size // devices, devices).sent


def measure(name: str) -> dict[str, Any]:
    """The rows of one model."""
    spec = fz.models.info(name)
    flops = 3 * spec.gflops * 1e9 * WORKS[name]
    result: dict[str, Any] = {"parameters": spec.parameters, "compute_s": flops / PEAK / SHARE}
    for sharding in ("replicated", "fsdp"):
        plan = compiled(name, sharding)
        kinds: dict[str, dict[str, float]] = {}
        for one in plan.traffic:
            row = kinds.setdefault(one.kind, {"count": 0, "sent": 0.0})
            row["count"] += one.count
            row["sent"] += one.sent
        result[sharding] = {
            "compiled": kinds,
            "sent": sum(row["sent"] for row in kinds.values()),
            "state_bytes": sum(plan.bytes[k] for k in ("parameters", "gradients", "optimizer")),
            "on_paper": {
                n: {
                    "sent": (sent := closed_form(spec.parameters, sharding, n)),
                    "seconds": sent / LINKS[n],
                }
                for n in LINKS
            },
        }
    return result


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--works", nargs="*", default=list(WORKS), choices=list(WORKS))
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", DEVICES)
    results = {}
    for name in options.works:
        results[name] = measure(name)
        print(name, json.dumps(results[name], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
