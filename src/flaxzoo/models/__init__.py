"""The zoo: ``get``, ``list``, ``info`` and ``register``, and the modules themselves.

Everything loads when it is first used: ``flaxzoo.models.CNN`` imports the CNN's file alone.
"""

from __future__ import annotations

import builtins
import importlib.util
from typing import TYPE_CHECKING, Any

from flaxzoo._explain import attribute_error as _attribute_error
from flaxzoo._lazy import load as _load

if TYPE_CHECKING:
    from flaxzoo.models.autoencoder import AutoEncoder, ConvAutoEncoder
    from flaxzoo.models.backbone import Backbone
    from flaxzoo.models.classifier import Classifier
    from flaxzoo.models.cnn import CNN
    from flaxzoo.models.heads import Head, Identity
    from flaxzoo.models.lstm import LSTM
    from flaxzoo.models.mlp import MLP
    from flaxzoo.models.registry import register
    from flaxzoo.models.resnet import ResNet
    from flaxzoo.zoo import get, info, list

__all__ = [
    "CNN",
    "LSTM",
    "MLP",
    "AutoEncoder",
    "Backbone",
    "Classifier",
    "ConvAutoEncoder",
    "Head",
    "Identity",
    "ResNet",
    "get",
    "info",
    "list",
    "register",
]

_HOMES = {
    "AutoEncoder": "models.autoencoder",
    "Backbone": "models.backbone",
    "CNN": "models.cnn",
    "Classifier": "models.classifier",
    "ConvAutoEncoder": "models.autoencoder",
    "Head": "models.heads",
    "Identity": "models.heads",
    "LSTM": "models.lstm",
    "MLP": "models.mlp",
    "ResNet": "models.resnet",
    "get": "zoo",
    "info": "zoo",
    "list": "zoo",
    "register": "models.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        # A submodule is looked for here before it is imported, and perhaps by the registry itself.
        submodule = name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}")
        registry = None if submodule else _load("flaxzoo.models.registry", "MODELS")
        raise _attribute_error(__name__, name, registry)
    return _load(f"flaxzoo.{_HOMES[name]}", name)


def __dir__() -> builtins.list[str]:
    return sorted(__all__)
