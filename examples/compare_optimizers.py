"""Trains one small network with several optimizers and draws their losses in one plot."""

import argparse
from pathlib import Path

import flaxzoo as fz

# A learning rate that suits each on this problem; others run with their default.
RATES = {
    "sgd": 0.3,
    "adagrad": 0.1,
    "adam": 3e-3,
    "adamw": 3e-3,
    "lion": 1e-3,
    "lamb": 1e-2,
    "muon": 1e-2,
    "schedule_free_adamw": 1e-2,
}


def run(run_dir: Path, names: tuple[str, ...] = tuple(RATES), epochs: int = 15) -> dict[str, float]:
    """Returns the test accuracy of each, all started from the same weights."""
    train, test = fz.data.load_digits()
    model = fz.models.get("mlp", input_shape=(8, 8, 1), features=(64,)).init(rng=0)
    histories, accuracies = {}, {}
    for name in names:
        rate = RATES.get(name, fz.optimizers.default_learning_rate(name))
        trainer = fz.Trainer(model, optimizer=name, learning_rate=rate, seed=0)
        histories[name] = trainer.fit(
            train, epochs=epochs, batch_size=64, validation_data=test, progress=False
        )
        accuracies[name] = trainer.evaluate(test)["accuracy"]
        print(f"{name:<22} learning rate {rate:<8g} test accuracy {accuracies[name]:.2%}")
    run_dir.mkdir(parents=True, exist_ok=True)
    fz.plots.compare(histories, "loss", log=True).savefig(run_dir / "optimizers.png")
    return accuracies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("names", nargs="*", default=tuple(RATES), help="from flaxzoo.optimizers")
    options = parser.parse_args()
    run(options.run_dir, tuple(options.names), options.epochs)


if __name__ == "__main__":
    main()
