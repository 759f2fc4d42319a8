"""Losses by name: optax's, the names of Keras and JAX-Metrics, and a user's own functions.

``get(name, **options)`` returns a :class:`Loss`, which checks shapes before it computes, accepts
Python numbers and lists, takes per-example weights and adds up with parameter regularisers::

    loss = losses.get("crossentropy", label_smoothing=0.1) + losses.l2(1e-4)
    loss.mean(logits, labels, weights=weights) + loss.regularization(params)
"""

from __future__ import annotations

from flaxzoo._explain import missing_from

# The modules that fill the registry; importing them is what registers their losses.
from flaxzoo.losses import classification, optax_losses, regression, structured
from flaxzoo.losses.classification import smooth_labels
from flaxzoo.losses.loss import Loss
from flaxzoo.losses.registry import REGISTRY, as_loss, from_config
from flaxzoo.losses.regularizers import L1, L1L2, L2, Regularizer, l1, l1_l2, l2

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "REGISTRY",
    "Loss",
    "Regularizer",
    "as_loss",
    "from_config",
    "get",
    "info",
    "l1",
    "l1_l2",
    "l2",
    "list",
    "register",
    "smooth_labels",
]

# Every function that optax offers has an entry by now; a newer optax may bring more.
optax_losses.register_rest()
del classification, optax_losses, regression, structured

get = REGISTRY.get
register = REGISTRY.register
info = REGISTRY.info
list = REGISTRY.list
__getattr__ = missing_from(__name__, REGISTRY)
