"""Checks a model against its reference implementation, on a user's own machine.

``verify("resnet50")`` gives both the same weights and the same images and compares what they
compute after every stage. The reference is timm, or torchvision for the families that timm lacks.
Neither is a dependency of flaxzoo: ``pip install timm``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo import zoo
from flaxzoo._calls import apply_module
from flaxzoo._checks import check_size
from flaxzoo._explain import explained
from flaxzoo._programs import Jitted
from flaxzoo._references import import_timm as import_timm
from flaxzoo._references import package_of, package_with, reference_network, release
from flaxzoo._references import with_maps as with_maps
from flaxzoo._trees import compare as compare_trees
from flaxzoo._trees import flatten
from flaxzoo.errors import ShapeError, UninitializedError, UnknownNameError
from flaxzoo.model import Model
from flaxzoo.models import catalog
from flaxzoo.models.build import Request, find
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import MODELS, Architecture
from flaxzoo.weights import hub
from flaxzoo.weights.names import to_reference
from flaxzoo.weights.pretrained import NO_CLASSIFIER, Weights, load, open_source
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors

__all__ = ["Difference", "Report", "compare", "reference_network", "verify"]

# float32 through a hundred layers: about 1e-6 apart where the arithmetic is the same.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one output is from the reference's.

    Attributes:
      shape: of the output.
      absolute: the largest absolute difference.
      relative: that, divided by the reference's largest absolute value.
    """

    shape: tuple[int, ...]
    absolute: float
    relative: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What ``verify`` found; ``print`` it.

    Attributes:
      name: of the architecture.
      reference: what it was compared with.
      weights: which were used.
      input_shape: of the images, ``[B, H, W, C]``.
      tolerance: largest relative difference that passes.
      differences: by output: the stages' maps in order, the pooled ``features``, the ``logits``.
    """

    name: str
    reference: str
    weights: str
    input_shape: tuple[int, ...]
    tolerance: float
    differences: Mapping[str, Difference]

    @property
    def failed(self) -> tuple[str, ...]:
        """The outputs that differ by more than the tolerance, or are not finite."""
        # "not <=" instead of ">", so that NaN fails.
        return tuple(
            k
            for k, difference in self.differences.items()
            if not difference.relative <= self.tolerance
        )

    @property
    def ok(self) -> bool:
        """Whether all outputs agree within the tolerance."""
        return not self.failed

    def __str__(self) -> str:
        rows = [("", "shape", "absolute", "relative")]
        for name, difference in self.differences.items():
            numbers = (f"{difference.absolute:.1e}", f"{difference.relative:.1e}")
            rows.append((name, str(list(difference.shape)), *numbers))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{self.name} against {self.reference}: {self.weights}, "
            f"images {list(self.input_shape)}",
            *(
                "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
                for row in rows
            ),
            f"the same: all within {self.tolerance:g} of the reference's largest value"
            if self.ok
            else f"different: {', '.join(self.failed)} by more than {self.tolerance:g} "
            "of the reference's largest value",
        ]
        return "\n".join(lines)


@explained
def verify(
    name: str,
    weights: bool | str | os.PathLike[str] | None = None,
    *,
    size: int | None = None,
    batch: int = 2,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Report:
    """Compares a model with timm's of the same name, on the same weights and images.

    The weights reach the two by separate ways: timm loads them itself, with ``strict=True``, and
    by its own conversion of older files. With weights of a backbone alone both get one fresh head.
    Where timm has no network of the name, torchvision's takes its place.

    Args:
      name: of an architecture, ``"resnet50"``, or of pretrained weights, ``"resnet50.a1_in1k"``.
      weights: what ``flaxzoo.models.get`` takes as ``pretrained``: a file, ``"hf:org/repo"``, True
        for the default tag. By default those of the tag in ``name``, or else random ones, random
        BatchNorm statistics included (``flaxzoo.weights.synthetic``).
      size: height and width of the images, which are noise; by default 96, or the model's own
        where it takes no other without further ado.
      batch: number of images.
      seed: of the images and of random weights.
      tolerance: largest relative difference that passes.

    Returns:
      The differences after each stage, of the pooled features and of the logits. The report's
      ``ok`` says whether all are within the tolerance.

    Raises:
      UnknownNameError: flaxzoo or the reference has no such model.
      MissingExtraError: timm, torchvision or torch is not installed.
      CheckpointError: the weights don't fit one of the two.
      DownloadError: they can't be downloaded.
      ShapeError: the reference does not take images of this size.
      ValueError: a number is out of range.

    Example:
      >>> report = verify("resnet50")  # doctest: +SKIP
      >>> print(report)  # doctest: +SKIP
    """
    check_size("size", size, optional=True)
    check_size("batch", batch)
    check_size("seed", seed, minimum=0)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance!r}")
    architecture, tag = find(name)
    base, rules = architecture.name, _rules_of(architecture, tag, weights)
    # Before anything is downloaded for it.
    package_with(base)
    sized = "input_shape" in MODELS.parameters(base)
    shape = (size, size, 3) if sized and size is not None else None
    options: dict[str, Any] = {"img_size": size} if shape else {}
    source = weights if weights is not None else tag is not None
    if source is False:
        bare = zoo.get(base, input_shape=shape)
        # timm's own default is as wide as the weights that it would download.
        classes = bare.module.head.num_classes
        reference = reference_network(base, num_classes=classes, **options)
        what = f"random weights (seed {seed})"
        made = fill_reference(reference, seed, **rules.random)
        model = with_reference(bare, made, source=what)
    else:
        origin = open_source(architecture, source, tag)
        # A large file is read once, for both.
        origin = dataclasses.replace(origin, read=functools.cache(origin.read))
        bare_backbone = 0 if origin.width == NO_CLASSIFIER else None
        model = zoo.from_source(architecture, origin, Request(bare_backbone, input_shape=shape))
        read = origin.read()
        classes = model.module.head.num_classes
        reference = reference_network(base, num_classes=classes, **options)
        what, tensors = read.source, read.tensors
        tensors = to_reference(tensors, rules) if read.ours else tensors
        tensors = _for_reference(reference, tensors, model, rules)
        load_reference(reference, tensors, source=what)
    height, width, _ = model.spec.input_shape or (96, 96, 3)
    if not sized:
        height = width = 96 if size is None else size
    images = synthetic_images((batch, height, width, 3), seed)
    return Report(
        name=base,
        reference=release(rules.package),
        weights=what,
        input_shape=images.shape,
        tolerance=tolerance,
        differences=compare(model, reference, images),
    )


def _rules_of(architecture: Architecture, tag: str | None, weights: Any) -> Reference:
    """How it relates to its reference; what is wrong is told where no package is installed, too."""
    if architecture.reference is None:
        raise UnknownNameError(
            f"{architecture.name!r} is not one of timm's models: there is nothing to verify it "
            "against"
        )
    if tag is not None:
        catalog.entry(architecture.name, tag)
    if isinstance(weights, str) and weights.startswith("hf:"):
        hub.parse(weights)
    return architecture.reference


def with_reference(model: Model, tensors: Mapping[str, Any], *, source: str) -> Model:
    """A model with the variables of a reference's state dict.

    Args:
      model: whose own variables, if it has any, are replaced.
      tensors: by the reference's names, in PyTorch's layout.
      source: names them in messages.

    Raises:
      CheckpointError: they don't fit it; the first ten keys that differ are listed.
    """
    weights = Weights(tensors, source, ours=False)
    architecture = MODELS.architecture(model.spec.name)
    variables, _ = load(
        model.shapes(),
        weights,
        model.module,
        name=architecture.name,
        reference=architecture.reference,
    )
    return model.with_variables(variables)


@explained
def compare(model: Model, reference: Any, images: Any) -> dict[str, Difference]:
    """Compares what a model and its reference compute from the same images, stage by stage.

    For a pair that ``verify`` does not build: with other fields, or weights of your own.

    Args:
      model: a ``Classifier`` whose backbone has stages, with variables.
      reference: timm's ``torch.nn.Module``, or what ``reference_network`` made, with the same
        weights.
      images: ``[B, H, W, C]``, floating.

    Returns:
      The differences of the stages' maps in order, of ``features`` and of ``logits``.

    Raises:
      UninitializedError: the model has no variables.
      ShapeError: the reference does not take images of this size, or an output has another shape
        than the reference's.
    """
    images = np.asarray(images, np.float32)
    references = reference_outputs(reference, images)
    ours = outputs(model, images)
    if len(ours) != len(references):
        raise ShapeError(
            f"the model has {len(ours) - 2} stages, its reference {len(references) - 2}"
        )
    return {
        key: _difference(key, value, expected)
        for (key, value), expected in zip(ours.items(), references, strict=True)
    }


def outputs(model: Model, images: Any) -> dict[str, np.ndarray]:
    """The stages' maps ``[B, H, W, C]`` in order, then ``features`` and ``logits``."""
    if model.variables is None:
        raise UninitializedError(f"model {model.spec.name!r} has no variables yet")
    # Accelerators multiply float32 in fewer bits by default.
    with jax.default_matmul_precision("highest"):
        values = _outputs(model.module, model.variables, jnp.asarray(images))
    return {key: np.asarray(value) for key, value in values.items()}


