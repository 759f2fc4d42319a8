"""Transfer against training from scratch: new digits from ten examples of each.

A small CNN learns the digits 0 to 4. Its backbone is then frozen and a new head learns 5 to 9 from
50 pictures. The same network, from fresh weights and on the same 50 pictures, is what that has to
beat; a third run starts from the pretrained weights and trains all of them.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import flaxzoo as fz

CONFIG = {"input_shape": (8, 8, 1), "features": (64, 128), "hidden": (), "batch_norm": True}
PRETRAIN_EPOCHS = 10
EXAMPLES_PER_CLASS = 10
BATCH_SIZE = 10
# Passes over the 50 examples after which accuracy is measured; the last is the budget.
EPOCHS = (1, 2, 5, 10, 20, 40)
BUDGET = EPOCHS[-1]

FROZEN, FINE_TUNED, SCRATCH = "frozen backbone, new head", "all fine-tuned", "from scratch"
# The best of those below for each way, on seeds 10 to 14: ``--sweep --first-seed 10`` tries all.
RATES = {FROZEN: 3e-3, FINE_TUNED: 3e-3, SCRATCH: 3e-2}
SWEEP = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)

Arrays = tuple[np.ndarray, np.ndarray]


def load() -> tuple[Arrays, Arrays]:
    """All pictures of 0 to 4, and all of 5 to 9 with their labels moved to 0 to 4."""
    (images, labels), (more_images, more_labels) = fz.data.load_digits()
    images, labels = np.concatenate([images, more_images]), np.concatenate([labels, more_labels])
    low = labels < 5
    return (images[low], labels[low]), (images[~low], labels[~low] - 5)


def turned(base: Arrays) -> Arrays:
    """Each picture in its eight turned and mirrored forms, each form of a digit a class of its own.

    More classes make features that tell more strokes apart, also those of other digits; few-shot
    learners on Omniglot do the same with turned characters (Santoro et al. 2016).
    """
    images, labels = base
    mirrored = images[:, :, ::-1]
    forms = [np.rot90(x, turns, axes=(1, 2)) for x in (images, mirrored) for turns in range(4)]
    return np.concatenate(forms), np.concatenate([labels + 5 * form for form in range(8)])


def pretrain(base: Arrays, seed: int) -> fz.Model:
    """The network after some passes over the digits 0 to 4 in all their forms."""
    model = fz.models.get("cnn", num_classes=40, **CONFIG)
    trainer = fz.Trainer(model, optimizer="adamw", learning_rate=2e-3, augment="light", seed=seed)
    trainer.fit(turned(base), epochs=PRETRAIN_EPOCHS, batch_size=64, progress=False)
    return trainer.model


def accuracies(model: fz.Model, train: Arrays, test: Arrays, rate: float, seed: int) -> list[float]:
    """Accuracy on ``test`` after each number of passes in ``EPOCHS``."""
    trainer = fz.Trainer(model, optimizer="adamw", learning_rate=rate, seed=seed)
    found = []
    for done, epochs in zip((0, *EPOCHS), EPOCHS, strict=False):
        trainer.fit(train, epochs=epochs - done, batch_size=BATCH_SIZE, progress=False)
        found.append(trainer.evaluate(test, batch_size=len(test[1]))["accuracy"])
    return found


def compare(seeds: range, rates: dict[str, tuple[float, ...]]) -> dict[str, dict[float, list]]:
    """Trains every way with every rate of its own and every seed.

    A seed selects the pretrained weights, the 50 examples, their order and the fresh weights.

    Args:
      seeds: which.
      rates: the learning rates of each way.

    Returns:
      For each way and rate a list with a list per seed: accuracy after ``EPOCHS``.
    """
    base, new = load()
    results = {way: {rate: [] for rate in tried} for way, tried in rates.items()}
    for seed in seeds:
        test, train = fz.data.train_test_split(
            new, 5 * EXAMPLES_PER_CLASS, seed=seed, stratify=new[1]
        )
        pretrained = pretrain(base, seed)
        fresh_head = pretrained.replace_head(fz.models.Head(5), rng=seed)
        scratch = fz.models.get("cnn", num_classes=5, **CONFIG).init(rng=100 + seed)

        # A frozen backbone gives the same features in every epoch: once is enough.
        head = fz.transfer.slice_model(fresh_head, start="head")
        features, test_features = (
            fz.transfer.extract_features(fresh_head, part, batch_size=64, progress=False).arrays
            for part in (train, test)
        )
        for way, runs in results.items():
            model = {FROZEN: head, FINE_TUNED: fresh_head, SCRATCH: scratch}[way]
            data = (features, test_features) if way == FROZEN else (train, test)
            for rate, found in runs.items():
                found.append(accuracies(model, *data, rate, seed))
    return results


def best_rates(results: dict[str, dict[float, list]]) -> dict[str, float]:
    """For each way the rate with the highest mean accuracy at the budget."""
    at = EPOCHS.index(BUDGET)
    return {
        way: max(runs, key=lambda rate: float(np.mean(np.asarray(runs[rate])[:, at])))
        for way, runs in results.items()
    }


def table(curves: dict[str, np.ndarray], rates: dict[str, float]) -> str:
    """Mean accuracy over the seeds after each number of passes, and each seed's at the budget."""
    at = EPOCHS.index(BUDGET)
    lines = [
        f"{'accuracy in % after passes':<27}{'rate':>8}"
        + "".join(f"{epochs:>7}" for epochs in EPOCHS)
        + f"   seeds, after {BUDGET}"
    ]
    for way, values in curves.items():
        means = "".join(f"{100 * value:>7.1f}" for value in values.mean(0))
        each = " ".join(f"{100 * value:.1f}" for value in values[:, at])
        lines.append(f"{way:<27}{rates[way]:>8g}{means}   {each}")
    return "\n".join(lines)


