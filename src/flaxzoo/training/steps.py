"""One compiled step for every model: ``train_step``, ``eval_step`` and ``predict_step``."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo import metrics as metrics_module
from flaxzoo._calls import apply_module
from flaxzoo.data.arrays import check_finite
from flaxzoo.errors import DataError
from flaxzoo.losses.soft import with_soft_targets
from flaxzoo.metrics import MetricCollection
from flaxzoo.training.batches import Batch, as_batch, is_host
from flaxzoo.training.modes import training_modes
from flaxzoo.training.state import TrainState, merge, split


def train_step(state: TrainState, batch: Any) -> tuple[TrainState, MetricCollection]:
    """Takes one optimizer step; compiled once per model, optimizer and batch shape.

    The batch is augmented first if the state says so. Gradients are taken for trainable
    parameters alone. BatchNorm statistics and other mutable
    collections are updated; dropout draws from ``state.rng`` folded with ``state.step``, so that
    the same state and batch always give the same result. ``state`` is left as it is and may be
    kept; ``Trainer`` donates its own to save memory.

    Args:
      state: from ``create_train_state``.
      batch: ``(inputs, targets)``, ``(inputs, targets, weight)`` or a mapping; see
        ``flaxzoo.training.batches.as_batch``. An autoencoder takes inputs alone as well.

    Returns:
      The new state, and the batch's metrics: on the device until ``.compute()``, mergeable with
      those of other batches.

    Raises:
      DataError: NaN or infinite inputs, or labels out of range; looked for in NumPy batches, not
        in device arrays, which would have to be fetched.
      ShapeError: the batch does not fit the model or the loss.
    """
    return _train_step(state, _owned(prepare(state, batch)))


def eval_step(state: TrainState, batch: Any) -> MetricCollection:
    """Computes the metrics of a batch in inference mode.

    Args and errors are those of ``train_step``.

    Returns:
      Metrics, on the device until ``.compute()``, mergeable with those of other batches.
    """
    return _eval_step(state, _owned(prepare(state, batch)))


def predict_step(state: TrainState, inputs: Any) -> Any:
    """The model's outputs for a batch of inputs, in inference mode.

    Args:
      state: from ``create_train_state``.
      inputs: any pytree of arrays that the model takes.

    Raises:
      DataError: a NumPy input is NaN or infinite.
      ShapeError: the inputs do not fit the model.
    """
    inputs = as_batch(Batch(inputs)).inputs
    if is_host(inputs):
        check_finite(inputs, "inputs")
    return _predict_step(state, inputs)


def _owned(batch: Batch) -> Batch:
    # On CPU a compiled step reads NumPy memory in place and after it has returned, and the
    # caller may fill it with the next batch meanwhile.
    if jax.default_backend() != "cpu":
        return batch
    return jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, batch)


def prepare(state: TrainState, batch: Any) -> Batch:
    """Makes a ``Batch`` that the compiled steps take, and checks it."""
    if not isinstance(state, TrainState):
        raise TypeError(
            "state must be a flaxzoo.TrainState, made by flaxzoo.create_train_state, "
            f"got {type(state).__name__}"
        )
    batch = as_batch(batch)
    if batch.targets is None:
        if not state.reconstruct:
            raise DataError("the batch has no targets: pass (inputs, targets)")
        check_values(state, with_targets(batch))
        # Targets that are the inputs follow what an augmentation makes of them.
        return batch if state.augment is not None else with_targets(batch)
    check_values(state, batch)
    return batch


def with_targets(batch: Batch) -> Batch:
    """The batch with its inputs as targets where it has none."""
    return batch if batch.targets is not None else batch._replace(targets=batch.inputs)


def check_values(state: TrainState, batch: Batch) -> None:
    """Looks at the values of a NumPy batch: finite inputs, labels in range.

    Raises:
      DataError: what is wrong, and where.
    """
    if is_host(batch.inputs):
        check_finite(batch.inputs, "inputs")
    if is_host(batch.targets) and state.loss is not None:
        state.loss.check_targets(batch.targets, output_shapes(state, batch.inputs))


def output_shapes(state: TrainState, inputs: Any) -> Any:
    """The outputs' shapes and dtypes for a batch of inputs; traced once per shape."""
    leaves, treedef = jax.tree.flatten(inputs)
    key = (state.module, treedef, tuple((x.shape, str(x.dtype)) for x in leaves))
    if key not in _OUTPUT_SHAPES:
        if len(_OUTPUT_SHAPES) >= 256:
            _OUTPUT_SHAPES.clear()
        _OUTPUT_SHAPES[key] = jax.eval_shape(
            functools.partial(apply_module, state.module, rngs=_eval_rngs(state)),
            state.variables,
            inputs,
        )
    return _OUTPUT_SHAPES[key]


