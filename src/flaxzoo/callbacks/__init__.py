"""What happens around training: stop early, save, log, watch for NaN, show progress."""

from __future__ import annotations

from flaxzoo._explain import missing_from
from flaxzoo.callbacks.base import Callback
from flaxzoo.callbacks.csv_logger import CSVLogger
from flaxzoo.callbacks.early_stopping import EarlyStopping
from flaxzoo.callbacks.embeddings import Embeddings
from flaxzoo.callbacks.event_writer import EventWriter
from flaxzoo.callbacks.gradual_unfreezing import GradualUnfreezing
from flaxzoo.callbacks.lambda_callback import LambdaCallback
from flaxzoo.callbacks.learning_rate import LearningRateMonitor
from flaxzoo.callbacks.model_checkpoint import ModelCheckpoint
from flaxzoo.callbacks.monitor import infer_mode, monitored, resolve_mode
from flaxzoo.callbacks.nonfinite import NonFiniteError, NonFiniteReport, TerminateOnNaN
from flaxzoo.callbacks.progress import ProgressBar
from flaxzoo.callbacks.tensorboard import TensorBoard
from flaxzoo.errors import CallbackError

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackError",
    "EarlyStopping",
    "Embeddings",
    "EventWriter",
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

__getattr__ = missing_from(__name__)
