"""What happens around training: stop early, save, log, watch for NaN, show progress.

Each name loads its module when it is first used; what a trainer adds by itself is put down here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flaxzoo.callbacks.base import Callback

# Puts itself down as a default, for trainers that are asked for progress.
from flaxzoo.callbacks.progress import ProgressBar
from flaxzoo.errors import CallbackError

if TYPE_CHECKING:
    from flaxzoo.callbacks.csv_logger import CSVLogger
    from flaxzoo.callbacks.early_stopping import EarlyStopping
    from flaxzoo.callbacks.gradual_unfreezing import GradualUnfreezing
    from flaxzoo.callbacks.lambda_callback import LambdaCallback
    from flaxzoo.callbacks.learning_rate import LearningRateMonitor
    from flaxzoo.callbacks.model_checkpoint import ModelCheckpoint
    from flaxzoo.callbacks.monitor import infer_mode, monitored, resolve_mode
    from flaxzoo.callbacks.nonfinite import NonFiniteError, NonFiniteReport, TerminateOnNaN
    from flaxzoo.callbacks.tensorboard import TensorBoard

_HOMES = {
    "CSVLogger": "csv_logger",
    "EarlyStopping": "early_stopping",
    "GradualUnfreezing": "gradual_unfreezing",
    "LambdaCallback": "lambda_callback",
    "LearningRateMonitor": "learning_rate",
    "ModelCheckpoint": "model_checkpoint",
    "NonFiniteError": "nonfinite",
    "NonFiniteReport": "nonfinite",
    "TensorBoard": "tensorboard",
    "TerminateOnNaN": "nonfinite",
    "infer_mode": "monitor",
    "monitored": "monitor",
    "resolve_mode": "monitor",
}

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackError",
    "EarlyStopping",
    "GradualUnfreezing",
    "LambdaCallback",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "NonFiniteError",
    "NonFiniteReport",
    "ProgressBar",
    "TensorBoard",
    "TerminateOnNaN",
    "infer_mode",
    "monitored",
    "resolve_mode",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
