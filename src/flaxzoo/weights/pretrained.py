"""Pretrained variables: found at a source, read, named as ours, fitted to a model."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from flaxzoo._explain import folded
from flaxzoo._files import as_path
from flaxzoo._trees import compare, flatten, unflatten
from flaxzoo.errors import CheckpointError, closest
from flaxzoo.models import catalog
from flaxzoo.models.build import entry_width
from flaxzoo.models.heads import CLASSIFIERS
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import Architecture
from flaxzoo.spec import ModelSpec
from flaxzoo.weights import hub, sources
from flaxzoo.weights.described import locate, read_spec
from flaxzoo.weights.downloads import torch_checkpoint
from flaxzoo.weights.folders import read_together, weights_digest
from flaxzoo.weights.names import fit_channels, from_reference, reference_name, stem_kernels
from flaxzoo.weights.readers import read_tensors
from flaxzoo.weights.values import as_weights

# Of a head.
_HIDDEN = re.compile(r"(dense|norm)_\d+")
_CLASSIFIER = "params/head/fc/"
# The width of weights that have no classifier.
NO_CLASSIFIER = -1

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a source.

    Attributes:
      tensors: arrays by name.
      source: names the source in messages.
      ours: whether the names are our paths (``params/...``) instead of a reference's.
    """

    tensors: Mapping[str, Any]
    source: str
    ours: bool

    def is_fused(self, reference: Reference) -> bool:
        """Whether these are the weights of a form of inference."""
        names = self.tensors
        if self.ours:
            names = {reference_name(path, reference): None for path in names}
        return any(fnmatch.filter(names, glob) for glob in reference.fused)

    def num_classes(self, reference: Reference | None) -> int | None:
        """How many classes the classifier of these weights tells apart; None if there is none."""
        if self.ours:
            kernel = self.tensors.get(f"{_CLASSIFIER}kernel")
            return None if kernel is None else kernel.shape[-1]
        names = () if reference is None else (reference.classifier, *reference.former_classifiers)
        weights = (self.tensors.get(f"{name}.weight") for name in names)
        return next((weight.shape[0] for weight in weights if weight is not None), None)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where weights lie, and what is known of them before they are read.

    Attributes:
      facts: in the catalogue's form: ``preprocess``, ``classes``, ``input_shape``, ``licence``.
      width: how many classes their classifier tells apart; ``NO_CLASSIFIER`` if they have none.
      read: reads them, after a download if need be.
    """

    facts: Mapping[str, Any]
    width: int
    read: Callable[[], Weights]


def open_source(
    architecture: Architecture, pretrained: bool | str | os.PathLike[str], tag: str | None
) -> Source:
    """Finds weights; what is far or large is not read yet.

    Args:
      architecture: that they are to be of.
      pretrained: True for the catalogue's weights; ``"hf:org/repo[@revision]"`` for a repository
        of the Hub; the name of a package (``flaxzoo.weights.sources.SOURCES``) for its weights; or
        the path of a weight file or of a directory that holds one.
      tag: of the catalogue's weights; None for the default one.

    Raises:
      UnknownNameError: there are no such weights.
      DownloadError: their description can't be had.
      CheckpointError: the file is missing, damaged or of another kind, or is another model's.
      MissingExtraError: the package that brings the weights is not installed.
      ValueError: a source of the Hub is malformed.
    """
    name = architecture.name
    if pretrained is True:
        return _catalogued(name, tag)
    # The catalogue's accuracy is that of its own weights.
    entry = {**catalog.entry(name, tag), "top1": None} if tag else {}
    text = os.fspath(pretrained)  # type: ignore[arg-type]
    path = as_path(text)
    if text in sources.SOURCES:
        return _packaged(name, text, entry)
    if text.startswith("hf:") or (path.is_dir() and (path / "config.json").is_file()):
        return _described(architecture, text if text.startswith("hf:") else str(path), entry)
    if not text or not path.exists():
        raise CheckpointError(f"{text!r}: no such weight file{_advice(name, text)}")
    return _known(architecture, read_file(path, text), entry)


def read_file(path: Path, source: str, sha256: str | None = None) -> Weights:
    """The tensors of a file or directory, whose names say whether they are ours.

    Args:
      path: of the file or directory.
      source: names it in messages.
      sha256: what the digest of the file must be, as for ``read_tensors``.
    """
    tensors = read_tensors(path, sha256=sha256)
    ours = any(name.startswith("params/") for name in tensors)
    return Weights(tensors, source, ours)


def load(
    expected: Mapping[str, Any],
    weights: Weights,
    module: nn.Module,
    *,
    name: str,
    reference: Reference | None,
    image_sizes: tuple[Sequence[int] | None, Sequence[int] | None] = (None, None),
    fresh_classifier: bool = False,
    any_channels: bool = False,
    own: bool = False,
    chosen: bool = True,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fits weights to a model.

    Args:
      expected: the model's variables, or their shapes.
      weights: that have been read.
      module: the model's.
      name: of its architecture, for messages.
      reference: how the architecture's names relate to the reference's; None if they do not.
      image_sizes: the shapes ``[H, W, C]`` of the images that the weights and the model are for,
        None where it is not known.
      fresh_classifier: whether the classifier may be of another width than the weights', or they
        may have none.
      any_channels: whether the first convolution may have other channels than in the weights;
        those of weights for RGB images are always adapted.
      own: whether flaxzoo saved the model that they are of, which comes back as it was; see
        ``values.as_weights``.
      chosen: whether the caller has chosen the dtype of the parameters; see the same.

    Returns:
      The variables without the leaves that the weights do not provide, and the paths of these:
      nothing, the classifier's, or, where the weights hold nothing of a head, all of the head's.

    Raises:
      CheckpointError: the weights are another model's (the first ten keys that differ are listed),
        or no weights: of another kind than floating-point numbers, not finite, out of range.
    """
    flat = flatten(expected)
    backbone = getattr(module, "backbone", module)
    if reference is not None and reference.convert is not None and not weights.ours:
        try:
            tensors = reference.convert(weights.tensors, backbone)
        except CheckpointError as error:
            raise CheckpointError(f"{weights.source}: {error}") from error
        weights = dataclasses.replace(weights, tensors=tensors)
    hidden = getattr(getattr(module, "head", None), "hidden_features", True)
    missing, tensors = _without_classifier(flat, weights, reference, fresh_classifier, hidden)
    weights = dataclasses.replace(weights, tensors=tensors)
    exchanged = bool(missing)
    for layer in () if reference is None else reference.auxiliary:
        fresh, tensors = _without_auxiliary(flat, weights, layer, exchanged=exchanged)
        weights, missing = dataclasses.replace(weights, tensors=tensors), missing + fresh
    wanted = {path: leaf for path, leaf in flat.items() if path not in missing}
    owner = repr(name)
    patches = _patches(wanted, weights, reference, backbone, owner)
    resize = functools.partial(_resized, reference or Reference(), backbone, image_sizes, patches)
    if weights.ours:
        leaves = _fitted(wanted, tensors, reference, any_channels, resize)
        compare(wanted, leaves, source=weights.source, owner=owner)
    elif reference is None:
        raise CheckpointError(
            f"{weights.source}: not written by flaxzoo: no tensor is named 'params/...' (it "
            f"holds {', '.join(sorted(weights.tensors)[:3])}), and {name!r} has no "
            "reference checkpoints"
        )
    else:
        leaves = from_reference(
            wanted,
            tensors,
            reference,
            source=weights.source,
            owner=owner,
            adapt=any_channels,
            resize=resize,
        )
    origins = {
        path: tensors[
            path if weights.ours or reference is None else reference_name(path, reference)
        ]
        for path in wanted
    }
    arrays = as_weights(
        leaves, wanted, source=weights.source, origins=origins, own=own, chosen=chosen
    )
    return unflatten(arrays), tuple(missing)


