"""From nothing to a ResNet-50's first logits and first training step, and what compiling takes.

Whole fresh processes that take turns; each times its stages and is timed from outside, which adds
the interpreter's start and end. Five tables:

* to the first logits: import, build, load, one image of 224 x 224;
* to the first training step: import, build, load, one step of Adam at batch 8 (the training state
  and all compilation included); a second step shows what of it was not, and is not in the total;
* compiling that step alone: tracing and lowering, and XLA's compilation;
* a fresh training state with AdamW, against Linen's own `init` under `jit` with optax;
* what the digest of the weights adds to reading them, and to writing them.

The weights are random, in a local safetensors file under timm's names, which plain Linen has no
way to read: `load` is its `init` under `jit`. flaxzoo also runs with
JAX's persistent compilation cache (`jax_compilation_cache_dir`): one process fills a directory that
is new in each round, the next one reads it. A peer that is not installed is a row that says so.
Targets: no slower than timm to the first logits; compiling in at most plain Linen's time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _resnet50 import CANDIDATES, compiled
from _timing import Timing, environment, write_results

OURS = "flaxzoo"
FILLING, FILLED = f"{OURS}, filling the cache", f"{OURS}, from the cache"
LOADING = "models.get(pretrained=<what save_pretrained wrote>)"
SAVING = "model.save_pretrained"
PEERS = ("timm", "jax-resnet", "plain Linen")
JAX_PEERS = PEERS[1:]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "jax-resnet", "torch", "timm")
# What each table runs, and the stages that it shows.
GOALS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "logits": (
        "To the first logits of one image",
        (OURS, FILLING, FILLED, *PEERS),
        ("import", "build", "load", "first logits"),
    ),
    "step": (
        "To the first training step, batch 8, Adam",
        (OURS, FILLING, FILLED, *PEERS),
        ("import", "build", "load", "first step", "second step"),
    ),
    "compile": (
        "Compiling the training step",
        (OURS, *JAX_PEERS),
        ("trace and lower", "compile"),
    ),
    "state": (
        "A fresh training state (AdamW), without imports",
        ("fz.create_train_state", "jax.jit(module.init), optax.adamw(...).init"),
        (),
    ),
    "digest": (
        "The digest of a ResNet-50's weights, without imports",
        (LOADING, "the same without digests", SAVING, "safetensors.numpy.save_file"),
        (),
    ),
}
LOAD = """
import json, sys, time
import jax
import flaxzoo as fz
fz.models.get("resnet50")
start = time.perf_counter()
model = fz.models.get("resnet50", pretrained=sys.argv[1])
jax.block_until_ready(model.variables)
print(json.dumps({"total": time.perf_counter() - start}))
"""
SAVE = """
import json, sys, time
import flaxzoo as fz
from safetensors.numpy import save_file
model = fz.models.get("resnet50", pretrained=sys.argv[1])
start = time.perf_counter()
SAVED
print(json.dumps({"total": time.perf_counter() - start}))
"""
STATE = """
import json, time
import jax
import flaxzoo as fz
fz.create_train_state
start = time.perf_counter()
model = fz.models.get("resnet50", num_classes=10)
state = fz.create_train_state(model, optimizer="adamw", learning_rate=1e-3)
jax.block_until_ready((state.params, state.opt_state))
print(json.dumps({"total": time.perf_counter() - start}))
"""
LINEN = """
import json, time
import jax, jax.numpy as jnp, optax
import flaxzoo as fz
module = fz.models.get("resnet50", num_classes=10).module
start = time.perf_counter()
variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
state = optax.adamw(1e-3).init(variables["params"])
jax.block_until_ready((variables, state))
print(json.dumps({"total": time.perf_counter() - start}))
"""
WRITE = """
import json, pathlib, sys
import flaxzoo as fz
from safetensors.numpy import save_file
model = fz.models.get("resnet50").init(0)
tensors = model.to_torch_state_dict(as_numpy=True)
save_file(tensors, sys.argv[1])
digests, plain = (pathlib.Path(sys.argv[1]).with_name(name) for name in ("digests", "plain"))
model.save_pretrained(digests)
plain.mkdir()
save_file(tensors, plain / "model.safetensors")
config = json.loads((digests / "config.json").read_text())
for key in ("weights_sha256", "document_sha256"):
    del config["flaxzoo"][key]
