"""The names of reference checkpoints (timm's), from ours and back.

Submodules carry the reference's names, with a list's index joined by ``_``, so that one rule
converts every family, in both directions. ``params/backbone/layer1_0/conv1/kernel`` is
``layer1.0.conv1.weight``:

==========================  =================  ======================
our leaf                    reference leaf     transform
==========================  =================  ======================
``kernel``, 3-d or more     ``weight``         OI... -> ...IO
``kernel``, 2-d             ``weight``         transpose
``scale``, ``embedding``    ``weight``         none
``mean`` / ``var``          ``running_...``    none
any other                   the same           none
==========================  =================  ======================

What a family adds to it is its ``flaxzoo.models.reference.Reference``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flaxzoo._trees import compare
from flaxzoo.errors import CheckpointError, ShapeError
from flaxzoo.models.reference import Reference
from flaxzoo.weights.layouts import layout_of

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_STATISTICS = {"mean": "running_mean", "var": "running_var"}
# Channels of the images that published weights are for.
RGB = 3
_INDEX = re.compile(r"_(\d+)(_|$)")


def reference_name(path: str, reference: Reference) -> str:
    """The reference's name of one of our leaves.

    Args:
      path: ours, such as ``params/backbone/layer1_0/conv1/kernel``.
      reference: what the family adds to the rule.
    """
    collection, *modules, leaf = path.split("/")
    usual = (_STATISTICS if collection == "batch_stats" else _LEAVES).get(leaf, leaf)
    leaf = next((n for glob, n in reference.leaves if fnmatch.fnmatchcase(path, glob)), usual)
    group, inner = (modules[0], modules[1:]) if modules else ("", [])
    name = reference.head_name("/".join(inner)) if group == "head" else None
    if name is None:
        inner = inner if group in ("backbone", "head") else modules
        name = ".".join(_dotted(inner, reference))
    return f"{name}.{leaf}" if name else leaf


def _dotted(modules: list[str], reference: Reference) -> list[str]:
    """The reference's names of a path's modules, the family's own rules before the general one."""
    if not modules:
        return []
    for length in range(len(modules), 0, -1):
        part = "/".join(modules[:length])
        for pattern, name in reference.renamed:
            match = re.fullmatch(pattern, part)
            if match is not None:
                renamed = match.expand(name)
                return [*([renamed] if renamed else []), *_dotted(modules[length:], reference)]
    return [indexed(modules[0]), *_dotted(modules[1:], reference)]


def indexed(module: str) -> str:
    """The reference's name of a submodule: ``layers_0_blocks_1`` is ``layers.0.blocks.1``."""
    return _INDEX.sub(lambda match: f".{match[1]}{'.' if match[2] else ''}", module)


