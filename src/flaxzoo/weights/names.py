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

What a family adds to it is its ``flaxzoo.models.registry.Reference``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxzoo.errors import CheckpointError, ShapeError
from flaxzoo.models.registry import Reference
from flaxzoo.weights.trees import compare

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_STATISTICS = {"mean": "running_mean", "var": "running_var"}
# Channels of the images that published weights are for.
RGB = 3
_INDEX = re.compile(r"_(\d+)(?=$|_)")


def reference_name(path: str, reference: Reference) -> str:
    """The reference's name of one of our leaves.

    Args:
      path: ours, such as ``params/backbone/layer1_0/conv1/kernel``.
      reference: what the family adds to the rule.
    """
    collection, *modules, leaf = path.split("/")
    leaf = (_STATISTICS if collection == "batch_stats" else _LEAVES).get(leaf, leaf)
    inner = "/".join(modules[1:])
    if modules[:1] == ["head"]:
        for ours, theirs in reference.head:
            if inner == ours or inner.startswith(f"{ours}/"):
                inner = theirs + inner[len(ours) :]
                break
    elif modules[:1] != ["backbone"]:
        inner = "/".join(modules)
    return ".".join([*(_INDEX.sub(r".\1", part) for part in inner.split("/") if part), leaf])


def from_reference(
    expected: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    reference: Reference,
    *,
    source: str,
    owner: str = "this model",
    adapt: bool = True,
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

    Returns:
      The leaves by our paths; kernels are views in our layout, not copies. Kernels of the stem
      that were trained on another number of channels are summed or repeated (``adapt_channels``).

    Raises:
      CheckpointError: keys are missing, unused or mis-shaped; the first ten of each are listed
        under the reference's names.
    """
    names = {path: reference_name(path, reference) for path in expected}
    wanted = {names[path]: _Shaped(_reference_shape(path, expected[path])) for path in expected}
    found = {
        name: tensor
        for name, tensor in tensors.items()
        if name in wanted or not any(fnmatch.fnmatchcase(name, g) for g in reference.ignored)
    }
    for path in stem_kernels(expected, reference):
        name = names[path]
        if name in found:
            found[name] = fit_channels(found[name], wanted[name].shape, any_number=adapt)
    compare(wanted, found, source=source, owner=owner)
    return {path: _from_layout(path, found[name]) for path, name in names.items()}


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
        tensors[name] = _to_layout(path, np.asarray(leaf))
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
    given = kernel.shape[1]
    if channels == 1:
        wide = wide.sum(1, keepdims=True)
    else:
        wide = np.tile(wide, (1, -(-channels // given), 1, 1))[:, :channels]
        wide = wide * np.float32(given / channels)
    return wide.astype(kernel.dtype)


def fit_channels(kernel: np.ndarray, shape: tuple[int, ...], *, any_number: bool) -> np.ndarray:
    """A stem's kernel with the input channels of another shape, where it may be adapted.

    Args:
      kernel: ``[out, in, height, width]``.
      shape: wanted, likewise.
      any_number: whether a kernel of any number of channels is adapted, rather than only one for
        RGB images.

    Returns:
      The kernel adapted, or as it is where it may not be or differs in more than its channels.
    """
    found = tuple(kernel.shape)
    alike = len(found) == len(shape) == 4 and (found[0], *found[2:]) == (shape[0], *shape[2:])
    if not alike or found[1] == shape[1] or not (any_number or found[1] == RGB):
        return kernel
    return adapt_channels(kernel, shape[1])


def stem_kernels(expected: Mapping[str, Any], reference: Reference) -> list[str]:
    """Our paths of the kernels that see the image's channels."""
    paths = (f"params/backbone/{stem}/kernel" for stem in reference.stem)
    return [path for path in paths if path in expected]


class _Shaped:
    """A shape in the form that ``compare`` reads."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape


def _is_kernel(path: str) -> bool:
    return path.rpartition("/")[2] == "kernel"


def _reference_shape(path: str, leaf: Any) -> tuple[int, ...]:
    shape = tuple(leaf.shape)
    return (shape[-1], shape[-2], *shape[:-2]) if _is_kernel(path) else shape


def _from_layout(path: str, tensor: np.ndarray) -> np.ndarray:
    if not _is_kernel(path):
        return tensor
    return tensor.transpose(*range(2, tensor.ndim), 1, 0)


def _to_layout(path: str, leaf: np.ndarray) -> np.ndarray:
    if _is_kernel(path):
        leaf = leaf.transpose(leaf.ndim - 1, leaf.ndim - 2, *range(leaf.ndim - 2))
    return np.require(leaf, requirements="C")
