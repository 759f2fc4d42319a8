"""One compiled step for every model: ``train_step``, ``eval_step`` and ``predict_step``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.training import train_state
from jax.sharding import AxisType

import flaxzoo.metrics as metrics_module
from flaxzoo._endings import ending
from flaxzoo._explain import explained
from flaxzoo._finite import all_finite
from flaxzoo._host import check_fits, check_numbers, unmasked
from flaxzoo._inputs import check_inputs
from flaxzoo._meshes import beside
from flaxzoo._programs import Jitted, cleared, once
from flaxzoo._trees import plain
from flaxzoo.data.batch import Batch, as_batch, batch_size, check_weights, is_host
from flaxzoo.errors import DataError, ShapeError
from flaxzoo.layers.auxiliary import COLLECTION, sown_logits
from flaxzoo.losses.soft import with_soft_targets
from flaxzoo.metrics import MetricCollection
from flaxzoo.precision import apply_in, widened
from flaxzoo.preprocess import model_inputs
from flaxzoo.training.loss_scaling import skipped_unless, zeros_unless
from flaxzoo.training.modes import training_modes
from flaxzoo.training.sharding import check_mesh, divided_outputs
from flaxzoo.training.state import TrainState, merge, split


@explained
def train_step(state: TrainState, batch: Any) -> tuple[TrainState, MetricCollection]:
    """Takes one optimizer step; compiled once per model, optimizer and batch shape.

    The batch is augmented first if the state says so. Gradients are taken for trainable
    parameters alone. BatchNorm statistics and other mutable
    collections are updated; dropout draws from ``state.rng`` folded with ``state.step``, so that
    the same state and batch always give the same result. ``state`` is left as it is and may be
    kept, unless it was made with ``donate=True``: then its arrays are gone.

    Args:
      state: what ``create_train_state`` or an earlier step made.
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
    batch = divisible(state, batch, whole=True)
    prepared = placed_for(state, owned(prepare(state, batch, step=step)))
    new_state, metrics, _ = step(state, prepared)
    return new_state, metrics


@explained
def eval_step(state: TrainState, batch: Any) -> MetricCollection:
    """Computes the metrics of a batch in inference mode.

    Args and errors are those of ``train_step``.

    Returns:
      Metrics, on the device until ``.compute()``, mergeable with those of other batches.
    """
    require_state(state)
    return _eval_step(state, placed_for(state, owned(prepare(state, divisible(state, batch)))))


@explained
def predict_step(state: TrainState, inputs: Any) -> Any:
    """The model's outputs for a batch of inputs, in inference mode.

    Args:
      state: what ``create_train_state`` or an earlier step made.
      inputs: any pytree of arrays that the model takes.

    Raises:
      DataError: a NumPy input is NaN or infinite.
      ShapeError: the inputs do not fit the model.
    """
    require_state(state)
    batch = as_batch(Batch(inputs))
    inputs = beside(divisible(state, batch).inputs, state.step)
    check_inputs(state.module, state.variables, inputs)
    outputs = _predict_step(state, placed_for(state, inputs))
    rows, filled = (batch_size(Batch(x)) for x in (batch.inputs, inputs))
    if rows == filled:
        return outputs
    return jax.tree.map(lambda x: x[:rows] if x.shape[:1] == (filled,) else x, outputs)


def divisible(state: TrainState, batch: Any, *, whole: bool = False) -> Any:
    """The batch, filled up with examples of weight 0 to what the state's devices divide.

    Args:
      state: the state; where it lies on one device the batch is as it was.
      batch: in any of the forms that ``train_step`` takes.
      whole: whether each device needs an example of its own.
    """
    if state.sharding is None:
        return batch
    return state.sharding.padded(as_batch(batch), whole=whole)


