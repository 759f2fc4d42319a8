"""What `import flaxzoo` costs over `import jax, flax.linen, optax`.

Both are whole processes, run alternately, so that a drift of the machine's speed hits both; the
ratio is of the medians. Target: at most 1.10.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

BASE = "import jax, flax.linen, optax"
CASES = {
    "jax, flax.linen, optax": BASE,
    "the same and flaxzoo": f"{BASE}, flaxzoo",
    "flaxzoo alone": "import flaxzoo",
    "flaxzoo and models.get('cnn')": "import flaxzoo; flaxzoo.models.get('cnn')",
    "flaxzoo and the training step": "import flaxzoo; flaxzoo.train_step",
}


def measure(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for run in range(options.runs + 1):
        for name, code in CASES.items():
            seconds = measure(code)
            if run:  # the first round fills the disk cache
                times[name].append(seconds)
    base = statistics.median(next(iter(times.values())))
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.runs} runs each")
    print(f"{'import':<32} {'median s':>9} {'min':>7} {'max':>7} {'ratio':>6}")
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"{name:<32} {median:9.3f} {min(values):7.3f} {max(values):7.3f} {median / base:6.2f}"
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(times, file, indent=2)


if __name__ == "__main__":
    main()
