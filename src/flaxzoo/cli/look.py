"""``flaxzoo list`` and ``flaxzoo info``."""

from __future__ import annotations

import argparse
import importlib
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any

from flaxzoo._files import as_path
from flaxzoo.cli.configs import as_sequences, describe
from flaxzoo.cli.targets import load_model
from flaxzoo.cli.values import KINDS, SettingError, pairs, settings
from flaxzoo.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from flaxzoo.registry import EntryInfo
    from flaxzoo.spec import ModelSpec


def list_names(args: argparse.Namespace) -> None:
    """Prints the names that match, in columns on a terminal and one per line elsewhere."""
    registry = _registry(args.kind)
    options = {"pretrained": True} if args.pretrained else {}
    names = registry.list(args.pattern, **options)
    if not names:
        what = "pretrained weights" if args.pretrained else args.kind
        hint = _hint(args, registry)
        raise UnknownNameError(f"no {what} match {args.pattern!r}.{hint}")
    if sys.stdout.isatty():
        print(in_columns(names, shutil.get_terminal_size().columns))
    else:
        print("\n".join(names))


def _hint(args: argparse.Namespace, registry: Any) -> str:
    """What the pattern may have been meant for."""
    if args.kind == "models" and not args.pretrained:
        tagged = registry.list(args.pattern, pretrained=True)
        if tagged:
            return (
                f" It matches pretrained weights ({len(tagged)}): "
                f"flaxzoo list --pretrained {shlex.quote(args.pattern)}"
            )
    options = {"pretrained": True} if args.pretrained else {}
    if args.pretrained and registry.list(f"{args.pattern}.*", **options):
        pattern = shlex.quote(f"{args.pattern}.*")
        return f" They are listed as NAME.TAG: flaxzoo list --pretrained {pattern}"
    everything = registry.list(**options)
    return did_you_mean(args.pattern.strip("*?"), everything) if everything else ""


def in_columns(names: list[str], width: int) -> str:
    """Names in as many columns as fit, each as wide as it has to be, read downwards."""
    for rows in range(1, len(names) + 1):
        columns = [names[start : start + rows] for start in range(0, len(names), rows)]
        widths = [max(map(len, column)) for column in columns]
        if sum(widths) + 2 * (len(widths) - 1) <= width:
            break
    return "\n".join(
        "  ".join(
            column[row].ljust(size)
            for column, size in zip(columns, widths, strict=True)
            if row < len(column)
        ).rstrip()
        for row in range(rows)
    )


def show_info(args: argparse.Namespace) -> None:
    """Prints what is known about a name, whichever registries hold it."""
    config = pairs(args.set, "--set", {"pretrained": "info reads no weights"})
    if args.kind in (None, "models"):
        path = as_path(args.name)
        if args.name.startswith("hf:") or (len(path.parts) > 1 and path.is_dir()):
            _show_saved(args.name, config, layers=args.layers)
            return
        try:
            _show_model(args.name, config, layers=args.layers)
            return
        except UnknownNameError as error:
            entries = [] if args.kind or args.layers or config else _elsewhere(args.name)
            if not entries and path.is_dir():
                _show_saved(args.name, config, layers=args.layers)
                return
            if not entries:
                raise error
    else:
        if args.layers or config:
            raise SettingError(f"--layers and --set go with models, not with {args.kind}")
        entries = [_registry(args.kind).info(args.name)]
    print("\n\n".join(map(_entry, entries)))


def _show_model(name: str, config: dict[str, Any], *, layers: bool) -> None:
    from flaxzoo import models
    from flaxzoo.models.build import counted

    if not config and not layers:
        print(_described(models.info(name)))
        return
    config = as_sequences(models.info(name).name, config)
    with settings(describe(name, config)):
        model = models.get(name, **config)
        text = _described(counted(model.module, model.spec))
        if layers:
            text += f"\n\n{model.summary()}"
    print(text)


def _show_saved(target: str, config: dict[str, Any], *, layers: bool) -> None:
    from flaxzoo.models.build import counted

    model = load_model(target, config=config)
    print(_described(counted(model.module, model.spec)))
    if layers:
        print(f"\n{model.summary()}")


def _described(spec: ModelSpec) -> str:
    """The spec, with the weights of an architecture as a table instead of a long line."""
    lines = str(spec).splitlines()
    if not spec.tags:
        return "\n".join(lines)
    lines = [line for line in lines if not line.startswith("  pretrained ")]
    if spec.tag:
        others = len(spec.tags) - (spec.tag in spec.tags)
        if others:
            lines.append(f"  others     {others} more weights: flaxzoo info {spec.name}")
        return "\n".join(lines)
    rows = [_weights_row(spec.name, tag) for tag in spec.tags]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines.append("  pretrained" + (" (the first is the default)" if len(rows) > 1 else ""))
    lines += ["    " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def _weights_row(name: str, tag: str) -> tuple[str, ...]:
    """Name, published accuracy, the size at which it was measured, and licence."""
    from flaxzoo.models import catalog

    entry = catalog.entry(name, tag)
    top1 = "" if entry.get("top1") is None else f"top-1 {entry['top1']:.2f} %"
    size = "x".join(map(str, (entry.get("top1_input_shape") or entry["input_shape"])[:2]))
    return f"{name}.{tag}", top1, size, entry.get("licence", "")


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
