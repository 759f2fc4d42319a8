"""Our LSTM against nn.RNN, nn.scan and torch: forward, and forward with the gradient.

Run ``python benchmarks/lstm.py``; ``--json PATH`` also writes every time. All candidates compute
the same function of the same weights, which is checked before they are timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from _plain_linen import as_flax_cell
from _timing import alternate, environment, results, table, write_results

from flaxzoo.models.lstm import LSTM, to_torch_state_dict

OURS = "flaxzoo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()

    env = environment(("jax", "jaxlib", "flax", "torch"))
    print(", ".join(f"{key} {value}" for key, value in env.items()))
    print(f"{args.steps} steps x {args.features} features, {args.hidden} units, float32\n")
    rows = []
    for batch in args.batch:
        x = np.random.default_rng(0).standard_normal((batch, args.steps, args.features), np.float32)
        candidates = jax_candidates(x, args.hidden)
        theirs, missing = torch_candidates(x, args.hidden, candidates[OURS][0])
        candidates.update(theirs)
        for index, kind in ((1, "forward"), (2, "forward + backward")):
            runs = {name: entry[index] for name, entry in candidates.items()}
            timings = alternate(runs, rounds=args.rounds)
            absent = {"torch.nn.LSTM": missing} if missing else {}
            print(f"batch {batch}, {kind}\n\n{table(timings, baseline=OURS, missing=absent)}\n")
            rows += results(timings, absent, batch=batch, kind=kind)
    if args.json:
        arguments = {key: value for key, value in vars(args).items() if key != "json"}
        write_results(args.json, env, arguments, rows)


def jax_candidates(x: np.ndarray, hidden: int) -> dict[str, tuple[Any, Callable, Callable]]:
    """Name to (parameters, forward, forward + backward); all from the same weights."""
    ours = LSTM(hidden, pooling=None)
    params = jax.jit(ours.init)(jax.random.key(0), x)["params"]
    cell = {"params": as_flax_cell(params["l0"])}
    rnn = nn.RNN(nn.OptimizedLSTMCell(hidden))
    scan = nn.scan(
        nn.OptimizedLSTMCell,
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
    )(hidden)
    start = (jnp.zeros((len(x), hidden)),) * 2
    functions: dict[str, tuple[Any, Callable]] = {
        OURS: ({"params": params}, ours.apply),
        "flaxzoo, remat=True": ({"params": params}, ours.clone(remat=True).apply),
        "nn.RNN(OptimizedLSTMCell)": ({"params": {"cell": cell["params"]}}, rnn.apply),
        "nn.scan(OptimizedLSTMCell)": (cell, lambda v, x: scan.apply(v, start, x)[1]),
    }
    x = jnp.asarray(x)
    expected = ours.apply({"params": params}, x)
    result = {}
    for name, (variables, apply) in functions.items():
        forward = jax.jit(apply)
        # The gradient for the inputs too: they are a layer's outputs in any deeper network.
        backward = jax.jit(
            jax.value_and_grad(lambda v, x, f=apply: (f(v, x) ** 2).sum(), argnums=(0, 1))
        )
        np.testing.assert_allclose(forward(variables, x), expected, atol=1e-5)
        result[name] = (
            variables["params"],
            lambda f=forward, v=variables: jax.block_until_ready(f(v, x)),
            lambda f=backward, v=variables: jax.block_until_ready(f(v, x)),
        )
    return result


def torch_candidates(x: np.ndarray, hidden: int, params: Any) -> tuple[dict[str, Any], str]:
    """The same for torch, or no candidates and the reason."""
    try:
        import torch
    except ImportError:
        return {}, "not installed"
    torch.set_num_threads(int(environment(())["cores"]))
    module = torch.nn.LSTM(x.shape[-1], hidden, batch_first=True)
    state = to_torch_state_dict(params)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    inputs = torch.tensor(x, requires_grad=True)

    def forward() -> Any:
        with torch.no_grad():
            return module(inputs)[0]

    def backward() -> None:
        module.zero_grad()
        inputs.grad = None
        (module(inputs)[0] ** 2).sum().backward()

    ours = LSTM(hidden, pooling=None).apply({"params": params}, x)
    np.testing.assert_allclose(forward().numpy(), ours, atol=1e-5)
    return {"torch.nn.LSTM": (params, forward, backward)}, ""


if __name__ == "__main__":
    main()
