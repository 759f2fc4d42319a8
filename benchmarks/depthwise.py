"""Depthwise convolutions in their three directions: ours, XLA's and torch's, in milliseconds.

The shapes of MobileNetV3, EfficientNet-B0 and ConvNeXt-T, in float32. Run
``python benchmarks/depthwise.py``.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
from _timing import alternate, environment, results, write_results
from convolutions import DIRECTIONS, jax_directions, torch_directions

from flaxzoo.layers.lowering.convolution import conv_general_dilated

# (size, channels, kernel, stride), batch 8 at 224.
SHAPES = (
    (112, 16, 3, 1),
    (112, 64, 3, 2),
    (112, 96, 3, 2),
    (56, 72, 3, 1),
    (56, 72, 5, 2),
    (56, 144, 5, 2),
    (28, 120, 5, 1),
    (28, 240, 3, 2),
    (14, 200, 3, 1),
    (14, 480, 3, 1),
    (14, 480, 5, 1),
    (14, 672, 5, 2),
    (7, 960, 5, 1),
    (56, 96, 7, 1),
    (28, 192, 7, 1),
    (14, 384, 7, 1),
    (7, 768, 7, 1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="also write the times here")
    options = parser.parse_args()
    env = environment(("jax", "jaxlib", "torch"))
    print(", ".join(f"{key} {value}" for key, value in env.items()) + "\n")
    print("| convolution | ours, ms | XLA's time | torch's time |\n|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for size, channels, kernel, stride in SHAPES:
        shape = (options.batch, size, channels, channels, kernel, stride, channels)
        everyone = {"flaxzoo": jax_directions(shape, conv_general_dilated)}
        everyone["XLA"] = jax_directions(shape, jax.lax.conv_general_dilated)
        everyone["torch"] = torch_directions(shape)
        for direction in DIRECTIONS:
            runs = {who: found[direction] for who, found in everyone.items() if found}
            timings = alternate(runs, rounds=options.rounds, warmup=1, pause=0.15, calls=5)
            base = timings["flaxzoo"]
            title = f"{size}, {channels}, {kernel} x {kernel}" + f" / {stride}" * (stride > 1)
            title += f", {direction}"
            cells = [
                f"{timings[who].ratio(base):.2f}" if who in timings else "not installed"
                for who in ("XLA", "torch")
            ]
            print(f"| {title} | {1e3 * base.median:.2f} | {' | '.join(cells)} |", flush=True)
            rows += results(timings, work=title, title=title)
    if options.json:
        write_results(options.json, env, vars(options), rows)


if __name__ == "__main__":
    main()
