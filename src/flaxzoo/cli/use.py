"""``flaxzoo evaluate`` and ``flaxzoo predict``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxzoo._files import as_path
from flaxzoo.cli.data import DEFAULT_FRACTION, DataSource, Splits, load
from flaxzoo.cli.targets import is_run, load_model
from flaxzoo.cli.values import SettingError, pairs, settings
from flaxzoo.data.saved import read_document, write_document
from flaxzoo.errors import DataError, ShapeError

if TYPE_CHECKING:
    from flaxzoo.model import Model
    from flaxzoo.spec import ModelSpec
    from flaxzoo.training.trainer import Trainer

RUN_FILE = "run.json"
_KIND = "cli.run"
MODEL_DIRECTORY = "model"


def evaluate(args: argparse.Namespace) -> None:
    """Prints the loss and metrics of a model over one part of the data."""
    trainer = _trainer(args)
    source, fraction = _data_of(args, _recorded(as_path(args.target)))
    splits = load(source, fraction)
    name, (images, labels) = _part(splits, args.split, source)
    spec = trainer.model_with_state().spec
    if spec.input_shape is not None and spec.input_shape != images.shape[1:]:
        raise ShapeError(
            f"{_title(args)} takes inputs [B, {', '.join(map(str, spec.input_shape))}]; the images "
            f"of {source.name} are [B, {', '.join(map(str, images.shape[1:]))}]"
        )
    images = _as_inputs(images, spec)
    data = images if spec.task == "reconstruction" else (images, labels)
    values = trainer.evaluate(data, batch_size=args.batch_size)
    if args.json:
        document = {
            "model": args.target,
            "weights": args.weights,
            "data": str(source),
            "split": name,
            "examples": len(images),
            "metrics": {
                key: value if math.isfinite(value) else None for key, value in values.items()
            },
        }
        print(json.dumps(document))
        return
    print(f"{_title(args)} on {source.name}: {len(images)} {name} examples")
    width = max(map(len, values))
    for key, value in values.items():
        print(f"  {key.ljust(width)}  {value:.4f}")


def predict(args: argparse.Namespace) -> None:
    """Prints the likeliest classes of each image file."""
    model = _model(args)
    if model.spec.task != "classification":
        raise SettingError(f"predict ranks classes; {args.target} is a model for {model.spec.task}")
    if model.spec.preprocess is None:
        shape = model.spec.input_shape
        takes = "inputs" if shape is None else f"inputs [B, {', '.join(map(str, shape))}]"
        raise DataError(f"predict reads image files; {args.target} takes {takes}, no images")
    predictions = model.predict(args.files, top_k=args.top_k, batch_size=args.batch_size)
    rows = zip(
        args.files, predictions.labels, predictions.indices, predictions.probabilities, strict=True
    )
    if args.json:
        document = [
            {
                "file": file,
                "predictions": [
                    {"label": label, "index": int(index), "probability": float(probability)}
                    for label, index, probability in zip(labels, indices, values, strict=True)
                ],
            }
            for file, labels, indices, values in rows
        ]
        print(json.dumps(document))
        return
    for file, labels, _, values in rows:
        shown = ", ".join(f"{label} {p:.1%}" for label, p in zip(labels, values, strict=True))
        print(f"{file}: {shown}")


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    """Writes what ``read_record`` reads."""
    write_document(directory / RUN_FILE, _KIND, dict(record), indent=2)


def read_record(directory: Path) -> dict[str, Any] | None:
    """The settings that ``flaxzoo train`` left in a run; None where it left none.

    Raises:
      DataError: the file is damaged, or is another program's.
    """
    path = directory / RUN_FILE
    return read_document(path, _KIND) if path.exists() else None


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"flaxzoo: warning: {message}", file=sys.stderr)


def measures(args: argparse.Namespace) -> dict[str, Any]:
    """``loss`` and ``metrics`` as ``Trainer`` takes them; None where they are not given."""
    from flaxzoo import losses, metrics

    with settings("--loss and --metrics"):
        return {
            "loss": args.loss and args.loss.build(losses.get),
            "metrics": args.metrics and tuple(m.build(metrics.get) for m in args.metrics),
        }


def default_metrics(task: str) -> tuple[str, ...]:
    """What is measured besides the loss where ``--metrics`` is not given."""
    return ("accuracy",) if task == "classification" else ()


def _recorded(target: Path) -> dict[str, Any]:
    if target.name == MODEL_DIRECTORY and not (target / RUN_FILE).exists():
        target = target.parent
    return read_record(target) or {}


def _data_of(args: argparse.Namespace, recorded: Mapping[str, Any]) -> tuple[DataSource, float]:
    """The data and fraction to use: what was asked for, else what the run was trained on."""
    source, fraction = args.data, args.validation_fraction
    if source is None:
        if "data" not in recorded:
            raise SettingError(
                f"{args.target} does not tell which data it was trained on: pass --data"
            )
        source = DataSource(**recorded["data"])
    own = recorded.get("validation_fraction")
    same_data = recorded.get("data", {}).get("name") == source.name
    if fraction is None:
        return source, own if own is not None and same_data else DEFAULT_FRACTION
    if same_data and own is not None and own != fraction:
        warn(
            f"{args.target} was trained with --validation-fraction {own}: with {fraction} some of "
            "the validation examples may be ones that it was trained on"
        )
    return source, fraction


def _part(splits: Splits, name: str | None, source: DataSource) -> tuple[str, tuple[Any, Any]]:
    if name is None:
        name = "validation" if splits.test is None else "test"
    part = splits.part(name)
    if part is None:
        raise DataError(
            f"{source} has no test part of its own; the held-out examples are --split validation"
        )
    return name, part


def _trainer(args: argparse.Namespace) -> Trainer:
    """A trainer for evaluation, of a run or of a saved or pretrained model."""
    from flaxzoo.training.trainer import Trainer

    measured = measures(args)
    if is_run(args.target) and args.weights is None and not args.set:
        overrides = {key: value for key, value in measured.items() if value is not None}
        with settings("--loss and --metrics"):
            return Trainer.load(args.target, which=args.which or "last", **overrides)
    model = _model(args)
    if args.metrics is None:
        measured["metrics"] = default_metrics(model.spec.task)
    with settings("--loss and --metrics"):
        # Evaluation needs no optimizer state: sgd has none.
        return Trainer(model, optimizer="sgd", **measured)


def _model(args: argparse.Namespace) -> Model:
    config = pairs(args.set, "--set", {"pretrained": "use --weights"})
    return load_model(args.target, weights=args.weights, config=config, which=args.which)


def _title(args: argparse.Namespace) -> str:
    return args.target if args.weights is None else f"{args.target} with {args.weights}"


def _as_inputs(images: Any, spec: ModelSpec) -> Any:
    """The data's images, which are in [0, 1], as ``predict`` gives those of files to the model.

    They are of the model's size already: nothing is resized or cropped.
    """
    import numpy as np

    if spec.preprocess is None:
        return images
    options = spec.preprocess.to_timm()
    mean, std = (np.asarray(options[key], np.float32) for key in ("mean", "std"))
    return (images - mean) / std
