"""One compiled step for every model: ``train_step``, ``eval_step`` and ``predict_step``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo import metrics as metrics_module
from flaxzoo._calls import apply_module
from flaxzoo.data.arrays import check_finite
from flaxzoo.data.batch import Batch, as_batch, batch_size, is_host
from flaxzoo.errors import DataError
from flaxzoo.losses.soft import with_soft_targets
from flaxzoo.metrics import MetricCollection
from flaxzoo.training.modes import training_modes
from flaxzoo.training.packed import Flat, Packed
from flaxzoo.training.state import TrainState, merge, split


def train_step(state: TrainState, batch: Any) -> tuple[TrainState, MetricCollection]:
    """Takes one optimizer step; compiled once per model, optimizer and batch shape.

    The batch is augmented first if the state says so. Gradients are taken for trainable
    parameters alone. BatchNorm statistics and other mutable
    collections are updated; dropout draws from ``state.rng`` folded with ``state.step``, so that
    the same state and batch always give the same result. ``state`` is left as it is and may be
    kept, unless it was made with ``donate=True``: then its arrays are gone.

    Args:
      state: from ``create_train_state``.
      batch: ``(inputs, targets)``, ``(inputs, targets, weight)`` or a mapping; see
        ``flaxzoo.data.batch.as_batch``. An autoencoder takes inputs alone as well.

    Returns:
      The new state, and the batch's metrics: on the device until ``.compute()``, mergeable with
      those of other batches.

    Raises:
      DataError: NaN or infinite inputs, or labels out of range; looked for in NumPy batches, not
        in device arrays, which would have to be fetched.
      ShapeError: the batch does not fit the model or the loss.
      ValueError: the state was donated to an earlier step.
    """
    require_state(state)
    step = as_configured(_donating_step) if state.donate else _train_step
    return step(state, owned(prepare(state, batch, step=step)))


def eval_step(state: TrainState, batch: Any) -> MetricCollection:
    """Computes the metrics of a batch in inference mode.

    Args and errors are those of ``train_step``.

    Returns:
      Metrics, on the device until ``.compute()``, mergeable with those of other batches.
    """
    require_state(state)
    return _eval_step(state, owned(prepare(state, batch)))


def predict_step(state: TrainState, inputs: Any) -> Any:
    """The model's outputs for a batch of inputs, in inference mode.

    Args:
      state: from ``create_train_state``.
      inputs: any pytree of arrays that the model takes.

    Raises:
      DataError: a NumPy input is NaN or infinite.
      ShapeError: the inputs do not fit the model.
    """
    require_state(state)
    inputs = as_batch(Batch(inputs)).inputs
    if is_host(inputs):
        check_finite(inputs, "inputs")
    return _predict_step(state, inputs)


def owned(batch: Batch) -> Batch:
    """The batch in memory of its own, where the caller's may change under a running step.

    On CPU a compiled step reads NumPy memory in place and after it has returned, and the caller
    may fill it with the next batch meanwhile.
    """
    if jax.default_backend() != "cpu":
        return batch
    return jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, batch)


def prepare(state: TrainState, batch: Any, *, step: Any = None) -> Batch:
    """Makes a ``Batch`` that the compiled steps take, and checks it.

    Args:
      state: from ``create_train_state``.
      batch: see ``train_step``.
      step: the jitted training step that is to take it; its trace tells the outputs' shapes, so
        that the model is not traced for these alone.
    """
    batch = as_batch(batch)
    completed = complete(state, batch)
    trace = None if step is None else functools.partial(step.trace, state, completed)
    check_values(state, with_targets(batch), trace=trace)
    return completed


def require_state(state: Any) -> None:
    """Refuses what is no ``TrainState``, or one whose arrays are gone."""
    if not isinstance(state, TrainState):
        raise TypeError(
            "state must be a flaxzoo.TrainState, made by flaxzoo.create_train_state, "
            f"got {type(state).__name__}"
        )
    step = state.step
    # A tracer passes for an array, but has no memory to lose.
    traced = isinstance(step, jax.core.Tracer)
    if isinstance(step, jax.Array) and not traced and step.is_deleted():
        raise ValueError(
            "the state's arrays are gone: a step has taken them over, as donate=True and Trainer "
            "let it; use the state that the step returned"
        )


def complete(state: TrainState, batch: Batch) -> Batch:
    """The batch with its inputs as targets, if it has none and the model reconstructs.

    Raises:
      DataError: it has none and the model needs them.
    """
    if batch.targets is not None:
        return batch
    if not state.reconstruct:
        raise DataError("the batch has no targets: pass (inputs, targets)")
    # Targets that are the inputs follow what an augmentation makes of them.
    return batch if state.augment is not None else with_targets(batch)


def with_targets(batch: Batch) -> Batch:
    """The batch with its inputs as targets where it has none."""
    return batch if batch.targets is not None else batch._replace(targets=batch.inputs)


def check_values(
    state: TrainState,
    batch: Batch,
    *,
    like: Batch | None = None,
    trace: Callable[[], Any] | None = None,
) -> None:
    """Looks at the values of a NumPy batch: finite inputs, labels in range.

    Args:
      state: the state.
      batch: with targets.
      like: a batch of another number of examples, for which the outputs' shapes may be known.
      trace: traces the step that will take the batch.

    Raises:
      DataError: what is wrong, and where.
    """
    if is_host(batch.inputs):
        check_finite(batch.inputs, "inputs")
    if is_host(batch.targets) and state.loss is not None:
        outputs = output_shapes(state, (like or batch).inputs, trace=trace)
        if like is not None:
            outputs = _for_examples(outputs, batch_size(batch))
        state.loss.check_targets(batch.targets, outputs)


def output_shapes(state: TrainState, inputs: Any, *, trace: Callable[[], Any] | None = None) -> Any:
    """The outputs' shapes and dtypes for a batch of inputs; traced once per shape.

    Args:
      state: the state.
      inputs: arrays, tracers or ``jax.ShapeDtypeStruct``.
      trace: traces a step on such inputs, which saves another trace of the model.
    """
    key = _shapes_key(state, inputs)
    if key not in _OUTPUT_SHAPES and trace is not None:
        trace()
    # A step that has been traced before is not again, and one that augments sees other inputs.
    if key not in _OUTPUT_SHAPES:
        outputs = jax.eval_shape(
            lambda state, inputs: apply_module(
                state.module, state.variables, inputs, rngs=_eval_rngs(state)
            ),
            state,
            inputs,
        )
        _remember(key, outputs)
    return _OUTPUT_SHAPES[key]


def _remember(key: Any, outputs: Any) -> None:
    if len(_OUTPUT_SHAPES) >= 256:
        _OUTPUT_SHAPES.clear()
    _OUTPUT_SHAPES[key] = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), outputs)


def _shapes_key(state: TrainState, inputs: Any) -> Any:
    leaves, treedef = jax.tree.flatten(inputs)
    return state.module, treedef, tuple((x.shape, x.dtype) for x in leaves)


def _for_examples(outputs: Any, examples: int) -> Any:
    """The shapes of a model's outputs for another number of examples."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype) if x.shape else x, outputs
    )


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
    variables = state.eval_variables
    outputs = apply_module(state.module, variables, batch.inputs, rngs=_eval_rngs(state))
    return _measure(state, variables["params"], outputs, with_targets(batch))


