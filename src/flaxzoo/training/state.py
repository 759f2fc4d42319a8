"""The training state: everything a step reads and writes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.training import train_state

import flaxzoo.losses as losses_module
import flaxzoo.metrics as metrics_module
import flaxzoo.optimizers as optimizers_module
from flaxzoo._calls import apply_module
from flaxzoo._checks import check_flag, check_size, check_widths
from flaxzoo._endings import ending
from flaxzoo._explain import check_options, explained, foreign, missing_attribute
from flaxzoo._pickling import packed, unpacked
from flaxzoo._programs import cleared
from flaxzoo._random import as_key
from flaxzoo._trees import copied, flatten, unflatten
from flaxzoo._warnings import warn
from flaxzoo.augment import as_augmentation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.lowering.initialise import filled
from flaxzoo.losses.endings import twice
from flaxzoo.model import Model
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Identity
from flaxzoo.optimizers.decay_masks import check_patterns
from flaxzoo.precision import as_policy
from flaxzoo.tasks import get_task
from flaxzoo.training.freezing import FreezeSpec, frozen_paths
from flaxzoo.training.loss_scaling import LossScale, first_scale
from flaxzoo.training.param_groups import Plan, decayed_plan, plan
from flaxzoo.training.rates import check_decay, decay_factors
from flaxzoo.training.sharding import StateSharding
from flaxzoo.training.sharding_rules import check_sharding, state_sharding


class TrainState(train_state.TrainState):
    """Flax's ``TrainState`` with what every model of the zoo needs; a pytree.

    Attributes:
      step: int32 scalar, the number of updates so far, those that float16 skips included.
      params: all parameters, the frozen ones included.
      tx: the optimizer over all of ``params``; static.
      opt_state: the state of ``tx``; it holds nothing for frozen parameters.
      batch_stats: the running statistics of BatchNorm; empty for models without.
      collections: all other variable collections, such as caches.
      rng: raw ``uint32[2]`` key; a step uses it folded with ``step``.
      loss_scale: the ``LossScale`` of ``flaxzoo.training.loss_scaling`` in float16; None else.
      module: the Linen module; static.
      loss: a ``flaxzoo.losses.Loss``; static.
      metrics: ``MetricSpec`` of what ``train_step`` and ``eval_step`` compute; static.
      frozen: paths of the frozen parameters; static.
      freeze_batch_norm: whether every BatchNorm uses and keeps its running statistics; static.
      optimizer: the optimizer before freezing, as ``flaxzoo.optimizers.get`` made it; static.
      plan: the options of the optimizer, from which ``flaxzoo.transfer.refreeze`` makes it again;
        static.
      groups: how ``tx`` is divided, where something is frozen or rates differ, else None; static.
      augment: what ``train_step`` does to each batch, ``(key, Batch) -> Batch``; static.
      preprocess: the model's preprocessing, which every step does to uint8 images; static.
      reconstruct: whether targets default to the inputs; static.
      donate: whether a step may take the arrays for those of the next state; static.
      sharding: how the arrays are divided among several devices, a ``StateSharding`` of
        ``flaxzoo.training.sharding``; None on one device; static.
      precision: the ``flaxzoo.PrecisionPolicy`` of the computation, or None; static.
    """

    batch_stats: Any = struct.field(default_factory=dict)
    collections: Any = struct.field(default_factory=dict)
    rng: Any = None
    loss_scale: LossScale | None = None
    module: Any = struct.field(pytree_node=False, default=None)
    loss: Any = struct.field(pytree_node=False, default=None)
    metrics: tuple[metrics_module.MetricSpec, ...] = struct.field(pytree_node=False, default=())
    frozen: frozenset[str] = struct.field(pytree_node=False, default=frozenset())
    freeze_batch_norm: bool = struct.field(pytree_node=False, default=False)
    optimizer: Any = struct.field(pytree_node=False, default=None)
    plan: Any = struct.field(pytree_node=False, default=None)
    groups: Any = struct.field(pytree_node=False, default=None)
    augment: Any = struct.field(pytree_node=False, default=None)
    preprocess: Any = struct.field(pytree_node=False, default=None)
    reconstruct: bool = struct.field(pytree_node=False, default=False)
    donate: bool = struct.field(pytree_node=False, default=False)
    sharding: StateSharding | None = struct.field(pytree_node=False, default=None)
    precision: Any = struct.field(pytree_node=False, default=None)

    @classmethod
    def create(
        cls, *, apply_fn: Any, params: Any, tx: Any, batch_stats: Any = None, **options: Any
    ) -> Self:
        """Flax's constructor, for parameters of one's own: ``create_train_state`` of a module.

        Args:
          apply_fn: ``module.apply``, from which the steps take the module.
          params: its parameters, or all variables as ``module.init`` returns them.
          tx: an optax transformation, or a name of ``flaxzoo.optimizers``.
          batch_stats: the running statistics of its BatchNorms.
          **options: other keywords of ``create_train_state``, and fields that a subclass adds.

        Returns:
          A state with the default loss, metrics and key where ``options`` name no others.

        Raises:
          TypeError: ``apply_fn`` is no method of a Linen module.
          As ``create_train_state``.
        """
        module = getattr(apply_fn, "__self__", apply_fn)
        if not isinstance(module, nn.Module):
            raise TypeError(
                "apply_fn must be the apply of a flax.linen.Module (module.apply), which tells the "
                f"steps the module, got {apply_fn!r}"
            )
        nested = isinstance(params, Mapping) and isinstance(params.get("params"), Mapping)
        variables = dict(params) if nested else {"params": params}
        if batch_stats is not None:
            variables["batch_stats"] = batch_stats
        fields = {field.name for field in dataclasses.fields(cls)}
        fields -= {field.name for field in dataclasses.fields(TrainState)}
        added = {name: options.pop(name) for name in tuple(options) if name in fields}
        state = create_train_state(Model(module, variables), optimizer=tx, **options)
        return cls(**{f.name: getattr(state, f.name) for f in dataclasses.fields(state)}, **added)

    def __reduce__(self) -> Any:
        static = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        arrays = {
            f.name: static.pop(f.name)
            for f in dataclasses.fields(self)
            if f.metadata.get("pytree_node", True)
        }
        # What is made of the rest is made again, so that equal states share compiled steps.
        remade = _remade(self)
        kept = {k: v for k, v in static.items() if k not in remade or v is not remade[k]}
        return _restored, (type(self), packed(kept), arrays)

    def __copy__(self) -> Self:
        return self.replace()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copied(self)

    @property
    def variables(self) -> dict[str, Any]:
        """All collections, as ``module.apply`` takes them."""
        return {"params": self.params, **self.model_state}

    @property
    def model_state(self) -> dict[str, Any]:
        """The collections besides ``params``."""
        stats = {"batch_stats": self.batch_stats} if self.batch_stats else {}
        return {**stats, **self.collections}

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The collections to evaluate with: schedule-free optimizers average their iterates."""
        params = optimizers_module.eval_params(self.opt_state, self.params)
        return {"params": params, **self.model_state}

    def apply_gradients(self, *, grads: Any, **kwargs: Any) -> TrainState:
        """Updates ``params``, ``opt_state`` and ``step``; frozen parameters stay bitwise as is.

        Args:
          grads: gradients for all of ``params``; those of frozen ones are not looked at.
          **kwargs: ``value``, ``value_fn`` and the like go to optimizers that use them; the rest
            replaces fields of the state.
        """
        extra = {k: kwargs.pop(k) for k in ("value", "grad", "value_fn", "obj_fn") if k in kwargs}
        tx = optax.with_extra_args_support(self.tx)
        updates, opt_state = tx.update(grads, self.opt_state, self.params, **extra)
        trained, _ = split(optax.apply_updates(self.params, updates), self.frozen)
        _, kept = split(self.params, self.frozen)
        params = merge(trained, kept)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state, **kwargs)

    if not TYPE_CHECKING:
        __getattr__ = missing_attribute


