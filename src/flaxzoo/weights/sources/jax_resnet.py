"""Variables and pretrained weights of the package jax-resnet.

Its networks compute what ours of the same weights do. The one setting that the names do not show
is ResNeSt-Fast's: it is our ``resnest50d`` with ``block=FastResNeStBlock``.

Reference: https://github.com/n2cholas/jax-resnet
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from flaxzoo._explain import explained
from flaxzoo._trees import SHOWN, flatten
from flaxzoo.errors import CheckpointError
from flaxzoo.weights.sources._renaming import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Renaming,
    numbered,
    pick,
)

_TORCHVISION = "https://download.pytorch.org/models"
_FAST_AI = "https://s3.amazonaws.com/fast-ai-modelzoo"
_RESNEST = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1"


class _Weights(NamedTuple):
    """The package's function that converts a state dict, its arguments, and where the file is."""

    function: str
    arguments: dict[str, Any]
    url: str
    image_size: int = 224


def _torchvision(function: str, size: int, file: str) -> _Weights:
    return _Weights(f"pretrained_{function}", {"size": size}, f"{_TORCHVISION}/{file}.pth")


def _resnest(size: int, file: str, image_size: int, fast: bool = False) -> _Weights:
    arguments = {"size": size, "fast": fast}
    return _Weights("pretrained_resnest", arguments, f"{_RESNEST}/{file}.pth", image_size)


# The files that the package asks torch.hub for, which are those of torchvision 0.6.
_WEIGHTS = {
    "resnet18": _torchvision("resnet", 18, "resnet18-5c106cde"),
    "resnet34": _torchvision("resnet", 34, "resnet34-333f7ec4"),
    "resnet50": _torchvision("resnet", 50, "resnet50-19c8e357"),
    "resnet101": _torchvision("resnet", 101, "resnet101-5d3b4d8f"),
    "resnet152": _torchvision("resnet", 152, "resnet152-b121ed2d"),
    "wide_resnet50_2": _torchvision("wide_resnet", 50, "wide_resnet50_2-95faca4d"),
    "wide_resnet101_2": _torchvision("wide_resnet", 101, "wide_resnet101_2-32ee1156"),
    "resnext50_32x4d": _torchvision("resnext", 50, "resnext50_32x4d-7cdf4587"),
    "resnext101_32x8d": _torchvision("resnext", 101, "resnext101_32x8d-8ba56ff5"),
    "resnet50d": _Weights("pretrained_resnetd", {"size": 50}, f"{_FAST_AI}/xrn50_940.pth"),
    "resnest50d": _resnest(50, "resnest50-528c19ca", 224),
    "resnest101e": _resnest(101, "resnest101-22405ba7", 256),
    "resnest200e": _resnest(200, "resnest200-75117900", 320),
    "resnest269e": _resnest(269, "resnest269-0cc87c48", 416),
    "resnest50_fast_2s1x64d": _resnest(50, "resnest50_fast_2s1x64d-44938639", 224, fast=True),
}


def names() -> tuple[str, ...]:
    """The architectures, by our names, that the package has ImageNet weights for.

    ``resnest50_fast_2s1x64d`` is no architecture of timm's: it is ``resnest50d`` with
    ``block=flaxzoo.models.resnest.FastResNeStBlock``.
    """
    return tuple(_WEIGHTS)


def preprocess(name: str) -> dict[str, Any]:
    """How images become inputs for the package's weights; see ``sources.preprocess``.

    Those of torchvision and fast.ai were evaluated with PyTorch's ImageNet example, ResNeSt with
    its authors' script, whose crop leaves 16 pixels on each side.

    Raises:
      UnknownNameError: the package has no weights for ``name``.
    """
    weights = pick(_WEIGHTS, name, "jax_resnet")
    resnest = weights.function == "pretrained_resnest"
    return {
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "interpolation": "bicubic" if resnest else "bilinear",
        "crop": weights.image_size / (weights.image_size + 32) if resnest else 0.875,
    }


