"""flaxzoo: the model zoo for JAX and Flax Linen.

``import flaxzoo as fz`` imports nothing else: each name below loads its module when it is first
used, so that importing flaxzoo costs next to nothing beside jax, flax and optax themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flaxzoo._lazy import load as _load
from flaxzoo._version import __version__

if TYPE_CHECKING:
    from flaxzoo import (
        activations,
        augment,
        callbacks,
        classes,
        data,
        debug,
        distributed,
        errors,
        losses,
        metrics,
        models,
        optimizers,
        plots,
        schedules,
        transfer,
        verify,
        weights,
    )
    from flaxzoo._programs import clear_caches
    from flaxzoo.debug import profile
    from flaxzoo.model import Model
    from flaxzoo.models.classifier import Classifier
    from flaxzoo.precision import PrecisionPolicy
    from flaxzoo.preprocess import Preprocess
    from flaxzoo.registry import Registry
    from flaxzoo.spec import ModelSpec
    from flaxzoo.training.checkpoint import from_bytes, to_bytes
    from flaxzoo.training.compiled import train_steps
    from flaxzoo.training.history import History
    from flaxzoo.training.state import TrainState, create_train_state
    from flaxzoo.training.step import eval_step, predict_step, train_step
    from flaxzoo.training.trainer import Trainer

# Public modules and where they live.
_MODULES = {
    "activations": "flaxzoo.activations",
    "augment": "flaxzoo.augment",
    "callbacks": "flaxzoo.callbacks",
    "classes": "flaxzoo.classes",
    "data": "flaxzoo.data",
    "debug": "flaxzoo.debug",
    "distributed": "flaxzoo.distributed",
    "errors": "flaxzoo.errors",
    "losses": "flaxzoo.losses",
    "metrics": "flaxzoo.metrics",
    "models": "flaxzoo.models",
    "optimizers": "flaxzoo.optimizers",
    "plots": "flaxzoo.plots",
    "schedules": "flaxzoo.schedules",
    "transfer": "flaxzoo.transfer",
    "verify": "flaxzoo.verify",
    "weights": "flaxzoo.weights",
}
# Public classes and functions and the module that defines them.
_ATTRIBUTES = {
    "Classifier": "flaxzoo.models.classifier",
    "History": "flaxzoo.training.history",
    "Model": "flaxzoo.model",
    "ModelSpec": "flaxzoo.spec",
    "PrecisionPolicy": "flaxzoo.precision",
    "Preprocess": "flaxzoo.preprocess",
    "Registry": "flaxzoo.registry",
    "TrainState": "flaxzoo.training.state",
    "Trainer": "flaxzoo.training.trainer",
    "clear_caches": "flaxzoo._programs",
    "create_train_state": "flaxzoo.training.state",
    "eval_step": "flaxzoo.training.step",
    "from_bytes": "flaxzoo.training.checkpoint",
    "predict_step": "flaxzoo.training.step",
    "profile": "flaxzoo.debug",
    "to_bytes": "flaxzoo.training.checkpoint",
    "train_step": "flaxzoo.training.step",
    "train_steps": "flaxzoo.training.compiled",
}

__all__ = [
    "Classifier",
    "History",
    "Model",
    "ModelSpec",
    "PrecisionPolicy",
    "Preprocess",
    "Registry",
    "TrainState",
    "Trainer",
    "__version__",
    "activations",
    "augment",
    "callbacks",
    "classes",
    "clear_caches",
    "create_train_state",
    "data",
    "debug",
    "distributed",
    "errors",
    "eval_step",
    "from_bytes",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "plots",
    "predict_step",
    "profile",
    "schedules",
    "to_bytes",
    "train_step",
    "train_steps",
    "transfer",
    "verify",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = _load(_MODULES[name])
    elif name in _ATTRIBUTES:
        value = _load(_ATTRIBUTES[name], name)
    else:
        from flaxzoo._explain import attribute_error

        raise attribute_error(__name__, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