def placed_for(state: TrainState, batch: Any, axis: int = 0) -> Any:
    """The batch's arrays on the devices of the state; ``axis`` is that of the examples."""
    return batch if state.sharding is None else state.sharding.placed_batch(batch, axis)


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
      state: what ``create_train_state`` or an earlier step made.
      batch: a batch in any of the forms that ``train_step`` takes.
      step: the jitted training step that is to take it; its trace tells the outputs' shapes, so
        that the model is not traced for these alone.

    Raises:
      DataError: there are no targets, or values that no step should see; see ``check_values``.
      ShapeError: the batch does not fit the model or the loss.
    """
    batch = as_batch(batch)
    completed = complete(state, batch)
    shapes = None if step is None else functools.partial(_traced_shapes, step, state, completed)
    try:
        check_values(state, with_targets(batch), shapes=shapes)
    except ShapeError as error:
        raise _with_axis_of_devices(error, batch) from None
    return completed


def _with_axis_of_devices(error: ShapeError, batch: Batch) -> ShapeError:
    """The error, which names pmap's leading axis where the batch has one."""
    shapes = {np.shape(leaf)[:2] for leaf in jax.tree.leaves(batch)}
    ((count, *each),) = shapes if len(shapes) == 1 else ((0,),)
    if not each or count not in (jax.device_count(), jax.local_device_count()) or count == 1:
        return error
    first = str(error).splitlines()[0]
    return ShapeError(
        f"{first}. The batch seems to have a leading axis of devices, as jax.pmap takes it: pass "
        f"whole batches, of {count * each[0]} examples here, to a state made with devices='all'"
    )


def require_state(state: Any) -> None:
    """Refuses what is no ``TrainState``, or one whose arrays are gone."""
    if not isinstance(state, TrainState):
        hint = ""
        if isinstance(state, train_state.TrainState):
            hint = " of Flax: flaxzoo.TrainState.create(apply_fn=..., params=..., tx=...) takes"
            hint += " the same arguments"
        raise TypeError(
            "state must be a flaxzoo.TrainState, made by flaxzoo.create_train_state, "
            f"got {type(state).__name__}{hint}"
        )
    if np.ndim(state.step):
        raise ShapeError(
            f"the state's step has the shape {list(np.shape(state.step))}, as if "
            "jax_utils.replicate had given it a leading axis of devices: several devices are "
            "create_train_state(..., devices='all'), and train_step takes whole batches [B, ...]"
        )
    if state.sharding is not None:
        check_mesh(state)
    if state.loss is None or state.rng is None:
        missing = "loss" if state.loss is None else "rng"
        raise ValueError(
            f"the state has no {missing}: make it with flaxzoo.create_train_state(model, ...), or "
            "with flaxzoo.TrainState.create(apply_fn=module.apply, params=..., tx=...)"
        )
    step = state.step
    # A tracer passes for an array, but has no memory to lose.
    traced = isinstance(step, jax.core.Tracer)
    if traced and _within_pmap():
        raise TypeError(
            "the step is called within jax.pmap or jax.shard_map, where every device would train "
            "a state of its own: several devices are create_train_state(..., devices='all'), and "
            "train_step(state, batch) itself divides the batch among them"
        )
    if isinstance(step, jax.Array) and not traced and step.is_deleted():
        raise ValueError(
            "the state's arrays are gone: a step has taken them over, as donate=True and Trainer "
            "let it; use the state that the step returned"
        )


def _within_pmap() -> bool:
    """Whether each device traces what is being traced for its own part."""
    if AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types:
        return True
    if getattr(jax.config, "jax_pmap_shmap_merge", True):
        return False
    # The pmap of older JAX is no shard_map, and binds an axis, of which nothing public tells.
    from jax._src.core import get_axis_env

    return bool(get_axis_env().axis_sizes)


def complete(state: TrainState, batch: Batch) -> Batch:
    """The batch with its inputs as targets, if it has none and the model reconstructs.

    Raises:
      DataError: it has none and the model needs them.
    """
    batch = beside(batch, state.step)
    if batch.targets is not None:
        return batch
    if not state.reconstruct:
        raise DataError("the batch has no targets: pass (inputs, targets)")
    # Targets that are the inputs follow what augmentation and preprocessing make of them.
    later = state.augment is not None or _holds_pixels(state, batch.inputs)
    return batch if later else with_targets(batch)


