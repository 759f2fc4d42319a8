"""MNIST in the form of Flax's own examples: `train_and_evaluate(config, workdir)`."""

import os

import ml_collections
import numpy as np
from absl import logging

import flaxzoo as fz


def get_datasets(data: str) -> tuple[tuple, tuple]:
    """Training and test arrays: scikit-learn's digits, or MNIST from a directory.

    Where the directory holds MNIST's test files alone, a fifth of them is the test set.
    """
    if data == "digits":
        return fz.data.load_digits()
    try:
        return fz.data.load_mnist(data)
    except fz.errors.DataError:
        images, labels = fz.data.load_mnist(data, split="test")
        return fz.data.train_test_split((images, labels), 0.2, stratify=labels)


def create_train_state(config: ml_collections.ConfigDict, input_shape: tuple[int, ...]):
    """The model with its optimizer."""
    model = fz.models.get(config.model, num_classes=10, input_shape=input_shape)
    options = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    return fz.create_train_state(
        model,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        rng=config.seed,
        **options,
    )


def train_epoch(state, dataset: fz.data.ArrayDataset, epoch: int):
    """One pass over the data; returns the state and the epoch's metrics."""
    total = None
    for batch in dataset.epoch(epoch):
        state, metrics = fz.train_step(state, batch)
        total = metrics if total is None else total.merge(metrics)
    return state, total.compute()


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str) -> fz.TrainState:
    """Trains, and writes TensorBoard summaries into ``workdir``.

    Args:
      config: see ``configs/default.py``.
      workdir: the directory for the summaries.

    Returns:
      The trained state.
    """
    from tensorboardX import SummaryWriter

    train, test = get_datasets(config.data)
    train_set = fz.data.ArrayDataset(train, config.batch_size, seed=config.seed, drop_last=True)
    test_set = fz.data.ArrayDataset(test, min(500, len(test[1])), shuffle=False)
    state = create_train_state(config, np.shape(train[0])[1:])

    os.makedirs(workdir, exist_ok=True)
    with SummaryWriter(workdir) as writer:
        writer.add_text("config", str(config))
        for epoch in range(config.num_epochs):
            state, train_metrics = train_epoch(state, train_set, epoch)
            total = None
            for batch in test_set:
                metrics = fz.eval_step(state, batch)
                total = metrics if total is None else total.merge(metrics)
            test_metrics = total.compute()
            logging.info(
                "epoch:%3d, train_loss: %.4f, train_accuracy: %.2f, "
                "test_loss: %.4f, test_accuracy: %.2f",
                epoch + 1,
                train_metrics["loss"],
                100 * train_metrics["accuracy"],
                test_metrics["loss"],
                100 * test_metrics["accuracy"],
            )
            for name, value in train_metrics.items():
                writer.add_scalar(f"train_{name}", value, epoch + 1)
            for name, value in test_metrics.items():
                writer.add_scalar(f"test_{name}", value, epoch + 1)
    return state
