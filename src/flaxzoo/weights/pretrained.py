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
from flaxzoo.weights import names as names_module
from flaxzoo.weights.names import RGB, from_reference
from flaxzoo.weights.tags import catalog_entry, tags
from flaxzoo.weights.trees import compare, flatten, unflatten

if TYPE_CHECKING:
    from flaxzoo.model import Model
    from flaxzoo.models.registry import Reference

# Packages whose own pretrained weights can be asked for by their name.
PACKAGES = ("jax_resnet", "flaxmodels")


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
    if text in PACKAGES:
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
    return _read_file(path, text)


def _advice(name: str, text: str) -> str:
    """What someone may have meant who asked for weights that are no file."""
    near = closest(text, PACKAGES)
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
    from flaxzoo.models.registry import facts

    expected = flatten(model.shapes())
    head = [path for path in expected if path.split("/")[1] == "head"]
    if weights.ours:
        prefixes: tuple[str, ...] = ("params/head/", "batch_stats/head/")
    else:
        reference = facts(model.spec.name)["reference"]
        if reference is None:
            raise CheckpointError(
                f"{weights.source}: not written by flaxzoo: no tensor is named 'params/...' (it "
                f"holds {', '.join(sorted(weights.tensors)[:3])}), and {model.spec.name!r} has no "
                "reference checkpoints"
            )
        prefixes = tuple(f"{name}." for _, name in reference.head)
    given = {name for name in weights.tensors if name.startswith(prefixes)}
    width = expected["params/head/fc/kernel"].shape[-1] if head else 0
    theirs = weights.num_classes(None if weights.ours else reference)
    other = theirs != width if theirs is not None else not given
    tensors, wanted = weights.tensors, expected
    if not head or (fresh_head and other):
        tensors = {k: v for k, v in tensors.items() if k not in given}
        wanted = {k: v for k, v in expected.items() if k not in head}
    owner = f"{model.spec.name!r}"
    if weights.ours:
        reference = facts(model.spec.name)["reference"]
        tensors = _with_channels(tensors, wanted, reference, adapt_channels)
        compare(wanted, tensors, source=weights.source, owner=owner)
    else:
        tensors = from_reference(
            wanted, tensors, reference, source=weights.source, owner=owner, adapt=adapt_channels
        )
    # As wide as the model wants them, not as the file has them.
    flat = {k: jnp.asarray(tensors[k], wanted[k].dtype) for k in wanted}
    if len(wanted) < len(expected):
        fresh = init_head(model, unflatten(flat), rng)
        flat |= flatten({name: {"head": tree} for name, tree in fresh.items()})
    return dataclasses.replace(model, variables=unflatten({k: flat[k] for k in expected}))


def _with_channels(
    tensors: Mapping[str, Any],
    wanted: Mapping[str, Any],
    reference: Reference | None,
    adapt: bool,
) -> Mapping[str, Any]:
    """The tensors, the first convolution's kernel adapted to the images' channels."""
    for stem in reference.stem if reference else ():
        path = f"params/backbone/{stem}/kernel"
        if path in wanted and path in tensors:
            kernel, shape = np.asarray(tensors[path]), wanted[path].shape
            other = kernel.ndim == 4 and kernel.shape[2] != shape[2]
            if other and (adapt or kernel.shape[2] == RGB):
                kernel = names_module.adapt_channels(kernel.transpose(3, 2, 0, 1), shape[2])
                tensors = {**tensors, path: kernel.transpose(2, 3, 1, 0)}
    return tensors


def _read_catalogued(name: str, tag: str | None) -> Weights:
    entry = catalog_entry(name, tag)
    if "file" in entry:
        with resources.as_file(resources.files("flaxzoo.weights") / entry["file"]) as path:
            return dataclasses.replace(_read_file(path, str(path)), facts=entry)
    from flaxzoo.weights import hub

    path = hub.download(entry["hub"])
    return dataclasses.replace(_read_file(path, f"{entry['hub']} ({path})"), facts=entry)


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
    return dataclasses.replace(_read_file(weights, label), facts=facts)


def _read_file(path: Path, source: str) -> Weights:
    from flaxzoo.weights.readers import read_tensors

    tensors = read_tensors(path)
    ours = any(name.startswith("params/") for name in tensors)
    return Weights(tensors, source, ours)
