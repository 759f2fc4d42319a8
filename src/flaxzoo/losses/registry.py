"""The loss registry, and how a name or a function becomes a :class:`Loss`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import optax

from flaxzoo._calls import predictions_first
from flaxzoo._checks import check_choice, check_function, check_like, check_number, check_size
from flaxzoo._config import hashable
from flaxzoo._explain import explained, refuse_foreign
from flaxzoo._warnings import warn
from flaxzoo.errors import ShapeError, UnknownArgumentError
from flaxzoo.losses import shapes, values
from flaxzoo.losses.loss import Loss
from flaxzoo.losses.regularizers import Regularizer
from flaxzoo.losses.traits import Traits
from flaxzoo.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])

REDUCTIONS = ("none", "mean", "sum")

# What options may be, where their default does not say it all; for one loss or for all of them.
_RANGES: dict[Any, Callable[[str, Any], Any]] = {
    **dict.fromkeys(
        ("delta", "temperature", "norm_degree"),
        functools.partial(check_number, above=0),
    ),
    **dict.fromkeys(
        ("epsilon", "eps", "smooth", "alpha", "beta", "gamma", "margin"),
        functools.partial(check_number, minimum=0),
    ),
    "label_smoothing": functools.partial(check_number, minimum=0, maximum=1),
    "max_fun": check_function,
    "blank_id": functools.partial(check_size, minimum=0),
    # Of the polynomial's first term, which may count for less than in the cross-entropy.
    ("poly_loss_cross_entropy", "epsilon"): check_number,
    ("sigmoid_focal_loss", "alpha"): functools.partial(
        check_number, minimum=0, maximum=1, optional=True
    ),
}
# What a loss that has no such option is asked for when a caller passes its own default on.
_NEUTRAL = {"label_smoothing": 0.0, "class_weights": None}

USER = Traits(check=shapes.nothing, check_values=values.all_finite, known=False)
_TRAITS: dict[Callable[..., Any], Traits] = {}


class LossRegistry(Registry[Loss]):
    """Losses by name; an entry is ``f(predictions, targets, **options)``, unreduced."""

    def parameters(self, name: str) -> Mapping[str, inspect.Parameter]:
        """The options of the loss: its parameters after the predictions and the targets."""
        return own_parameters(self.entry(name))

    @explained
    def get(  # type: ignore[override]
        self,
        name: str,
        *,
        reduction: str = "none",
        regularizers: Iterable[Regularizer | Mapping[str, Any]] = (),
        **options: Any,
    ) -> Loss:
        """The loss ``name`` with its options.

        Args:
          name: a registered name or alias; ``list()`` has them all.
          reduction: what calling the loss returns: "none", "mean" or "sum". The methods
            ``values`` and ``mean`` do not depend on it.
          regularizers: penalties on the parameters, as added with ``+``, or their ``config``.
          **options: the loss's own, such as ``delta`` or ``label_smoothing`` (a number in [0, 1],
            classification losses) and ``class_weights`` (one number per class, which multiplies
            the loss of each example of that class). ``info(name)`` shows them.

        Raises:
          UnknownNameError: (a KeyError) no loss has that name.
          UnknownArgumentError: (a TypeError) the loss does not take an option.
          ValueError: an option's value makes no sense.
        """
        canonical = self.resolve(name)
        taken = self.parameters(name)
        for option, neutral in _NEUTRAL.items():
            if option in options and option not in taken and options[option] == neutral:
                del options[option]
        self.check_arguments(name, options)
        function = self.entry(canonical)
        if canonical == "cosine_similarity" and _TRAITS.get(function):
            warn(
                "cosine_similarity is 1 for equal directions, so that minimising it drives "
                "predictions away from targets; to train, use 'cosine_distance' or "
                "'negative_cosine_similarity'"
            )
        return _build(canonical, function, options, reduction, regularizers, registered=True)


REGISTRY = LossRegistry("loss")


def define(
    name: str, traits: Traits, aliases: Iterable[str] = (), *, override: bool = False
) -> Callable[[F], F]:
    """Decorator that registers one of our own losses with its traits."""

    def add(function: F) -> F:
        _TRAITS[function] = traits
        return REGISTRY.register(name, aliases=aliases, override=override)(function)

    return add


def own_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a loss function after the first two positional ones."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        # Some compiled callables have no signature: they take no options.
        return {}
    first_two = [p.name for p in parameters if p.kind in positional][:2]
    return {
        p.name: p
        for p in parameters
        if p.name not in first_two and p.kind is not inspect.Parameter.VAR_POSITIONAL
    }


@explained
def as_loss(
    loss: str | Callable[..., Any] | Loss | Sequence[Any],
    *,
    reduction: str = "none",
    regularizers: Iterable[Regularizer | Mapping[str, Any]] = (),
    **options: Any,
) -> Loss:
    """A :class:`Loss` from whatever a user passes as ``loss=``.

    Args:
      loss: a registered name, a ``Loss`` (returned as it is), one of optax's loss functions
        (the registered loss), or a function ``f(predictions, targets, **options)`` that returns
        values whose first axis is the batch, or one scalar for the whole batch. Define such a
        function once, at module level: two lambdas are two functions, and a step compiles
        anew for each. One whose parameters are called ``(y_true, y_pred)`` is called in that
        order. Or a list of one of these and regularizers, as ``["crossentropy", l2(1e-4)]``.
      reduction: see ``losses.get``.
      regularizers: see ``losses.get``.
      **options: keywords of the loss.

    Raises:
      UnknownNameError: (a KeyError) no loss has that name.
      UnknownArgumentError: (a TypeError) the loss does not take an option.
    """
    if isinstance(loss, Loss):
        if options or reduction != "none" or tuple(regularizers):
            raise UnknownArgumentError(
                f"{loss!r} is built already: pass its options to losses.get, or pass its name"
            )
        return loss
    if isinstance(loss, list | tuple):
        penalties = [part for part in loss if isinstance(part, Regularizer)]
        rest = [part for part in loss if not isinstance(part, Regularizer)]
        if len(rest) != 1:
            raise UnknownArgumentError(
                f"a list of losses holds one loss and regularizers, got {len(rest)} losses: add "
                "them in a function of your own, "
                "lambda predictions, targets: a(predictions, targets) + b(predictions, targets)"
            )
        added = as_loss(rest[0], reduction=reduction, regularizers=regularizers, **options)
        for penalty in penalties:
            added += penalty
        return added
    if isinstance(loss, str):
        return REGISTRY.get(loss, reduction=reduction, regularizers=regularizers, **options)
    if not callable(loss) or isinstance(loss, Regularizer):
        alone = isinstance(loss, Regularizer)
        raise UnknownArgumentError(
            f"a loss is a name, a function f(predictions, targets) or a Loss, got {loss!r}"
            + (", which adds to one: loss=['crossentropy', flaxzoo.losses.l2(1e-4)]" * alone)
        )
    refuse_foreign("loss", loss, REGISTRY)
    if isinstance(loss, functools.partial) and not loss.args:
        # Two partials are never equal; a function and its keywords are.
        return as_loss(
            loss.func,
            reduction=reduction,
            regularizers=regularizers,
            **{**loss.keywords, **options},
        )
    name = getattr(loss, "__name__", type(loss).__name__)
    if name in REGISTRY and getattr(optax.losses, name, None) is loss:
        return REGISTRY.get(name, reduction=reduction, regularizers=regularizers, **options)
    _check_user_function(name, loss, options)
    return _build(name, loss, options, reduction, regularizers, registered=False)


def from_config(config: Mapping[str, Any]) -> Loss:
    """The loss that has this ``config``: the inverse of ``Loss.config``.

    Args:
      config: ``name``, and keywords of ``losses.get``; lists may have become tuples.

    Raises:
      UnknownNameError: (a KeyError) no loss has that name, perhaps because the module that
        registers it has not been imported.
      UnknownArgumentError: (a TypeError) the loss does not take an option.
    """
    return REGISTRY.get(**config)


def _check_user_function(name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    try:
        hash(function)
    except TypeError as error:
        raise UnknownArgumentError(
            f"loss function {name!r} is not hashable, so that a jitted step cannot hold it"
        ) from error
    try:
        inspect.signature(function).bind(None, None, **options)
    except ValueError:
        return
    except TypeError as error:
        takes = ", ".join(own_parameters(function)) or "none"
        raise UnknownArgumentError(
            f"loss function {name!r} cannot be called as f(predictions, targets"
            f"{''.join(f', {key}=...' for key in options)}): {error}. Options it takes: {takes}"
        ) from error


def _freeze(name: str, option: str, value: Any) -> Any:
    """A hashable equal of an option's value: arrays and lists become tuples of numbers."""
    if option == "class_weights" and isinstance(value, Mapping):
        # Keras's form: {class: weight}.
        if sorted(value) != list(range(len(value))):
            raise ShapeError(
                f"class_weights of loss {name!r} has the classes {sorted(value)}; it takes every "
                f"class from 0 to num_classes - 1"
            )
        value = [value[index] for index in range(len(value))]
    numbers = jax.tree.map(lambda x: x.tolist() if hasattr(x, "tolist") else x, value)
    try:
        return hashable(numbers)
    except TypeError as error:
        raise UnknownArgumentError(
            f"option {option!r} of loss {name!r} must be hashable, got a {type(value).__name__}"
        ) from error


