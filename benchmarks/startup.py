"""From nothing to the first logits of a pretrained ResNet-50, and to a fresh training state.

Whole processes, imports included, run alternately after one round that warms the disk: a file of
random weights under timm's names is read by flaxzoo and by timm, which each classify one image.
The second table is flaxzoo alone, against Linen's own `init` under `jit` with optax. Needs torch
and timm for the peer, which is reported as missing without them. Targets: no slower than timm; at
most 2 s for the training state.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _timing import environment

OURS = """
import numpy as np
import flaxzoo as fz
model = fz.models.get("resnet50", pretrained={file!r})
np.asarray(model(np.zeros((1, 224, 224, 3), np.float32)))
"""
# CUDA builds of torchvision do not load their operators beside a CPU build of torch.
TIMM = """
import torch
try:
    import torchvision
except RuntimeError:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
model = timm.create_model("resnet50", pretrained=True, pretrained_cfg_overlay={{"file": {file!r}}})
with torch.inference_mode():
    model.eval()(torch.zeros(1, 3, 224, 224)).numpy()
"""
STATE = """
import time
import jax
import flaxzoo as fz
fz.create_train_state
start = time.perf_counter()
model = fz.models.get("resnet50", num_classes=10)
state = fz.create_train_state(model, optimizer="adamw", learning_rate=1e-3)
jax.block_until_ready((state.params, state.opt_state))
print(time.perf_counter() - start)
"""
LINEN = """
import time
import jax, jax.numpy as jnp, optax
import flaxzoo as fz
module = fz.models.get("resnet50", num_classes=10).module
start = time.perf_counter()
variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
state = optax.adamw(1e-3).init(variables["params"])
jax.block_until_ready((variables, state))
print(time.perf_counter() - start)
"""
WRITE = """
import numpy as np
import flaxzoo as fz
from safetensors.numpy import save_file
save_file(fz.models.get("resnet50").init(0).to_torch_state_dict(as_numpy=True), {file!r})
"""


def run(code: str) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def report(title: str, times: dict[str, list[float]]) -> None:
    base = next(iter(times.values()))
    print(f"\n{title}\n{'':<34} {'median s':>9} {'min':>7} {'max':>7} {'ratio':>6}")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:<34} {middle:9.2f} {low:7.2f} {high:7.2f} {ratio:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    versions = environment(("jax", "jaxlib", "flax", "torch", "timm"))
    print(platform.platform(), ", ".join(f"{k} {v}" for k, v in versions.items()))
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory) / "model.safetensors")
        run(WRITE.format(file=file))
        logits = {"flaxzoo": OURS.format(file=file)}
        if importlib.util.find_spec("timm"):
            logits["timm"] = TIMM.format(file=file)
        else:
            print("timm is not installed: flaxzoo is measured alone")
        first: dict[str, list[float]] = {name: [] for name in logits}
        states: dict[str, list[float]] = {"create_train_state": [], "jit(init), optax": []}
        for i in range(options.runs + 1):
            for name, code in logits.items():
                seconds, _ = run(code)
                if i:
                    first[name].append(seconds)
            for name, code in zip(states, (STATE, LINEN), strict=True):
                _, output = run(code)
                if i:
                    states[name].append(float(output))
    report("first logits of one image, the whole process", first)
    report("fresh training state (AdamW), without imports", states)
    if options.json:
        Path(options.json).write_text(json.dumps({"first": first, "state": states}, indent=2))


if __name__ == "__main__":
    main()
