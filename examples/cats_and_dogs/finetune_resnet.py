"""A ResNet-18 on pictures of cats and dogs: a new head first, then the backbone, more slowly.

With ``--pretrained`` the backbone has the Hub's ImageNet weights, which is what makes this work;
without it has random ones, so that the script runs where there is no network.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import data

import flaxzoo as fz


def build(num_classes: int, size: int, options: argparse.Namespace) -> fz.Model:
    """A ResNet with the two-layer head of the transfer-learning tutorials."""
    model = fz.models.get(options.model, pretrained=options.pretrained, input_shape=(size, size, 3))
    if not options.pretrained:
        model = model.init(rng=options.seed)
    head = fz.models.Head(num_classes, pooling="avg", hidden=(256,), batch_norm=True, dropout=0.5)
    return model.replace_head(head, rng=options.seed)


def train_head(model: fz.Model, train_set, validation_set, options: argparse.Namespace) -> fz.Model:
    """The model with its head trained; the backbone runs once over each picture."""
    head = fz.Trainer(
        fz.transfer.slice_model(model, start="head"),
        optimizer="adamw",
        learning_rate=1e-3,
        seed=options.seed,
    )
    features, validation_features = (
        fz.transfer.extract_features(model, part) for part in (train_set, validation_set)
    )
    head.fit(
        features,
        epochs=options.head_epochs,
        batch_size=options.batch_size,
        validation_data=validation_features,
        progress=False,
    )
    backbone = fz.transfer.slice_model(model, stop="head")
    return model.with_variables(fz.transfer.merge_variables(backbone, head.model))


def fine_tune(
    model: fz.Model, train_set, validation_set, options: argparse.Namespace
) -> fz.Trainer:
    """Trains all of it, the backbone at a tenth of the head's rate, on augmented pictures."""
    trainer = fz.Trainer(
        model,
        optimizer="adamw",
        learning_rate={"backbone": 1e-4, "head": 1e-3},
        augment="flip",
        # Statistics of a few hundred pictures are worse than those that came with the weights.
        freeze_batch_norm=True,
        seed=options.seed,
        run_dir=options.run_dir,
    )
    trainer.fit(
        train_set.load(),
        epochs=options.epochs,
        batch_size=options.batch_size,
        validation_data=validation_set.load(),
    )
    trainer.history.plot().savefig(options.run_dir / "history.png")
    return trainer


def train(options: argparse.Namespace) -> dict[str, float]:
    """Both phases; returns the accuracy on the validation pictures after each."""
    size = options.size or (224 if options.pretrained else 64)
    settings = {"batch_size": options.batch_size, "seed": options.seed}
    # The pictures as the backbone wants them: its size, crop, mean and standard deviation.
    spec = fz.models.get(options.model, input_shape=(size, size, 3)).spec
    train_set, validation_set = data.load(options.data, preprocess=spec.preprocess, **settings)
    print(train_set, validation_set, sep="\n")
    model = build(train_set.num_classes, size, options)
    model = train_head(model, train_set, validation_set, options)
    frozen = fz.Trainer(model, freeze="backbone").evaluate(validation_set)["accuracy"]
    trainer = fine_tune(model, train_set, validation_set, options)
    trainer.model.save(options.run_dir / "model")
    return {
        "frozen": frozen,
        "fine_tuned": trainer.evaluate(validation_set)["accuracy"],
        "majority": data.majority(train_set, validation_set),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data.add_arguments(parser, "runs/cats_and_dogs/resnet18")
    parser.add_argument("--model", default="resnet18", help="any with weights for images")
    parser.add_argument(
        "--pretrained", action="store_true", help="start from ImageNet weights of the Hub"
    )
    parser.add_argument(
        "--size", type=int, help="height and width, pixels; by default 224 pretrained, else 64"
    )
    parser.add_argument("--head-epochs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning")
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        result = train(options)
    except (fz.errors.DataError, fz.errors.DownloadError) as error:
        parser.error(str(error))
    weights = "ImageNet" if options.pretrained else "random"
    print(
        f"\nfrozen backbone of {weights} weights {result['frozen']:.1%}, fine-tuned "
        f"{result['fine_tuned']:.1%}, all of one class {result['majority']:.1%} "
        f"({time.perf_counter() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
