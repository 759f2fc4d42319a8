"""The arguments of the ``flaxzoo`` command. Imports the standard library alone, to answer fast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from flaxzoo._files import as_path
from flaxzoo._version import __version__
from flaxzoo.cli import examples
from flaxzoo.cli.arguments import (
    SOURCES,
    Parser,
    add_data,
    add_integer,
    add_measures,
    add_processes,
    add_set,
    add_target,
    add_which,
    check_processes,
    command,
)
from flaxzoo.cli.data import DEFAULT_FRACTION
from flaxzoo.cli.values import KINDS, devices, fraction, names, number

_VERIFY_EXAMPLES = """\
examples:
  flaxzoo verify resnet50                          the same random weights in both
  flaxzoo verify resnet50.a1_in1k                  pretrained ones
  flaxzoo verify resnet50 --weights my.safetensors --size 224
"""
_MAIN_EPILOG = """\
examples:
  flaxzoo list
  flaxzoo info cnn --layers
  flaxzoo train cnn --data digits
  flaxzoo evaluate runs/cnn-digits
  flaxzoo predict runs/cnn-digits digit.png
  flaxzoo verify resnet50

"flaxzoo COMMAND --help" explains a command and its options.

exit codes: 0 success, 1 a mistake found while running, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Args:
      argv: the arguments after the program's name.

    Returns:
      A namespace with ``command``, ``traceback`` and the command's options.

    Raises:
      SystemExit: after ``--help`` and ``--version`` (code 0) and for wrong usage (code 2).
    """
    parser = build()
    args, extras = parser.parse_known_args(argv)
    if args.command is None:
        if extras:
            parser.refuse(extras)
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    chosen: Parser = args.parser
    if extras:
        chosen.refuse(extras)
    _check_together(chosen, args)
    return args


def build() -> Parser:
    """The parser with all commands."""
    parser = Parser(
        prog="flaxzoo",
        description="The model zoo for JAX and Flax Linen: find models, train, evaluate, predict.",
        epilog=_MAIN_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"flaxzoo {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_list(commands)
    _add_info(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_verify(commands)
    return parser


def _add_list(commands: Any) -> None:
    parser = command(
        commands,
        "list",
        "names of models, or of optimizers, losses, ...",
        "Lists names: in columns on a terminal, one per line in a pipe.",
        examples.LIST,
        "[PATTERN]",
    )
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="a glob such as 'resnet*'"
    )
    parser.add_argument("--kind", choices=KINDS, default="models", help="which registry to list")
    parser.add_argument(
        "--pretrained", action="store_true", help="list pretrained weights, as NAME.TAG"
    )


def _add_info(commands: Any) -> None:
    parser = command(
        commands,
        "info",
        "what is known about a model, an optimizer, ...",
        "Shows what is known about a name, and the options it takes.",
        examples.INFO,
        "NAME",
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a name that 'flaxzoo list' shows, the directory of a run or of a saved model, or "
        "hf:org/repo",
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default=None,
        help="the registry to look in; by default models, then all others",
    )
    parser.add_argument("--layers", action="store_true", help="add the table of a model's layers")
    add_set(parser, "the model's configuration, such as num_classes=2; may be repeated")


def _add_train(commands: Any) -> None:
    parser = command(
        commands,
        "train",
        "train a model on digits or MNIST",
        "Trains a model, validates after each epoch, and writes a run's directory.\n"
        "Input shape and number of classes are taken from the data.",
        examples.TRAIN,
        "MODEL --data digits|mnist:DIR",
    )
    parser.add_argument("model", metavar="MODEL", help="a name that 'flaxzoo list' shows")

    data = parser.add_argument_group("data")
    add_data(data, required=True, text="what to train on")
    data.add_argument(
        "--validation-fraction",
        type=fraction,
        default=DEFAULT_FRACTION,
        metavar="F",
        help="share of the training examples that is held out, the same of each class",
    )
    add_integer(data, "--batch-size", 64, "examples per step")

    model = parser.add_argument_group("model")
    add_set(
        model,
        "the model's configuration, such as features=64,32 or activation=gelu; may be repeated",
    )
    weights = model.add_mutually_exclusive_group()
    weights.add_argument(
        "--pretrained", action="store_true", help="start from the model's own pretrained weights"
    )
    weights.add_argument(
        "--weights",
        metavar="SOURCE",
        help=f"start from {SOURCES}",
    )
    model.add_argument(
        "--freeze",
        type=names,
        metavar="GROUPS",
        help="parameters that stay as they are: groups or globs over paths, by commas, such as "
        "backbone or '!head'",
    )

    training = parser.add_argument_group("training")
    add_integer(
        training, "--epochs", 10, "passes over the data, with --resume those before included"
    )
    training.add_argument(
        "--optimizer", default="adam", metavar="NAME", help="see flaxzoo list --kind optimizers"
    )
    training.add_argument(
        "--learning-rate",
        "--lr",
        type=number,
        metavar="X",
        help="with --schedule its peak; by default the optimizer's own",
    )
    training.add_argument(
        "--schedule",
        metavar="NAME",
        help="how the learning rate changes over the run, such as cosine or one_cycle; see "
        "flaxzoo list --kind schedules",
    )
    add_set(
        training,
        "an option of the schedule, such as warmup_steps=100; may be repeated",
        option="--schedule-set",
    )
    training.add_argument(
        "--weight-decay",
        type=number,
        metavar="X",
        help="strength of weight decay on all but biases and norm parameters; by default the "
        "optimizer's own",
    )
    training.add_argument(
        "--clip-norm", type=number, metavar="X", help="scale gradients of a larger norm down to it"
    )
    add_set(
        training,
        "an option of the optimizer, such as momentum=0.9; may be repeated",
        option="--optimizer-set",
    )
    add_integer(
        training,
        "--steps-per-call",
        1,
        "steps that go to the device at once; more are faster where a step is short",
        metavar="K",
    )
    training.add_argument(
        "--devices",
        type=devices,
        metavar="N",
        help="how many devices train, or 'all'; each batch is divided among them (default: one, "
        "in several processes all)",
    )
    training.add_argument(
        "--sharding",
        choices=("replicated", "fsdp"),
        default="replicated",
        help="whether each device has all parameters, or its part of the large ones",
    )
    training.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="in which the model computes; parameters, norms and the loss stay float32",
    )
    add_measures(training)
    add_integer(
        training,
        "--early-stopping",
        None,
        "stop when val_loss has not improved for more epochs than this",
        least=0,
        metavar="PATIENCE",
    )
    add_integer(
        training, "--seed", 0, "of the initialisation, dropout and order of the data", least=0
    )

    add_processes(parser)

    output = parser.add_argument_group("output")
    output.add_argument(
        "--run-dir",
        type=as_path,
        metavar="DIR",
        help="where everything is written (default: runs/MODEL-DATA)",
    )
    existing = output.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="go on from the run's last checkpoint, if it has one"
    )
    existing.add_argument(
        "--overwrite", action="store_true", help="replace a run that is in the directory"
    )
    output.add_argument(
        "--export",
        choices=("last", "best"),
        default="last",
        help="which epoch becomes model/: the last, or the one with the least val_loss",
    )
    output.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether to write logs for TensorBoard; by default if tensorboardX is installed",
    )
    output.add_argument(
        "--no-progress",
        dest="progress",
        action="store_false",
        help="print the epoch table without progress bars",
    )


def _add_evaluate(commands: Any) -> None:
    parser = command(
        commands,
        "evaluate",
        "loss and metrics of a trained model",
        "Prints the loss and metrics of a trained model over examples that training held out.",
        examples.EVALUATE,
        "MODEL",
    )
    add_target(parser)
    data = parser.add_argument_group("data")
    add_data(data, required=False, text="what to evaluate on; by default the run's data")
    data.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        help="which part; by default test where the data has a test part of its own, else "
        "validation",
    )
    data.add_argument(
        "--validation-fraction",
        type=fraction,
        metavar="F",
        help=f"as in training; by default the run's, else {DEFAULT_FRACTION}",
    )
    add_integer(data, "--batch-size", 256, "examples per step")
    what = parser.add_argument_group("what to compute")
    add_which(what)
    add_measures(what)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_predict(commands: Any) -> None:
    parser = command(
        commands,
        "predict",
        "classify image files",
        "Classifies image files: they are resized and normalised as the model needs it.",
        examples.PREDICT,
        "MODEL FILE [FILE ...]",
    )
    add_target(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="image files")
    add_integer(parser, "--top-k", 5, "how many classes to show", metavar="K")
    add_which(parser)
    add_integer(parser, "--batch-size", 64, "images per step")
    parser.add_argument("--json", action="store_true", help="print a JSON list, one item per file")


def _add_verify(commands: Any) -> None:
    parser = command(
        commands,
        "verify",
        "compare a model with timm's",
        "Runs a model and timm's of the same name on the same weights and images, and prints the\n"
        "largest differences after each stage. The exit code is 1 where they differ. Needs timm,\n"
        "or torchvision for the names that timm lacks.",
        _VERIFY_EXAMPLES,
        "NAME",
    )
    parser.add_argument("name", metavar="NAME", help="a model, or pretrained weights as NAME.TAG")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a weight file, or hf:org/repo; by default those of the tag, else random ones",
    )
    add_integer(parser, "--size", 96, "height and width of the images")
    add_integer(parser, "--batch", 2, "number of images")
    add_integer(
        parser, "--seed", 0, "of the images, which are noise, and of random weights", least=0
    )
    parser.add_argument(
        "--tolerance",
        type=fraction,
        default=1e-5,
        metavar="X",
        help="largest difference that passes, relative to the reference's largest value",
    )


def _check_together(parser: Parser, args: argparse.Namespace) -> None:
    """Options that go with others only."""
    if args.command == "list" and args.pretrained and args.kind != "models":
        parser.error("--pretrained goes with --kind models")
    if args.command == "train":
        if args.schedule_set and args.schedule is None:
            parser.error("--schedule-set goes with --schedule")
        if args.schedule is None and args.learning_rate == 0:
            parser.error("--learning-rate must be above 0")
        check_processes(parser, args)
