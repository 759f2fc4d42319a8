"""Transfer learning with a ResNet-50: what freezing and cached features save.

Three tables from one invocation, ratios of alternating runs:

* one training step at batch 8, 224 x 224, two classes, Adam: everything trains; the backbone is
  frozen; the backbone is frozen in the way of the tutorials (jax-resnet's layers, `mutable`
  statistics, `optax.multi_transform` with zero updates);
* one epoch over the same images: through the frozen network, and on features that were extracted
  once;
* images per second from JPEG files: see `image_pipeline.py`, which is run with its defaults.

Targets: a frozen step in at most 0.35 of a full one's time; an epoch on features at least 50 times
as fast; the pipeline no slower than torch's. jax-resnet comes with flaxzoo; torch and torchvision
are reported as missing where they are not installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax_resnet
import numpy as np
import optax
from _timing import Timing, alternate, environment, table
from jax_resnet.common import Sequential, slice_variables

import flaxzoo as fz

FULL, FROZEN, TUTORIAL = "flaxzoo, all trains", "flaxzoo, frozen backbone", "the tutorials' way"
THROUGH, CACHED = "through the frozen network", "on cached features"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=64, help="in the epoch of the second table")
    parser.add_argument("--data", metavar="DIR", help="JPEG files for the third table")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()

    env = environment(("jax", "jaxlib", "flax", "optax", "jax-resnet", "torch", "torchvision"))
    print(", ".join(f"{key} {value}" for key, value in env.items()), flush=True)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(args.images, args.size, args.size, 3)).astype(np.float32)
    labels = (np.arange(args.images) % 2).astype(np.int32)
    model = fz.models.get("resnet50", num_classes=2).init(0)

    batch = jax.device_put((images[: args.batch], labels[: args.batch]))
    steps = {
        FULL: our_step(model, batch, freeze=None),
        FROZEN: our_step(model, batch, freeze="backbone"),
        TUTORIAL: tutorial_step(batch),
    }
    timings = alternate(steps, rounds=args.rounds, warmup=1)
    print(f"\n## A training step, batch {args.batch} at {args.size} x {args.size}\n")
    print(table(timings, baseline=FULL), flush=True)

    epochs = alternate(epoch_runs(model, images, labels), rounds=max(3, args.rounds // 2), warmup=1)
    print(f"\n## An epoch over {args.images} images, batches of 32\n")
    print(table(epochs, baseline=THROUGH))
    faster = epochs[THROUGH].ratio(epochs[CACHED])
    print(f"\nOn cached features an epoch is {faster:.0f} times as fast.", flush=True)

    print("\n## Images from JPEG files\n", flush=True)
    command = [sys.executable, str(Path(__file__).with_name("image_pipeline.py"))]
    subprocess.run([*command, *(["--data", args.data] if args.data else [])], check=True)
    if args.json:
        write(Path(args.json), env, vars(args), {"step": timings, "epoch": epochs})


def our_step(model: fz.Model, batch: Any, freeze: str | None) -> Callable[[], Any]:
    """A training step from the same state each time."""
    state = fz.create_train_state(model, optimizer="adam", learning_rate=1e-3, freeze=freeze)
    return lambda: jax.block_until_ready(fz.train_step(state, batch))


class Transferred(nn.Module):
    """A backbone of jax-resnet with a head, as the tutorials write it."""

    backbone: nn.Module
    num_classes: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the logits ``[B, num_classes]`` of images ``[B, H, W, 3]``."""
        x = jnp.mean(self.backbone(x), axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(x)


def tutorial_step(batch: Any) -> Callable[[], Any]:
    """The step of the tutorials, on jax-resnet without its pooling and last layer."""
    network = jax_resnet.ResNet50(n_classes=1000)
    variables = jax.jit(network.init)(jax.random.key(0), batch[0][:1])
    module = Transferred(Sequential(network.layers[:-2]))
    start = jax.jit(module.init)(jax.random.key(1), batch[0][:1])
    backbone = slice_variables(variables, 0, -2)
    params = {**start["params"], "backbone": backbone["params"]}
    statistics = {**start["batch_stats"], "backbone": backbone["batch_stats"]}
    zero = optax.GradientTransformation(
        lambda params: (),
        lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), ()),
    )
    labels = {
        group: jax.tree.map(lambda _, g=group: "zero" if g == "backbone" else "adam", tree)
        for group, tree in params.items()
    }
    tx = optax.multi_transform({"adam": optax.adam(1e-3), "zero": zero}, labels)

    @jax.jit
    def step(params: Any, statistics: Any, opt_state: Any, images: Any, targets: Any) -> Any:
        def objective(params: Any) -> Any:
            logits, updated = module.apply(
                {"params": params, "batch_stats": statistics}, images, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
            return loss, (logits, updated["batch_stats"])

        (loss, (logits, updated)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, new_state = tx.update(grads, opt_state, params)
        accuracy = jnp.mean(logits.argmax(-1) == targets)
        return optax.apply_updates(params, updates), updated, new_state, loss, accuracy

    opt_state = tx.init(params)
    return lambda: jax.block_until_ready(step(params, statistics, opt_state, *batch))


def epoch_runs(model: fz.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, Callable]:
    """An epoch of ``Trainer.fit`` through the frozen network, and on its features."""
    features = fz.transfer.extract_features(model, (images, labels), batch_size=32, progress=False)
    head = fz.transfer.slice_model(model, start="head")
    through = fz.Trainer(model, learning_rate=1e-3, freeze="backbone")
    alone = fz.Trainer(head, learning_rate=1e-3)
    return {
        THROUGH: partial(through.fit, (images, labels), batch_size=32, progress=False),
        CACHED: partial(alone.fit, features, batch_size=32, progress=False),
    }


def write(path: Path, env: Any, arguments: Any, timings: dict[str, dict[str, Timing]]) -> None:
    """Writes every time as JSON."""
    results = [
        {"kind": kind, "name": name, "seconds": timing.seconds}
        for kind, group in timings.items()
        for name, timing in group.items()
    ]
    text = json.dumps({"environment": env, "arguments": arguments, "results": results}, indent=2)
    path.write_text(text)


if __name__ == "__main__":
    main()