def with_targets(batch: Batch) -> Batch:
    """The batch with its inputs as targets where it has none."""
    return batch if batch.targets is not None else batch._replace(targets=batch.inputs)


# What to do about labels that are names.
_NUMBERED = (
    "number the classes, classes, labels = np.unique(labels, return_inverse=True), or make "
    "numbers of them, labels.astype(np.int32)"
)


def check_values(
    state: TrainState,
    batch: Batch,
    *,
    like: Batch | None = None,
    shapes: Callable[[], Shapes] | None = None,
) -> None:
    """Looks at the values of a NumPy batch: finite inputs, ids, lengths and labels in range.

    Args:
      state: the state.
      batch: a batch with targets.
      like: a batch of another number of examples, for which the outputs' shapes may be known.
      shapes: finds the outputs' shapes out, should they not be known yet.

    Raises:
      DataError: what is wrong, and where.
    """
    check_inputs(
        state.module, state.variables, batch.inputs, like=None if like is None else like.inputs
    )
    check_weights(batch.weights)
    for leaf in jax.tree.leaves(batch.targets):
        # Before the model is traced, which refuses masks in words of its own.
        check_numbers(unmasked(leaf, "targets"), "targets", _NUMBERED)
    if is_host(batch.targets) and state.loss is not None:
        outputs = output_shapes(state, (like or batch).inputs, shapes).tree()
        if state.reconstruct and _holds_pixels(state, batch.targets):
            # Their values are what they may be; the step checks the shapes.
            return
        if like is not None:
            outputs = _for_examples(outputs, batch_size(batch))
        state.loss.check_targets(batch.targets, outputs)
        for leaf in jax.tree.leaves(batch.targets):
            check_fits(leaf, "targets")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes and dtypes of a tree of arrays: no data, so that a compiled step can return it.

    Attributes:
      leaves: one for each array.
      treedef: what they are the leaves of.
      ending: what the model ends in, where that is known; see ``flaxzoo._endings``.
    """

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    treedef: Any
    ending: str | None = dataclasses.field(default=None, compare=False)

    @classmethod
    def of(cls, tree: Any) -> Shapes:
        """The shapes of arrays, tracers or ``jax.ShapeDtypeStruct``."""
        leaves, treedef = jax.tree.flatten(tree)
        return cls(tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves), treedef)

    def tree(self) -> Any:
        """The tree, with ``jax.ShapeDtypeStruct`` leaves."""
        return jax.tree.unflatten(self.treedef, self.leaves)


def output_shapes(
    state: TrainState, inputs: Any, find: Callable[[], Shapes] | None = None
) -> Shapes:
    """The shapes of the outputs for a batch of inputs; computed once for a model and a shape.

    Args:
      state: the state.
      inputs: arrays or ``jax.ShapeDtypeStruct``.
      find: computes them if they are not known; by default the model is traced for it.
    """
    leaves, treedef = jax.tree.flatten(inputs)
    shapes_of = tuple((x.shape, x.dtype) for x in leaves)
    key = state.module, state.precision, treedef, shapes_of
    shapes = _known_shapes.get(key)
    if shapes is None:
        # A step that augments sees other inputs than these.
        traced = find() if find is not None and state.augment is None else None
        if len(_known_shapes) >= 256:
            _known_shapes.clear()
        shapes = traced or _traced_outputs(state, inputs)
        _known_shapes[key] = shapes
    return shapes


_known_shapes: dict[Any, Shapes] = {}
cleared(_known_shapes.clear)


def _traced_outputs(state: TrainState, inputs: Any) -> Shapes:
    jaxpr, outputs = jax.make_jaxpr(once(_predict), return_shape=True)(state, inputs)
    return dataclasses.replace(Shapes.of(outputs), ending=ending(jaxpr))


def _traced_shapes(step: Any, state: TrainState, batch: Batch) -> Shapes:
    """The outputs' shapes as a training step returns them; ``jit`` keeps the trace for the call."""
    return step.trace(state, batch).out_info[-1]


