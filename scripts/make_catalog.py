"""Writes the catalogue, one JSON a family, from what timm, torchvision and flaxzoo know.

    pip install torch torchvision timm==1.0.31
    python scripts/make_catalog.py vgg                          # one family
    python scripts/make_catalog.py --results results-imagenet.csv      # all of them

A family of timm's is the file of timm's name in ``src/flaxzoo/models``, unless that sets
``MODULE``; every architecture of timm's must be there, or in the file's ``LEFT_OUT`` with the
reason, where single weights may stand, too, as ``name.tag``. The same holds for the families of
torchvision's that timm lacks (``Reference.package``); where their networks prepare pixels once
more, ``PREPROCESS`` in the file says what both do together. Families of our own are described
without either.

The accuracies are in timm's repository, not in its package: ``results/results-imagenet.csv`` at
https://github.com/huggingface/pytorch-image-models. Without ``--results`` those of the committed
catalogue are kept for weights that are evaluated as before, so that the same timm gives the same
file byte for byte.

``architectures`` holds for each name its usual ``input_shape`` [H, W, C], and for that size the
number of ``parameters`` and the ``gflops`` (two operations per multiply-add). Each entry of
``weights``, under ``name.tag``, holds

- ``tag``, ``hub`` (the Hub repository; or ``url`` of torchvision's file), ``num_classes`` (0: the
  file has no classifier) and ``classes`` (a table of ``flaxzoo.classes``, or null);
- ``task``, where it is not classification: an embedding, such as CLIP's, is ``"features"``;
- ``input_shape`` [H, W, C] and ``preprocess``: how timm feeds these weights by default;
  ``test_input_shape`` and ``test_crop``: the larger size and crop that timm evaluates them at, the
  same as the former where it states none; ``fixed_input_size`` where they take no other;
- ``top1``: ImageNet-1k validation accuracy in percent at ``top1_input_shape`` with the default
  preprocessing; ``test_top1``: at the test size and crop; null where none is published;
- ``parameters`` and ``gflops``, where size or classes are not the architecture's usual ones;
- ``licence`` of the weights as timm states it (of torchvision's, as of others of its weights), and
  where there is something to say ``origin``, ``paper`` and ``notes``.

The default tag of an architecture comes first, the others in alphabetical order. Names that timm
only keeps for old code (``tv_resnet50`` for ``resnet50.tv_in1k``) are not included. ``index.json``
says which family each name is in, and which tags it has.
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import flaxzoo as fz
from flaxzoo._references import import_reference, import_timm
from flaxzoo.models.registry import MODELS, families

CATALOG = Path(__file__).resolve().parent.parent / "src/flaxzoo/models/catalog"

_CLASSES = {("in1k", 1000): "imagenet1k", ("in12k", 11821): "imagenet12k"}
# What a tag of weights that tell ImageNet's or another data set's classes apart has in it.
_CLASSIFIED = re.compile(r"in1k|in12k|in21k|in22k|inat|food|places|cifar|openimages|bamboo")
_TOP1 = ("top1", "top1_input_shape", "test_top1")
# timm's tags of torchvision's weights.
_TAGS = {"IMAGENET1K_V1": "tv_in1k", "IMAGENET1K_V2": "tv2_in1k"}

Published = Mapping[str, list[tuple[int, float, str, float]]]
# What gives the usual input shape of a name, and its entries.
Described = Callable[[], tuple[list[int], dict[str, Any]]]


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
    if config.license in (None, "", "unknown"):
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
    if config.num_classes and not _CLASSIFIED.search(tag) and entry["classes"] is None:
        entry["task"] = "features"
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


def own_names(module: ModuleType) -> list[str]:
    """The architectures that a family's file registers, sorted."""
    items = MODELS.architectures.items()
    return sorted(name for name, known in items if known.family == module.__name__)


def describe_architecture(name: str, input_shape: list[int] | None) -> dict[str, Any]:
    """The input shape, parameters and FLOPs of an architecture, counted from its shapes alone."""
    sized = {} if input_shape is None else {"input_shape": tuple(input_shape)}
    model = fz.models.get(name, **sized)
    if model.spec.input_shape is None:
        return {"input_shape": None}
    table = model.summary()
    return {
        "input_shape": list(model.spec.input_shape),
        "parameters": table.parameters,
        "gflops": table.flops / 1e9,
    }