def _remade(state: Any) -> dict[str, Any]:
    """The static fields that follow from the others."""
    fields = {"apply_fn": _apply_fn(state.module)} if state.module is not None else {}
    if state.groups is not None:
        return fields | {"tx": state.groups.tx, "optimizer": state.groups.optimizer}
    return fields if state.plan is None else fields | dict.fromkeys(_WHOLE, state.plan.whole())


_WHOLE = ("tx", "optimizer")


def _restored(cls: type[TrainState], data: bytes, arrays: dict[str, Any]) -> TrainState:
    kept = unpacked(data)
    parts = {name: kept.get(name) for name in ("module", "plan", "groups")}
    state = cls(**{**_remade(SimpleNamespace(**parts)), **kept, **arrays})
    return state if state.sharding is None else state.sharding.placed(state)


def split(
    params: Mapping[str, Any], frozen: frozenset[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat dictionaries of the parameters that train and of those that do not."""
    flat = flatten(params)
    return (
        {path: leaf for path, leaf in flat.items() if path not in frozen},
        {path: leaf for path, leaf in flat.items() if path in frozen},
    )


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``split``."""
    return unflatten({**trainable, **frozen})


@explained
def create_train_state(
    model: Model | nn.Module,
    *,
    optimizer: Any = "adam",
    learning_rate: Any = None,
    loss: Any = None,
    metrics: Any = None,
    freeze: FreezeSpec = None,
    freeze_until: int | str | None = None,
    freeze_batch_norm: bool = False,
    layer_decay: float | None = None,
    augment: Any = None,
    rng: Any = 0,
    inputs: Any = None,
    input_shape: Sequence[int] | None = None,
    total_steps: int | None = None,
    donate: bool = False,
    devices: Any = None,
    sharding: Any = "replicated",
    precision: Any = None,
    **optimizer_options: Any,
) -> TrainState:
    """Everything ``train_step`` needs, from names.

    Args:
      model: a ``flaxzoo.Model``, initialised here if it has no variables, or a Linen module.
      optimizer: a name of ``flaxzoo.optimizers``, or any optax transformation.
      learning_rate: a float, a schedule, or a schedule's name; by default the optimizer's own
        (``flaxzoo.optimizers.default_learning_rate``). A mapping from patterns, such as
        ``{"*": 1e-4, "head": 1e-3}``, gives each group its own; see
        ``flaxzoo.transfer.group_rates``.
      loss: a name of ``flaxzoo.losses``, a ``Loss``, or a function of predictions and targets. By
        default cross-entropy of integer labels for classifiers, the mean squared error for
        autoencoders.
      metrics: names of ``flaxzoo.metrics`` or functions of outputs and targets, or a clu
        ``Collection``; by default accuracy for classifiers with the default loss, none otherwise.
        The loss is always there.
      freeze: what not to train: a group such as ``"backbone"``, globs, or a predicate over paths;
        see ``flaxzoo.transfer.matching_paths``.
      freeze_until: a stage, by name or position, before which nothing trains; it adds to
        ``freeze``. See ``flaxzoo.transfer.slice_model`` for stages.
      freeze_batch_norm: whether every BatchNorm normalises by its running statistics and leaves
        them as they are; their scales and biases train unless ``freeze`` has them.
      layer_decay: factor from the learning rate of a stage to that of the one before it; the
        head has ``learning_rate``. See ``flaxzoo.transfer.layer_decay_rates``.
      augment: what ``train_step`` does to each batch, on the device: a name of
        ``flaxzoo.augment``, an ``Augmentation``, several of them, or a hashable function
        ``(key, Batch) -> Batch``; the key depends on ``rng`` and the step alone.
      rng: an int seed or a key, for the initialisation, dropout and augmentation.
      inputs: a batch of inputs to initialise with, for models whose input shape is not known.
      input_shape: the shape of one example, without the batch, instead of ``inputs``.
      total_steps: length of training in steps, for schedules that end.
      donate: whether ``train_step`` and ``train_steps`` write each new state over the one that
        they are given, which is then of no more use: this saves the memory of a second state.
        The model's own arrays are copied and stay.
      devices: the devices that train: None for the default one, ``"all"``, a number of them, or a
        ``jax.sharding.Mesh`` with an axis ``"data"``. Steps divide each batch among them, and give
        the numbers of one device. See ``docs/distributed.md``.
      sharding: how the devices divide parameters and all that belongs to them: ``"replicated"``
        (each has all of them), ``"fsdp"`` (each has its part of the large ones), or rules, patterns
        to either word or to axes of the mesh; see ``docs/distributed.md``.
      precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``, in which the model computes while
        its parameters stay as they are; a mapping from patterns over modules to these words; or a
        ``flaxzoo.PrecisionPolicy``. By default the model's own.
      **optimizer_options: ``clip_norm``, ``weight_decay``, ``accumulate_steps`` and what the
        optimizer takes itself.

    Returns:
      A ``TrainState``.

    Raises:
      UnknownNameError: (a KeyError) a name is not registered, ``freeze`` matches nothing, or what
        trains has no learning rate.
      UnknownArgumentError: (a TypeError) an option that neither this function nor the optimizer
        takes.
      ShapeError: the input shape is not known and neither ``inputs`` nor ``input_shape`` is given.
      ValueError: the model returns features and no ``loss`` says what to do with them.
    """
    model = in_precision(as_model(model), precision)
    check_optimizer_options(create_train_state, optimizer, optimizer_options)
    check_size("total_steps", total_steps, optional=True)
    check_flag("donate", donate)
    check_flag("freeze_batch_norm", freeze_batch_norm or False)
    inputs = _sample(model, inputs, input_shape)
    key = as_key(rng)
    init_key, step_key = jax.random.split(key)
    divided = _sharding(model, inputs, devices, sharding)
    places = None if divided is None else divided.of
    if model.variables is None:
        model = model._init(init_key, inputs, places)
    elif divided is not None:
        model = model.with_variables(divided.placed(model.variables))
    variables = dict(model.variables)
    params = variables.pop("params")
    task = get_task(model.spec.task)
    # Of a module of one's own nothing is known: its outputs may well be logits.
    bare = not task.predicts and model.spec.config is not None
    headless = isinstance(getattr(model.module, "head", None), Identity)
    if loss is None and (headless or bare):
        raise ValueError(
            f"model {model.spec.name!r} returns features, which are no predictions: give it a "
            "head (num_classes=, or model.replace_head), or name a loss that takes features"
        )
    if metrics is None:
        metrics = task.metrics if loss is None else ()
    options = _planned(
        model.module, params, optimizer, learning_rate, layer_decay, total_steps, optimizer_options
    )
    frozen = frozen_paths(model.module, params, freeze, freeze_until)
    if callable(freeze) and freeze_until is None and not frozen:
        raise ValueError(
            "freeze: the predicate chose none of the parameters, which have paths such as "
            + ", ".join(itertools.islice(flatten(params), 3))
        )
    by_groups = bool(frozen) or options.rates is not None
    groups = options.build(tuple(flatten(params)), frozen) if by_groups else None
    tx, built = (groups.tx, groups.optimizer) if groups else (options.whole(),) * 2
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        apply_fn=_apply_fn(model.module),
        params=params,
        tx=tx,
        opt_state=_opt_state(tx, params, places),
        batch_stats=variables.pop("batch_stats", {}),
        collections=variables,
        rng=step_key,
        loss_scale=first_scale(model.precision),
        module=model.module,
        loss=losses_module.as_loss(task.loss if loss is None else loss),
        metrics=metrics_module.each_metric(metrics),
        frozen=frozen,
        freeze_batch_norm=bool(freeze_batch_norm),
        optimizer=built,
        plan=options,
        groups=groups,
        augment=_as_augmentation(augment, model),
        preprocess=model.spec.preprocess,
        reconstruct=task.reconstructs,
        donate=bool(donate),
        sharding=divided,
        precision=model.precision,
    )
    if divided is not None:
        state = divided.placed(state)
    _warn_of_ending(state, model, inputs)
    # Else the model, and an optimizer that starts from the parameters, would lose theirs.
    return copied(state) if donate else state


def with_schedule(
    state: TrainState, settings: Mapping[str, Any], *, total_steps: int, start: int
) -> TrainState:
    """The state with its schedules, by name, begun anew or of another length.

    The optimizer's moments, counts and averages stay as they are.

    Args:
      state: what ``create_train_state`` made of the settings, perhaps refrozen since.
      settings: options of ``create_train_state``; those of the optimizer are looked at.
      total_steps: length of the schedules in steps.
      start: step at which they begin.
    """
    options = {key: value for key, value in settings.items() if key not in _NOT_OF_THE_OPTIMIZER}
    optimizer, rate, decay = (
        options.pop(key, None) for key in ("optimizer", "learning_rate", "layer_decay")
    )
    options["schedule_start"] = start
    new = _planned(
        state.module, state.params, optimizer or "adam", rate, decay, total_steps, options
    )
    if state.groups is None:
        optimizer = new.whole()
        return state.replace(plan=new, tx=optimizer, optimizer=optimizer)
    groups = new.build(state.groups.paths, state.groups.frozen, state.groups.cohorts)
    return state.replace(plan=new, groups=groups, tx=groups.tx, optimizer=groups.optimizer)


def _warn_of_ending(state: TrainState, model: Model, inputs: Any) -> None:
    """Warns of a module of one's own that ends in what its loss does itself."""
    parts = [getattr(model.module, name, model.module) for name in ("backbone", "head")]
    if all(type(part).__module__.startswith("flaxzoo.") for part in (model.module, *parts)):
        return
    sample = model.spec.sample() if inputs is None and model.spec.input_shape else inputs
    if sample is None:
        return
    # What does not fit is told by the step.
    said = ""
    with contextlib.suppress(Exception):
        apply = functools.partial(apply_module, state.module, rngs={"params": state.rng})
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), sample)
        said = twice(state.loss, ending(jax.make_jaxpr(apply)(state.eval_variables, shapes)))
    if said:
        warn(said)


