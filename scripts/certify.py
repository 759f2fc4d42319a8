"""Compares names of the zoo with timm or torchvision, and keeps the ledger of certificates.

    pip install torch torchvision timm==1.0.31
    python scripts/certify.py                           # every name that has a reference
    python scripts/certify.py "resnet*" resnest50d
    python scripts/certify.py --family resnest
    python scripts/certify.py --changed --lot 5
    python scripts/certify.py --changed --of-each 5 --lot 3 --dry-run     # what CI runs

Both get the same random weights, random statistics included, and the same images; compared are the
map after each stage, the pooled features and the logits. A difference of more than 1e-5 of the
reference's largest value fails, and the exit code is 1.

The ledger is ``src/flaxzoo/models/catalog/<family>.certificates.json``, one line a name:

- ``logits``, ``features`` and ``stages``: the largest relative differences;
- ``compared``: ``"whole"``, or the fields that made the network shallow where the whole has
  more parameters than ``--whole-below``: every kind of block, at most two in each stage;
- ``input_shape`` of the images;
- ``versions`` of the reference (timm, or torchvision where timm has no such family), torch, jax
  and flaxzoo;
- ``fingerprint`` of the computation of the whole network: a digest of its jaxpr for XLA's own
  lowering, without names and places in the source, so that it changes with what is computed and
  with nothing else. ``--changed`` runs the names whose fingerprint is another one.

A family whose depth, here or in timm, is not called ``layers``, ``depths`` or ``depth`` says where
it is: ``CUT = {"our_field": "timms_keyword"}`` in its file, ``"model_cfgs.field"`` where timm has a
table of configurations in place of keywords, ``"function.keyword"`` where a function of its module
gets the keyword, whatever the name's own function takes. Where timm computes its depth, it is a
function of timm's module and our field's value, which returns what of the module is to be replaced
by what. An empty ``CUT`` says that timm makes no shallow networks of these names, which are then
compared whole.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fnmatch
import gc
import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

import flaxzoo as fz
from flaxzoo._calls import apply_module
from flaxzoo.layers import lowering
from flaxzoo.models import catalog
from flaxzoo.models.registry import MODELS, families
from flaxzoo.verify import (
    TOLERANCE,
    compare,
    fill_reference,
    import_timm,
    reference_network,
    with_reference,
)
from flaxzoo.weights.synthetic import synthetic_images

LEDGERS = Path(__file__).resolve().parent.parent / "src/flaxzoo/models/catalog"
# Of images for networks that take any size.
SIZE = 96
# Blocks of one kind that a shallow network keeps in each stage.
BLOCKS = 2
# Names from which on another process is worth its start.
MANY = 20
_DEPTHS = ("layers", "depths", "depth")


def fingerprint(name: str, input_shape: Sequence[int]) -> str:
    """A digest of what a network computes: equal for equal computations on one version of JAX."""
    model = fz.models.get(name, **_sized(name, input_shape))
    sample = jax.ShapeDtypeStruct((1, *input_shape), model.spec.input_dtype)
    with lowering.use("xla"):
        variables = model.shapes(sample)
        closed = jax.make_jaxpr(lambda v, x: apply_module(model.module, v, x))(variables, sample)
    digest = hashlib.sha256()
    for line in _lines(closed.jaxpr, closed.consts, {}):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]


def _lines(jaxpr: Any, consts: Sequence[Any], seen: dict[int, str]) -> Iterable[str]:
    """The equations of a jaxpr in words that depend on nothing but the computation."""
    numbers: dict[Any, int] = {}

    def word(atom: Any) -> str:
        if hasattr(atom, "val"):
            return f"{_value(atom.val, seen)}:{atom.aval.str_short()}"
        number = numbers.setdefault(atom, len(numbers))
        return f"{number}:{atom.aval.str_short()}"

    yield "in " + " ".join(map(word, (*jaxpr.constvars, *jaxpr.invars)))
    for const in consts:
        yield f"const {_value(const, seen)}"
    for eqn in jaxpr.eqns:
        params = " ".join(
            f"{key}={value}"
            for key in sorted(eqn.params)
            # What a function is called in the source is no part of what it computes.
            if key != "name" and (value := _value(eqn.params[key], seen)) is not None
        )
        outputs = " ".join(map(word, eqn.outvars))
        yield f"{outputs} = {eqn.primitive.name}[{params}] {' '.join(map(word, eqn.invars))}"
    yield "out " + " ".join(map(word, jaxpr.outvars))


def _value(value: Any, seen: dict[int, str]) -> str | None:
    """A parameter in words; None for what has no content of its own, such as a function."""
    if hasattr(value, "jaxpr") and hasattr(value, "consts"):
        return _nested(value, value.jaxpr, value.consts, seen)
    if hasattr(value, "eqns"):
        return _nested(value, value, (), seen)
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        items = ((str(key), _value(item, seen)) for key, item in value.items())
        return "{" + ",".join(f"{key}:{item}" for key, item in sorted(items)) + "}"
    if isinstance(value, tuple | list):
        return "(" + ",".join(str(_value(item, seen)) for item in value) + ")"
    if value is None or isinstance(value, bool | int | float | complex | str | np.generic):
        return repr(value)
    text = repr(value)
    # A repr with an address is that of an object without content.
    return None if callable(value) or " at 0x" in text else text


def _nested(key: Any, jaxpr: Any, consts: Sequence[Any], seen: dict[int, str]) -> str:
    """The digest of a jaxpr inside another; equal blocks are one object and are read once."""
    if id(key) not in seen:
        lines = "\n".join(_lines(jaxpr, consts, seen))
        seen[id(key)] = hashlib.sha256(lines.encode()).hexdigest()
    return seen[id(key)]


def certify(name: str, *, whole_below: float, seed: int = 0) -> dict[str, Any]:
    """Compares one name with its reference; the line of the ledger, without its fingerprint."""
    cut = {} if _parameters(name) < whole_below else shallow(name)
    shape = input_shape(name)
    model = fz.models.get(name, **_sized(name, shape), **cut)
    options: dict[Any, Any] = in_timms_words(name, cut)
    if "input_shape" in MODELS.parameters(name):
        options["img_size"] = shape[:2]
    # timm's own default is as wide as the weights that it would download.
    classes = model.module.head.num_classes
    rules = MODELS.architecture(name).reference
    with configured(name, options) as keywords:
        reference = reference_network(name, num_classes=classes, **keywords).eval()
    tensors = fill_reference(reference, seed, **rules.random)
    model = with_reference(model, tensors, source="random weights")
    differences = compare(model, reference, synthetic_images((2, *shape), seed))
    relative = {key: _rounded(found.relative) for key, found in differences.items()}
    logits, features = relative.pop("logits"), relative.pop("features")
    fields = ", ".join(f"{key}={value!r}" for key, value in cut.items())
    return {
        "logits": logits,
        "features": features,
        "stages": relative,
        "compared": fields or "whole",
        "input_shape": list(shape),
        "versions": {
            rules.package: version(rules.package).partition("+")[0],
            "torch": version("torch").partition("+")[0],
            "jax": version("jax"),
            "flaxzoo": fz.__version__,
        },
    }


def shallow(name: str) -> dict[str, Any]:
    """Our fields that leave at most two blocks in each stage.

    Empty where a family has no such field: its networks are compared whole.
    """
    parameters = MODELS.parameters(name)
    fields: dict[str, Any] = {}
    depth, cut = parameters.get("depth"), _cut(name)
    for key in _DEPTHS if cut is None else cut:
        value = parameters[key].default if key in parameters else None
        if isinstance(value, int):
            fields[key] = min(value, BLOCKS)
        elif isinstance(value, Sequence) and len(value) == getattr(depth, "default", None):
            # One entry for each block: the first of either kind, where the middle is another.
            fields[key] = tuple(value[:: len(value) // BLOCKS][:BLOCKS])
        elif isinstance(value, Sequence):
            fields[key] = tuple(min(count, BLOCKS) for count in value)
    return fields


def in_timms_words(name: str, cut: Mapping[str, Any]) -> dict[Any, Any]:
    """The keywords of ``timm.create_model`` for the fields that make a network shallow."""
    keywords = _cut(name)
    if not cut or keywords is not None:
        return {(keywords or {})[key]: value for key, value in cut.items()}
    import torch

    with torch.device("meta"):
        taken = inspect.signature(type(import_timm().create_model(name)).__init__).parameters
    depth = next(keyword for keyword in _DEPTHS if keyword in taken)
    (value,) = cut.values()
    return {depth: value}


@contextlib.contextmanager
def configured(name: str, options: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    """Replaces fields of timm's configuration of a name, and yields the keywords that remain.

    Args:
      name: of the architecture.
      options: keywords of ``timm.create_model``, and ``model_cfgs.field`` for the field of a
        dataclass in the table ``model_cfgs`` of the family's module in timm, or
        ``function.keyword`` for that of a function of this module; or a function of this module
        and the value, which returns replacements of what is in it.
    """
    if all(isinstance(key, str) and "." not in key for key in options):
        yield dict(options)
        return
    module = importlib.import_module(f"timm.models.{_family(name)}")
    places: dict[str, dict[str, Any]] = {}
    replaced: dict[str, Any] = {}
    for key, value in options.items():
        if callable(key):
            replaced |= key(module, value)
            continue
        place, _, field = key.rpartition(".")
        places.setdefault(place, {})[field] = value
    keywords = places.pop("", {})
    with contextlib.ExitStack() as stack:
        if replaced:
            stack.enter_context(mock.patch.multiple(module, **replaced))
        for place, fields in places.items():
            table = getattr(module, place)
            if callable(table):
                changed = _with_keywords(table, fields)
                stack.enter_context(mock.patch.object(module, place, changed))
            else:
                changed = dataclasses.replace(table[name], **fields)
                stack.enter_context(mock.patch.dict(table, {name: changed}))
        yield keywords


def _with_keywords(function: Callable[..., Any], fields: Mapping[str, Any]) -> Callable[..., Any]:
    """A function that is called with these keywords, whatever the caller says."""
    return lambda *args, **options: function(*args, **{**options, **fields})


def input_shape(name: str) -> tuple[int, int, int]:
    """Of the images: small ones where the network takes any size."""
    shape = catalog.known(name).get("input_shape") or MODELS.architecture(name).input_shape
    any_size = "input_shape" not in MODELS.parameters(name)
    return (SIZE, SIZE, shape[-1]) if any_size else tuple(shape)


def certifiable() -> list[str]:
    """The names that have a reference, sorted."""
    return [name for name in fz.models.list() if MODELS.architecture(name).reference is not None]


def passes(line: Mapping[str, Any]) -> bool:
    """Whether all differences of a line are within the tolerance."""
    values = (line["logits"], line["features"], *line["stages"].values())
    # "not <=" would let NaN pass.
    return all(value <= TOLERANCE for value in values)


def read(family: str) -> dict[str, Any]:
    """A family's ledger, empty where there is none."""
    path = LEDGERS / f"{family}.certificates.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def write(family: str, ledger: Mapping[str, Any]) -> None:
    """Writes a family's ledger, one name a line."""
    rows = [f"  {json.dumps(name)}: {json.dumps(ledger[name])}" for name in sorted(ledger)]
    text = "{\n" + ",\n".join(rows) + "\n}\n"
    (LEDGERS / f"{family}.certificates.json").write_text(text, "utf-8", newline="\n")