def cost(name: str, entry: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and FLOPs of weights that are not for the architecture's usual size and classes.

    Args:
      name: of the architecture.
      entry: of the weights.
      usual: what ``describe_architecture`` returned.
    """
    parameters = MODELS.parameters(name)
    classes = parameters["num_classes"].default if "num_classes" in parameters else None
    if (entry["input_shape"], entry["num_classes"]) == (usual["input_shape"], classes):
        return {}
    counted = _counted(name, tuple(entry["input_shape"]), entry["num_classes"])
    return {key: counted[key] for key in ("parameters", "gflops")}


@functools.cache
def _counted(name: str, input_shape: tuple[int, ...], num_classes: int) -> dict[str, Any]:
    table = fz.models.get(name, input_shape=input_shape, num_classes=num_classes).summary()
    return {"parameters": table.parameters, "gflops": table.flops / 1e9}


def build(
    family: str,
    *,
    published: Published | None = None,
    previous: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The catalogue of a family.

    Args:
      family: the name of its file.
      published: what ``read_results`` returned.
      previous: its catalogue so far, to take accuracies from without it, and the weights that
        ship with flaxzoo.

    Returns:
      ``source`` (what it was made from), ``left_out`` (names with the reason), ``architectures``
      and ``weights`` (the entries by ``name.tag``).

    Raises:
      SystemExit: timm has names that the family lacks without a reason, or weights that cannot be
        described: they are not in a Hub repository's usual file.
    """
    previous = previous or {}
    module = importlib.import_module(f"flaxzoo.models.{family}")
    names = own_names(module)
    left_out = dict(getattr(module, "LEFT_OUT", {}))
    source = getattr(module, "MODULE", family)
    references = (MODELS.architecture(name).reference for name in names)
    packages = {reference.package for reference in references if reference is not None}
    if not packages:
        return {
            "source": {"package": "flaxzoo"},
            "left_out": left_out,
            "architectures": {name: describe_architecture(name, None) for name in names},
            "weights": previous.get("weights", {}),
        }
    (package,) = packages
    if package == "timm":
        published_by = timms(source, left_out, published, previous)
    else:
        published_by = torchvisions(source, getattr(module, "PREPROCESS", {}))
    absent = sorted(set(published_by) - set(names) - set(left_out))
    if absent:
        raise SystemExit(f"{family}: neither registered nor in LEFT_OUT: {', '.join(absent)}")
    weights: dict[str, Any] = {}
    architectures: dict[str, Any] = {}
    for name in (name for name in published_by if name in names):
        shape, entries = published_by[name]()
        architectures[name] = describe_architecture(name, shape)
        for key, entry in entries.items():
            weights[key] = entry | cost(name, entry, architectures[name])
    version = importlib.import_module(package).__version__.partition("+")[0]
    return {
        "source": {"package": package, "version": version, "module": source},
        "left_out": left_out,
        "architectures": architectures,
        "weights": weights,
    }


def timms(
    module: str,
    left_out: Collection[str],
    published: Published | None,
    previous: Mapping[str, Any],
) -> dict[str, Described]:
    """What there is of a module of timm's: its names, sorted, each with what describes it.

    Raises:
      SystemExit: (by what describes a name) weights are not in a Hub repository's usual file.
    """
    import_timm()
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, list_models

    def described(name: str) -> tuple[list[int], dict[str, Any]]:
        default, entries = get_pretrained_cfg(name), {}
        configs = {
            key: config
            for key, config in get_arch_pretrained_cfgs(name).items()
            if config.has_weights and key not in left_out
        }
        for key in sorted(configs, key=lambda key: (configs[key].tag != default.tag, key)):
            config = configs[key]
            # custom_load=True is for files of another site; those of the Hub are as usual.
            if not config.hf_hub_id or config.hf_hub_filename or config.custom_load == "hf":
                raise SystemExit(f"{key}: not in a Hub repository's model.safetensors: {config}")
            entry = describe(key, config)
            if published is not None:
                entry |= accuracies(key, entry, published)
            else:
                entry |= kept_accuracies(key, entry, previous)
            entries[key] = entry
        return _channels_last(default.input_size), entries

    return {name: functools.partial(described, name) for name in sorted(list_models(module=module))}


def torchvisions(module: str, preprocess: Mapping[str, Any]) -> dict[str, Described]:
    """What there is of a module of torchvision's; see ``timms``.

    Args:
      module: its name in ``torchvision.models``.
      preprocess: what is another than torchvision says, because its network does more of it.
    """
    models = import_reference("torchvision").models
    listed = [
        name
        for name in models.list_models(module=models)
        if models.get_model_builder(name).__module__ == f"torchvision.models.{module}"
    ]

    def described(name: str) -> tuple[list[int], dict[str, Any]]:
        found = {_TAGS[weights.name]: weights for weights in models.get_model_weights(name)}
        default = _TAGS[models.get_model_weights(name).DEFAULT.name]
        entries = {
            f"{name}.{tag}": describe_torchvisions(tag, found[tag], preprocess)
            for tag in sorted(found, key=lambda tag: (tag != default, tag))
        }
        return entries[f"{name}.{default}"]["input_shape"], entries

    return {name: functools.partial(described, name) for name in sorted(listed)}


def describe_torchvisions(tag: str, weights: Any, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the catalogue for a member of one of torchvision's enumerations of weights."""
    transform, meta = weights.transforms(), weights.meta
    (size,), (resized,) = transform.crop_size, transform.resize_size
    shape, top1 = [size, size, 3], meta["_metrics"]["ImageNet-1K"]["acc@1"]
    # Rounded down, as timm does, so that dividing by it never falls short of the resized side.
    crop = math.floor(1000 * size / resized) / 1000
    return {
        "tag": tag,
        "url": weights.url,
        "num_classes": len(meta["categories"]),
        "classes": _CLASSES["in1k", len(meta["categories"])],
        "input_shape": shape,
        "test_input_shape": shape,
        "preprocess": {
            "mean": transform.mean,
            "std": transform.std,
            "interpolation": transform.interpolation.value,
            "crop": crop,
            "crop_mode": "center",
            **preprocess,
        },
        "test_crop": crop,
        "licence": "bsd-3-clause",
        "top1": top1,
        "top1_input_shape": shape,
        "test_top1": top1,
    }


def build_index() -> dict[str, Any]:
    """``index.json`` of the families' files as they are."""
    names: dict[str, Any] = {}
    for family in families():
        document = json.loads((CATALOG / f"{family}.json").read_text("utf-8"))
        rows: dict[str, list[str]] = {name: [] for name in document["architectures"]}
        for key in document["weights"]:
            name, _, tag = key.partition(".")
            rows[name].append(tag)
        names[family] = rows
        importlib.import_module(f"flaxzoo.models.{family}")
    return {"aliases": MODELS.aliases(), "families": names}


def to_text(catalog: Mapping[str, Any]) -> str:
    """The catalogue as JSON with one entry per line, so that a change shows as one line."""
    sections = []
    for section, values in catalog.items():
        lines = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
        body = "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"
        sections.append(f"  {json.dumps(section)}: {body}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _channels_last(size: tuple[int, int, int]) -> list[int]:
    channels, height, width = size
    return [height, width, channels]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", help="all by default")
    parser.add_argument("--results", type=Path, help="timm's results-imagenet.csv")
    options = parser.parse_args(arguments)
    published = read_results(options.results) if options.results else None
    for family in options.families or families():
        path = CATALOG / f"{family}.json"
        previous = json.loads(path.read_text("utf-8")) if path.exists() else None
        catalog = build(family, published=published, previous=previous)
        path.write_text(to_text(catalog), "utf-8", newline="\n")
        weights = catalog["weights"]
        unpublished = [key for key, entry in weights.items() if entry["top1"] is None]
        print(
            f"{path.name}: {len(weights)} weights of {len(catalog['architectures'])} "
            f"architectures; {len(catalog['left_out'])} left out; no accuracy for "
            f"{', '.join(unpublished) or 'none'}",
            file=sys.stderr,
        )
    text = json.dumps(build_index(), indent=1)
    (CATALOG / "index.json").write_text(text + "\n", "utf-8", newline="\n")


if __name__ == "__main__":
    main()