def _without_classifier(
    expected: Mapping[str, Any],
    weights: Weights,
    reference: Reference | None,
    fresh: bool,
    hidden_features: bool,
) -> tuple[list[str], Mapping[str, Any]]:
    """The paths of what is not loaded of a head, and the tensors that are left then.

    A model without a classifier leaves that of the weights out, with its hidden layers where these
    make no features, and one without any head all that belongs to one. Weights of a backbone alone,
    such as a masked autoencoder's, leave all of the head fresh: there is no trained norm or hidden
    layer to lose.
    """
    ours = tuple(f"params/head/{layer}/" for layer in CLASSIFIERS)
    paths = [path for path in expected if path.startswith(ours)]
    head = [path for path in expected if path.split("/")[1:2] == ["head"]]
    width = weights.num_classes(reference)
    exchanged = fresh and bool(paths) and width != expected[f"{_CLASSIFIER}kernel"].shape[-1]
    if paths and not exchanged:
        return [], weights.tensors
    if weights.ours:
        classifier = ours
        others: tuple[str, ...] = ("params/head/", "batch_stats/head/")
    else:
        known = reference or Reference()
        layers = (known.head_name(layer) for layer in CLASSIFIERS)
        classifier = tuple(f"{name}." for name in layers if name is not None)
        others = tuple(f"{name}." for _, name in known.head)
    whole = classifier + others
    if not any(name.startswith(whole) for name in weights.tensors):
        return head, weights.tensors
    prefixes = classifier if head else whole
    if not paths and not hidden_features:
        prefixes += _hidden_layers(weights, reference)
    return paths, {k: v for k, v in weights.tensors.items() if not k.startswith(prefixes)}


