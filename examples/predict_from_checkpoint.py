"""Loads what quickstart_digits.py trained, in a process of its own, and predicts."""

import argparse
from pathlib import Path

import numpy as np

import flaxzoo as fz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    _, (images, labels) = fz.data.load_digits()

    trainer = fz.Trainer.load(options.run_dir, which="best")
    accuracy = trainer.evaluate((images, labels))["accuracy"]
    print(f"checkpoint of step {trainer.step}: {accuracy:.2%} of the held-out digits are right")

    model = fz.Model.load(options.run_dir / "model")
    predictions = model.predict(images[:5], top_k=2)
    for label, line in zip(labels, str(predictions).splitlines(), strict=False):
        print(f"  a {label}: {line}")

    shipped = fz.models.get("cnn.digits", pretrained=True)
    right = np.mean(shipped.predict(images, top_k=1).indices[:, 0] == labels)
    print(f"packaged weights cnn.digits: {right:.2%}")


if __name__ == "__main__":
    main()