def _check_option(name: str, option: str, value: Any, default: Any) -> None:
    label = f"{option} of loss {name!r}"
    if option != "class_weights":
        check = _RANGES.get((name, option)) or _RANGES.get(option)
        if check is not None:
            check(label, value)
        else:
            check_like(label, value, default)
    elif value is not None:
        if not isinstance(value, tuple) or any(isinstance(w, tuple) for w in value):
            raise ShapeError(
                f"class_weights of loss {name!r} is {value!r}; it takes a list or array of one "
                "number per class"
            )
        for weight in value:
            check_number(label, weight, minimum=0)


def _build(
    name: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
    reduction: str,
    regularizers: Iterable[Regularizer | Mapping[str, Any]],
    *,
    registered: bool,
) -> Loss:
    check_choice("reduction", reduction, REDUCTIONS)
    traits = _TRAITS.get(function, USER)
    if not traits.known:
        function = predictions_first(function)
    # With the defaults filled in, get("huber") equals get("huber", delta=1.0).
    parameters = own_parameters(function)
    complete = {
        key: parameter.default
        for key, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    complete.update(options)
    frozen = {key: _freeze(name, key, value) for key, value in complete.items()}
    if traits.known:
        for key, value in frozen.items():
            _check_option(name, key, value, parameters[key].default)
    return Loss(
        name=name,
        function=function,
        traits=traits,
        options=tuple(sorted(frozen.items())),
        reduction=reduction,
        regularizers=tuple(
            r if isinstance(r, Regularizer) else Regularizer(**r) for r in regularizers
        ),
        registered=registered,
    )
