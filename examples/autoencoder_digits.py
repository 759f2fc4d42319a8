"""Trains an autoencoder on the digits through the same Trainer: the targets are the inputs."""

import argparse
from pathlib import Path

import numpy as np

import flaxzoo as fz


def run(run_dir: Path, epochs: int = 40) -> dict[str, float]:
    """Trains, draws originals above reconstructions, and returns the errors."""
    (train_images, _), (test_images, _) = fz.data.load_digits()
    model = fz.models.get("autoencoder", input_shape=(8, 8, 1), encoder_features=(64, 16))
    trainer = fz.Trainer(model, optimizer="adam", learning_rate=3e-3, run_dir=run_dir)
    trainer.fit(train_images, epochs=epochs, batch_size=64, validation_data=test_images)

    rebuilt = trainer.predict(test_images)
    error = float(np.mean((rebuilt - test_images) ** 2))
    baseline = float(np.mean((train_images.mean(0) - test_images) ** 2))

    module, variables = trainer.model
    codes = module.apply(variables, test_images, method="encode")
    print(f"codes {list(codes.shape)}; error {error:.4f}, of the mean image {baseline:.4f}")

    # Rows of four: digits, and below each what came out.
    rows = [test_images[:4], rebuilt[:4], test_images[4:8], rebuilt[4:8]]
    kinds = np.repeat([0, 1, 0, 1], 4)
    figure = fz.plots.prediction_grid(
        np.concatenate(rows), kinds, kinds, class_names=["in", "out"], max_images=16
    )
    figure.savefig(run_dir / "reconstructions.png")
    return {"error": error, "baseline": baseline}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/autoencoder"))
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    run(options.run_dir, options.epochs)


if __name__ == "__main__":
    main()
