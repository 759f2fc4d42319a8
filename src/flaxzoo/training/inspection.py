"""What a trainer looks at before it trains on data."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from flaxzoo._warnings import warn
from flaxzoo.data.batch import as_batch, batch_size
from flaxzoo.errors import DataError
from flaxzoo.losses.endings import twice
from flaxzoo.training.feed import Feed
from flaxzoo.training.step import check_values, output_shapes, prepare, with_targets


def inspect(state: Any, feed: Feed, *, training: bool = False) -> Any:
    """Checks the first batch, or all values of arrays, and settles how the feed fills batches up.

    Args:
      state: the ``TrainState``.
      feed: the feed, whose ``checked`` and ``pad`` are set, and which is told the devices.
      training: whether it is trained on, so that every device needs an example of a batch.

    Returns:
      The shapes of the model's outputs.

    Raises:
      DataError: values that are not finite, labels out of range, no targets; a batch that leaves
        a device without an example.
      ShapeError: the data does not fit the model or the loss.
    """
    batch = with_targets(prepare(state, feed.first()))
    if state.preprocess is not None:
        state.preprocess.warn_of_scale(batch.inputs)
    known = output_shapes(state, batch.inputs)
    if said := twice(state.loss, known.ending):
        warn(said)
    outputs = known.tree()
    if feed.arrays is not None:
        # Arrays are looked at once, as a whole, instead of batch by batch.
        whole = jax.tree.map(np.asarray, with_targets(as_batch(feed.arrays)))
        check_values(state, whole, like=batch)
        if whole.weights is not None and not whole.weights.any():
            raise DataError(f"{feed.name} has the weight 0 for every example: nothing counts")
        feed.checked = True
    # Neither a loss over the batch as a whole nor per-example clipping can leave rows out.
    feed.pad = "per_example_gradients" not in state.optimizer.needs and (
        state.loss.gives_per_example(outputs, batch.targets)
    )
    if state.sharding is not None:
        if training:
            size = feed.whole_size(batch_size(batch))
            state.sharding.check_size(size, f"a batch of {feed.name}")
        if state.sharding.several_processes:
            feed.share(state.sharding)
        else:
            feed.divide(state.sharding.shares)
    return outputs
