"""``flaxzoo list`` and ``flaxzoo info``."""

from __future__ import annotations

import argparse
import importlib
import math
import shutil
import sys
from typing import TYPE_CHECKING, Any

from flaxzoo.cli.configs import as_sequences, describe
from flaxzoo.cli.values import KINDS, SettingError, pairs, settings
from flaxzoo.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from flaxzoo.registry import EntryInfo


def list_names(args: argparse.Namespace) -> None:
    """Prints the names that match, in columns on a terminal and one per line elsewhere."""
    registry = _registry(args.kind)
    options = {"pretrained": True} if args.pretrained else {}
    found = registry.list(args.pattern, **options)
    if not found:
        everything = registry.list(**options)
        what = "pretrained weights" if args.pretrained else args.kind
        hint = did_you_mean(args.pattern.strip("*?"), everything) if everything else ""
        raise UnknownNameError(f"no {what} match {args.pattern!r}.{hint}")
    if sys.stdout.isatty():
        print(in_columns(found, shutil.get_terminal_size().columns))
    else:
        print("\n".join(found))


def in_columns(names: list[str], width: int) -> str:
    """Names in as many columns as fit, read downwards."""
    cell = max(map(len, names)) + 2
    columns = max(1, (width + 2) // cell)
    rows = math.ceil(len(names) / columns)
    return "\n".join(
        "".join(name.ljust(cell) for name in names[row::rows]).rstrip() for row in range(rows)
    )


def show_info(args: argparse.Namespace) -> None:
    """Prints what is known about a name, whichever registries hold it."""
    config = pairs(args.set, "--set", {"pretrained": "info reads no weights"})
    if args.kind in (None, "models"):
        try:
            _show_model(args.name, config, layers=args.layers)
            return
        except UnknownNameError as error:
            found = [] if args.kind or args.layers or config else _elsewhere(args.name)
            if not found:
                raise error
    else:
        if args.layers or config:
            raise SettingError(f"--layers and --set go with models, not with {args.kind}")
        found = [_registry(args.kind).info(args.name)]
    print("\n\n".join(map(_entry, found)))


def _show_model(name: str, config: dict[str, Any], *, layers: bool) -> None:
    from flaxzoo import models

    if not config and not layers:
        print(models.info(name))
        return
    config = as_sequences(models.info(name).name, config)
    with settings(describe(name, config)):
        model = models.get(name, **config)
        text = str(model.spec)
        if layers:
            text += f"\n\n{model.summary()}"
    print(text)


def _entry(info: EntryInfo) -> str:
    """An entry with an option per line: signatures with their types are long."""
    lines = [f"{info.kind} {info.name}: {info.summary}"]
    if info.aliases:
        lines.append(f"  also known as {', '.join(info.aliases)}")
    for option in info.signature.parameters.values():
        default = "" if option.default is option.empty else f" (default: {option.default!r})"
        stars = "**" if option.kind is option.VAR_KEYWORD else ""
        lines.append(f"  {stars}{option.name}{default}")
    return "\n".join(lines)


def _elsewhere(name: str) -> list[Any]:
    return [_registry(kind).info(name) for kind in KINDS[1:] if name in _registry(kind).REGISTRY]


def _registry(kind: str) -> Any:
    return importlib.import_module(f"flaxzoo.{kind}")
