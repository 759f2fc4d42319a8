"""What the options of optax's optimizers may be, by their names, which mean one thing all over.

optax computes with whatever it is given: with ``b1=2.0`` a run diverges after an hour.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxzoo._checks import (
    check_choice,
    check_function,
    check_like,
    check_number,
    check_rate,
    check_size,
)
from flaxzoo.errors import ArgumentError

Check = Callable[[str, Any], Any]

_positive = partial(check_number, above=0)
_non_negative = partial(check_number, minimum=0)


def _betas(name: str, value: Any) -> None:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ArgumentError(f"{name} must be a pair of numbers in [0, 1), got {value!r}")
    for one in value:
        check_rate(name, one)


def _seed(name: str, value: Any) -> None:
    # A key of JAX's is an array.
    if not isinstance(value, jax.Array):
        check_size(name, value, minimum=0)


# Muon's coefficients have names since optax 0.2.8; before, a name failed in the first update.
_COEFFICIENTS = inspect.signature(optax.contrib.muon).parameters["ns_coeffs"].annotation
_NAMED = str in typing.get_args(_COEFFICIENTS)


def _coefficients(name: str, value: Any) -> None:
    if not isinstance(value, str | tuple | list if _NAMED else tuple | list):
        names = " or the name of some" if _NAMED else ""
        raise ArgumentError(f"{name} must be tuples of numbers{names}, got {value!r}")
    for one in () if isinstance(value, str) else jax.tree.leaves(value):
        check_number(name, one)


def _first_step(name: str, value: Any) -> None:
    words = ("distance", "learning_rate", "heuristic")
    if not isinstance(value, tuple | list) or len(value) != 2 or value[0] not in words:
        raise ArgumentError(f"{name} must be a pair of one of {words} and a number, got {value!r}")
    check_number(name, value[1], above=0)


def _dtype(name: str, value: Any) -> None:
    try:
        floating = jnp.issubdtype(jnp.dtype(value), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise ArgumentError(f"{name} must be a floating dtype, such as 'bfloat16', got {value!r}")


_BY_NAME: Mapping[str, Check] = {
    **dict.fromkeys(
        ("b1", "b2", "b3", "adam_b1", "adam_b2", "beta", "beta3", "rho", "decay", "momentum"),
        check_rate,
    ),
    "betas": _betas,
    **dict.fromkeys(
        (
            "eps",
            "eps_root",
            "adam_eps_root",
            "adam_weight_decay",
            "alpha",
            "clip_threshold",
            "consistent_rms",
            "decay_rate",
            "eta",
            "gamma",
            "init_estim_sq_dist",
            "initial_accumulator_value",
            "initial_scale",
            "mechanic_decay",
            "min_norm",
            "min_step_size",
            "noise_multiplier",
            "optimism",
            "threshold",
            "trust_coefficient",
            "weight_lr_power",
            "adam_learning_rate",
        ),
        _non_negative,
    ),
    **dict.fromkeys(
        (
            "clipping_threshold",
            "estim_lr0",
            "estim_lr_coef",
            "l2_norm_clip",
            "max_step_size",
            "s_init",
            "scale",
            "scaling",
        ),
        _positive,
    ),
    **dict.fromkeys(
        ("memory_size", "ns_steps", "num_betas", "rank", "update_interval", "update_proj_gap"),
        check_size,
    ),
    **dict.fromkeys(
        (
            "decay_offset",
            "min_dim_size_to_factor",
            "print_win_rate_every_n_steps",
            "warmup_steps",
        ),
        partial(check_size, minimum=0),
    ),
    **dict.fromkeys(("key", "seed"), _seed),
    **dict.fromkeys(("mu_dtype", "accumulator_dtype", "dtype_momentum", "state_dtype"), _dtype),
    "ns_coeffs": _coefficients,
    "init_step": _first_step,
    "eta_minus": partial(check_number, above=0, maximum=1),
    "eta_plus": partial(check_number, minimum=1),
    "variant": partial(check_choice, choices=("sps", "sps+")),
}
# The same name for something else.
_OF: Mapping[tuple[str, str], Check] = {
    ("optimistic_adam_v2", "beta"): _non_negative,
    ("optimistic_gradient_descent", "beta"): _non_negative,
    ("sam", "rho"): _positive,
}


def check_options(
    name: str, parameters: Mapping[str, Parameter], options: Mapping[str, Any]
) -> None:
    """Checks the own options of one of optax's optimizers or of ours.

    Args:
      name: its registered name.
      parameters: its parameters.
      options: what is given of them.

    Raises:
      ArgumentError: an option is out of range; the message names it and the optimizer.
    """
    for key, value in options.items():
        parameter = parameters.get(key)
        if parameter is None:
            continue
        takes = str(parameter.annotation)
        if value is None and (parameter.default is None or "None" in takes or "Optional" in takes):
            continue
        # A schedule, where the optimizer takes one.
        if callable(value) and "Callable" in takes:
            continue
        label = f"{key} of optimizer {name!r}"
        check = _OF.get((name, key)) or _BY_NAME.get(key)
        choices = typing.get_args(parameter.annotation)
        if check is not None:
            check(label, value)
        elif choices and all(isinstance(choice, str) for choice in choices):
            check_choice(label, value, choices)
        else:
            _check_like(label, value, parameter.default)


def _check_like(label: str, value: Any, default: Any) -> None:
    transforms = isinstance(default, optax.GradientTransformation)
    if transforms and not isinstance(value, optax.GradientTransformation):
        raise ArgumentError(f"{label} must be a transformation of optax, got {value!r}")
    if callable(default) and not isinstance(default, type):
        check_function(label, value)
    check_like(label, value, default)


def is_checked(factory: Any) -> bool:
    """Whether the names of a factory's options mean what they mean in optax."""
    while isinstance(factory, partial):
        factory = factory.func
    return str(getattr(factory, "__module__", "")).partition(".")[0] in ("optax", "flaxzoo")