def _for_examples(outputs: Any, examples: int) -> Any:
    """The shapes of a model's outputs for another number of examples."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype) if x.shape else x, outputs
    )


# A fold of the step's key that its split, for dropout, does not use.
_AUGMENT_STREAM = 2


def update(state: TrainState, batch: Batch) -> tuple[TrainState, MetricCollection]:
    """The body of ``train_step``: pure, for use under ``jit`` or ``scan``."""
    return _update(state, batch)[:2]


def _update(state: TrainState, batch: Batch) -> tuple[TrainState, MetricCollection, Shapes]:
    """``update``, and the shapes of the model's outputs, which are data for no one."""
    batch = _preprocessed(state, batch)
    trainable, frozen = split(state.params, state.frozen)
    if not trainable:
        raise ValueError("every parameter is frozen: there is nothing to train")
    key = jax.random.fold_in(state.rng, state.step)
    if state.augment is not None:
        batch = with_targets(_augmented(state, jax.random.fold_in(key, _AUGMENT_STREAM), batch))
    objective = functools.partial(_objective, state, frozen, key)
    scale = state.loss_scale
    scaled = objective if scale is None else scale.scaled(objective)
    needs = state.optimizer.needs if state.optimizer is not None else frozenset()
    if "per_example_gradients" in needs:
        (value, aux), grads = _per_example_gradients(state, scaled, trainable, batch)
    else:
        (value, aux), grads = jax.value_and_grad(scaled, has_aux=True)(trainable, batch)
        if state.sharding is not None:
            grads = state.sharding.constrained(grads)
    outputs, values, collections = aux
    finite: Any = True
    if scale is not None:
        value, grads = scale.unscaled((value, grads))
        finite = all_finite(grads)
        grads = zeros_unless(finite, grads)

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
    if scale is not None:
        new_state = skipped_unless(finite, new_state, state)
    # Metrics of labels see the class that has the largest share of a mixed example.
    labels = batch.targets.argmax(-1) if _is_soft(state, batch.targets) else batch.targets
    metrics = metrics_module.collect(
        state.metrics, outputs, labels, weights=batch.weights, loss=values
    )
    if state.sharding is not None:
        new_state = state.sharding.constrained(new_state)
        metrics = state.sharding.everywhere(metrics)
    return new_state, metrics, Shapes.of(outputs)


def evaluate(state: TrainState, batch: Batch) -> MetricCollection:
    """The body of ``eval_step``: pure, for use under ``jit`` or ``scan``."""
    variables = state.eval_variables
    batch = _preprocessed(state, batch)
    outputs = _inferred(state, variables, batch.inputs)
    return _measure(state, variables["params"], outputs, with_targets(batch))


def _preprocessed(state: TrainState, batch: Batch) -> Batch:
    """The batch with floats in place of uint8 images, also where they are to be reconstructed."""
    inputs = model_inputs(state.preprocess, batch.inputs)
    if not state.reconstruct:
        return batch._replace(inputs=inputs)
    targets = None if batch.targets is None else model_inputs(state.preprocess, batch.targets)
    batch = batch._replace(inputs=inputs, targets=targets)
    return batch if state.augment is not None else with_targets(batch)


def _holds_pixels(state: TrainState, inputs: Any) -> bool:
    preprocess = state.preprocess
    return preprocess is not None and any(map(preprocess.takes_pixels, jax.tree.leaves(inputs)))


def _measured(state: TrainState, params: Any, outputs: Any, batch: Batch) -> MetricCollection:
    return _measure(state, params, outputs, with_targets(_preprocessed(state, batch)))


def _measure(state: TrainState, params: Any, outputs: Any, batch: Batch) -> MetricCollection:
    state.loss.check(outputs, batch.targets)
    values = state.loss.values(outputs, batch.targets) + state.loss.regularization(params)
    metrics = metrics_module.collect(
        state.metrics, outputs, batch.targets, weights=batch.weights, loss=values
    )
    return metrics if state.sharding is None else state.sharding.everywhere(metrics)


