"""What a step costs around its arithmetic: our steps and loop against a hand-written one.

Run ``python benchmarks/overhead.py``; ``--json PATH`` also writes every time. The loop is what one
writes by hand: a plain Linen network, ``optax.adam``, one jitted step that also sums the loss and
the accuracy, donated buffers, NumPy batches that lie ready, and one wait at the end of the epoch.
All of them see the same batches in the same order. The functions are checked to compute the same
before they are timed.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import alternate, environment, write_results

import flaxzoo as fz

CLASSES = 10
HAND = "hand-written loop"
# Units, inputs, batch size and steps in an epoch. Of the first only the overhead shows.
WORKS = {
    "MLP of 8 units, 16 inputs, batch 32": (8, 16, 32, 192),
    "MLP 784-256-10, batch 128": (256, 784, 128, 96),
}


class MLP(nn.Module):
    """Two layers of plain Linen."""

    units: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Logits of ``[B, ...]``."""
        x = nn.relu(nn.Dense(self.units)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=10, help="of one timed run")
    parser.add_argument("--steps-per-call", type=int, default=16)
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()

    env = environment(("jax", "jaxlib", "flax", "optax"))
    print(", ".join(f"{key} {value}" for key, value in env.items()))
    rows = []
    for work, (units, inputs, batch, steps) in WORKS.items():
        runs = candidates(units, inputs, batch, steps, args.epochs, args.steps_per_call)
        timings = alternate(runs, rounds=args.rounds, warmup=1)
        print(f"\n{work}: one step, of {args.epochs} epochs of {steps}\n")
        print("| | median us | min - max us | time relative to the loop |\n|---|---|---|---|")
        for name, timing in timings.items():
            each = [1e6 * seconds / (args.epochs * steps) for seconds in timing.seconds]
            ratio = timing.ratio(timings[HAND])
            print(
                f"| {name} | {np.median(each):.1f} | {min(each):.1f} - {max(each):.1f} "
                f"| {ratio:.3f} |"
            )
            seconds = [value / 1e6 for value in each]
            rows.append({"work": work, "title": work, "name": name, "seconds": seconds})
    if args.json:
        write_results(args.json, env, vars(args), rows)


def candidates(
    units: int, inputs: int, batch: int, steps: int, epochs: int, steps_per_call: int
) -> dict[str, Callable[[], Any]]:
    """Name to a function that trains for some epochs and waits for the end."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch * steps, inputs, 1), np.float32)
    y = rng.integers(0, CLASSES, batch * steps).astype(np.int32)
    batches = [(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)]
    model = fz.models.get(
        "mlp", features=(units,), num_classes=CLASSES, input_shape=(inputs, 1)
    ).init(rng=0)
    module, params = MLP(units), as_plain(model)
    check(module, params, model, batches[0])
    stacked = [
        jax.tree.map(lambda *xs: np.stack(xs), *batches[i : i + steps_per_call])
        for i in range(0, steps - steps_per_call + 1, steps_per_call)
    ]
    runs = {
        HAND: by_hand(module, params, batches, epochs),
        "fz.train_step": by_step(fz.train_step, model, batches, epochs),
        "Trainer.fit": by_trainer(model, (x, y), batch, epochs, 1),
    }
    if len(stacked) * steps_per_call == steps:
        name = f"fz.train_steps, {steps_per_call} at once"
        runs[name] = by_step(fz.train_steps, model, stacked, epochs)
    name = f"Trainer.fit, steps_per_call={steps_per_call}"
    runs[name] = by_trainer(model, (x, y), batch, epochs, steps_per_call)
    return runs


def by_hand(module: nn.Module, params: Any, batches: Any, epochs: int) -> Callable[[], Any]:
    """The loop that one writes without a library."""
    tx = optax.adam(1e-3)

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params: Any, opt_state: Any, totals: Any, x: Any, y: Any) -> Any:
        def objective(params: Any) -> Any:
            logits = module.apply({"params": params}, x)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return loss, (logits.argmax(-1) == y).mean()

        (loss, accuracy), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, opt_state, (totals[0] + loss, totals[1] + accuracy)

    params = jax.tree.map(jnp.copy, params)
    kept = [params, tx.init(params)]

    def run() -> None:
        params, opt_state = kept
        for _ in range(epochs):
            totals = (jnp.zeros(()), jnp.zeros(()))
            for x, y in batches:
                params, opt_state, totals = step(params, opt_state, totals, x, y)
            jax.block_until_ready((params, totals))
        kept[:] = [params, opt_state]

    return run


def by_step(step: Callable, model: fz.Model, batches: Any, epochs: int) -> Callable[[], Any]:
    """A loop over one of the library's steps."""
    kept = [fz.create_train_state(model, learning_rate=1e-3)]

    def run() -> None:
        state = kept[0]
        for _ in range(epochs):
            for batch in batches:
                state, _ = step(state, batch)
            jax.block_until_ready(state.params)
        kept[0] = state

    return run


def by_trainer(
    model: fz.Model, data: Any, batch: int, epochs: int, steps_per_call: int
) -> Callable[[], Any]:
    """``Trainer.fit`` with everything that it does by default but the progress bar."""
    trainer = fz.Trainer(model, learning_rate=1e-3, steps_per_call=steps_per_call)

    def run() -> None:
        trainer.fit(data, epochs=epochs, batch_size=batch, shuffle=False, progress=False)
        jax.block_until_ready(trainer.state.params)

    return run


def as_plain(model: fz.Model) -> dict[str, Any]:
    """The parameters of our network under the names of the plain one."""
    layers = [
        group
        for part in ("backbone", "head")
        for _, group in sorted(model.variables["params"][part].items())
    ]
    return {f"Dense_{i}": dict(layer) for i, layer in enumerate(layers)}


def check(module: nn.Module, params: Any, model: fz.Model, batch: Any) -> None:
    """Raises where the two networks do not compute the same."""
    ours = model.module.apply(model.variables, batch[0])
    np.testing.assert_allclose(module.apply({"params": params}, batch[0]), ours, atol=1e-5)


if __name__ == "__main__":
    main()
