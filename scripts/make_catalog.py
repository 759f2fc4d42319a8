"""Writes the catalogue of pretrained weights from what timm knows about them.

    pip install torch torchvision timm==1.0.31
    python scripts/make_catalog.py --results results-imagenet.csv

The accuracies are in timm's repository, not in its package: ``results/results-imagenet.csv`` at
https://github.com/huggingface/pytorch-image-models. Without ``--results`` those of the committed
catalogue are kept for weights that are evaluated as before, so that the same timm gives the same
file byte for byte.

Each entry, under ``name.tag``, holds

- ``tag``, ``hub`` (the Hub repository), ``num_classes`` (0: the file has no classifier) and
  ``classes`` (a table of ``flaxzoo.classes``, or null);
- ``input_shape`` [H, W, C] and ``preprocess``: how timm feeds these weights by default;
  ``test_input_shape`` and ``test_crop``: the larger size and crop that timm evaluates them at, the
  same as the former where it states none;
- ``top1``: ImageNet-1k validation accuracy in percent at ``top1_input_shape`` with the default
  preprocessing; ``test_top1``: at the test size and crop; null where none is published;
- ``licence`` of the weights as timm states it, and where there is something to say ``origin``,
  ``paper`` and ``notes``.

The default tag of an architecture comes first, the others in alphabetical order. Names that timm
only keeps for old code (``tv_resnet50`` for ``resnet50.tv_in1k``) are not included.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CATALOG = Path(__file__).resolve().parent.parent / "src/flaxzoo/weights/catalog/timm.json"
MODULES = ("resnet", "resnest")

# Architectures of those modules that flaxzoo does not have, and why.
_PRUNED = "its widths were pruned one by one: no rule gives them, only a table for this one file"
LEFT_OUT = {"ecaresnet50d_pruned": _PRUNED, "ecaresnet101d_pruned": _PRUNED}

_CLASSES = {("in1k", 1000): "imagenet1k", ("in12k", 11821): "imagenet12k"}
_TOP1 = ("top1", "top1_input_shape", "test_top1")

Published = Mapping[str, list[tuple[int, float, str, float]]]


def read_results(path: Path) -> Published:
    """Reads timm's results: for each ``name.tag``, (size, crop, interpolation, top-1 in percent).

    Args:
      path: of ``results-imagenet.csv``.

    Raises:
      SystemExit: the file has none of the columns needed.
    """
    published: dict[str, list[tuple[int, float, str, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        needed = ["model", "img_size", "crop_pct", "interpolation", "top1"]
        missing = [column for column in needed if column not in (reader.fieldnames or ())]
        if missing:
            raise SystemExit(f"{path}: not timm's results, it lacks {', '.join(missing)}")
        for row in reader:
            published.setdefault(row["model"], []).append(
                (
                    int(row["img_size"]),
                    float(row["crop_pct"]),
                    row["interpolation"],
                    float(row["top1"]),
                )
            )
    return published


def describe(key: str, config: Any) -> dict[str, Any]:
    """An entry of the catalogue, but for its accuracies.

    Args:
      key: ``name.tag``.
      config: timm's ``PretrainedCfg`` of it.
    """
    tag = key.partition(".")[2]
    datasets = tag.split("_")
    notes = []
    if config.num_classes == 0:
        notes.append("the file has no classifier: pooled features only")
    if not config.license:
        notes.append("timm states no licence")
    entry = {
        "tag": tag,
        "hub": config.hf_hub_id,
        "num_classes": config.num_classes,
        "classes": next(
            (
                table
                for (dataset, count), table in _CLASSES.items()
                if dataset in datasets and count == config.num_classes
            ),
            None,
        ),
        "input_shape": _channels_last(config.input_size),
        "test_input_shape": _channels_last(config.test_input_size or config.input_size),
        "preprocess": {
            "mean": list(config.mean),
            "std": list(config.std),
            "interpolation": config.interpolation,
            "crop": config.crop_pct,
            "crop_mode": config.crop_mode,
        },
        "test_crop": config.test_crop_pct or config.crop_pct,
        "licence": config.license or "unknown",
        "origin": config.origin_url,
        "paper": config.paper_ids,
        "notes": "; ".join(notes),
    }
    if config.fixed_input_size:
        entry["fixed_input_size"] = True
    return {key: v for key, v in entry.items() if v or key not in ("origin", "paper", "notes")}


def accuracies(key: str, entry: Mapping[str, Any], published: Published) -> dict[str, Any]:
    """What was published for an entry's own preprocessing and for its test size."""

    def find(shape: list[int], crop: float) -> float | None:
        for size, its_crop, interpolation, top1 in published.get(key, ()):
            # The results are rounded to three decimals.
            same = shape[:2] == [size, size] and abs(crop - its_crop) < 6e-4
            if same and interpolation == entry["preprocess"]["interpolation"]:
                return top1
        return None

    top1 = find(entry["input_shape"], entry["preprocess"]["crop"])
    return {
        "top1": top1,
        "top1_input_shape": None if top1 is None else entry["input_shape"],
        "test_top1": find(entry["test_input_shape"], entry["test_crop"]),
    }