def _measure(state: TrainState, params: Any, outputs: Any, batch: Batch) -> MetricCollection:
    state.loss.check(outputs, batch.targets)
    values = state.loss.values(outputs, batch.targets) + state.loss.regularization(params)
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
    _remember(_shapes_key(state, batch.inputs), outputs)
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


def as_configured(step: Any) -> Any:
    """A donating step, or inside ``flaxzoo.debug.nans`` one that keeps what it is given.

    What gives a NaN there is run again on the same arguments. jax itself stops donating only in
    functions that it has not traced before.
    """
    config: Any = jax.config
    debugging = config.jax_debug_nans or config.jax_debug_infs
    return _keeping(step) if debugging else step


@functools.cache
def _keeping(step: Any) -> Any:
    return jax.jit(step.__wrapped__)


def empty_totals(state: TrainState, batch: Batch) -> MetricCollection:
    """Metrics of nothing, of the structure that the steps return for this batch."""
    outputs = output_shapes(state, batch.inputs)
    shapes = jax.eval_shape(_measure, state, state.params, outputs, with_targets(batch))
    # NumPy's: jax would dispatch one small program for each of them.
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def _fit_step(state: Flat, batch: Batch, totals: Packed) -> tuple[Flat, Packed, Packed]:
    new_state, metrics = update(state.tree(), batch)
    new_totals = Packed.of(metrics.merge(totals.tree()), totals)
    return Flat.of(new_state, state.treedef), Packed.of(metrics, totals), new_totals


def _evaluate_and_total(state: Flat, batch: Batch, totals: Packed) -> Packed:
    return Packed.of(evaluate(state.tree(), batch).merge(totals.tree()), totals)


def _predict(state: TrainState, inputs: Any) -> Any:
    return apply_module(state.module, state.eval_variables, inputs, rngs=_eval_rngs(state))


_train_step = jax.jit(update)
_donating_step = jax.jit(update, donate_argnums=0)
_eval_step = jax.jit(evaluate)
_predict_step = jax.jit(_predict)
# The Trainer owns its state, so its buffers may be reused for the next one.
fit_step = jax.jit(_fit_step, donate_argnums=(0, 2))
evaluate_and_total = jax.jit(_evaluate_and_total, donate_argnums=2)


__all__ = ["eval_step", "predict_step", "train_step"]
