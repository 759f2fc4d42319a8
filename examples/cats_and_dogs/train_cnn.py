"""A CNN with BatchNorm and Dropout on pictures of cats and dogs, from a folder and a CSV."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import data

import flaxzoo as fz


def train(options: argparse.Namespace) -> dict[str, float]:
    """Trains from scratch; returns loss and accuracy on the validation pictures."""
    train_set, validation_set = data.load(
        options.data, size=options.size, batch_size=options.batch_size, seed=options.seed
    )
    print(train_set, validation_set, sep="\n")
    model = fz.models.get(
        "cnn",
        num_classes=train_set.num_classes,
        input_shape=(options.size, options.size, 3),
        features=(16, 32, 64, 128),
        pooling="max",
        hidden=(64,),
        batch_norm=True,
        dropout=0.5,
    )
    print(model.summary())
    trainer = fz.Trainer(
        model,
        optimizer="adamw",
        learning_rate="cosine",
        schedule_options={"peak_value": 2e-3, "warmup_steps": 2 * len(train_set)},
        weight_decay=0.01,
        # Mirrored, turned, moved and zoomed anew in every step, inside the compiled step.
        augment="keras_tutorial",
        seed=options.seed,
        run_dir=options.run_dir,
    )
    # Small enough to be decoded once; a larger set goes into fit as it is.
    images, labels = train_set.load()
    trainer.fit(
        (images, labels),
        epochs=options.epochs,
        batch_size=options.batch_size,
        validation_data=validation_set.load(),
    )
    trainer.history.plot().savefig(options.run_dir / "history.png")
    return trainer.evaluate(validation_set) | {"majority": data.majority(train_set, validation_set)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    data.add_arguments(parser, "runs/cats_and_dogs/cnn")
    parser.add_argument("--size", type=int, default=64, help="height and width, pixels")
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        result = train(options)
    except fz.errors.DataError as error:
        parser.error(str(error))
    print(
        f"\n{result['accuracy']:.1%} of the validation pictures are right, "
        f"{result['majority']:.1%} if all were of one class ({time.perf_counter() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
