"""Keras 3 on JAX: ``train_on_batch`` and ``predict_on_batch``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from _peers import Candidate
from _works import EMBEDDING, HIDDEN, LEARNING_RATE, WORKS, read_weights


def keras(work: str, kind: str, weights: str) -> Candidate:
    """The small networks as ``Sequential``, ResNet-50 from ``keras.applications``.

    The latter is another network, in that its strides are in the 1 x 1 convolutions, which have
    biases; so it starts from weights of its own.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    import keras as library

    found = WORKS[work]
    if work == "resnet50":
        network = library.applications.ResNet50(
            weights=None, classes=found.classes, classifier_activation=None
        )
    else:
        network = _small(library, work)
        _fill(network, work, weights)
    return _candidate(network, work, kind, same=work != "resnet50")


def _candidate(network: Any, work: str, kind: str, *, same: bool) -> Candidate:
    """``train_on_batch`` or ``predict_on_batch`` of a network."""
    import jax
    import keras as library

    inputs, labels = jax.device_put(WORKS[work].data())
    device = jax.devices()[0].device_kind
    if kind == "inference":
        return Candidate(
            lambda: network.predict_on_batch(inputs), lambda _: None, np.asarray, device, same
        )
    network.compile(
        optimizer=library.optimizers.Adam(LEARNING_RATE),
        loss=library.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def value(loss: Any) -> float:
        # Else it is the mean over all batches since.
        network.reset_metrics()
        return float(np.asarray(loss))

    def call() -> Any:
        return network.train_on_batch(inputs, labels)

    return Candidate(call, jax.block_until_ready, value, device, same)


def zeromodels(work: str, kind: str, weights: str) -> Candidate:
    """Its networks in Keras on JAX, from weights of its own: it reads no others offline."""
    del weights
    os.environ["KERAS_BACKEND"] = "jax"
    classes = WORKS[work].classes
    if work.startswith("vit_small"):
        from zeromodels.models.vit.vit_model import ViTImageClassify

        network = ViTImageClassify(embed_dim=384, num_heads=6, num_classes=classes)
    else:
        from zeromodels.models.swin.swin_model import SwinImageClassify

        network = SwinImageClassify(num_classes=classes)
    return _candidate(network, work, kind, same=False)


def _small(library: Any, work: str) -> Any:
    layers, classes = library.layers, WORKS[work].classes
    if work == "lstm":
        body = [layers.Embedding(WORKS[work].vocabulary, EMBEDDING), layers.LSTM(HIDDEN)]
    elif work == "mlp":
        body = [layers.Dense(256, "relu"), layers.Dense(128, "relu")]
    else:
        body = [
            *(layers.Conv2D(32, 3, padding="same", activation="relu"), layers.AveragePooling2D(2)),
            *(layers.Conv2D(64, 3, padding="same", activation="relu"), layers.AveragePooling2D(2)),
            *(layers.Flatten(), layers.Dense(256, "relu")),
        ]
    dtype = "int32" if WORKS[work].vocabulary else "float32"
    start = library.Input(WORKS[work].shape, dtype=dtype)
    return library.Sequential([start, *body, layers.Dense(classes)])


def _fill(network: Any, work: str, weights: str) -> None:
    params = read_weights(weights, work)["params"]
    layers = [*params["backbone"].values(), params["head"]["fc"]]
    order = ("embedding", "kernel", "kernel_ih", "kernel_hh", "bias")
    # The files' order is alphabetical, which is that of the layers.
    network.set_weights([layer[key] for layer in layers for key in order if key in layer])
