"""Reading back what was written for TensorBoard."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(directory):
    accumulator = event_accumulator.EventAccumulator(
        str(directory),
        size_guidance={"scalars": 0, "images": 0, "histograms": 0, "tensors": 0},
    )
    return accumulator.Reload()


def scalars(accumulator, tag):
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def texts(accumulator, tag):
    events = accumulator.Tensors(f"{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events]


def decode(event):
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
