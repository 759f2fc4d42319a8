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

from flaxzoo.errors import CheckpointError, did_you_mean
from flaxzoo.weights.names import adapt_channels, from_reference, reference_name
from flaxzoo.weights.tags import catalog_entry
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

        tree, facts = sources.load(name, text), {"preprocess": sources.preprocess(name, text)}
        return Weights(flatten(tree), f"{name} of {text}", ours=True, facts=facts)
    if text.startswith("hf:"):
        return _read_hub(name, text)
    return _read_file(Path(text), text)


def load_pretrained(model: Model, weights: Weights, *, fresh_head: bool) -> Model:
    """Returns ``model`` with the variables of ``weights``.

    Only what the weights do not provide is initialised: nothing, or a head of another width.

    Args:
      model: its variables need not be initialised.
      weights: from ``read_weights``.
      fresh_head: whether the head may differ from the weights', and is then initialised.

    Raises:
      CheckpointError: the weights are another model's; the first ten keys that differ are listed.
    """
    from flaxzoo.models.registry import facts

    expected = flatten(model.shapes())
    head = [path for path in expected if path.split("/")[1] == "head"]
    if weights.ours:
        names = {path: path for path in expected}
        shapes = {path: tuple(leaf.shape) for path, leaf in weights.tensors.items()}
        prefixes: tuple[str, ...] = ("params/head/", "batch_stats/head/")
    else:
        reference = facts(model.spec.name)["reference"]
        if reference is None:
            raise CheckpointError(
                f"{weights.source}: not written by flaxzoo: no tensor is named 'params/...' (it "
                f"holds {', '.join(sorted(weights.tensors)[:3])}), and {model.spec.name!r} has no "
                "reference checkpoints"
            )
        names = {path: reference_name(path, reference) for path in expected}
        shapes = {k: tuple(v.shape) for k, v in weights.tensors.items()}
        prefixes = tuple(f"{name}." for _, name in reference.head)
    given = {name for name in weights.tensors if name.startswith(prefixes)}
    same = {names[path] for path in head} == given and all(
        _size(expected[path].shape) == _size(shapes[names[path]]) for path in head
    )
    tensors, wanted = weights.tensors, expected
    if not same and (fresh_head or not head):
        tensors = {k: v for k, v in tensors.items() if k not in given}
        wanted = {k: v for k, v in expected.items() if k not in head}
    owner = f"{model.spec.name!r}"
    if weights.ours:
        tensors = _with_channels(tensors, wanted, facts(model.spec.name)["reference"])
        compare(wanted, tensors, source=weights.source, owner=owner)
    else:
        tensors = from_reference(wanted, tensors, reference, source=weights.source, owner=owner)
    # As wide as the model wants them, not as the file has them.
    flat = {k: jnp.asarray(tensors[k], wanted[k].dtype) for k in wanted}
    if len(wanted) < len(expected):
        flat |= flatten(_fresh_head(model, unflatten(flat)))
    return dataclasses.replace(model, variables=unflatten({k: flat[k] for k in expected}))


def _with_channels(
    tensors: Mapping[str, Any], wanted: Mapping[str, Any], reference: Reference | None
) -> Mapping[str, Any]:
    """The tensors, the first convolution's kernel adapted to the images' channels."""
    for stem in reference.stem if reference else ():
        path = f"params/backbone/{stem}/kernel"
        if path in wanted and path in tensors:
            kernel, shape = np.asarray(tensors[path]), wanted[path].shape
            if kernel.ndim == 4 and kernel.shape[2] != shape[2]:
                kernel = adapt_channels(kernel.transpose(3, 2, 0, 1), shape[2])
                tensors = {**tensors, path: kernel.transpose(2, 3, 1, 0)}
    return tensors


def _size(shape: tuple[int, ...]) -> list[int]:
    # Transposed or not: which of the two is the comparison's business.
    return sorted(shape)


def _fresh_head(model: Model, variables: Any) -> dict[str, Any]:
    from flaxzoo.model import init_head

    return {name: {"head": tree} for name, tree in init_head(model, variables, rng=0).items()}


def _read_catalogued(name: str, tag: str | None) -> Weights:
    entry = catalog_entry(name, tag)
    if "file" in entry:
        with resources.as_file(resources.files("flaxzoo.weights") / entry["file"]) as path:
            return dataclasses.replace(_read_file(path, str(path)), facts=entry)
    from flaxzoo.weights import hub

    path = hub.download(entry["hub"])
    return dataclasses.replace(_read_file(path, f"{entry['hub']} ({path})"), facts=entry)


def _read_hub(name: str, text: str) -> Weights:
    from flaxzoo.preprocess import Preprocess
    from flaxzoo.weights import hub

    repo_id, revision = hub.parse(text)
    config = hub.read_config(repo_id, revision)
    architecture = config.get("architecture")
    if architecture is not None and architecture != name:
        hint = did_you_mean(str(architecture), [name])
        raise CheckpointError(
            f"{text} holds a {architecture!r}, not a {name!r}.{hint} "
            f"flaxzoo.Model.from_pretrained({text!r}) takes the architecture from the repository"
        )
    facts: dict[str, Any] = {}
    timm = config.get("pretrained_cfg")
    if isinstance(timm, Mapping) and "input_size" in timm:
        preprocess = dataclasses.asdict(Preprocess.from_timm(timm))
        facts["input_shape"] = preprocess.pop("input_shape")
        facts["preprocess"] = preprocess
    labels = config.get("label_names") or (timm or {}).get("label_names")
    if isinstance(labels, list | tuple):
        facts["classes"] = [str(label) for label in labels]
    path = hub.weight_file(repo_id, revision)
    return dataclasses.replace(_read_file(path, f"{text} ({path})"), facts=facts)


def _read_file(path: Path, source: str) -> Weights:
    from flaxzoo.weights.readers import read_tensors

    tensors = read_tensors(path)
    ours = any(name.startswith("params/") for name in tensors)
    return Weights(tensors, source, ours)