(plain / "config.json").write_text(json.dumps(config))
"""
PROGRAMS = {
    "fz.create_train_state": (STATE, ""),
    "jax.jit(module.init), optax.adamw(...).init": (LINEN, ""),
    LOADING: (LOAD, "digests"),
    "the same without digests": (LOAD, "plain"),
    SAVING: (SAVE.replace("SAVED", "model.save_pretrained(sys.argv[1] + '.saved')"), "digests"),
    "safetensors.numpy.save_file": (
        SAVE.replace(
            "SAVED",
            "save_file(model.to_torch_state_dict(as_numpy=True), sys.argv[1] + '.safetensors')",
        ),
        "digests",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="processes of each candidate")
    parser.add_argument("--goals", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--worker", nargs=2, metavar=("GOAL", "NAME"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*options.worker, file=options.file, cache=options.cache)))
        return
    env = environment(PACKAGES)
    print(", ".join(f"{key} {value}" for key, value in env.items()), flush=True)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([sys.executable, "-c", WRITE, str(weights(directory))], check=True)
        for goal in options.goals:
            results[goal] = measure(goal, Path(directory), options.runs, options.peers)
            print(f"\n## {GOALS[goal][0]}\n\n{report(goal, results[goal])}", flush=True)
    if options.json:
        arguments = {key: getattr(options, key) for key in ("runs", "goals", "peers")}
        write_results(options.json, env, arguments, rows(results))


def weights(directory: str | Path) -> Path:
    return Path(directory) / "resnet50.safetensors"


def work(goal: str, name: str, *, file: str, cache: str | None) -> dict[str, Any]:
    """Runs the stages of a goal in this process: the seconds of each, or why it can't."""
    candidate = CANDIDATES[name]()
    seconds: dict[str, Any] = {}

    def timed(stage: str, function: Any, *arguments: Any) -> None:
        start = time.perf_counter()
        function(*arguments)
        seconds[stage] = time.perf_counter() - start

    try:
        timed("import", candidate.imports)
    except ImportError as error:
        return {"missing": str(error).partition("\n")[0]}
    if cache:
        import jax

        jax.config.update("jax_compilation_cache_dir", cache)
        # The default, 1 s, leaves out the ResNet-50 for inference.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    import numpy as np

    images = np.random.default_rng(0).standard_normal((8, 224, 224, 3), np.float32)
    labels = np.arange(8, dtype=np.int32)
    timed("build", candidate.build)
    timed("load", candidate.load, file)
    if goal == "logits":
        timed("first logits", candidate.logits, images[:1])
    elif goal == "step":
        timed("first step", lambda: (candidate.begin(), candidate.step(images, labels)))
        timed("second step", candidate.step, images, labels)
    else:
        candidate.begin()
        seconds = compiled(candidate, images, labels)[2]
        seconds["total"] = sum(seconds.values())
    return seconds


def measure(goal: str, directory: Path, runs: int, peers: list[str]) -> dict[str, Any]:
    """Name to the stages' seconds in each round, or to why there are none."""
    names = [name for name in GOALS[goal][1] if name not in PEERS or name in peers]
    found: dict[str, Any] = {name: {} for name in names}
    # What comes first may read files from a disk that is not warm yet.
    for i in range(-1 if goal == "logits" else 0, runs):
        shutil.rmtree(directory / "cache", ignore_errors=True)
        for name in turn(names, i):
            if isinstance(found[name], str):
                continue
            seconds = start(goal, name, directory)
            if "missing" in seconds:
                found[name] = seconds["missing"]
            elif i >= 0:
                for stage, value in seconds.items():
                    found[name].setdefault(stage, []).append(value)
    return found


def turn(names: list[str], i: int) -> list[str]:
    """The order of a round: each starts with another one, but the cache is filled, then read."""
    order = names[i % len(names) :] + names[: i % len(names)]
    if FILLED in order:
        order.remove(FILLED)
        order.insert(order.index(FILLING) + 1, FILLED)
    return order


def start(goal: str, name: str, directory: Path) -> dict[str, Any]:
    """One process: its stages' seconds and its whole time as ``total``."""
    command = [sys.executable, __file__, "--worker", goal, OURS if "cache" in name else name]
    command += ["--file", str(weights(directory))]
    if "cache" in name:
        command += ["--cache", str(directory / "cache")]
    if name in PROGRAMS:
        program, folder = PROGRAMS[name]
        command = [sys.executable, "-c", program, str(directory / folder)]
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    whole = time.perf_counter() - begin
    seconds = json.loads(done.stdout.splitlines()[-1])
    return {"total": whole - seconds.get("second step", 0), **seconds}


def report(goal: str, found: dict[str, Any]) -> str:
    """A Markdown table: medians of the stages, the total with its spread, and the ratio."""
    stages = GOALS[goal][2]
    heads = ["seconds (medians)", *stages, "total", "min - max", "time relative to ours"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    base = Timing("", tuple(next(iter(found.values()))["total"]))
    for name, values in found.items():
        if isinstance(values, str):
            lines.append(f"| {name} | {values} |" + " |" * (len(heads) - 2))
            continue
        total = Timing(name, tuple(values["total"]))
        cells = [f"{statistics.median(values[stage]):.2f}" for stage in stages]
        spread = f"{min(total.seconds):.2f} - {max(total.seconds):.2f}"
        cells += [f"{total.median:.2f}", spread, f"{total.ratio(base):.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every time, for a results file; a missing peer has a reason instead of seconds."""
    table = []
    for goal, values in found.items():
        for name, seconds in values.items():
            row = {"goal": goal, "name": name}
            if isinstance(seconds, str):
                table.append({**row, "missing": seconds})
            else:
                stages = {key: value for key, value in seconds.items() if key != "total"}
                table.append({**row, "seconds": seconds["total"], "stages": stages})
    return table


if __name__ == "__main__":
    main()