def from_reference(
    expected: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    reference: Reference,
    *,
    source: str,
    owner: str = "this model",
    adapt: bool = True,
    resize: Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Our leaves from a reference checkpoint.

    Args:
      expected: our flat tree, path to anything with ``.shape``; it drives the conversion.
      tensors: the checkpoint, name to array in PyTorch's layout.
      reference: what the family adds to the rule.
      source: names the checkpoint in messages.
      owner: says there what it should fit.
      adapt: whether a stem of any other number of input channels is adapted, rather than only
        that of weights for RGB images.
      resize: fits a leaf (our path, the array in our layout, the shape wanted) to images or
        patches of another size, or returns it as it is.

    Returns:
      The leaves by our paths; kernels are views in our layout, not copies. Kernels of the stem
      that were trained on another number of channels are summed or repeated (``adapt_channels``).

    Raises:
      CheckpointError: keys are missing, unused or mis-shaped; the first ten of each are listed
        under the reference's names.
    """
    stems = stem_kernels(expected, reference)
    leaves: dict[str, np.ndarray] = {}
    wanted: dict[str, Any] = {}
    present: dict[str, Any] = {}
    for path, leaf in expected.items():
        name, layout, shape = (
            reference_name(path, reference),
            layout_of(path, reference),
            leaf.shape,
        )
        wanted[name] = _Shaped(layout.shape(tuple(shape)))
        if name not in tensors:
            continue
        array = layout.ours(tensors[name])
        if resize is not None:
            array = resize(path, array, shape)
        if path in stems:
            pixels = reference.stem_pixels
            array = fit_channels(array, shape, any_number=adapt, pixels=pixels)
        leaves[path] = array
        present[name] = wanted[name] if array.shape == shape else tensors[name]
    for name, tensor in tensors.items():
        if name not in wanted and not _matches(name, reference.ignored):
            present[name] = tensor
    compare(wanted, present, source=source, owner=owner)
    return leaves


def to_reference(variables: Mapping[str, Any], reference: Reference) -> dict[str, np.ndarray]:
    """A reference checkpoint from our leaves, the inverse of ``from_reference``.

    Args:
      variables: our flat tree of arrays.
      reference: what the family adds to the rule.

    Returns:
      Name to contiguous array in PyTorch's layout, BatchNorm's ``num_batches_tracked`` (0, int64)
      included, so that ``load_state_dict(strict=True)`` takes it.
    """
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in variables.items():
        name = reference_name(path, reference)
        if name in tensors:
            raise CheckpointError(f"two of the model's leaves would be called {name!r}")
        array = layout_of(path, reference).theirs(np.asarray(leaf))
        tensors[name] = np.require(array, requirements="C")
        if path.startswith("batch_stats/") and name.endswith(".running_var"):
            count = name.removesuffix("running_var") + "num_batches_tracked"
            tensors[count] = np.zeros((), np.int64)
    return tensors


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel for another number of input channels, as timm does it.

    For one channel the input channels are summed, so that a grey image gives what its copy in
    all channels gave. For more they are repeated and scaled by old / new, which keeps the size of
    the outputs.

    Args:
      kernel: ``[out, in, height, width]``.
      channels: wanted, at least 1.

    Returns:
      ``[out, channels, height, width]`` of the same dtype.

    Raises:
      ShapeError: the kernel is not 4-dimensional or ``channels`` below 1.
    """
    if kernel.ndim != 4 or channels < 1:
        raise ShapeError(
            "channels are adapted for a kernel [out, in, height, width] and at least 1 channel, "
            f"got {list(kernel.shape)} and {channels}"
        )
    wide = np.asarray(kernel, np.float32)
    present = kernel.shape[1]
    if channels == 1:
        wide = wide.sum(1, keepdims=True)
    else:
        wide = np.tile(wide, (1, -(-channels // present), 1, 1))[:, :channels]
        wide = wide * np.float32(present / channels)
    return wide.astype(kernel.dtype)


def fit_channels(
    kernel: np.ndarray, shape: tuple[int, ...], *, any_number: bool, pixels: int = 1
) -> np.ndarray:
    """A stem's kernel with the input channels of another shape, where it may be adapted.

    Args:
      kernel: ``[height, width, in, out]``.
      shape: wanted, likewise.
      any_number: whether a kernel of any number of channels is adapted, rather than only one for
        RGB images.
      pixels: how many pixels stand side by side in the input channels.

    Returns:
      The kernel adapted, or as it is where it may not be or differs in more than its channels.
    """
    size = tuple(kernel.shape)
    alike = len(size) == len(shape) == 4 and (*size[:2], size[3]) == (*shape[:2], shape[3])
    if not alike or size[2] == shape[2] or not (any_number or size[2] == RGB * pixels):
        return kernel
    if pixels > 1:
        # Pixels lie side by side as a wider kernel's do.
        apart = kernel.reshape(size[0], size[1] * pixels, size[2] // pixels, size[3])
        wanted = (size[0], size[1] * pixels, shape[2] // pixels, size[3])
        return fit_channels(apart, wanted, any_number=any_number).reshape(shape)
    return adapt_channels(kernel.transpose(3, 2, 0, 1), shape[2]).transpose(2, 3, 1, 0)


def stem_kernels(expected: Mapping[str, Any], reference: Reference) -> list[str]:
    """Our paths of the kernels that see the image's channels."""
    paths = (f"params/backbone/{stem}/kernel" for stem in reference.stem)
    return [path for path in paths if path in expected]


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


class _Shaped:
    """A shape in the form that ``compare`` reads."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
