"""Pairs of a model of ours and timm's, with the same weights."""

from __future__ import annotations

import contextlib

import pytest

from flaxzoo.errors import MissingExtraError
from flaxzoo.verify import import_timm

# Before any test module imports timm or torchvision: theirs may be built for another torch.
with contextlib.suppress(MissingExtraError):
    import_timm()

# timm's names of the fields that have others here.
_FIELDS = {"in_channels": "in_chans", "widths": "channels", "pooling": "global_pool"}
_POOLINGS = {"avg": "avg", "max": "max", "avg+max": "avgmax"}
_ACTIVATIONS = {"relu": "ReLU", "silu": "SiLU"}


def in_timm_s_terms(config):
    """Keywords for ``timm.create_model`` from those for ``flaxzoo.models.get``."""
    renamed = {_FIELDS.get(key, key): value for key, value in config.items()}
    if "global_pool" in renamed:
        renamed["global_pool"] = _POOLINGS[renamed["global_pool"]]
    if "activation" in renamed:
        import torch

        renamed["act_layer"] = getattr(torch.nn, _ACTIVATIONS[renamed.pop("activation")])
    return renamed


@pytest.fixture
def pair():
    """``pair(name, **config)`` is our model and timm's, random statistics and all."""
    import timm

    import flaxzoo as fz
    from flaxzoo.verify import fill_reference, with_reference

    def build(name, *, seed=0, **config):
        config = {"num_classes": 7, **config}
        reference = timm.create_model(name, **in_timm_s_terms(config)).eval()
        tensors = fill_reference(reference, seed)
        shape = (64, 64, config.get("in_channels", 3))
        model = fz.models.get(name, input_shape=shape, **config)
        return with_reference(model, tensors, source="random weights"), reference

    return build
