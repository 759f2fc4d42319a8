"""The ``Optimizer`` class, and what carries its arguments through masks and accumulation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.core import FrozenDict

from flaxzoo._explain import explained
from flaxzoo._trees import Thawed
from flaxzoo.errors import ShapeError, UnknownArgumentError
from flaxzoo.optimizers.averaging import AverageState

NEEDS = frozenset({"value", "value_fn", "obj_fn", "per_example_gradients"})

_MEANING = {
    "value": "value=loss, the scalar loss of the batch",
    "value_fn": "value_fn=fn, a function from parameters to the loss of the same batch",
    "obj_fn": "obj_fn=fn (or value_fn=fn), a function from parameters to the loss of the batch",
}


class Optimizer(optax.GradientTransformationExtraArgs):
    """An optax gradient transformation that says what it is and what its update needs.

    It is a pair ``(init, update)`` like every optax transformation, so that it works wherever
    optax takes one. ``update(grads, state, params, value=..., value_fn=...)`` ignores the extra
    arguments that the optimizer has no use for.

    Attributes:
      name: registered name, or the name of the user's own factory.
      config: keywords for ``optimizers.from_config``, fit for JSON; None if the optimizer was
        made from objects (callables, arrays) that JSON cannot hold.
      learning_rate: schedule from the number of an update to the learning rate, or None where
        it is not known (a transformation that the user built).
      accumulate_steps: calls of ``update`` per change of the parameters.
      needs: what ``update`` must be given besides gradients and parameters, among ``"value"``,
        ``"value_fn"``, ``"obj_fn"`` and ``"per_example_gradients"`` (gradients with a leading
        batch axis).
    """

    name: str
    config: dict[str, Any] | None
    learning_rate: Callable[[Any], Any] | None
    accumulate_steps: int
    needs: frozenset[str]

    def __new__(
        cls,
        init: Callable[..., Any],
        update: Callable[..., Any],
        *,
        name: str = "custom",
        config: dict[str, Any] | None = None,
        learning_rate: Callable[[Any], Any] | None = None,
        accumulate_steps: int = 1,
        needs: Iterable[str] = (),
    ) -> Optimizer:
        """Joins a pair of functions; the attributes are described on the class."""
        self = super().__new__(cls, init, update)
        self.name = name
        self.config = config
        self.learning_rate = learning_rate
        self.accumulate_steps = accumulate_steps
        self.needs = frozenset(needs)
        return self

    def __repr__(self) -> str:
        options = {k: v for k, v in (self.config or {}).items() if k != "name"}
        text = ", ".join(f"{k}={v!r}" for k, v in options.items()) or "..."
        return f"<optimizer {self.name}({text})>"


def is_masked(node: Any) -> bool:
    """Whether ``node`` stands for parameters that a mask took out."""
    return isinstance(node, optax.MaskedNode)


def fill_masked(tree: Any, full: Any) -> Any:
    """``tree`` with every ``optax.MaskedNode`` replaced by what ``full`` has in its place.

    Args:
      tree: parameters as an optimizer under ``optax.masked`` or ``optax.multi_transform`` sees
        them.
      full: parameters of the whole model.

    Returns:
      Parameters of the whole model, those that ``tree`` holds taken from it.
    """
    return jax.tree.map(
        lambda mine, whole: whole if is_masked(mine) else mine, tree, full, is_leaf=is_masked
    )


def _mask_like(tree: Any, like: Any) -> Any:
    """``tree`` without what ``like`` has masked out."""
    return jax.tree.map(
        lambda mine, whole: mine if is_masked(mine) else whole, like, tree, is_leaf=is_masked
    )


def _over_full(fn: Callable[..., Any], params: Any) -> Callable[..., Any]:
    # functools.wraps keeps the signature: optax's line searches read further arguments from it.
    @functools.wraps(fn)
    def filled(tree: Any, *args: Any, **kwargs: Any) -> Any:
        return fn(fill_masked(tree, params), *args, **kwargs)

    return filled


def call_update(
    tx: optax.GradientTransformation,
    *,
    name: str,
    needs: frozenset[str],
    strict: bool,
) -> Callable[..., Any]:
    """An update function for ``tx`` that checks and completes its extra arguments.

    * An argument that ``needs`` lists and the caller left out is an error that says what it is;
      ``obj_fn`` and ``value_fn`` stand in for each other, ``grad`` defaults to the gradients.
    * The functions see whole parameters even where the optimizer sits under a mask.

    Args:
      tx: the transformation.
      name: what messages call it.
      needs: see ``Optimizer.needs``.
      strict: drop ``obj_fn`` unless it is needed, because line searches refuse it.
    """
    inner = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        for wanted, other in (("value_fn", "obj_fn"), ("obj_fn", "value_fn")):
            if wanted in needs and extra.get(wanted) is None and extra.get(other) is not None:
                extra[wanted] = extra[other]
        if strict and "obj_fn" not in needs:
            extra.pop("obj_fn", None)
        for key, meaning in _MEANING.items():
            if key in needs and extra.get(key) is None:
                raise UnknownArgumentError(
                    f"optimizer {name!r} needs more than gradients: call update(grads, state, "
                    f"params, ...) with {meaning}. flaxzoo.train_step does so."
                )
        if "per_example_gradients" in needs and params is not None:
            _check_per_example(name, updates, params)
        if "value_fn" in needs:
            extra.setdefault("grad", updates)
        if extra.get("grad") is not None:
            extra["grad"] = _mask_like(extra["grad"], updates)
        for key in ("value_fn", "obj_fn"):
            if extra.get(key) is not None and params is not None:
                extra[key] = _over_full(extra[key], params)
        return inner.update(updates, state, params, **extra)

    return update


def _check_per_example(name: str, updates: Any, params: Any) -> None:
    for got, param in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        if got.ndim != param.ndim + 1 or got.shape[1:] != param.shape:
            raise ShapeError(
                f"grads: optimizer {name!r} takes one gradient per example, of shape "
                f"[batch, {', '.join(map(str, param.shape))}], got {list(got.shape)}; "
                "jax.vmap(jax.grad(loss), in_axes=(None, 0)) gives them"
            )


def _mean_over_examples(updates: Any, _: Any) -> Any:
    return jax.tree.map(lambda g: g.mean(axis=0), updates)


def accumulate(
    tx: optax.GradientTransformation, steps: int, *, mean_value: bool
) -> optax.GradientTransformationExtraArgs:
    """Averages the gradients of ``steps`` calls and updates on the last of them.

    The state is ``optax.MultiStepsState``. Two things differ from ``optax.MultiSteps``: the
    wrapped optimizer runs only where it updates, rather than at every call with its result
    thrown away, and ``value`` is averaged like the gradients.

    Args:
      tx: what to run on the averaged gradients.
      steps: calls per update, at least 1.
      mean_value: pass on the mean of ``value`` rather than the last one. A line search takes
        the last one, because ``value_fn`` computes the loss of the last batch.
    """
    inner = optax.with_extra_args_support(tx)

    def zeros(tree: Any) -> Any:
        # Sums in half precision would lose the small gradients.
        return jax.tree.map(
            lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), tree
        )

    def init(params: Any) -> optax.MultiStepsState:
        return optax.MultiStepsState(
            mini_step=jnp.zeros([], jnp.int32),
            gradient_step=jnp.zeros([], jnp.int32),
            inner_opt_state=inner.init(params),
            acc_grads=zeros(params),
            skip_state=jnp.zeros([], jnp.float32),
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        share = 1.0 / (state.mini_step + 1)
        mean = jax.tree.map(lambda m, g: m + (g - m) * share, state.acc_grads, updates)
        value = state.skip_state
        if mean_value and extra.get("value") is not None:
            value = value + (jnp.asarray(extra["value"], jnp.float32) - value) * share
            extra["value"] = value

        def run(_: None) -> tuple[Any, Any]:
            grads = jax.tree.map(lambda m, g: m.astype(g.dtype), mean, updates)
            new, inner_state = inner.update(grads, state.inner_opt_state, params, **extra)
            return new, jax.tree.map(
                lambda a, b: jnp.asarray(a).astype(b.dtype), inner_state, state.inner_opt_state
            )

        shapes, _ = jax.eval_shape(run, None)

        def hold(_: None) -> tuple[Any, Any]:
            nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            return nothing, state.inner_opt_state

        last = state.mini_step == steps - 1
        new, inner_state = jax.lax.cond(last, run, hold, None)
        return new, optax.MultiStepsState(
            mini_step=(state.mini_step + 1) % steps,
            gradient_step=state.gradient_step + last,
            inner_opt_state=inner_state,
            acc_grads=jax.tree.map(lambda m: jnp.where(last, jnp.zeros_like(m), m), mean),
            skip_state=jnp.where(last, 0.0, value).astype(jnp.float32),
        )

    return optax.GradientTransformationExtraArgs(init, update)


@explained
def eval_params(opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate and predict with.

    Schedule-free optimizers train at one point and evaluate at another, the running average of
    the iterates, and ``ema_decay`` keeps a moving average; this finds their state wherever it
    sits (in a chain, under gradient accumulation, in a group of ``partition``) and returns the
    average. For every other optimizer it returns ``params``. It may be called inside ``jax.jit``.

    Args:
      opt_state: state of the optimizer.
      params: parameters that are being trained.

    Returns:
      A tree like ``params``; leaves that such an optimizer does not train are the given ones.

    Source: Defazio et al., The Road Less Scheduled (https://arxiv.org/abs/2405.15682).
    """

    def holds_average(node: Any) -> bool:
        return isinstance(node, optax.contrib.ScheduleFreeState | AverageState)

    for state in filter(holds_average, jax.tree.leaves(opt_state, is_leaf=holds_average)):
        if isinstance(state, AverageState):
            params = jax.tree.map(
                lambda mean, y: y if is_masked(mean) else mean.astype(y.dtype),
                state.mean,
                params,
                is_leaf=is_masked,
            )
            continue
        # y = b1 x + (1 - b1) z, where y is what trains and x is the average.
        params = jax.tree.map(
            lambda z, y, b1=state.b1: (
                y if is_masked(z) else ((y - (1.0 - b1) * z) / b1).astype(y.dtype)
            ),
            state.z,
            params,
            is_leaf=is_masked,
        )
    return params


