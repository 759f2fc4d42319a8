"""A whole training step against other libraries: loss, gradients, Adam, BatchNorm's statistics.

ResNets at batch 8 and 224 x 224, a CNN, an MLP and an LSTM, in float32, with the softmax
cross-entropy of integer labels. flaxzoo goes through `fz.create_train_state` and `fz.train_step`,
and through `fz.train_steps` in a row of its own (its time is that of one step),
Keras through `train_on_batch`; the Linen models of others get the jitted step that one writes by
hand, with a donated state and `optax.adam`; torch runs eager and channels last, its ResNets are
timm's. Before anything is timed the first loss of all that start from the same weights is compared.

Each candidate has a process of its own, and they take turns. A peer that does not run is a row
that says why.
"""

from __future__ import annotations

from _steps import main

if __name__ == "__main__":
    main("train", __doc__)
