"""Pretrained variables for a model: read from a source, named as ours, put in place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from flaxzoo.errors import CheckpointError, closest
from flaxzoo.weights.names import fit_channels, from_reference, stem_kernels
from flaxzoo.weights.sources import SOURCES
from flaxzoo.weights.tags import catalog_entry, tags
from flaxzoo.weights.trees import compare, flatten, unflatten

if TYPE_CHECKING:
    from flaxzoo.model import Model
    from flaxzoo.models.registry import Reference


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a source gave.

    Attributes:
      tensors: arrays by name.
      source: names the source in messages.
      ours: whether the names are our paths (``params/...``) instead of a reference's.
      facts: what the source says about them, in the catalogue's form: ``preprocess``, ``classes``.
    """

    tensors: Mapping[str, Any]
    source: str
    ours: bool
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def num_classes(self, reference: Reference | None) -> int | None:
        """How many classes the last layer of these weights tells apart; None if unknown."""
        if self.ours:
            kernel = self.tensors.get("params/head/fc/kernel")
            return None if kernel is None else kernel.shape[-1]
        for _, name in reference.head if reference else ():
            weight = self.tensors.get(f"{name}.weight")
            if weight is not None:
                return weight.shape[0]
        return None


def read_weights(name: str, source: bool | str | os.PathLike[str], tag: str | None) -> Weights:
    """Reads the tensors of a source.

    Args:
      name: of the architecture.
      source: True for the catalogue's weights; ``"hf:org/repo[@revision]"`` for a repository of
        the Hub; ``"jax_resnet"`` or ``"flaxmodels"`` for those of the package; or the path of a
        weight file or of a directory that holds one.
      tag: of the catalogue's weights; None for the default one.

    Raises:
      UnknownNameError: there are no such weights.
      DownloadError: they can't be had.
      CheckpointError: the file is missing, damaged or of another kind, or is another model's.
      ValueError: a source of the Hub is malformed.
    """
    if source is True:
        return _read_catalogued(name, tag)
    text = os.fspath(source)  # type: ignore[arg-type]
    if text in SOURCES:
        from flaxzoo.weights import sources

        facts = {"preprocess": sources.preprocess(name, text), "classes": "imagenet1k"}
        return Weights(
            flatten(sources.load(name, text)), f"{name} of {text}", ours=True, facts=facts
        )
    path = Path(text).expanduser()
    if text.startswith("hf:") or (path.is_dir() and (path / "config.json").is_file()):
        return _read_described(name, text if text.startswith("hf:") else str(path))
    if not text or not path.exists():
        raise CheckpointError(f"{text!r}: no such weight file{_advice(name, text)}")
    return read_file(path, text)


def _advice(name: str, text: str) -> str:
    """What someone may have meant who asked for weights that are no file."""
    near = closest(text, SOURCES)
    if text in tags(name):
        return (
            f"; the tag is part of the name: flaxzoo.models.get('{name}.{text}', pretrained=True)"
        )
    if near and os.sep not in text:
        return f"; did you mean {near[0]!r}?"
    if len(Path(text).parts) == 2 and not Path(text).suffix[1:].isalpha():
        return f"; a repository of the Hub is written 'hf:{text}'"
    return ""