def _eval_rngs(state: TrainState) -> dict[str, jax.Array]:
    # For modules that sample in inference as well; every stream falls back to "params".
    return {"params": jax.random.fold_in(state.rng, state.step)}


def forward(state: TrainState, params: Any, key: jax.Array, batch: Batch) -> tuple[Any, Any]:
    """The network in training mode; to be called under ``jit``.

    Args:
      state: the state, for all but its parameters.
      params: nested dictionaries of all parameters.
      key: raw key, for dropout and whatever else draws.
      batch: preprocessed; the weights say what statistics are of.

    Returns:
      The outputs, and the collections that the network has changed.
    """
    dropout_key, other_key = jax.random.split(key)
    with (
        training_modes(
            params, state.frozen, batch.weights, freeze_batch_norm=state.freeze_batch_norm
        ),
        divided_outputs(state.sharding, batch_size(batch)),
    ):
        return apply_in(
            state.precision,
            state.module,
            {"params": params, **state.model_state},
            batch.inputs,
            train=True,
            # Streams that a module names itself fall back to "params".
            rngs={"dropout": dropout_key, "params": other_key},
            mutable=[*state.model_state, COLLECTION],
        )


def _objective(
    state: TrainState, frozen: Any, key: jax.Array, trainable: Any, batch: Batch
) -> tuple[jax.Array, Any]:
    params = merge(trainable, frozen)
    collections = state.model_state
    outputs, updated = forward(state, params, key, batch)
    auxiliary = sown_logits(updated.get(COLLECTION, {}))
    if state.precision is not None:
        auxiliary = widened(auxiliary)
    if collections:
        updated = {name: tree for name, tree in updated.items() if name in collections}
        updated = _without_sown(updated, collections)
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
    for logits, weight in auxiliary:
        value += weight * loss.mean(logits, batch.targets, batch.weights)
        values += weight * loss.values(logits, batch.targets)
    return value, (outputs, values, collections)


def _without_sown(updated: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The collections, those that have grown as they were: ``sow`` adds a value in every step.

    What a module sows in training is of its step, and no state: the next one would compile anew.
    """
    layouts: Any = jax.tree.structure
    return {
        name: new if layouts(plain(new)) == layouts(plain(before[name])) else before[name]
        for name, new in updated.items()
    }


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
    return step.with_options()


def empty_totals(
    state: TrainState, batch: Batch, outputs: Shapes | None = None
) -> MetricCollection:
    """Metrics of nothing, of the structure that the steps return for this batch.

    Args:
      state: the state.
      batch: arrays or ``jax.ShapeDtypeStruct``.
      outputs: the shapes of the model's outputs, if the caller knows them.
    """
    outputs = output_shapes(state, batch.inputs) if outputs is None else outputs
    shapes = jax.eval_shape(once(_measured), state, state.params, outputs.tree(), batch)
    # NumPy's: jax would dispatch one small program for each of them.
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def parts_of(state: TrainState, *_: Any) -> tuple[Any, ...]:
    """What of a state its programs belong to."""
    return state.module, state.tx, state.loss, state.metrics, state.augment


def _predict(state: TrainState, inputs: Any) -> Any:
    inputs = model_inputs(state.preprocess, inputs)
    outputs = _inferred(state, state.eval_variables, inputs)
    return outputs if state.sharding is None else state.sharding.by_rows(outputs)


def _inferred(state: TrainState, variables: Any, inputs: Any) -> Any:
    """The module's outputs in inference mode."""
    with divided_outputs(state.sharding, batch_size(Batch(inputs))):
        rngs = _eval_rngs(state)
        return apply_in(state.precision, state.module, variables, inputs, rngs=rngs)


_train_step = Jitted(_update, parts_of)
_donating_step = Jitted(_update, parts_of, donate_argnums=0)
_eval_step = Jitted(evaluate, parts_of)
_predict_step = Jitted(_predict, parts_of)


__all__ = ["eval_step", "predict_step", "train_step"]
