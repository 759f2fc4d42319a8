from __future__ import annotations

import jax
import numpy as np
from _cases import value_of

from flaxzoo import metrics


def test_scores_that_are_not_defined_are_zero():
    outputs, targets = np.full(3, -1.0), np.zeros(3, int)
    names = ("precision", "recall", "f1", "auc", "auc_pr")
    values = jax.jit(metrics.collect, static_argnums=0)(names, outputs, targets).compute()
    assert values == dict.fromkeys(names, 0.0)
    assert value_of(metrics.get("accuracy"), outputs, targets, np.zeros(3)) == 0.0
    assert value_of(metrics.get("cosine_similarity"), np.zeros((2, 3)), np.ones((2, 3))) == 0.0
