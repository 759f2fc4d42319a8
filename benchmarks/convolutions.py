"""Each convolution of a ResNet, in its three directions: XLA's, ours and torch's, in GFLOP/s.

Where a training step's time goes, one operation at a time, and how far each is from the speed of a
large product of matrices on the same machine. Run ``python benchmarks/convolutions.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _timing import alternate, environment, results, write_results

from flaxzoo.layers.lowering.convolution import conv_general_dilated

# (size, channels, features, kernel, stride, groups), batch 8: the ResNet-50's at 224, most common
# first in each stage, then ResNeXt-50's grouped ones.
SHAPES = (
    (224, 3, 64, 7, 2, 1),
    (56, 64, 64, 1, 1, 1),
    (56, 64, 64, 3, 1, 1),
    (56, 64, 256, 1, 1, 1),
    (56, 256, 64, 1, 1, 1),
    (28, 128, 128, 3, 1, 1),
    (28, 128, 512, 1, 1, 1),
    (28, 256, 256, 3, 2, 1),
    (14, 256, 256, 3, 1, 1),
    (14, 256, 1024, 1, 1, 1),
    (14, 1024, 256, 1, 1, 1),
    (7, 512, 512, 3, 1, 1),
    (7, 512, 2048, 1, 1, 1),
    (56, 128, 128, 3, 1, 32),
    (14, 512, 512, 3, 1, 32),
)
DIRECTIONS = ("forward", "input's gradient", "kernel's gradient")
LAYOUT = ("NHWC", "HWIO", "NHWC")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="also write the times here")
    options = parser.parse_args()
    env = environment(("jax", "jaxlib", "torch"))
    print(", ".join(f"{key} {value}" for key, value in env.items()))
    limit = matmul_limit()
    print(f"a product of 2048 x 2048 matrices: {limit:.0f} GFLOP/s\n")
    print("| convolution | direction | XLA | ours | torch |\n|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for size, channels, features, kernel, stride, groups in SHAPES:
        name = f"{size}, {channels} to {features}, {kernel} x {kernel}"
        name += f" / {stride}" * (stride > 1) + f", {groups} groups" * (groups > 1)
        out = -(-size // stride)
        per_output = 2 * kernel**2 * channels // groups
        gflop = options.batch * out**2 * features * per_output / 1e9
        shape = (options.batch, size, channels, features, kernel, stride, groups)
        everyone = {"XLA": jax_directions(shape, jax.lax.conv_general_dilated)}
        everyone["ours"] = jax_directions(shape, conv_general_dilated)
        everyone["torch"] = torch_directions(shape)
        for direction in DIRECTIONS:
            runs = {who: found[direction] for who, found in everyone.items() if found}
            # Groups take XLA seconds.
            rounds = options.rounds if groups == 1 else 1
            timings = alternate(runs, rounds=rounds, warmup=1)
            cells = [
                f"{gflop / timings[who].median:.0f}" if who in timings else "not installed"
                for who in everyone
            ]
            print(f"| {name} | {direction} | {' | '.join(cells)} |", flush=True)
            rows += results(timings, work=f"{name}, {direction}", gflop=gflop)
    if options.json:
        write_results(options.json, {**env, "matmul GFLOP/s": round(limit)}, vars(options), rows)


def matmul_limit(size: int = 2048) -> float:
    a = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    timing = alternate({"matmul": lambda: jax.block_until_ready(product(a, a))}, rounds=10)
    return 2 * size**3 / timing["matmul"].median / 1e9


def operands(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    batch, size, channels, features, kernel, stride, groups = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, channels), np.float32)
    weights = rng.standard_normal((kernel, kernel, channels // groups, features), np.float32)
    out = -(-size // stride)
    return x, weights, rng.standard_normal((batch, out, out, features), np.float32)


def jax_directions(shape: tuple[int, ...], conv: Callable[..., Any]) -> dict[str, Callable]:
    x, weights, gradient = map(jnp.asarray, operands(shape))
    *_, kernel, stride, groups = shape
    pad = (kernel // 2, kernel // 2)

    def forward(x: Any, weights: Any) -> Any:
        return conv(
            x,
            weights,
            (stride, stride),
            (pad, pad),
            dimension_numbers=LAYOUT,
            feature_group_count=groups,
        )

    def to_input(x: Any, weights: Any, gradient: Any) -> Any:
        return jax.vjp(lambda x: forward(x, weights), x)[1](gradient)

    def to_kernel(x: Any, weights: Any, gradient: Any) -> Any:
        return jax.vjp(lambda weights: forward(x, weights), weights)[1](gradient)

    compiled = [jax.jit(f) for f in (forward, to_input, to_kernel)]
    arguments = ((x, weights), (x, weights, gradient), (x, weights, gradient))
    return {
        direction: lambda f=f, a=a: jax.block_until_ready(f(*a))
        for direction, f, a in zip(DIRECTIONS, compiled, arguments, strict=True)
    }


def torch_directions(shape: tuple[int, ...]) -> dict[str, Callable]:
    """The same for torch with channels last; empty where it is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(int(environment(())["cores"]))
    *_, kernel, stride, groups = shape
    x, weights, gradient = (torch.from_numpy(array) for array in operands(shape))
    last = torch.channels_last
    x, gradient = (a.permute(0, 3, 1, 2).contiguous(memory_format=last) for a in (x, gradient))
    weights = weights.permute(3, 2, 0, 1).contiguous(memory_format=last)
    where = [kernel // 2] * 2

    def backward(*mask: bool) -> Any:
        return torch.ops.aten.convolution_backward(
            gradient, x, weights, None, [stride] * 2, where, [1, 1], False, [0, 0], groups, mask
        )

    return {
        "forward": lambda: torch.conv2d(
            x, weights, stride=stride, padding=kernel // 2, groups=groups
        ),
        "input's gradient": lambda: backward(True, False, False),
        "kernel's gradient": lambda: backward(False, True, False),
    }


if __name__ == "__main__":
    main()