def _without_auxiliary(
    expected: Mapping[str, Any], weights: Weights, layer: str, *, exchanged: bool
) -> tuple[list[str], Mapping[str, Any]]:
    """The paths of what is not loaded of an auxiliary classifier, and the tensors left then.

    It is all of it where model or weights lack it, and its last layer where the classifier is
    exchanged.
    """

    def begins(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        ours = (f"params/backbone/{path}/", f"batch_stats/backbone/{path}/")
        return ours, ours if weights.ours else (path.replace("/", ".") + ".",)

    ours, theirs = begins(layer.rpartition("/")[0])
    has = any(leaf.startswith(ours) for leaf in expected)
    if has and any(name.startswith(theirs) for name in weights.tensors):
        if not exchanged:
            return [], weights.tensors
        ours, theirs = begins(layer)
    kept = {name: t for name, t in weights.tensors.items() if not name.startswith(theirs)}
    return [leaf for leaf in expected if leaf.startswith(ours)], kept


def _hidden_layers(weights: Weights, reference: Reference | None) -> tuple[str, ...]:
    """How the names of tensors of a head's hidden layers begin."""
    if not weights.ours:
        known = reference or Reference()
        return tuple(f"{name}." for path, name in known.head if _HIDDEN.fullmatch(path))
    paths = {"/".join(path.split("/")[:3]) for path in weights.tensors}
    return tuple(f"{path}/" for path in paths if _HIDDEN.fullmatch(path.partition("/head/")[2]))


def _fitted(
    expected: Mapping[str, Any],
    tensors: Mapping[str, Any],
    reference: Reference | None,
    any_channels: bool,
    resize: Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray],
) -> dict[str, Any]:
    """Tensors under our own names, for the model's channels and size of images."""
    leaves = dict(tensors)
    for path in (path for path in expected if path in leaves):
        leaves[path] = resize(path, leaves[path], tuple(expected[path].shape))
    if reference is None:
        return leaves
    for path in stem_kernels(expected, reference):
        if path in leaves:
            kernel, shape = np.asarray(leaves[path]), tuple(expected[path].shape)
            pixels = reference.stem_pixels
            leaves[path] = fit_channels(kernel, shape, any_number=any_channels, pixels=pixels)
    return leaves


def _patches(
    expected: Mapping[str, Any],
    weights: Weights,
    reference: Reference | None,
    backbone: nn.Module,
    owner: str,
) -> tuple[Size, Size] | None:
    """The sizes of a patch of the weights and of the model, where a kernel of each sees one.

    Raises:
      CheckpointError: they differ, and the family has no way from one to the other.
    """
    if reference is None or not hasattr(backbone, "patch_size"):
        return None
    path = next(iter(stem_kernels(expected, reference)), None)
    if path is None:
        return None
    name = path if weights.ours else reference_name(path, reference)
    shape = tuple(getattr(weights.tensors.get(name), "shape", ()))
    if len(shape) != 4:
        return None
    old = shape[:2] if weights.ours else shape[2:]
    new = tuple(expected[path].shape[:2])
    size = backbone.patch_size
    if old != new and new == (size, size) and reference.patches is None:
        raise CheckpointError(
            f"{weights.source}: the weights are for patches of {old[0]} x {old[1]}, and those of "
            f"{owner} can't be resampled for patch_size={size}: leave it as it is"
        )
    return old, new


