"""Variables and pretrained weights of the package flaxmodels: its ResNets and VGGs.

Its networks compute what ours of the same weights do, but normalise images themselves where
``normalize=True``, and return probabilities where ``output="softmax"``; both are the default there.

Reference: https://github.com/matthias-wright/flaxmodels
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxzoo._explain import explained
from flaxzoo._trees import flatten
from flaxzoo.errors import CheckpointError
from flaxzoo.weights.sources._renaming import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Renaming,
    numbered,
    pick,
)


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network of the package.

    Attributes:
      module: where the package has its URL.
      walk: pairs its layers, and returns how many units there are; called with the renaming and
        whether it holds variables rather than a file's content.
      unit: what the walk counts.
      count: how many units the network has.
    """

    module: str
    walk: Callable[[Renaming, bool], int]
    unit: str
    count: int


def _resnet(convs: int, *depths: int) -> _Network:
    """A ResNet by the convolutions of a block besides the shortcut's, and the blocks per stage."""
    walk = functools.partial(_walk_resnet, depths, convs)
    return _Network("flaxmodels.resnet.resnet", walk, "blocks", sum(depths))


def _vgg(*depths: int) -> _Network:
    """A VGG by the convolutions of its stages."""
    walk = functools.partial(_walk_vgg, depths)
    return _Network("flaxmodels.vgg.vgg", walk, "convolutions", sum(depths))


def names() -> tuple[str, ...]:
    """The architectures, by our names, that the package has ImageNet weights for."""
    return tuple(_NETWORKS)


def preprocess(name: str) -> dict[str, Any]:
    """How images become inputs for the package's weights; see ``sources.preprocess``.

    They are torchvision's first ones. The package's own networks take pixels in [0, 1] and do the
    normalisation inside; ours take normalised ones.

    Raises:
      UnknownNameError: the package has no weights for ``name``.
    """
    pick(_NETWORKS, name, "flaxmodels")
    return {
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "interpolation": "bilinear",
        "crop": 0.875,
    }


def load(name: str) -> dict[str, Any]:
    """Loads the package's ImageNet weights; see ``sources.load``.

    The file is the one that the package would fetch, kept where it keeps it: ``flaxmodels`` in the
    system's temporary directory. It is fetched and checked here, since the package takes an error
    page or a broken connection for a file and finds it again the next time.

    Raises:
      UnknownNameError: the package has no weights for ``name``; it lists those it has.
      DownloadError: the file cannot be had, or is not what it should be.
    """
    from flaxzoo.weights.downloads import cached

    network = pick(_NETWORKS, name, "flaxmodels")
    url: str = importlib.import_module(network.module).URLS[name]
    file = url.rpartition("/")[2].partition("?")[0]
    path = Path(tempfile.gettempdir()) / "flaxmodels" / file
    return cached(path, url, lambda file: _read(file, name), source="flaxmodels")


def _read(path: Path, name: str) -> dict[str, Any]:
    from flaxzoo.weights.readers import read_tensors

    return from_flaxmodels(name, read_tensors(path))