_OUTPUT_SHAPES: dict[Any, Any] = {}
# A fold of the step's key that its split, for dropout, does not use.
_AUGMENT_STREAM = 2


def update(state: TrainState, batch: Batch) -> tuple[TrainState, MetricCollection]:
    """The body of ``train_step``: pure, for use under ``jit`` or ``scan``."""
    trainable, frozen = split(state.params, state.frozen)
    if not trainable:
        raise ValueError("every parameter is frozen: there is nothing to train")
    key = jax.random.fold_in(state.rng, state.step)
    if state.augment is not None:
        batch = with_targets(_augmented(state, jax.random.fold_in(key, _AUGMENT_STREAM), batch))
    objective = functools.partial(_objective, state, frozen, key)
    needs = state.optimizer.needs if state.optimizer is not None else frozenset()
    if "per_example_gradients" in needs:
        (value, aux), grads = _per_example_gradients(state, objective, trainable, batch)
    else:
        (value, aux), grads = jax.value_and_grad(objective, has_aux=True)(trainable, batch)
    outputs, values, collections = aux

    def value_fn(params: Any) -> jax.Array:
        return objective(split(params, state.frozen)[0], batch)[0]

    # The optimizer's tree is the whole one; zeros for the frozen are never computed with.
    all_grads = merge(
        grads,
        {path: _zeros_like_gradient(leaf, grads, batch, needs) for path, leaf in frozen.items()},
    )
    new_state = state.apply_gradients(
        grads=all_grads,
        value=value,
        grad=all_grads,
        value_fn=value_fn,
        **({"obj_fn": value_fn} if "obj_fn" in needs else {}),
        **_split_collections(collections),
    )
    # Metrics of labels see the class that has the largest share of a mixed example.
    labels = batch.targets.argmax(-1) if _is_soft(state, batch.targets) else batch.targets
    metrics = metrics_module.collect(
        state.metrics, outputs, labels, weights=batch.weights, loss=values
    )
    return new_state, metrics


def evaluate(state: TrainState, batch: Batch) -> MetricCollection:
    """The body of ``eval_step``: pure, for use under ``jit`` or ``scan``."""
    variables, batch = state.eval_variables, with_targets(batch)
    outputs = apply_module(state.module, variables, batch.inputs, rngs=_eval_rngs(state))
    state.loss.check(outputs, batch.targets)
    values = state.loss.values(outputs, batch.targets)
    values = values + state.loss.regularization(variables["params"])
    return metrics_module.collect(
        state.metrics, outputs, batch.targets, weights=batch.weights, loss=values
    )


def _eval_rngs(state: TrainState) -> dict[str, jax.Array]:
    # For modules that sample in inference as well; every stream falls back to "params".
    return {"params": jax.random.fold_in(state.rng, state.step)}


