"""Which optimizers there are: found in optax, plus what optax does not say about them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import optax
import optax.contrib

from flaxzoo.optimizers.decay import masked_schedule_free_adamw
from flaxzoo.optimizers.recipes import Decay, Factory, Recipe
from flaxzoo.registry import Registry

REGISTRY: Registry[optax.GradientTransformation] = Registry("optimizer")

# Public functions of optax that make transformations but are no optimizers. A test fails when
# optax gains one that is neither here nor registered.
EXCLUDED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("chain", "named_chain", "partition", "multi_transform"),
            "composes transformations; see optimizers.partition",
        ),
        **dict.fromkeys(
            ("masked", "freeze", "selective_transform", "set_to_zero"),
            "selects parameters; see flaxzoo.transfer",
        ),
        **dict.fromkeys(
            ("apply_every", "ema", "trace", "identity", "scale", "with_extra_args_support"),
            "building block",
        ),
        **dict.fromkeys(
            (
                "adaptive_grad_clip",
                "clip",
                "clip_by_block_rms",
                "clip_by_global_norm",
                "normalize",
                "normalize_by_update_norm",
                "centralize",
                "zero_nans",
            ),
            "changes gradients, descends nowhere; clip_norm covers the usual one",
        ),
        **dict.fromkeys(
            ("add_decayed_weights", "add_noise", "keep_params_nonnegative"),
            "part of an optimizer; weight_decay covers the first",
        ),
        **dict.fromkeys(
            ("apply_if_finite", "conditionally_mask", "conditionally_transform"),
            "runs another transformation on a condition",
        ),
        **dict.fromkeys(
            ("flatten", "split_real_and_imaginary"), "changes the layout for another transformation"
        ),
        **dict.fromkeys(
            ("inject_hyperparams", "inject_stateful_hyperparams"),
            "puts hyper-parameters of another transformation into its state",
        ),
        **dict.fromkeys(
            ("stateless", "stateless_with_tree_map"), "makes a transformation from a function"
        ),
        **dict.fromkeys(("measure_with_ema", "snapshot"), "records values, changes no gradient"),
        "lookahead": "trains a LookaheadParams pair in place of the parameters of a model",
        "differentially_private_aggregate": "first half of dpsgd",
        "reduce_on_plateau": "scales another optimizer's updates by the history of the loss",
    }
)

# Learning rates to begin with, where optax names none: the paper's or reference code's default
# (torch for rprop and madgrad), else 1e-3. Optimizers that find their own step want 1.
_RATES: dict[str, float] = {
    "adadelta": 1.0,
    "adafactor": 1e-2,
    "adagrad": 1e-2,
    "adamax": 2e-3,
    "adamaxw": 2e-3,
    "dpsgd": 1e-1,
    "fromage": 1e-2,
    "lars": 1.0,
    "lbfgs": 1.0,
    "lion": 1e-4,
    "madgrad": 1e-2,
    "muon": 2e-2,
    "noisy_sgd": 1e-2,
    "novograd": 1e-2,
    "optimistic_gradient_descent": 1e-2,
    "rprop": 1e-2,
    "sgd": 1e-2,
    "sm3": 1e-1,
    "yogi": 1e-2,
}
_RATE_KEYWORDS = MappingProxyType({"polyak_sgd": "max_learning_rate"})
# Factories that compute with the learning rate when they are made, so that it must be a number.
_CONSTANT_RATE = frozenset({"optimistic_adam", "polyak_sgd", "rprop", "sm3"})

_NEEDS: dict[str, frozenset[str]] = {
    "dpsgd": frozenset({"per_example_gradients"}),
    "lbfgs": frozenset({"value", "value_fn"}),
    "momo": frozenset({"value"}),
    "momo_adam": frozenset({"value"}),
    "polyak_sgd": frozenset({"value"}),
    "sophia": frozenset({"obj_fn"}),
}

# How weight decay reaches optimizers that have no mask for it; see the functions of decay.py.
_DECAYS: Mapping[str, Decay] = MappingProxyType(
    {
        "dadapt_adamw": "selected",
        "dpsgd": "decoupled",  # before the aggregation it would count as private data
        "lbfgs": "penalised",
        "madgrad": "coupled",  # which is madgrad's own definition
        "momo": "selected",
        "momo_adam": "selected",
        "muon": "decoupled",  # its own reaches matrices only, not convolution kernels
        "novograd": "separated",
        "polyak_sgd": "penalised",
        "prodigy": "selected",
        "rprop": "decoupled",  # like the next two, it sees the sign of the gradient only
        "schedule_free_sgd": "coupled",  # which is its own definition
        "sign_sgd": "decoupled",
        "signum": "decoupled",
    }
)

# What is called in place of a factory of optax that lacks an argument.
_STAND_INS: Mapping[str, Factory] = MappingProxyType(
    {"schedule_free_adamw": masked_schedule_free_adamw}
)

# Keywords that a factory would otherwise warn about or lack.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"noisy_sgd": {"key": 0}, "dpsgd": {"seed": 0}}
)


def candidates() -> dict[str, Factory]:
    """Public functions of optax and optax.contrib that look like making a transformation.

    Returns:
      Name to function: those that take ``learning_rate`` or are annotated to return a
      ``GradientTransformation``; parts of optimizers (``scale_by_*``) are left out.
    """
    factories: dict[str, Factory] = {}
    for module in (optax, optax.contrib):
        for name, value in vars(module).items():
            if name.startswith(("_", "scale_by_")) or inspect.isclass(value) or not callable(value):
                continue
            try:
                signature = inspect.signature(value)
            except (TypeError, ValueError):  # a type alias such as optax.Schedule
                continue
            if "learning_rate" in signature.parameters or "GradientTransformation" in str(
                signature.return_annotation
            ):
                factories[name] = value
    return factories


def recipe(name: str, factory: Factory) -> Recipe:
    """Collects what is known of ``factory``, from the tables above and from its signature.

    Args:
      name: its registered name, or any name for a user's own.
      factory: the function that makes the transformation.
    """
    # A user may register something else under a name of ours; the tables are about ours.
    ours = _OURS.get(name) is factory
    factory = _STAND_INS.get(name, factory) if ours else factory
    parameters = dict(inspect.signature(factory).parameters)
    for key, value in _DEFAULTS.get(name, {}).items() if ours else ():
        parameters[key] = parameters[key].replace(default=value)
    keyword = _RATE_KEYWORDS.get(name, "learning_rate") if ours else "learning_rate"
    amounts = [k for k in ("weight_decay", "weight_decay_rate") if k in parameters]
    masks = [k for k in ("weight_decay_mask", "mask") if k in parameters]
    if ours and name in _DECAYS:
        decay = _DECAYS[name]
    elif amounts:
        decay = "native"
    else:
        decay = "coupled"
    managed = {keyword, *amounts, *(masks if amounts else ())}
    rate = parameters[keyword].default if keyword in parameters else None
    if not isinstance(rate, (int, float)):
        rate = _RATES.get(name, 1e-3) if ours else 1e-3
    return Recipe(
        name=name,
        factory=factory,
        rate_keyword=keyword if keyword in parameters else None,
        default_rate=float(rate),
        constant_rate=ours and name in _CONSTANT_RATE,
        decay=decay,
        decay_keyword=amounts[0] if amounts else None,
        mask_keyword=masks[0] if amounts and masks else None,
        needs=_NEEDS.get(name, frozenset()) if ours else frozenset(),
        own={k: p for k, p in parameters.items() if k not in managed},
    )


def _discover() -> dict[str, Factory]:
    factories = {
        name: value
        for name, value in candidates().items()
        if name not in EXCLUDED and "learning_rate" in inspect.signature(value).parameters
    }
    factories["polyak_sgd"] = optax.polyak_sgd
    return factories


def register_wrapper(
    *, default_rate: float, needs: frozenset[str] = frozenset()
) -> Callable[[Factory], Factory]:
    """Decorator: registers an optimizer around another one, in place of optax's own of that name.

    Args:
      default_rate: learning rate where the caller gives none.
      needs: see ``Optimizer.needs``.
    """

    def add(factory: Factory) -> Factory:
        name = factory.__name__
        _OURS[name], _RATES[name], _NEEDS[name] = factory, default_rate, needs
        return REGISTRY.register(name, override=True)(factory)

    return add


_OURS = _discover()
for _name, _factory in _OURS.items():
    REGISTRY.register(_name)(_factory)