def load_pretrained(
    model: Model,
    weights: Weights,
    *,
    fresh_head: bool,
    adapt_channels: bool = False,
    rng: Any = 0,
) -> Model:
    """Returns ``model`` with the variables of ``weights``.

    Only what the weights do not provide is initialised: nothing, or a head of another width.

    Args:
      model: its variables need not be initialised.
      weights: from ``read_weights``.
      fresh_head: whether the head may be of another width than the weights', or they may have
        none; it is then initialised.
      adapt_channels: whether the first convolution may have other channels than in the weights;
        those of weights for RGB images are always adapted.
      rng: an int seed or a key, for a fresh head.

    Raises:
      CheckpointError: the weights are another model's; the first ten keys that differ are listed.
    """
    from flaxzoo.model import init_head
    from flaxzoo.weights.timm_config import reference_of

    reference = reference_of(model.spec.name)
    expected = flatten(model.shapes())
    head = [path for path in expected if path.split("/")[1] == "head"]
    if weights.ours:
        prefixes: tuple[str, ...] = ("params/head/", "batch_stats/head/")
    elif reference is None:
        raise CheckpointError(
            f"{weights.source}: not written by flaxzoo: no tensor is named 'params/...' (it "
            f"holds {', '.join(sorted(weights.tensors)[:3])}), and {model.spec.name!r} has no "
            "reference checkpoints"
        )
    else:
        prefixes = tuple(f"{name}." for _, name in reference.head)
    given = {name for name in weights.tensors if name.startswith(prefixes)}
    # A head of one's own has no such layer, and is never exchanged.
    kernel = expected.get("params/head/fc/kernel")
    theirs = weights.num_classes(reference)
    other = not given if theirs is None or kernel is None else theirs != kernel.shape[-1]
    tensors, wanted = weights.tensors, expected
    if not head or (fresh_head and other):
        tensors = {k: v for k, v in tensors.items() if k not in given}
        wanted = {k: v for k, v in expected.items() if k not in head}
    owner = f"{model.spec.name!r}"
    if weights.ours:
        tensors = dict(tensors)
        for path in stem_kernels(wanted, reference) if reference else ():
            if path in tensors and np.ndim(tensors[path]) == 4:
                stem = np.asarray(tensors[path]).transpose(3, 2, 0, 1)
                height, width, channels, features = wanted[path].shape
                shape = (features, channels, height, width)
                stem = fit_channels(stem, shape, any_number=adapt_channels)
                tensors[path] = stem.transpose(2, 3, 1, 0)
        compare(wanted, tensors, source=weights.source, owner=owner)
    elif reference is not None:
        tensors = from_reference(
            wanted, tensors, reference, source=weights.source, owner=owner, adapt=adapt_channels
        )
    # As wide as the model wants them, not as the file has them.
    flat = {k: jnp.asarray(tensors[k], wanted[k].dtype) for k in wanted}
    if len(wanted) < len(expected):
        fresh = init_head(model, unflatten(flat), rng)
        flat |= flatten({name: {"head": tree} for name, tree in fresh.items()})
    return dataclasses.replace(model, variables=unflatten({k: flat[k] for k in expected}))


def _read_catalogued(name: str, tag: str | None) -> Weights:
    entry = catalog_entry(name, tag)
    if "file" in entry:
        with resources.as_file(resources.files("flaxzoo.weights") / entry["file"]) as path:
            return dataclasses.replace(read_file(path, str(path)), facts=entry)
    from flaxzoo.weights import hub

    path = hub.download(entry["hub"])
    return dataclasses.replace(read_file(path, f"{entry['hub']} ({path})"), facts=entry)


def _read_described(name: str, source: str) -> Weights:
    """The weights of a directory or a repository, with what its ``config.json`` says of them."""
    from flaxzoo.weights.export import find, read_json, read_spec

    config, weights, label = find(source, None)
    spec = read_spec(read_json(config, label), label)
    if spec.name != name:
        known = f"flaxzoo.models.get({spec.name!r}, pretrained={source!r})"
        raise CheckpointError(f"{label} holds a {spec.name!r}, not a {name!r}: {known}")
    facts: dict[str, Any] = {
        "config": {k: v for k, v in (spec.config or {}).items() if k != "pretrained"},
        "classes": spec.classes,
        "licence": spec.licence,
        "tag": spec.tag,
        "top1": spec.top1,
    }
    if spec.input_shape is not None:
        facts["input_shape"] = spec.input_shape
    if spec.preprocess is not None:
        preprocess = dataclasses.asdict(spec.preprocess)
        preprocess.pop("input_shape")
        facts["preprocess"] = preprocess
    return dataclasses.replace(read_file(weights, label), facts=facts)


def read_file(path: Path, source: str) -> Weights:
    """The tensors of a file or directory, whose names say whether they are ours."""
    from flaxzoo.weights.readers import read_tensors

    tensors = read_tensors(path)
    ours = any(name.startswith("params/") for name in tensors)
    return Weights(tensors, source, ours)