def load(name: str) -> dict[str, Any]:
    """Loads the package's ImageNet weights; see ``sources.load``.

    The file is the one that the package's ``pretrained_*`` function would fetch, kept where
    PyTorch keeps it (``$TORCH_HOME/hub/checkpoints``), and that function converts it. It is fetched
    without ``torch.hub``, which would run code from GitHub, unpickle the file and often end in
    "HTTP Error 403: rate limit exceeded".

    Raises:
      UnknownNameError: the package has no weights for ``name``; it lists those it has.
      DownloadError: the file cannot be had, or is not what it should be.
      MissingExtraError: torch is not installed, or is too old to read files safely.
    """
    from flaxzoo.weights.downloads import torch_checkpoint

    weights = pick(_WEIGHTS, name, "jax_resnet")
    return torch_checkpoint(
        weights.url,
        lambda file: _read(file, weights),
        source="jax_resnet",
        purpose=f"pretrained='jax_resnet' for {name!r}",
    )


def _read(path: Path, weights: _Weights) -> dict[str, Any]:
    import jax_resnet
    import torch

    from flaxzoo.weights.readers import read_tensors

    tensors = read_tensors(path)
    state_dict = {key: torch.from_numpy(tensor) for key, tensor in tensors.items()}
    convert = getattr(jax_resnet, weights.function)
    try:
        module, variables = convert(**weights.arguments, state_dict=state_dict)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: not the weights that jax_resnet.{weights.function} takes: {error} is missing"
        ) from error
    return from_jax_resnet(module, variables)


