"""What a native kernel would give: its times beside torch's and ours, alone and in networks.

``python benchmarks/native/compare.py depthwise`` times every depthwise convolution of
``benchmarks/depthwise.py`` in its three directions, ``dense`` the 3 x 3 convolutions of ResNets,
``networks`` a whole ConvNeXt-T and MobileNetV3-L with the kernel in the place of the lowering's
loops. It needs a C++ compiler (``CXX``, or the system's).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import kernels
import numpy as np

# The other benchmarks, wherever this is called from.
sys.path.insert(0, str(Path(__file__).parents[1]))

import _steps
from _peers import flaxzoo as flaxzoo_peer
from _timing import alternate, environment, results, table, write_results
from _workers import here, measure, serve
from _works import WORKS
from convolutions import DIRECTIONS, LAYOUT, jax_directions, operands, torch_directions
from depthwise import SHAPES

from flaxzoo.layers.lowering.convolution import conv_general_dilated

TORCH, KERNEL, OURS = NAMES = ("torch", "native", "flaxzoo")
# (size, channels) of the ResNets' 3 x 3 convolutions.
DENSE = ((56, 64), (28, 128), (14, 256), (7, 512))
KINDS = {"inference": "inference", "train": "training step"}
NETWORKS = ("convnext_tiny", "mobilenetv3_large_100")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("depthwise", "dense", "networks"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", type=int, nargs="*", help="depthwise: only these, by number")
    parser.add_argument("--works", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--json", metavar="FILE", help="also write the times here")
    options = parser.parse_args()
    env = {**environment(("jax", "jaxlib", "torch")), "compiler": kernels.version()}
    print(", ".join(f"{key} {value}" for key, value in env.items()) + "\n")
    rows = {"depthwise": depthwise, "dense": dense, "networks": networks}[options.what](options)
    if options.json:
        write_results(options.json, env, vars(options), rows)


def depthwise(options: Any) -> list[dict[str, Any]]:
    print("| | torch, ms | native to torch | ours to torch |\n|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for i, (size, channels, kernel, stride) in enumerate(SHAPES):
        if options.shapes and i not in options.shapes:
            continue
        shape = (options.batch, size, channels, channels, kernel, stride, channels)
        everyone = {
            TORCH: torch_directions(shape),
            KERNEL: jax_directions(shape, kernels.conv_general_dilated),
            OURS: jax_directions(shape, conv_general_dilated),
        }
        for direction in DIRECTIONS:
            runs = {who: found[direction] for who, found in everyone.items()}
            timings = alternate(runs, rounds=options.rounds, warmup=1, pause=0.05, calls=5)
            title = f"{size}, {channels}, {kernel} x {kernel}" + f" / {stride}" * (stride > 1)
            title += f", {direction}"
            base = timings[TORCH]
            ratios = [f"{timings[who].ratio(base):.2f}" for who in (KERNEL, OURS)]
            print(f"| {title} | {1e3 * base.median:.3f} | {' | '.join(ratios)} |", flush=True)
            rows += results(timings, work=title, title=title)
    return rows


def dense(options: Any) -> list[dict[str, Any]]:
    print(f"| GFLOP/s | {' | '.join(NAMES)} |\n|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for size, channels in DENSE:
        shape = (options.batch, size, channels, channels, 3, 1, 1)
        check_dense(shape)
        gflop = 2 * 9 * options.batch * size**2 * channels**2 / 1e9
        runs = {
            TORCH: torch_directions(shape)["forward"],
            KERNEL: jax_directions(shape, kernels.dense_general_dilated)["forward"],
            OURS: jax_directions(shape, conv_general_dilated)["forward"],
        }
        timings = alternate(runs, rounds=options.rounds, warmup=1, pause=0.05, calls=5)
        title = f"{size}, {channels} to {channels}, 3 x 3, forward"
        cells = [f"{gflop / timings[who].median:.0f}" for who in NAMES]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)
        rows += results(timings, work=title, title=title, gflop=gflop)
    return rows


def check_dense(shape: tuple[int, ...]) -> None:
    """Raises if the prototype computes something else than XLA."""
    x, weights, _ = operands(shape)
    found = kernels.dense_general_dilated(x, weights)
    expected = conv_general_dilated(x, weights, (1, 1), "SAME", dimension_numbers=LAYOUT)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def networks(options: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([sys.executable, here("_works.py"), directory, *options.works], check=True)
        for work, kind in itertools.product(options.works, KINDS):
            commands, _ = _steps.candidates(work, kind, [TORCH], [], directory)
            commands[KERNEL] = [sys.executable, __file__, "--serve", work, kind]
            check = functools.partial(_steps.check, work)
            found = measure(commands, rounds=options.rounds, seconds=60, check=check)
            if found.missing:
                raise SystemExit(f"{work}: {found.missing}")
            timings = {name: found.timings[name] for name in NAMES}
            title = f"{WORKS[work].title}, {KINDS[kind]}"
            lines = table(timings, baseline=TORCH).replace("relative to ours", "relative to torch")
            print(f"{title}\n\n{lines}\n", flush=True)
            rows += results(timings, work=work, kind=kind, title=title)
    return rows


def _with_kernel(work: str, kind: str) -> Any:
    kernels.put_into_lowering()
    return flaxzoo_peer(work, kind, "")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(lambda: _with_kernel(*sys.argv[2:]))
    else:
        main()