def _compute_outputs(module: Any, variables: Any, images: jax.Array) -> OrderedDict[str, jax.Array]:
    backbone, head = (
        {name: tree[group] for name, tree in variables.items() if group in tree}
        for group in ("backbone", "head")
    )
    values = OrderedDict(apply_module(module.backbone.clone(feature_maps=True), backbone, images))
    output = apply_module(module.backbone, backbone, images)
    values["features"] = apply_module(module.head.clone(num_classes=0), head, output)
    values["logits"] = apply_module(module.head, head, output)
    return values


_outputs = Jitted(_compute_outputs, lambda module, *_: (module,), static_argnums=0)


def reference_outputs(reference: Any, images: np.ndarray) -> list[np.ndarray]:
    """What ``outputs`` gives, of the reference, in inference mode."""
    import torch

    training = reference.training
    reference.eval()
    try:
        with torch.no_grad():
            x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            last, maps = reference.forward_intermediates(x)
            if _has_no_head(reference):
                features = logits = reference(x).mean((2, 3))
            else:
                features, logits = reference.forward_head(last, pre_logits=True), reference(x)
            values = [m.permute(0, 2, 3, 1) for m in maps] + [features, logits]
    except RuntimeError as error:
        # Average anti-aliasing fails where a stage's input is odd.
        raise ShapeError(
            f"{package_of(reference)}'s model does not take images {list(images.shape)}: "
            f"{str(error).strip()}"
        ) from error
    finally:
        reference.train(training)
    return [value.numpy() for value in values]