@explained
def partition(
    transforms: Mapping[Any, optax.GradientTransformation], param_labels: Any
) -> Optimizer:
    """One optimizer per group of parameters: ``optax.multi_transform`` that keeps what we know.

    Optimizers that evaluate the loss (line searches, second-order ones) work inside it: their
    ``value_fn`` sees the whole parameters, with those of the other groups held fixed. Where one
    group takes per-example gradients, the others get their mean.

    Args:
      transforms: label to optimizer. ``optax.set_to_zero()`` freezes a group.
      param_labels: tree of labels in the shape (or a prefix) of the parameters, or a function
        from the parameters to it.

    Returns:
      An ``Optimizer`` whose ``needs`` are those of all groups together. ``learning_rate`` is
      the one of the only group that has one, else None.

    Raises:
      ValueError: one group accumulates gradients over another number of steps.
    """
    known = [tx for tx in transforms.values() if isinstance(tx, Optimizer)]
    needs = frozenset[str]().union(*(tx.needs for tx in known))
    rates = [tx.learning_rate for tx in known if tx.learning_rate is not None]
    counts = {tx.accumulate_steps for tx in known} or {1}
    if len(counts) > 1:
        raise ValueError(f"accumulate_steps must be the same in every group, got {sorted(counts)}")
    groups = dict(transforms)
    if "per_example_gradients" in needs:
        for label, group in groups.items():
            if "per_example_gradients" not in getattr(group, "needs", ()):
                groups[label] = optax.chain(optax.stateless(_mean_over_examples), group)
    if isinstance(param_labels, FrozenDict):
        param_labels = Thawed(param_labels)
    tx = optax.multi_transform(groups, param_labels)
    # Our own optimizers drop obj_fn themselves; a user's may need it.
    strict = len(known) == len(transforms)
    return Optimizer(
        tx.init,
        call_update(tx, name="partition", needs=needs, strict=strict),
        name="partition",
        learning_rate=rates[0] if len(rates) == 1 else None,
        accumulate_steps=counts.pop(),
        needs=needs,
    )