def draw(curves: dict[str, np.ndarray]):
    """A line through the means of each way, with every seed as a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for index, (way, values) in enumerate(curves.items()):
        colour, marker = f"C{index}", "osD"[index]
        # Side by side, so that dots of one height do not hide each other.
        places = np.array(EPOCHS) * 1.04 ** (index - 1)
        axes.plot(places, 100 * values.mean(0), "-", color=colour, linewidth=1.8)
        for epochs, dots in zip(places, 100 * values.T, strict=True):
            axes.plot([epochs] * len(dots), dots, marker, color=colour, markersize=4, alpha=0.6)
        axes.plot([], [], "-", marker=marker, color=colour, label=way)
    axes.set_xscale("log")
    axes.set_xticks(EPOCHS, [str(epochs) for epochs in EPOCHS])
    axes.minorticks_off()
    axes.set_xlabel(f"passes over {5 * EXAMPLES_PER_CLASS} pictures of the digits 5 to 9")
    axes.set_ylabel("accuracy on the other pictures, %")
    axes.grid(alpha=0.3, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    seeds = len(next(iter(curves.values())))
    axes.set_title(f"mean and every one of {seeds} seeds", fontsize="medium")
    axes.legend(frameon=False, loc="lower right")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/digits_transfer"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sweep", action="store_true", help="try all learning rates, for all ways")
    options = parser.parse_args()
    start = time.perf_counter()
    tried = {way: SWEEP if options.sweep else (rate,) for way, rate in RATES.items()}
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results = compare(seeds, tried)
    rates = best_rates(results)
    curves = {way: np.asarray(results[way][rate]) for way, rate in rates.items()}
    if options.sweep:
        for way, runs in results.items():
            for rate, values in runs.items():
                means = "".join(f"{100 * value:>7.1f}" for value in np.mean(values, 0))
                print(f"{way:<27}{rate:>8g}{means}")
        print()
    print(table(curves, rates))

    options.run_dir.mkdir(parents=True, exist_ok=True)
    (options.run_dir / "digits_transfer.json").write_text(
        json.dumps({way: values.tolist() for way, values in curves.items()}, indent=1) + "\n"
    )
    draw(curves).savefig(options.run_dir / "digits_transfer.png")
    ahead = 100 * (curves[FROZEN] - curves[SCRATCH])
    print("\nthe frozen backbone is ahead of training from scratch, in points, after")
    for epochs, gain in zip(EPOCHS, ahead.T, strict=True):
        print(
            f"  {epochs:>3} passes by {gain.mean():5.1f} ({gain.min():5.1f} to {gain.max():5.1f})"
        )
    print(
        f"{len(ahead)} seeds, {time.perf_counter() - start:.0f} s. In {options.run_dir}: "
        "digits_transfer.json, digits_transfer.png"
    )


if __name__ == "__main__":
    main()