def kept_accuracies(key: str, entry: Mapping[str, Any], previous: Mapping[str, Any]) -> Any:
    """What an earlier catalogue says of an entry, if it is still evaluated in the same way."""
    before = previous.get("weights", {}).get(key, {})
    evaluated = ("input_shape", "test_input_shape", "preprocess", "test_crop")
    same = all(before.get(name) == entry[name] for name in evaluated)
    return {name: before.get(name) if same else None for name in _TOP1}


def build(
    modules: Iterable[str] = MODULES,
    *,
    published: Published | None = None,
    previous: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The catalogue of the installed timm.

    Args:
      modules: of timm, whose architectures to describe.
      published: what ``read_results`` returned.
      previous: the catalogue to take accuracies from without it.

    Returns:
      ``source`` (timm's version and the modules), ``left_out`` (names with the reason),
      ``untrained`` (architectures without weights, with their usual input shape) and ``weights``
      (the entries by ``name.tag``).

    Raises:
      SystemExit: timm has weights that cannot be described: they are not in a Hub repository's
        usual file, or need a loader of their own.
    """
    import timm
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, list_models

    modules = sorted(modules)
    weights: dict[str, Any] = {}
    untrained: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in sorted(n for module in modules for n in list_models(module=module)):
        if name in LEFT_OUT:
            left_out[name] = LEFT_OUT[name]
            continue
        default = get_pretrained_cfg(name)
        configs = {k: c for k, c in get_arch_pretrained_cfgs(name).items() if c.has_weights}
        if not configs:
            untrained[name] = _channels_last(default.input_size)
            continue
        for key in sorted(configs, key=lambda key: (configs[key].tag != default.tag, key)):
            config = configs[key]
            if not config.hf_hub_id or config.hf_hub_filename or config.custom_load:
                raise SystemExit(f"{key}: not in a Hub repository's model.safetensors: {config}")
            entry = describe(key, config)
            if published is not None:
                entry |= accuracies(key, entry, published)
            else:
                entry |= kept_accuracies(key, entry, previous or {})
            weights[key] = entry
    return {
        "source": {"package": "timm", "version": timm.__version__, "modules": modules},
        "left_out": left_out,
        "untrained": untrained,
        "weights": weights,
    }


def to_text(catalog: Mapping[str, Any]) -> str:
    """The catalogue as JSON with one entry per line, so that a change shows as one line."""
    sections = []
    for section, values in catalog.items():
        lines = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
        sections.append(f"  {json.dumps(section)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _channels_last(size: tuple[int, int, int]) -> list[int]:
    channels, height, width = size
    return [height, width, channels]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, help="timm's results-imagenet.csv")
    parser.add_argument("--modules", nargs="+", default=MODULES, help="of timm")
    parser.add_argument("--output", type=Path, default=CATALOG)
    options = parser.parse_args(arguments)
    published = read_results(options.results) if options.results else None
    previous = json.loads(CATALOG.read_text("utf-8")) if published is None else None
    catalog = build(options.modules, published=published, previous=previous)
    options.output.write_text(to_text(catalog), "utf-8", newline="\n")
    weights = catalog["weights"]
    architectures = {key.partition(".")[0] for key in weights}
    unpublished = [key for key, entry in weights.items() if entry["top1"] is None]
    print(
        f"{options.output}: {len(weights)} weights of {len(architectures)} architectures; "
        f"{len(catalog['untrained'])} architectures without weights, "
        f"{len(catalog['left_out'])} left out; no accuracy for {', '.join(unpublished) or 'none'}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
