"""``flaxzoo train``."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxzoo._files import sole_writer, write_atomically
from flaxzoo.cli.configs import as_sequences, describe
from flaxzoo.cli.data import Splits, load
from flaxzoo.cli.use import (
    MODEL_DIRECTORY,
    RUN_FILE,
    default_metrics,
    measures,
    read_record,
    warn,
    write_record,
)
from flaxzoo.cli.values import SettingError, pairs, settings
from flaxzoo.errors import DataError

if TYPE_CHECKING:
    from flaxzoo.callbacks import Callback
    from flaxzoo.model import Model
    from flaxzoo.spec import ModelSpec
    from flaxzoo.training.history import History
    from flaxzoo.training.trainer import Trainer

_FROM_DATA = "it is taken from the data"
_MODEL_KEYS = {
    "num_classes": _FROM_DATA,
    "input_shape": _FROM_DATA,
    "pretrained": "use --pretrained or --weights",
}
# What Trainer and create_train_state take besides an optimizer's options.
_OPTIMIZER_KEYS = {
    "learning_rate": "use --learning-rate",
    "clip_norm": "use --clip-norm",
    "weight_decay": "use --weight-decay",
    "schedule_options": "use --schedule-set",
    "total_steps": "it follows from --epochs and the data",
    **dict.fromkeys(
        ("model", "optimizer", "loss", "metrics", "freeze", "seed", "run_dir", "rng", "inputs"),
        "it is not an option of an optimizer",
    ),
    "precision": "use --precision",
}
_SCHEDULE_KEYS = {
    "peak_value": "use --learning-rate",
    "total_steps": "it follows from --epochs and the data",
}
# Changing one of these under a run would train on what it held out, or leave a checkpoint that
# does not fit. The learning rate, the loss and the metrics may change.
_FIXED = (
    "model",
    "set",
    "data",
    "validation_fraction",
    "batch_size",
    "seed",
    "optimizer",
    "optimizer_set",
    "schedule",
    "clip_norm",
    "weight_decay",
    "freeze",
    "precision",
)
_FILES = ("trainer.json", RUN_FILE, "history.csv")
_PLOTS = ("history.png", "confusion_matrix.png", "predictions.png")
_DIRECTORIES = ("checkpoints", "tensorboard", MODEL_DIRECTORY)
_SHOWN = 25


def train(args: argparse.Namespace) -> None:
    """Trains, and writes the run: checkpoints, history, logs, plots and the model.

    In several processes all train, and the one of index 0 prints and writes.
    """
    import flaxzoo as fz
    from flaxzoo._processes import from_main, several, silent
    from flaxzoo.training.checkpoint import saved_steps
    from flaxzoo.training.sharding_rules import check_sharding

    _join(args)
    devices = "all" if args.devices is None and several() else args.devices
    with settings("--devices, --sharding"):
        check_sharding(devices, args.sharding)
    task = fz.models.info(args.model).task
    splits = load(args.data, args.validation_fraction)
    model = _model(args, splits)
    options = _optimizer_options(args, model, len(splits.train[0]))
    measured = measures(args)
    if measured["metrics"] is None:
        measured["metrics"] = default_metrics(task)
    run_dir = args.run_dir or Path("runs") / f"{args.model}-{args.data.name}"
    record = _record(args)
    from_main(
        "the run's directory",
        lambda: _claim(run_dir, record, resume=args.resume, overwrite=args.overwrite),
    )
    callbacks = _callbacks(args)
    trainer = fz.Trainer(
        model,
        **measured,
        freeze=args.freeze,
        seed=args.seed,
        run_dir=run_dir,
        steps_per_call=args.steps_per_call,
        devices=devices,
        sharding=args.sharding,
        precision=args.precision,
        **options,
    )
    if not silent():
        write_record(run_dir, record)
        print(splits.note)
    steps = saved_steps(run_dir / "checkpoints")
    try:
        history = trainer.fit(
            _as_data(splits.train, task),
            epochs=args.epochs,
            batch_size=args.batch_size,
            validation_data=_as_data(splits.validation, task),
            callbacks=callbacks,
            progress=False,
            resume=args.resume,
        )
    except (KeyboardInterrupt, SystemExit):
        if saved_steps(run_dir / "checkpoints") and not silent():
            print("flaxzoo: the same command with --resume goes on", file=sys.stderr)
        raise
    if steps and steps[-1] == trainer.step and not silent():
        warn(f"{run_dir} had trained for {len(history)} epochs already: a larger --epochs goes on")
    _finish(args, trainer, splits, task, history)


def _join(args: argparse.Namespace) -> None:
    """Joins the processes that the options of ``add_processes`` name, before JAX computes."""
    from flaxzoo import distributed

    place = args.coordinator_address, args.num_processes, args.process_id
    if args.distributed or any(value is not None for value in place):
        with settings("--distributed"):
            distributed.initialize(*place)


def _model(args: argparse.Namespace, splits: Splits) -> Model:
    """The model for this data, checked by tracing it; nothing is computed."""
    from flaxzoo import models
    from flaxzoo.models.registry import MODELS

    spec = models.info(args.model)
    config = as_sequences(spec.name, pairs(args.set, "--set", _MODEL_KEYS))
    what = describe(args.model, config)
    if "num_classes" in MODELS.parameters(spec.name):
        config["num_classes"] = len(splits.classes)
    shape = tuple(splits.train[0].shape[1:])
    with settings(what):
        model = models.get(
            args.model, pretrained=args.weights or args.pretrained, input_shape=shape, **config
        )
        _trace(model)
    return dataclasses.replace(model, spec=_spec_for(model.spec, splits))


def _spec_for(spec: ModelSpec, splits: Splits) -> ModelSpec:
    """What is true of the model once it is trained on this data.

    Pretrained weights bring the preprocessing, the classes and the accuracy of what they were
    trained on; the licence stays, since what is trained from them is still under it.
    """
    from flaxzoo.preprocess import Preprocess

    shape = tuple(splits.train[0].shape[1:])
    preprocess = None
    if spec.task != "reconstruction" and len(shape) == 3 and shape[-1] in (1, 3):
        # The data are pixels in [0, 1] at their own size.
        preprocess = Preprocess(input_shape=shape)
    classes = splits.classes if spec.task == "classification" else None
    return dataclasses.replace(spec, preprocess=preprocess, classes=classes, top1=None)


def _trace(model: Model) -> None:
    """Raises what the module raises in either mode: some options matter in training only."""
    import jax

    from flaxzoo._calls import apply_module
    from flaxzoo._random import as_key

    def start(key: Any, inputs: Any) -> Any:
        rngs = {"params": key, "dropout": key}
        return apply_module(model.module, None, inputs, train=True, rngs=rngs)

    model.shapes()
    inputs = jax.ShapeDtypeStruct((1, *(model.spec.input_shape or ())), model.spec.input_dtype)
    jax.eval_shape(start, as_key(0), inputs)


def _optimizer_options(args: argparse.Namespace, model: Model, examples: int) -> dict[str, Any]:
    """The optimizer and its options as ``Trainer`` takes them, checked by tracing an update."""
    import jax

    from flaxzoo import optimizers

    options: dict[str, Any] = pairs(args.optimizer_set, "--optimizer-set", _OPTIMIZER_KEYS)
    for key in ("weight_decay", "clip_norm"):
        if getattr(args, key) is not None:
            options[key] = getattr(args, key)
    options["learning_rate"] = args.learning_rate
    if args.schedule is not None:
        schedule = pairs(args.schedule_set, "--schedule-set", _SCHEDULE_KEYS)
        if args.learning_rate is not None:
            schedule["peak_value"] = args.learning_rate
        options |= {"learning_rate": args.schedule, "schedule_options": schedule}
    steps = -(-examples // args.batch_size) * args.epochs
    with settings(f"optimizer {args.optimizer!r}"):
        tx = optimizers.get(args.optimizer, total_steps=steps, **options)
        # optax looks at most options when it uses them. Those that need more than gradients
        # wait for the first step.
        if not tx.needs:
            jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), model.shapes()["params"])
    return {"optimizer": args.optimizer, **options}


def _record(args: argparse.Namespace) -> dict[str, Any]:
    """What ``run.json`` keeps of the command line, as JSON gives it back."""
    data = dataclasses.asdict(args.data)
    if args.data.directory is not None:
        data["directory"] = str(Path(args.data.directory).resolve())
    record = {key: getattr(args, key) for key in _FIXED} | {
        "data": data,
        "set": dict(args.set),
        "optimizer_set": dict(args.optimizer_set),
        "pretrained": args.weights or args.pretrained,
    }
    return json.loads(json.dumps(record))


def _claim(run_dir: Path, record: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Makes sure that the directory is this run's to write.

    Raises:
      DataError: another run is in it, or it cannot be written.
      SettingError: the run to resume had other settings.
    """
    from flaxzoo.training.checkpoint import require_writable, saved_steps

    # A run that failed before its first checkpoint has nothing to keep.
    taken = bool(saved_steps(run_dir / "checkpoints")) or (run_dir / MODEL_DIRECTORY).exists()
    if taken and not resume and not overwrite:
        raise DataError(
            f"{run_dir} holds a run already: --resume goes on with it, --overwrite replaces it, "
            "--run-dir DIR writes elsewhere"
        )
    require_writable(run_dir)
    if taken and resume:
        _check_same(run_dir, record)
        return
    is_run = read_record(run_dir) is not None or (run_dir / "trainer.json").is_file()
    if taken and not is_run:
        raise DataError(
            f"{run_dir} holds files that no run of flaxzoo wrote, which --overwrite would remove: "
            "--run-dir DIR writes elsewhere"
        )
    if not is_run:
        return
    for name in _DIRECTORIES:
        if (run_dir / name).is_dir():
            # A run that is under way is not replaced.
            with sole_writer(run_dir / name, name):
                shutil.rmtree(run_dir / name)
    for name in (*_FILES, *_PLOTS):
        (run_dir / name).unlink(missing_ok=True)