def _resized(
    reference: Reference,
    backbone: nn.Module,
    image_sizes: tuple[Sequence[int] | None, Sequence[int] | None],
    patches: tuple[Size, Size] | None,
    path: str,
    leaf: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray:
    """A leaf that follows the size of images or patches, for the model's."""
    if reference.patches is not None and path == f"params/backbone/{reference.patches[0]}/kernel":
        return reference.patches[1](np.asarray(leaf), (shape[0], shape[1]))
    function = next((f for g, f in reference.resized if fnmatch.fnmatchcase(path, g)), None)
    if function is None:
        return leaf
    old, new = (None if size is None else (size[0], size[1]) for size in image_sizes)
    if old is not None and patches is not None and patches[0] != patches[1]:
        # As many patches as there are, of the model's size; a stem's kernel need not be a patch.
        old = (old[0] // patches[0][0] * patches[1][0], old[1] // patches[0][1] * patches[1][1])
    # Grids of 14 x 28 and of 28 x 14 are of one shape: where the sizes are known, they decide.
    same = tuple(leaf.shape) == tuple(shape) and (old is None or old == new)
    if same or new is None:
        return leaf
    return function(np.asarray(leaf), tuple(shape), backbone, old, new)


def _catalogued(name: str, tag: str | None) -> Source:
    entry = catalog.entry(name, tag)
    width = entry_width(entry)
    if "file" in entry:

        def read() -> Weights:
            with resources.as_file(resources.files("flaxzoo.weights") / entry["file"]) as path:
                return read_file(path, str(path))

    elif "url" in entry:

        def read() -> Weights:
            return torch_checkpoint(
                entry["url"],
                lambda path: read_file(path, str(path)),
                source=f"{name}.{entry['tag']}",
                purpose=f"reading {name}.{entry['tag']}, a file of torchvision's,",
                otherwise="A file that you have got in another way is pretrained=<its path>",
            )

    else:

        def read() -> Weights:
            path = hub.download(entry["hub"])
            return read_file(path, f"{entry['hub']} ({path})")

    return Source(entry, width or NO_CLASSIFIER, read)


def _packaged(name: str, source: str, entry: Mapping[str, Any]) -> Source:
    """The weights of another package, all of which are for ImageNet's 1000 classes."""
    facts = {**entry, "preprocess": sources.preprocess(name, source), "classes": "imagenet1k"}
    if known := sources.licence(source):
        facts["licence"] = known

    def read() -> Weights:
        return Weights(flatten(sources.load(name, source)), f"{name} of {source}", ours=True)

    return Source(facts, 1000, read)


def _known(architecture: Architecture, weights: Weights, entry: Mapping[str, Any]) -> Source:
    """Weights that are read already, of which nothing is known but their names and shapes."""
    width = weights.num_classes(architecture.reference)
    facts = dict(entry)
    if architecture.reference is not None and "classes" not in facts:
        name = architecture.name
        usual = catalog.entry(name, None) if catalog.tags(name) else {}
        # As many classes as the usual weights: theirs.
        facts["classes"] = usual.get("classes") if entry_width(usual) == width else None
    return Source(facts, NO_CLASSIFIER if width is None else width, lambda: weights)


def _described(architecture: Architecture, source: str, entry: Mapping[str, Any]) -> Source:
    """The weights of a directory or a repository, with what its ``config.json`` says of them."""
    path, weights, label = locate(source)
    # In a directory the two may be replaced meanwhile: there both are read at once.
    at_once = path.parent == as_path(source)

    def use(config: Mapping[str, Any]) -> tuple[ModelSpec, Callable[[], Weights]]:
        spec = read_spec(config, label)
        if spec.name != architecture.name:
            known = f"flaxzoo.models.get({spec.name!r}, pretrained={source!r})"
            raise CheckpointError(
                f"{label} holds a {spec.name!r}, not a {architecture.name!r}: {known}"
            )
        sha256 = weights_digest(config, label)
        if not at_once:
            return spec, lambda: read_file(weights(), label, sha256)
        tensors = read_file(weights(), label, sha256)
        return spec, lambda: tensors

    spec, read = read_together(path, label, use)
    facts: dict[str, Any] = {
        **entry,
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
    width = None if spec.head is not None else (spec.config or {}).get("num_classes")
    if width is None:
        return _known(architecture, read(), facts)
    return Source(facts, width or NO_CLASSIFIER, read)


def _advice(name: str, text: str) -> str:
    """What someone may have meant who asked for weights that are no file."""
    if folded(text).startswith(("imagenet", "default", "true", "in1k")):
        return f"; pretrained=True takes the default weights, {name!r}.<tag> others"
    near = closest(text, sources.SOURCES)
    if text in catalog.tags(name):
        return (
            f"; the tag is part of the name: flaxzoo.models.get('{name}.{text}', pretrained=True)"
        )
    if near and os.sep not in text:
        return f"; did you mean {near[0]!r}?"
    if len(Path(text).parts) == 2 and not Path(text).suffix[1:].isalpha():
        return f"; a repository of the Hub is written 'hf:{text}'"
    return ""
