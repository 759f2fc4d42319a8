"""One pass of a backbone over a data set: what ``extract_features`` writes down."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Generator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import as_choice, check_size
from flaxzoo._finite import check_finite
from flaxzoo._inputs import check_inputs
from flaxzoo._meshes import DATA, beside, rows_beside
from flaxzoo._programs import Jitted
from flaxzoo._spread import gathered, put
from flaxzoo.data.arrays import ArrayDataset, next_multiple, pad_batch
from flaxzoo.data.batch import Batch, as_batch, batch_size, check_weights
from flaxzoo.errors import DataError, ShapeError, UninitializedError
from flaxzoo.model import Model
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import global_pool
from flaxzoo.precision import PrecisionPolicy, apply_in
from flaxzoo.preprocess import Preprocess, model_inputs
from flaxzoo.training.feed import Feed
from flaxzoo.transfer import _fingerprints as fingerprints
from flaxzoo.transfer._feature_files import columns_of, structure_of

_POOLINGS = ("auto", "avg", "max", "avg+max", "token", "prefix")


class Extraction:
    """A model and data, ready to run: checks what it was given before anything is computed."""

    def __init__(
        self, model: Any, data: Any, size: int, steps: int | None, pooling: str | None, dtype: Any
    ) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model must be a flaxzoo.Model, got {type(model).__name__}")
        if model.variables is None:
            raise UninitializedError(
                f"model {model.spec.name!r} has no variables yet: model = model.init(rng=0), "
                "or get it with pretrained=True"
            )
        self.model = model
        self.module, self.variables = _backbone(model)
        self._below = "backbone" if self.module is not model.module else ""
        self.pooling = as_choice("pooling", pooling, _POOLINGS)
        self._pooling = _resolved(self.pooling, self.module)
        self.dtype = None if dtype is None else jnp.dtype(dtype)
        if self.dtype is not None and not jnp.issubdtype(self.dtype, jnp.floating):
            raise DataError(f"dtype must be a floating type, got {self.dtype}")
        # An int: the manifest is JSON, which knows none of NumPy's.
        self.steps = None if steps is None else operator.index(steps)
        self.feed, self.examples = _open(data, check_size("batch_size", size), self.steps)
        self.first = self.feed.first()
        self.batch_size = batch_size(self.first)
        # Where the model lies on several devices, each computes its part of a batch.
        self._divided = rows_beside(self.variables)
        shares = 1 if self._divided is None else self._divided.mesh.shape[DATA]
        self._size = next_multiple(self.batch_size, shares)
        self._check_inputs(self.first)
        if model.spec.preprocess is not None:
            model.spec.preprocess.warn_of_scale(self.first.inputs)
        outputs = jax.eval_shape(self._run, self.variables, self._filled(self.first.inputs))
        for leaf in jax.tree.leaves(outputs):
            if leaf.shape[:1] != (self._size,):
                raise ShapeError(
                    f"the features of {self._size} examples have the shape "
                    f"{list(leaf.shape)}; their first axis must be the examples"
                )
        weights = jax.ShapeDtypeStruct((self.batch_size,), np.dtype(np.float32))
        tree = {"inputs": outputs, "targets": self.first.targets, "weights": weights}
        self.structure = structure_of(tree)
        self.columns = columns_of(tree)

    @property
    def total_batches(self) -> int | None:
        """Number of batches, where the data tells."""
        return self.feed.steps_per_epoch

    def batches(self, start: int = 0) -> Generator[list[np.ndarray]]:
        """The columns of each batch from number ``start`` on: features, targets and weights."""
        waiting: Any = None
        number = start
        feed: Any = self.feed.epoch(0, start)
        with contextlib.closing(feed) as source:
            for batch in source:
                self._check_inputs(batch)
                # Dispatched before the previous one's results are waited for.
                running = (number, batch, self._run(self.variables, self._filled(batch.inputs)))
                if waiting is not None:
                    yield self._rows(*waiting)
                waiting, number = running, number + 1
        if waiting is not None:
            yield self._rows(*waiting)

    def fingerprint(self) -> dict[str, Any]:
        """What the result depends on."""
        return {
            "architecture": fingerprints.architecture(self.module),
            "variables": fingerprints.digest(gathered(self.variables)),
            "pooling": self.pooling,
            "dtype": None if self.dtype is None else self.dtype.name,
            "batch_size": self.batch_size,
            "steps": self.steps,
            "number_of_examples": self.examples,
            "inputs": fingerprints.layout(self.first.inputs),
            "targets": fingerprints.layout(self.first.targets),
            **self._precision(),
            **self._data(),
        }

    def _precision(self) -> dict[str, str]:
        precision = self.model.precision
        return {} if precision is None else {"precision": str(precision)}

    def _data(self) -> dict[str, str]:
        """Digests of the whole data where they are in memory, of a stream of what comes first."""
        if self.feed.arrays is None:
            return {"kind_of_data": "stream", "first_batch": fingerprints.digest(tuple(self.first))}
        arrays = tuple(as_batch(self.feed.arrays))
        return {"kind_of_data": "arrays", "data": fingerprints.digest(arrays)}

    def _run(self, variables: Any, inputs: Any) -> Any:
        preprocess = self.model.spec.preprocess
        how = (preprocess, *self._pooling, self.dtype, self.model.precision, self._below)
        return _forward(self.module, variables, inputs, *how)

    def _filled(self, inputs: Any) -> Any:
        inputs = beside(inputs, self.variables)
        rows = len(jax.tree.leaves(inputs)[0])
        inputs = pad_batch(inputs, self._size)[0] if rows < self._size else inputs
        if self._divided is None:
            return inputs
        return jax.tree.map(lambda x: put(x, self._divided), inputs)

    def _check_inputs(self, batch: Batch) -> None:
        check_inputs(self.model.module, self.model.variables, batch.inputs)
        check_weights(batch.weights)

    def _rows(self, number: int, batch: Batch, outputs: Any) -> list[np.ndarray]:
        rows = batch_size(batch)
        weights = batch.weights
        weights = np.ones(rows, np.float32) if weights is None else np.asarray(weights, np.float32)
        counted = weights > 0
        features = jax.tree.map(lambda x: np.asarray(x)[:rows], gathered(outputs))
        check_finite(features, f"the features of batch {number}")
        tree = {"inputs": features, "targets": batch.targets, "weights": weights}
        arrays = [np.asarray(leaf)[counted] for leaf in jax.tree.leaves(tree)]
        layouts = [(jnp.dtype(x.dtype), x.shape[1:]) for x in arrays]
        expected = [(jnp.dtype(c.dtype), c.shape) for c in self.columns]
        if structure_of(tree) != self.structure or layouts != expected:
            raise DataError(
                f"batch {number} is unlike the first: features and targets "
                f"{fingerprints.layout((tree['inputs'], tree['targets']))}, where the first has "
                + ", ".join(f"{c.dtype}{list(c.shape)}" for c in self.columns[:-1])
            )
        return arrays


def _backbone(model: Model) -> tuple[nn.Module, dict[str, Any]]:
    if not isinstance(model.module, Classifier):
        return model.module, model.variables
    parts = {name: tree["backbone"] for name, tree in model.variables.items() if "backbone" in tree}
    return model.module.backbone, parts


def _open(data: Any, size: int, steps: int | None) -> tuple[Feed, int | None]:
    """The data in its own order, and the number of its examples where it tells."""
    if isinstance(data, ArrayDataset):
        # Its own order, all of it: shuffling and leaving out are for training.
        data = ArrayDataset(data.arrays, data.batch_size, shuffle=False)
    feed = Feed(data, batch_size=size, steps_per_epoch=steps, allow_short=True, name="data")
    count = getattr(data, "num_examples", feed.num_examples)
    count = None if count is None else operator.index(count)
    # Short batches are filled up here, and cut again, without weights in between.
    feed.pad = False
    return feed, count


def _resolved(pooling: str | None, module: nn.Module) -> tuple[str | None, int]:
    """The pooling, with the backbone's own for ``"auto"``, and how many tokens it leaves out."""
    options: dict[str, Any] = getattr(module, "pooling_options", dict)()
    if pooling == "auto":
        pooling = options.get("pooling", "auto")
    # Pooling by attention has parameters, which are the head's: it gets the tokens.
    return None if pooling == "attention" else pooling, options.get("prefix_tokens", 0)


def _pooled(
    module: nn.Module,
    variables: Any,
    inputs: Any,
    preprocess: Preprocess | None,
    pooling: Any,
    prefix_tokens: int,
    dtype: Any,
    precision: PrecisionPolicy | None,
    below: str,
) -> Any:
    def finish(leaf: jax.Array) -> jax.Array:
        leaf = global_pool(leaf, pooling, prefix_tokens)
        floating = dtype is not None and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if floating else leaf

    inputs = model_inputs(preprocess, inputs)
    outputs = apply_in(precision, module, variables, inputs, below=below)
    return jax.tree.map(finish, outputs)


_forward = Jitted(_pooled, lambda module, *_: (module,), static_argnums=(0, 3, 4, 5, 6, 7, 8))