def choose(patterns: Sequence[str], chosen: str) -> list[str]:
    """The names that globs and families choose.

    Args:
      patterns: globs; all names if there are none.
      chosen: families with commas between, ``"all"`` or ``"none"``.

    Raises:
      SystemExit: there is no such family, or the globs choose no name that has a reference.
    """
    unknown = set(chosen.split(",")) - {*families(), "all", "none", ""}
    if unknown:
        raise SystemExit(f"no family is called {', '.join(sorted(unknown))}")
    names = [
        name
        for name in certifiable()
        if (not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
        and (chosen == "all" or _family(name) in chosen.split(","))
    ]
    # A family without a reference has nothing to compare.
    if patterns and not names:
        raise SystemExit("no name that has a reference is chosen")
    return names


def pending(names: Sequence[str], lot: int, seed: str) -> tuple[list[str], dict[str, str]]:
    """Of some names those that changed and a few by lot; and the fingerprints of all."""
    prints = fingerprints(names)
    changed = {n for n in names if read(_family(n)).get(n, {}).get("fingerprint") != prints[n]}
    rest = [name for name in names if name not in changed]
    drawn = set(random.Random(seed).sample(rest, min(lot, len(rest))))
    return [name for name in names if name in changed | drawn], prints


def some_of_each(names: Sequence[str], number: int, seed: str) -> list[str]:
    """At most ``number`` names of each family, drawn by ``seed``, and all without a certificate.

    What changes a family's computation by accident changes most of its names, and the fingerprint
    of each takes a trace of the whole network.
    """
    draw = random.Random(seed)
    drawn: set[str] = set()
    for family in dict.fromkeys(map(_family, names)):
        own = [name for name in names if _family(name) == family]
        drawn |= {name for name in own if name not in read(family)}
        drawn |= set(draw.sample(own, min(number, len(own))))
    return [name for name in names if name in drawn]


def fingerprints(names: Sequence[str]) -> dict[str, str]:
    """The fingerprint of each name; many of them by as many processes as there are processors."""
    workers = min(os.cpu_count() or 1, len(names) // MANY)
    if workers < 2:
        return {name: _fingerprint(name) for name in names}
    # JAX has threads, which a forked process would not have.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        return dict(zip(names, pool.map(_fingerprint, names, chunksize=4), strict=True))


def _fingerprint(name: str) -> str:
    return fingerprint(name, input_shape(name))


def _cut(name: str) -> Mapping[str, Any] | None:
    """What the family's file says of where its depth is; None where it says nothing."""
    return getattr(importlib.import_module(MODELS.architecture(name).family), "CUT", None)


def _family(name: str) -> str:
    return MODELS.architecture(name).family.rpartition(".")[2]


def _parameters(name: str) -> float:
    return catalog.known(name).get("parameters") or fz.models.info(name).parameters or 0


def _sized(name: str, shape: Sequence[int]) -> dict[str, Any]:
    return {"input_shape": tuple(shape)} if "input_shape" in MODELS.parameters(name) else {}


def _rounded(value: float) -> float:
    """Two digits are all that a rounding error has."""
    return float(f"{value:.1e}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns 1 if a name fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="names or globs; all by default")
    parser.add_argument("--family", default="all", help="of these, with commas between")
    parser.add_argument("--changed", action="store_true", help="those whose fingerprint is another")
    parser.add_argument(
        "--of-each", type=int, help="with --changed: ask so many names of each family, by lot"
    )
    parser.add_argument("--lot", type=int, default=0, help="with --changed: so many others as well")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parser.add_argument("--seed", default=today, help="of the lot: a commit; today's date")
    parser.add_argument(
        "--whole-below", type=float, default=30e6, help="parameters; above: shallow"
    )
    parser.add_argument("--dry-run", action="store_true", help="write no ledger")
    options = parser.parse_args(arguments)
    names = choose(options.names, options.family)
    prints: dict[str, str] = {}
    if options.changed and options.of_each is not None:
        names = some_of_each(names, options.of_each, options.seed)
    if options.changed:
        names, prints = pending(names, options.lot, options.seed)
    failed = []
    for number, name in enumerate(names, 1):
        line = certify(name, whole_below=options.whole_below)
        found = prints.get(name) or _fingerprint(name)
        good = passes(line)
        print(
            f"{number}/{len(names)} {name}: logits {line['logits']:.1e}, features "
            f"{line['features']:.1e}, maps {max(line['stages'].values(), default=0):.1e}, "
            f"{line['compared']}{'' if good else ': FAILS'}",
            flush=True,
        )
        if not good:
            failed.append(name)
        elif not options.dry_run:
            family = _family(name)
            write(family, {**read(family), name: {**line, "fingerprint": found}})
        # The next pair needs the room.
        jax.clear_caches()
        gc.collect()
    if failed:
        print(f"more than {TOLERANCE:g} from the reference: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
