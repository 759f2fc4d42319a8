"""flaxzoo: the model zoo for JAX and Flax Linen.

``import flaxzoo as fz`` imports nothing else: each name below loads its module when it is first
used, so that importing flaxzoo costs next to nothing beside jax, flax and optax themselves.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flaxzoo._version import __version__

if TYPE_CHECKING:
    from flaxzoo import (
        activations,
        callbacks,
        data,
        debug,
        errors,
        losses,
        metrics,
        models,
        optimizers,
        plots,
        schedules,
        transfer,
        weights,
    )
    from flaxzoo.debug import profile
    from flaxzoo.model import Model, ModelSpec, Preprocess
    from flaxzoo.models.classifier import Classifier
    from flaxzoo.registry import Registry
    from flaxzoo.training.state import TrainState, create_train_state
    from flaxzoo.training.steps import eval_step, predict_step, train_step
    from flaxzoo.training.trainer import History, Trainer

_SUBMODULES = frozenset(
    {
        "activations",
        "callbacks",
        "data",
        "debug",
        "errors",
        "losses",
        "metrics",
        "models",
        "optimizers",
        "plots",
        "schedules",
        "transfer",
        "weights",
    }
)
_ATTRIBUTES = {
    "Classifier": "flaxzoo.models.classifier",
    "History": "flaxzoo.training.trainer",
    "Model": "flaxzoo.model",
    "ModelSpec": "flaxzoo.model",
    "Preprocess": "flaxzoo.model",
    "Registry": "flaxzoo.registry",
    "TrainState": "flaxzoo.training.state",
    "Trainer": "flaxzoo.training.trainer",
    "create_train_state": "flaxzoo.training.state",
    "eval_step": "flaxzoo.training.steps",
    "predict_step": "flaxzoo.training.steps",
    "profile": "flaxzoo.debug",
    "train_step": "flaxzoo.training.steps",
}

__all__ = [  # noqa: PLE0604
    "Classifier",
    "History",
    "Model",
    "ModelSpec",
    "Preprocess",
    "Registry",
    "TrainState",
    "Trainer",
    "__version__",
    "activations",
    "callbacks",
    "create_train_state",
    "data",
    "debug",
    "errors",
    "eval_step",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "plots",
    "predict_step",
    "profile",
    "schedules",
    "train_step",
    "transfer",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        value = importlib.import_module(f"flaxzoo.{name}")
    elif name in _ATTRIBUTES:
        value = getattr(importlib.import_module(_ATTRIBUTES[name]), name)
    else:
        raise AttributeError(f"module 'flaxzoo' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