def _sharding(model: Model, inputs: Any, devices: Any, sharding: Any) -> StateSharding | None:
    """How a model's state is divided; nothing is traced where there is one device."""
    check_sharding(devices, sharding)
    if devices is None:
        return None
    return state_sharding(devices, sharding, model.module, model.shapes(inputs)["params"])


def _opt_state(tx: optax.GradientTransformation, params: Any, places: Any) -> Any:
    try:
        return filled(tx.init, params, places=places)
    except ValueError as error:
        if "FrozenDict" not in str(error):
            raise
        raise ArgumentError(
            "optimizer: a mask or labels inside it are a FrozenDict, and the parameters a dict: "
            "pass flax.core.unfreeze(...) of them"
        ) from error


_NOT_OF_THE_OPTIMIZER = frozenset(
    {
        "loss",
        "metrics",
        "freeze",
        "freeze_until",
        "freeze_batch_norm",
        "augment",
        "devices",
        "sharding",
        "precision",
    }
)


def _planned(
    module: nn.Module,
    params: Mapping[str, Any],
    optimizer: Any,
    learning_rate: Any,
    layer_decay: float | None,
    total_steps: int | None,
    options: Mapping[str, Any],
) -> Plan:
    """The plan of an optimizer for a model's parameters."""
    options = dict(options)
    if total_steps is not None:
        options["total_steps"] = total_steps
    check_patterns(options.get("weight_decay_mask"), flatten(params))
    skipped = _undecayed(module)
    if skipped and not isinstance(optimizer, optax.GradientTransformation | optax.MultiSteps):
        options.setdefault("weight_decay_mask", skipped)
    factors = None if layer_decay is None else decay_factors(module, params, layer_decay)
    return _plan(optimizer, learning_rate, factors, options)