@explained
def from_jax_resnet(module: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Converts variables of a jax-resnet network to our names.

    Takes ResNet, Wide ResNet, ResNeXt, ResNet-D and ResNeSt of any depth, and what
    ``jax_resnet.slice_variables`` cuts off behind: without its last layer, there is no head.

    Args:
      module: the network, a ``jax_resnet.Sequential``, or what makes it, as the
        ``jax_resnet.pretrained_*`` functions return it; or None to go by the variables alone.
      variables: its ``params`` and ``batch_stats``.

    Returns:
      ``{"params": {"backbone": ..., "head": {"fc": ...}}, "batch_stats": {"backbone": ...}}``
      with the same arrays; nothing is copied.

    Raises:
      TypeError: ``module`` is no such network.
      CheckpointError: the variables are not the module's, or a leaf is missing or has no place in
        our networks; it lists the first ten.

    Example:
      >>> module, variables = jax_resnet.pretrained_resnet(50, state_dict=state_dict)
      >>> model = flaxzoo.models.get("resnet50")
      >>> model = model.with_variables(from_jax_resnet(module, variables))
    """
    leaves = flatten(variables)
    layers: dict[int, set[str]] = {}
    for path in leaves:
        collection, layer, child = (*path.split("/"), "", "")[:3]
        if collection == "params" and numbered([layer], "layers_"):
            layers.setdefault(int(layer.removeprefix("layers_")), set()).add(child)
    if module is not None:
        _check_layers(module, layers)
    if not _is_stem(leaves, layers.get(0, ())):
        held = ", ".join(list(leaves)[:SHOWN]) or "nothing"
        raise CheckpointError(
            "jax-resnet's variables must begin with the stem (params/layers_0), since stages are "
            f"counted from there; they hold {held}"
        )
    renaming = Renaming(leaves)
    _stem(renaming, layers.pop(0))
    stage, place = 0, 0
    for index, children in sorted(layers.items()):
        layer = f"layers_{index}"
        if "ConvBlock_0" in children:
            # A stage begins where the shortcut has a convolution; ResNet-18's first has none.
            begins = stage == 0 or any("SkipConnection" in child for child in children)
            stage, place = (stage + 1, 0) if begins else (stage, place + 1)
            _block(renaming, f"backbone/layer{stage}_{place}", layer, children)
        elif "kernel" in children:
            renaming.conv("head/fc", layer, bias=True)
    converted = renaming.apply("jax-resnet's variables")
    _fill_biases(converted["params"]["backbone"])
    return converted


def _check_layers(module: Any, layers: Iterable[int]) -> None:
    """Raises for variables of another network, or of another slice of it, than the module."""
    if callable(module) and not isinstance(module, nn.Module):
        module = module()
    if not isinstance(getattr(module, "layers", None), list | tuple):
        raise TypeError(
            "module must be a jax_resnet.Sequential, or a function that makes one, "
            f"got {type(module).__name__}"
        )
    expected = [i for i, layer in enumerate(module.layers) if isinstance(layer, nn.Module)]
    if expected != sorted(layers):
        differ = sorted(set(expected) ^ set(layers))
        raise CheckpointError(
            f"the variables are not the module's: its layers with parameters are "
            f"{_runs(expected)}, those of the variables {_runs(sorted(layers)) or 'none'}; "
            f"they differ in "
            f"{', '.join(f'layers_{i}' for i in differ[:SHOWN])}{' ...' * (len(differ) > SHOWN)}. "
            "jax_resnet.slice_variables cuts variables as module.layers[start:end] cuts the module"
        )


def _runs(numbers: list[int]) -> str:
    """``[0, 2, 3, 4]`` as ``0, 2-4``."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _conv_block(renaming: Renaming, conv: str, norm: str, origin: str, bias: bool = False) -> None:
    renaming.conv(conv, f"{origin}/Conv_0", bias=bias)
    renaming.norm(norm, f"{origin}/BatchNorm_0")


def _is_stem(leaves: Mapping[str, Any], children: Collection[str]) -> bool:
    """Whether the first layer is a stem, not a block of a slice from further on."""
    kernel = leaves.get("params/layers_0/ConvBlock_0/Conv_0/kernel")
    alone = len(children) == len(numbered(children, "ConvBlock_")) in (1, 3)
    # A bottleneck without a shortcut has three convolutions too, but begins with a 1 x 1.
    return alone and kernel is not None and kernel.shape[:2] != (1, 1)


def _stem(renaming: Renaming, children: Iterable[str]) -> None:
    *first, last = numbered(children, "ConvBlock_")
    for i, name in enumerate(first):
        # timm's deep stem is the list conv1 of convolution, norm and activation in turn.
        ours = f"backbone/conv1_{3 * i}", f"backbone/conv1_{3 * i + 1}"
        _conv_block(renaming, *ours, f"layers_0/{name}")
    conv = f"conv1_{3 * len(first)}" if first else "conv1"
    _conv_block(renaming, f"backbone/{conv}", "backbone/bn1", f"layers_0/{last}")


def _block(renaming: Renaming, ours: str, origin: str, children: set[str]) -> None:
    splits = "SplAtConv2d_0" in children
    for i, name in enumerate(numbered(children, "ConvBlock_")):
        # Split attention is the second convolution, and flax counts it apart.
        place = i + 1 if i == 0 or not splits else i + 2
        _conv_block(renaming, f"{ours}/conv{place}", f"{ours}/bn{place}", f"{origin}/{name}")
    if splits:
        _split_attention(renaming, f"{ours}/conv2", f"{origin}/SplAtConv2d_0")
    # The D variants average first: their convolution is the second in timm's list.
    for skip, place in (
        ("ResNetSkipConnection_0", 0),
        ("ResNetDSkipConnection_0", 1),
        ("ResNeStSkipConnection_0", 1),
    ):
        if skip in children:
            conv, norm = f"{ours}/downsample_{place}", f"{ours}/downsample_{place + 1}"
            _conv_block(renaming, conv, norm, f"{origin}/{skip}/ConvBlock_0")


def _split_attention(renaming: Renaming, ours: str, origin: str) -> None:
    _conv_block(renaming, f"{ours}/conv", f"{ours}/bn0", f"{origin}/ConvBlock_0")
    bias = f"params/{origin}/ConvBlock_1/Conv_0/bias" in renaming.leaves
    _conv_block(renaming, f"{ours}/fc1", f"{ours}/bn1", f"{origin}/ConvBlock_1", bias=bias)
    renaming.conv(f"{ours}/fc2", f"{origin}/Conv_0", bias=True)


def _fill_biases(backbone: dict[str, Any]) -> None:
    """Gives split attention the bias that jax-resnet has with ``match_reference`` alone."""
    for block in backbone.values():
        if "fc1" in block.get("conv2", {}):
            fc1 = block["conv2"]["fc1"]
            kernel = fc1["kernel"]
            fc1.setdefault("bias", np.zeros(kernel.shape[-1], kernel.dtype))