def _objective(
    state: TrainState, frozen: Any, key: jax.Array, trainable: Any, batch: Batch
) -> tuple[jax.Array, Any]:
    params = merge(trainable, frozen)
    collections = state.model_state
    dropout_key, other_key = jax.random.split(key)
    with training_modes(
        params, state.frozen, batch.weights, freeze_batch_norm=state.freeze_batch_norm
    ):
        outputs = apply_module(
            state.module,
            {"params": params, **collections},
            batch.inputs,
            train=True,
            # Streams that a module names itself fall back to "params".
            rngs={"dropout": dropout_key, "params": other_key},
            mutable=list(collections) or False,
        )
    if collections:
        outputs, updated = outputs
        if batch.weights is not None:
            # A batch of which nothing counts has no statistics to learn from.
            counts = (batch.weights > 0).any()
            updated = jax.tree.map(
                lambda new, old: jnp.where(counts, new, old), dict(updated), dict(collections)
            )
        collections = updated
    loss = with_soft_targets(state.loss) if _is_soft(state, batch.targets) else state.loss
    loss.check(outputs, batch.targets)
    penalty = loss.regularization(params)
    value = loss.mean(outputs, batch.targets, batch.weights) + penalty
    values = loss.values(outputs, batch.targets) + penalty
    return value, (outputs, values, collections)


def _augmented(state: TrainState, key: jax.Array, batch: Batch) -> Batch:
    result = state.augment(key, batch)
    if not isinstance(result, Batch):
        raise TypeError(
            "augment must return a Batch, as in batch._replace(inputs=...), got "
            f"{type(result).__name__}"
        )
    return result


def _is_soft(state: TrainState, targets: Any) -> bool:
    """Whether an augmentation has made shares of classes out of class labels."""
    return (
        state.augment is not None
        and state.loss.integer_labels
        and jnp.issubdtype(jnp.result_type(targets), jnp.floating)
    )


def _per_example_gradients(
    state: TrainState, objective: Any, trainable: Any, batch: Batch
) -> tuple[Any, Any]:
    if state.model_state:
        raise ValueError(
            f"optimizer {state.optimizer.name!r} needs one gradient per example, which a model "
            f"with {', '.join(state.model_state)} does not have: its examples see each other"
        )
    if batch.weights is not None:
        raise ValueError(
            f"optimizer {state.optimizer.name!r} clips one gradient per example and takes no "
            "weights; use a batch size that divides the data"
        )

    def one(trainable: Any, example: Batch) -> Any:
        return objective(trainable, jax.tree.map(lambda x: x[None], example))

    gradient = jax.value_and_grad(one, has_aux=True)
    (values, aux), grads = jax.vmap(gradient, in_axes=(None, 0))(trainable, batch)
    outputs, per_example, _ = aux
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (outputs, per_example))
    return (values.mean(), (*flat, {})), grads


def _zeros_like_gradient(leaf: Any, grads: Any, batch: Batch, needs: frozenset[str]) -> Any:
    if "per_example_gradients" in needs:
        return jnp.zeros((jax.tree.leaves(batch.inputs)[0].shape[0], *leaf.shape), leaf.dtype)
    return jnp.zeros_like(leaf)


def _split_collections(collections: Any) -> dict[str, Any]:
    if not collections:
        return {}
    rest = dict(collections)
    stats = rest.pop("batch_stats", {})
    return {"batch_stats": stats, "collections": rest}


def update_and_total(
    state: TrainState, batch: Batch, totals: MetricCollection
) -> tuple[TrainState, MetricCollection, MetricCollection]:
    """``update`` with the epoch's running metrics merged in the same dispatch."""
    state, metrics = update(state, batch)
    return state, metrics, metrics.merge(totals)


def empty_totals(state: TrainState, batch: Batch) -> MetricCollection:
    """Metrics of nothing, of the structure that the steps return for this batch."""
    shapes = jax.eval_shape(evaluate, state, batch)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _evaluate_and_total(
    state: TrainState, batch: Batch, totals: MetricCollection
) -> MetricCollection:
    return evaluate(state, batch).merge(totals)


def _predict(state: TrainState, inputs: Any) -> Any:
    return apply_module(state.module, state.eval_variables, inputs, rngs=_eval_rngs(state))


_train_step = jax.jit(update)
_eval_step = jax.jit(evaluate)
_predict_step = jax.jit(_predict)
# The Trainer owns its state, so its buffers may be reused for the next one.
fit_step = jax.jit(update_and_total, donate_argnums=(0, 2))
evaluate_and_total = jax.jit(_evaluate_and_total, donate_argnums=2)


__all__ = ["eval_step", "predict_step", "train_step"]