def _has_no_head(reference: Any) -> bool:
    """Whether timm's network ends with a map: ours pools that."""
    return getattr(reference, "num_classes", None) == 0 and not hasattr(reference, "get_classifier")


def _for_reference(
    reference: Any, tensors: Mapping[str, Any], model: Model, rules: Reference
) -> Mapping[str, Any]:
    """A file's tensors as the reference takes them, with our head where the file has none."""
    expected = reference.state_dict()
    ours = flatten(model.variables)
    head = to_reference({k: v for k, v in ours.items() if k.split("/")[1] == "head"}, rules)
    modules = tuple(f"{layer.rpartition('/')[0]}." for layer in rules.auxiliary)
    # Auxiliary classifiers of the file, which the reference lacks as it is made for inference.
    state = {k: v for k, v in tensors.items() if k in expected or not k.startswith(modules)}
    if not _fits(expected, state, optional=head):
        state = _converted(reference, state, model, rules)
    return {**{k: v for k, v in head.items() if k in expected}, **state}


def _fits(expected: Mapping[str, Any], state: Mapping[str, Any], optional: Container[str]) -> bool:
    lacking = [key for key in expected if key not in state and key not in optional]
    return all(key.endswith("num_batches_tracked") for key in lacking) and all(
        key in expected and tuple(expected[key].shape) == tuple(tensor.shape)
        for key, tensor in state.items()
    )


def _converted(
    reference: Any, state: dict[str, Any], model: Model, rules: Reference
) -> dict[str, Any]:
    """An older file's tensors under today's names: the reference's way, or ours if it has none."""
    family = sys.modules[type(reference).__module__]
    function = getattr(family, "checkpoint_filter_fn", None) or getattr(family, "_filter_fn", None)
    if function is None:
        return dict(rules.convert(state, model.module.backbone)) if rules.convert else state
    arguments = (_as_torch(state), reference)
    return dict(function(*arguments[: len(inspect.signature(function).parameters)]))


def _as_torch(tensors: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {
        # A copy: files may be mapped read-only, and in types that torch can't take from NumPy.
        key: v
        if isinstance(v, torch.Tensor)
        else torch.from_numpy(np.array(v, None if v.dtype.kind in "iub" else np.float32))
        for key, v in tensors.items()
    }


def fill_reference(
    reference: Any,
    seed: int = 0,
    *,
    gain: float = 2.0,
    scales: Sequence[tuple[str, float]] = (),
) -> dict[str, np.ndarray]:
    """Gives a reference random weights and statistics; its counters and indices stay.

    Args:
      reference: timm's model, or torchvision's.
      seed: of the weights (``flaxzoo.weights.synthetic``).
      gain: how large kernels are.
      scales: what some tensors are multiplied by (``flaxzoo.models.reference.Reference``).

    Returns:
      The tensors by the reference's names.
    """
    state = reference.state_dict()
    shapes = {key: tuple(v.shape) for key, v in state.items() if v.is_floating_point()}
    tensors = synthetic_tensors(shapes, seed, gain=gain, scales=scales)
    load_reference(reference, tensors, source="random weights")
    return tensors


def load_reference(reference: Any, tensors: Mapping[str, np.ndarray], *, source: str) -> None:
    """Loads tensors into a reference, all of them and nothing else.

    Integers that are not among them, counters and indices, stay as its code made them.

    Args:
      reference: timm's model, or torchvision's.
      tensors: by the reference's names.
      source: names them in messages.

    Raises:
      CheckpointError: they don't fit it; the first ten keys that differ are listed.
    """
    state = reference.state_dict()
    # Files older than the counters of batches lack them, too.
    own = {k: v for k, v in state.items() if k not in tensors and not v.is_floating_point()}
    expected = {key: value for key, value in state.items() if key not in own}
    compare_trees(expected, tensors, source=source, owner=f"{package_of(reference)}'s model")
    reference.load_state_dict({**own, **_as_torch(tensors)}, strict=True)


def _difference(name: str, ours: np.ndarray, reference: np.ndarray) -> Difference:
    if ours.shape != reference.shape:
        raise ShapeError(f"{name}: got {list(ours.shape)}, the reference {list(reference.shape)}")
    absolute = float(np.abs(ours - reference).max())
    largest = float(np.abs(reference).max())
    relative = absolute / largest if largest else (0.0 if absolute == 0 else float("inf"))
    return Difference(ours.shape, absolute, relative)