def check_optimizer_options(
    function: Callable[..., Any], optimizer: Any, options: Iterable[str]
) -> None:
    """Refuses options that neither a function takes nor the optimizer that it hands them on to.

    Raises:
      UnknownNameError: (a KeyError) no optimizer has that name.
      UnknownArgumentError: (a TypeError) there are others; it lists the function's own first.
    """
    takes = optimizers_module.option_names(optimizer)
    whose = "a built GradientTransformation, whose other options are inside it,"
    if isinstance(optimizer, str):
        whose = f"optimizer {optimizer!r}"
    check_options(function, options, takes, whose)


def _sample(model: Model, inputs: Any, input_shape: Sequence[int] | None) -> Any:
    """What to initialise with: ``inputs``, or inputs of a shape, in the model's dtype."""
    if input_shape is None:
        return inputs
    if inputs is not None:
        raise ArgumentError("inputs and input_shape say the same: give one of the two")
    check_widths("input_shape", input_shape)
    return jax.ShapeDtypeStruct((1, *input_shape), jnp.dtype(model.spec.input_dtype))


def _undecayed(module: nn.Module) -> tuple[str, ...]:
    """Patterns that take what the model's backbone says out of weight decay."""
    prefix = "backbone/" if isinstance(module, Classifier) else ""
    backbone: Any = getattr(module, "backbone", module)
    globs: tuple[str, ...] = getattr(backbone, "no_weight_decay", tuple)()
    return tuple(f"!{prefix}{glob}" for glob in globs)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Looks up the names of a trainer's settings, so that a typing error shows at once.

    Raises:
      UnknownNameError: (a KeyError) a name is not registered.
      UnknownArgumentError: (a TypeError) an option that the optimizer does not take.
    """
    options = {key: value for key, value in settings.items() if value is not None}
    check_flag("freeze_batch_norm", options.pop("freeze_batch_norm", False))
    check_sharding(options.pop("devices", None), options.pop("sharding", "replicated"))
    as_policy(options.pop("precision", None))
    for key in ("freeze", "freeze_until"):
        options.pop(key, None)
    if "augment" in options:
        as_augmentation(options.pop("augment"))
    if "loss" in options:
        losses_module.as_loss(options.pop("loss"))
    metrics_module.each_metric(options.pop("metrics", ()))
    optimizer, rate = options.pop("optimizer", "adam"), options.pop("learning_rate", None)
    # Any length will do: what is built here is thrown away.
    if any(isinstance(one, str) for one in each_rate(rate)):
        options["total_steps"] = 10**9
    decay = options.pop("layer_decay", None)
    factors = None if decay is None else {"*": check_decay(decay)}
    _plan(optimizer, rate, factors, options).check()


def _plan(
    optimizer: Any, rate: Any, factors: Mapping[str, float] | None, options: Mapping[str, Any]
) -> Plan:
    if factors is None:
        return plan(optimizer, rate, options)
    return decayed_plan(optimizer, rate, factors, options)


def each_rate(learning_rate: Any) -> tuple[Any, ...]:
    """The learning rates in what may be one or a mapping to several."""
    if isinstance(learning_rate, Mapping):
        return tuple(learning_rate.values())
    return (learning_rate,)


def as_model(model: Any) -> Model:
    """A ``Model`` from a ``Model`` or a Linen module.

    Raises:
      TypeError: ``model`` is neither.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, nn.Module):
        return Model(model)
    got, hint = repr(model), ""
    if isinstance(model, str):
        hint = f"; get one with flaxzoo.models.get({model!r})"
    elif isinstance(model, type):
        hint = f": call it first, {model.__name__}(...)"
    elif isinstance(model, jax.Array | np.ndarray):
        got = f"an array of shape {model.shape}"
        hint = "; the model comes first, and a key is rng=key"
    elif foreign(model) is not None:
        got = f"{type(model).__name__}, a model of {foreign(model)}"
    raise TypeError(f"model must be a flaxzoo.Model or a flax.linen.Module, got {got}{hint}")


def in_precision(model: Model, precision: Any) -> Model:
    """The model with another precision, or as it is for None."""
    return model if precision is None else model.with_precision(precision)


def _as_augmentation(augment: Any, model: Model) -> Any:
    if augment is None:
        return None
    classes = getattr(getattr(model.module, "head", model.module), "num_classes", None)
    return as_augmentation(augment, preprocess=model.spec.preprocess, num_classes=classes)


@functools.lru_cache(maxsize=64)
def _apply_fn(module: nn.Module) -> Callable[..., Any]:
    # Bound methods compare by identity of their object: one per equal module lets compiled
    # steps be shared between states.
    return module.apply


cleared(_apply_fn.cache_clear)