@explained
def from_flaxmodels(module: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Converts variables or a weight file's content of a flaxmodels network to our names.

    Args:
      module: the network, a ``flaxmodels.ResNet18`` ... ``ResNet152``, ``VGG16`` or ``VGG19``, or
        its name, ``"resnet50"``.
      variables: its ``params`` and ``batch_stats``; or what one of the package's h5 files holds,
        nested or by path (``layer1/block0/conv1/weight``), an open ``h5py.File`` included.

    Returns:
      ``{"params": {"backbone": ..., "head": {"fc": ...}}, "batch_stats": {"backbone": ...}}``,
      a VGG without ``batch_stats``.

    Raises:
      UnknownNameError: there is no such network of that name in the package.
      TypeError: ``module`` is neither.
      CheckpointError: the variables are of another network, or a leaf is missing or left over; it
        lists the first ten.

    Example:
      >>> with h5py.File("resnet50_weights.h5") as file:
      ...     variables = from_flaxmodels("resnet50", file)
    """
    name = getattr(module, "architecture", module)
    if not isinstance(name, str):
        raise TypeError(
            f"module must be a flaxmodels ResNet or VGG or its name, got {type(module).__name__}"
        )
    network = pick(_NETWORKS, name, "flaxmodels")
    is_variables = "params" in variables
    leaves = flatten(variables)
    source = "flaxmodels' variables" if is_variables else "the arrays of flaxmodels' file"
    renaming = Renaming(leaves if is_variables else _as_variables(leaves))
    count = network.walk(renaming, is_variables)
    if count != network.count:
        raise CheckpointError(
            f"{source} are not those of {name!r}: they have {count} of its {network.unit}, "
            f"it has {network.count}"
        )
    return renaming.apply(f"{source} for {name!r}")


def _walk_resnet(
    depths: tuple[int, ...], convs: int, renaming: Renaming, is_variables: bool
) -> int:
    walk = _walk_variables if is_variables else _walk_file
    return walk(renaming, depths, convs)


def _walk_vgg(depths: tuple[int, ...], renaming: Renaming, is_variables: bool) -> int:
    """Pairs what the package and its file name alike, and returns how many convolutions it has."""
    del is_variables
    # In timm's list each convolution is followed by an activation, each stage by pooling.
    place = 0
    for stage, depth in enumerate(depths, 1):
        for i in range(depth):
            renaming.conv(f"backbone/features_{place}", f"conv{stage}_{i + 1}", bias=True)
            place += 2
        place += 1
    renaming.conv("backbone/pre_logits/fc1", "fc6", bias=True, layout=_flattened_to_conv)
    renaming.conv("backbone/pre_logits/fc2", "fc7", bias=True, layout=_dense_to_conv)
    renaming.conv("head/fc", "fc8", bias=True)
    convs = [path for path in renaming.leaves if path.startswith("params/conv")]
    return len({path.split("/")[1] for path in convs})


def _flattened_to_conv(kernel: Any) -> Any:
    """A dense layer's kernel over a map of 512 x 7 x 7, channels first, as a convolution's."""
    return kernel.reshape(512, 7, 7, -1).transpose(1, 2, 0, 3)


def _dense_to_conv(kernel: Any) -> Any:
    return kernel[None, None]


def _walk_variables(renaming: Renaming, depths: tuple[int, ...], convs: int) -> int:
    """Pairs what Flax numbered, and returns how many blocks there are."""
    children = {path.split("/")[1] for path in renaming.leaves if path.startswith("params/")}
    kind = "Bottleneck_" if convs == 3 else "BasicBlock_"
    _ends(renaming, "Conv_0", "BatchNorm_0", "Dense_0")
    places = [(s, i) for s, depth in enumerate(depths, 1) for i in range(depth)]
    blocks = numbered(children, kind)
    for (stage, i), origin in zip(places, blocks, strict=False):
        ours = f"backbone/layer{stage}_{i}"
        for j in range(convs):
            renaming.conv(f"{ours}/conv{j + 1}", f"{origin}/Conv_{j}")
            renaming.norm(f"{ours}/bn{j + 1}", f"{origin}/BatchNorm_{j}")
        if _projects(stage, i, convs):
            renaming.conv(f"{ours}/downsample_0", f"{origin}/Conv_{convs}")
            renaming.norm(f"{ours}/downsample_1", f"{origin}/BatchNorm_{convs}")
    return len(blocks)


def _walk_file(renaming: Renaming, depths: tuple[int, ...], convs: int) -> int:
    """Pairs what the h5 file names, and returns how many blocks there are."""
    _ends(renaming, "conv1", "bn1", "fc")
    for stage, depth in enumerate(depths, 1):
        for i in range(depth):
            ours, origin = f"backbone/layer{stage}_{i}", f"layer{stage}/block{i}"
            for j in range(1, convs + 1):
                renaming.conv(f"{ours}/conv{j}", f"{origin}/conv{j}")
                renaming.norm(f"{ours}/bn{j}", f"{origin}/bn{j}")
            if _projects(stage, i, convs):
                renaming.conv(f"{ours}/downsample_0", f"{origin}/downsample/conv")
                renaming.norm(f"{ours}/downsample_1", f"{origin}/downsample/bn")
    paths = (path.split("/") for path in renaming.leaves)
    return len({tuple(p[1:3]) for p in paths if len(p) > 2 and p[2].startswith("block")})


def _ends(renaming: Renaming, conv: str, norm: str, dense: str) -> None:
    renaming.conv("backbone/conv1", conv)
    renaming.norm("backbone/bn1", norm)
    renaming.conv("head/fc", dense, bias=True)


def _projects(stage: int, place: int, convs: int) -> bool:
    """Whether the shortcut has a convolution: not in ResNet-18's first stage."""
    return place == 0 and (stage > 1 or convs == 3)


def _as_variables(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The file's arrays under the names of variables; the paths stay the file's."""
    arrays = {}
    for path, array in flat.items():
        owner, _, leaf = path.rpartition("/")
        if leaf == "num_batches_tracked":
            # PyTorch's counter, which no computation uses.
            continue
        collection = "batch_stats" if leaf in ("mean", "var") else "params"
        leaf = "kernel" if leaf == "weight" else leaf
        # An open file's arrays are gone once it is closed.
        arrays[f"{collection}/{owner}/{leaf}"] = np.asarray(array)
    return arrays


_NETWORKS = {
    "resnet18": _resnet(2, 2, 2, 2, 2),
    "resnet34": _resnet(2, 3, 4, 6, 3),
    "resnet50": _resnet(3, 3, 4, 6, 3),
    "resnet101": _resnet(3, 3, 4, 23, 3),
    "resnet152": _resnet(3, 3, 8, 36, 3),
    "vgg16": _vgg(2, 2, 3, 3, 3),
    "vgg19": _vgg(2, 2, 4, 4, 4),
}
