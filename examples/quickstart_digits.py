"""Trains the CNN on real handwritten digits: what `make demo` runs.

Everything of a run lands in one directory: the checkpoint, history.csv, TensorBoard logs, the
exported model and two plots.
"""

import argparse
import json
import time
from pathlib import Path

import flaxzoo as fz

# The recipe of the weights that ship as "cnn.digits".
CONFIG = {"num_classes": 10, "input_shape": (8, 8, 1), "batch_norm": True, "dropout": 0.25}
EPOCHS = 25
BATCH_SIZE = 64


def train(run_dir: Path, epochs: int = EPOCHS) -> tuple[fz.Trainer, dict[str, float]]:
    """Trains on 1,438 digits and tests on the other 359."""
    train_data, test_data = fz.data.load_digits()
    model = fz.models.get("cnn", **CONFIG)
    print(model.summary())
    trainer = fz.Trainer(
        model,
        optimizer="adamw",
        learning_rate="cosine",
        schedule_options={"peak_value": 2e-3, "warmup_steps": 2 * epochs},
        seed=0,
        run_dir=run_dir,
    )
    trainer.fit(
        train_data,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        validation_data=test_data,
        callbacks=[
            fz.callbacks.LearningRateMonitor(),
            fz.callbacks.TerminateOnNaN(),
            fz.callbacks.CSVLogger(),
            fz.callbacks.TensorBoard(
                sample=(test_data[0][:16], test_data[1][:16]), histogram_every=5
            ),
            fz.callbacks.ModelCheckpoint(),
        ],
    )
    return trainer, trainer.evaluate(test_data)


def draw(trainer: fz.Trainer, run_dir: Path) -> None:
    """Saves the curves, and the test images with the model's answers."""
    _, (images, labels) = fz.data.load_digits()
    trainer.history.plot().savefig(run_dir / "history.png")
    outputs = trainer.predict(images)
    wrong_first = (outputs.argmax(-1) == labels).argsort(kind="stable")[:25]
    figure = fz.plots.prediction_grid(
        images[wrong_first], labels[wrong_first], outputs.argmax(-1)[wrong_first]
    )
    figure.savefig(run_dir / "predictions.png")


def export(trainer: fz.Trainer, accuracy: float, directory: Path) -> None:
    """Writes the weights and their entry in the package's catalogue."""
    from flaxzoo.weights import save_variables

    save_variables(directory / "cnn.digits.safetensors", trainer.model.variables)
    catalog = directory.parent / "catalog.json"
    entries = json.loads(catalog.read_text())
    entries["cnn.digits"] = {
        "tag": "digits",
        "file": f"{directory.name}/cnn.digits.safetensors",
        "config": {k: v for k, v in CONFIG.items() if k != "input_shape"},
        "input_shape": list(CONFIG["input_shape"]),
        "classes": [str(digit) for digit in range(10)],
        "preprocess": {"mean": [0.0], "std": [1.0], "interpolation": "bilinear"},
        "licence": "apache-2.0",
        "top1": round(100 * accuracy, 2),
    }
    catalog.write_text(json.dumps(entries, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--export", type=Path, help="also write the packaged weights here")
    options = parser.parse_args()
    start = time.perf_counter()
    trainer, result = train(options.run_dir, options.epochs)
    draw(trainer, options.run_dir)
    trainer.model.save(options.run_dir / "model")
    if options.export:
        export(trainer, result["accuracy"], options.export)
    print(
        f"\n{result['accuracy']:.2%} of the held-out digits are right "
        f"({time.perf_counter() - start:.0f} s). In {options.run_dir}: checkpoints/, model/, "
        "history.csv, history.png, predictions.png, tensorboard/"
    )


if __name__ == "__main__":
    main()