def _check_same(run_dir: Path, record: Mapping[str, Any]) -> None:
    before = read_record(run_dir)
    if before is None:
        return
    changed = []
    for key in _FIXED:
        was, now = before.get(key), record[key]
        # The files may have moved.
        same = was["name"] == now["name"] if key == "data" and was else was == now
        if not same:
            option = "MODEL" if key == "model" else f"--{key.replace('_', '-')}"
            changed.append(f"{option} was {_shown(was)}, is now {_shown(now)}")
    if changed:
        raise SettingError(f"{run_dir} cannot be resumed with other settings: {'; '.join(changed)}")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_shown(item)}" for key, item in value.items()) or "not given"
    if isinstance(value, list):
        return ",".join(map(_shown, value))
    return "not given" if value is None else str(value)


def _callbacks(args: argparse.Namespace) -> list[Callback]:
    from flaxzoo import callbacks

    result: list[Callback] = [
        callbacks.LearningRateMonitor(),
        callbacks.ProgressBar(bar=args.progress),
        callbacks.CSVLogger(),
        callbacks.TerminateOnNaN(raise_error=True),
    ]
    if args.tensorboard or (args.tensorboard is None and _installed("tensorboardX")):
        result.append(callbacks.TensorBoard())
    if args.early_stopping is not None:
        result.append(callbacks.EarlyStopping(patience=args.early_stopping))
    return [*result, callbacks.ModelCheckpoint()]


def _finish(
    args: argparse.Namespace, trainer: Trainer, splits: Splits, task: str, history: History
) -> None:
    """Exports the model, draws the plots and says what was reached and where it is."""
    from flaxzoo._processes import from_main
    from flaxzoo.training.trainer import Trainer

    run_dir = trainer.run_dir or Path()
    if args.export == "best":
        trainer = Trainer.load(run_dir, which="best")
    # All of several processes compute; the others wait for what the first one writes.
    model = trainer.model
    reached = {
        f"val_{name}": value
        for name, value in trainer.evaluate(_as_data(splits.validation, task)).items()
    }
    if splits.test is not None:
        reached |= {
            f"test_{name}": value
            for name, value in trainer.evaluate(_as_data(splits.test, task)).items()
        }
    scores = _scores(trainer, splits, task)

    def write() -> None:
        model.save(run_dir / MODEL_DIRECTORY)
        _plot(scores, splits, history, run_dir)
        _say(args, run_dir, reached, len(trainer.history))

    from_main("what the run ends with", write)


def _say(args: argparse.Namespace, run_dir: Path, reached: dict[str, float], epochs: int) -> None:
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in reached.items())
    which = f"{epochs} epoch{'' if epochs == 1 else 's'}"
    if args.export == "best":
        which += ", at the best of them"
    print(
        f"{args.model} on {args.data.name}: {numbers} after {which}; "
        f"run in {run_dir}, model in {run_dir / MODEL_DIRECTORY}"
    )


def _scores(trainer: Trainer, splits: Splits, task: str) -> Any:
    """The probabilities of the validation's classes; None where nothing is plotted of them."""
    if task != "classification" or not _installed("matplotlib"):
        return None
    import jax
    import numpy as np

    outputs = trainer.predict(splits.validation[0]).astype(np.float32)
    return np.asarray(jax.nn.softmax(outputs))


def _plot(scores: Any, splits: Splits, history: History, run_dir: Path) -> None:
    if not _installed("matplotlib"):
        warn('no plots: matplotlib is not installed (pip install "flaxzoo[plots]")')
        return
    from flaxzoo import plots

    figures = {"history.png": plots.history(history)}
    if scores is not None:
        (images, labels), classes = splits.validation, splits.classes
        figures["confusion_matrix.png"] = plots.confusion_matrix(labels, scores, classes)
        figures["predictions.png"] = plots.prediction_grid(
            images[:_SHOWN], labels[:_SHOWN], scores[:_SHOWN], classes
        )
    for name, figure in figures.items():
        write_atomically(run_dir / name, functools.partial(figure.savefig, format="png"))


def _as_data(part: tuple[Any, Any], task: str) -> Any:
    """What the trainer is given: an autoencoder's targets are its inputs."""
    return part[0] if task == "reconstruction" else part


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
