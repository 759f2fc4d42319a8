"""From a name and options to an ``Optimizer``."""

from __future__ import annotations

import copyreg
import dataclasses
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optax

import flaxzoo.schedules as schedules
from flaxzoo._checks import check_number, check_rate, check_size
from flaxzoo._config import NotJsonableError, cache_key, from_json, to_json
from flaxzoo._explain import explained, keyword_hints, refuse_foreign
from flaxzoo._programs import cleared
from flaxzoo.errors import UnknownArgumentError
from flaxzoo.optimizers import catalog, decay
from flaxzoo.optimizers._ranges import check_options, is_checked
from flaxzoo.optimizers.averaging import average
from flaxzoo.optimizers.core import NEEDS, Optimizer, accumulate, call_update
from flaxzoo.optimizers.decay_masks import as_decay_mask
from flaxzoo.optimizers.recipes import Recipe, transformation

COMMON = (
    "learning_rate",
    "clip_norm",
    "weight_decay",
    "weight_decay_mask",
    "accumulate_steps",
    "ema_decay",
    "total_steps",
    "schedule_options",
)

# Optimizers are static arguments of compiled steps: the same object for the same options means
# that the step is not compiled again. Bounded, because sweeps make many.
_CACHE: OrderedDict[Any, Optimizer] = OrderedDict()
_CACHE_SIZE = 512
_CACHING = threading.RLock()
cleared(_CACHE.clear)


@dataclasses.dataclass(frozen=True)
class _Common:
    """What goes around every optimizer, checked; see ``get``."""

    clip_norm: float | None = None
    weight_decay: float | None = None
    weight_decay_mask: Any = None
    accumulate_steps: int = 1
    ema_decay: float | None = None

    @classmethod
    def checked(cls, **options: Any) -> _Common:
        """From options as users give them.

        Raises:
          ArgumentError: one is out of range.
        """
        common = cls(**options)
        return dataclasses.replace(
            common,
            clip_norm=check_number("clip_norm", common.clip_norm, above=0, optional=True),
            weight_decay=check_number(
                "weight_decay", common.weight_decay, minimum=0, optional=True
            ),
            accumulate_steps=check_size("accumulate_steps", common.accumulate_steps),
            ema_decay=check_rate("ema_decay", common.ema_decay, optional=True),
        )

    def check_with(self, name: str, needs: frozenset[str]) -> None:
        """Raises ValueError for what does not go with an optimizer of this name and needs."""
        if self.ema_decay is not None and name.startswith("schedule_free"):
            raise ValueError(
                f"ema_decay does not go with {name!r}, which evaluates at an average of its own"
            )
        if "per_example_gradients" not in needs:
            return
        if self.clip_norm is not None:
            raise ValueError(
                f"clip_norm does not go with {name!r}, which clips the gradient of each example: "
                "pass l2_norm_clip"
            )
        if self.accumulate_steps > 1:
            raise ValueError(
                f"accumulate_steps does not go with {name!r}: its noise is made for one batch; "
                "use a larger batch"
            )


@explained
def get(
    name: str,
    /,
    *,
    learning_rate: Any = None,
    clip_norm: float | None = None,
    weight_decay: float | None = None,
    weight_decay_mask: Any = None,
    accumulate_steps: int = 1,
    ema_decay: float | None = None,
    total_steps: int | None = None,
    schedule_options: Mapping[str, Any] | None = None,
    **own: Any,
) -> Optimizer:
    """Builds an optimizer by name. Equal options give the same object.

    Args:
      name: a name from ``optimizers.list()``.
      learning_rate: a number, a schedule (``step -> value``) or the name of a schedule. None
        takes ``optimizers.default_learning_rate(name)``.
      clip_norm: gradients whose global L2 norm is larger are scaled down to it, before anything
        else.
      weight_decay: strength of weight decay. None keeps the optimizer's own default amount,
        which is nothing for most and 1e-4 for adamw.
      weight_decay_mask: tree of booleans in the shape (or a prefix) of the parameters, or a
        function from parameters to it: True where weight decay applies. None is
        ``optimizers.decay_mask``: everything but biases and norm parameters. Patterns over
        parameter paths change that in their order: ``("!backbone/pos_embed",)`` takes it out.
      accumulate_steps: average the gradients of so many calls and update on the last one.
      ema_decay: keep an exponential moving average of the parameters, which ``eval_params`` (and
        with it evaluation, prediction and ``Trainer.model``) then uses; see ``average``.
      total_steps: calls of ``update`` in the whole run, for schedules that need to know. The
        schedule gets ``total_steps // accumulate_steps``, as it counts updates. Ignored where
        nothing needs it.
      schedule_options: keywords of the schedule, where ``learning_rate`` is a name.
        ``peak_value`` defaults to ``optimizers.default_learning_rate(name)``.
      **own: keywords of the optimizer itself, as in optax.

    Returns:
      An ``Optimizer``, which is an ``optax.GradientTransformationExtraArgs``.

    Raises:
      UnknownNameError: no optimizer has that name.
      UnknownArgumentError: a keyword that the optimizer does not take, one that it needs and
        did not get, or a schedule without ``total_steps``.
      ValueError: an option is out of range, or does not go with this optimizer.
    """
    key = catalog.REGISTRY.resolve(name)
    recipe = catalog.recipe(key, catalog.REGISTRY.entry(key))
    return _build(
        recipe,
        learning_rate,
        schedule_options,
        total_steps,
        {
            "clip_norm": clip_norm,
            "weight_decay": weight_decay,
            "weight_decay_mask": weight_decay_mask,
            "accumulate_steps": accumulate_steps,
            "ema_decay": ema_decay,
        },
        own,
        named=True,
    )


@explained
def as_optimizer(value: Any, /, *, needs: Iterable[str] = (), **options: Any) -> Optimizer:
    """Turns a name, an optax transformation or a factory of one into an ``Optimizer``.

    Args:
      value: a registered name; an ``optax.GradientTransformation`` (or ``optax.MultiSteps``); or
        a function that returns one, such as ``optax.adamw``.
      needs: what a transformation of the user's own must be given besides gradients; see
        ``Optimizer.needs``. Registered optimizers know theirs.
      **options: as in ``get``. A built transformation takes ``clip_norm``, ``weight_decay``,
        ``weight_decay_mask``, ``accumulate_steps`` and ``ema_decay``; its learning rate is
        inside it.

    Returns:
      An ``Optimizer``; ``value`` itself if it is one and there are no options.

    Raises:
      UnknownNameError: no optimizer has that name.
      UnknownArgumentError: an option that does not go with ``value``.
      ValueError: an option is out of range.
      TypeError: ``value`` is none of these.
    """
    extra = frozenset(needs)
    if extra - NEEDS:
        raise ValueError(
            f"needs takes {', '.join(sorted(NEEDS))}, got {', '.join(sorted(extra - NEEDS))}"
        )
    if isinstance(value, str):
        return get(value, **options)
    if isinstance(value, optax.MultiSteps):
        multi = value
        value = _remembered(
            ("MultiSteps", multi),
            lambda: Optimizer(multi.init, multi.update, name="MultiSteps"),
        )
    if isinstance(value, optax.GradientTransformation):
        return _wrap(value, extra, options)
    refuse_foreign("optimizer", value, catalog.REGISTRY)
    if not callable(value):
        raise TypeError(
            "optimizer must be a name, an optax.GradientTransformation or a function that "
            f"returns one, got {value!r}"
        )
    for name in catalog.REGISTRY.list():
        if catalog.REGISTRY.entry(name) is value:
            return get(name, **options)
    recipe = catalog.recipe(getattr(value, "__name__", type(value).__name__), value)
    rate, schedule_options, total_steps = (
        options.pop(key, None) for key in ("learning_rate", "schedule_options", "total_steps")
    )
    common = {key: options.pop(key, None) for key in COMMON if key in options}
    common["accumulate_steps"] = common.get("accumulate_steps") or 1
    return _build(
        recipe, rate, schedule_options, total_steps, common, options, named=False, needs=extra
    )


def from_config(config: Mapping[str, Any]) -> Optimizer:
    """Builds an optimizer again from ``Optimizer.config``, perhaps read from JSON.

    Raises:
      As ``get``; also UnknownArgumentError where ``config`` has no name.
    """
    options = dict(config)
    if "name" not in options:
        raise UnknownArgumentError(f"config needs 'name', got {sorted(options)}")
    return get(options.pop("name"), **options)


def _reduced(optimizer: Optimizer) -> Any:
    """An optimizer is pickled as its configuration, where it has one."""
    if optimizer.config is None:
        return optimizer.__reduce_ex__(2)
    return from_config, (optimizer.config,)


copyreg.pickle(Optimizer, _reduced)


def option_names(optimizer: Any) -> tuple[str, ...] | None:
    """The keywords that ``get`` and ``as_optimizer`` take with an optimizer.

    Args:
      optimizer: a name, a built transformation or a factory.

    Returns:
      The keywords, those of every optimizer first; None where any may be given.

    Raises:
      UnknownNameError: no optimizer has that name.
    """
    if isinstance(optimizer, optax.GradientTransformation | optax.MultiSteps):
        return (*(field.name for field in dataclasses.fields(_Common)), "total_steps", "needs")
    if not isinstance(optimizer, str):
        return None
    key = catalog.REGISTRY.resolve(optimizer)
    recipe = catalog.recipe(key, catalog.REGISTRY.entry(key))
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in recipe.own.values()):
        return None
    # optax's own spellings of what every optimizer here takes.
    spellings = (recipe.rate_keyword, recipe.decay_keyword, recipe.mask_keyword)
    return tuple(dict.fromkeys((*COMMON, *recipe.own, *filter(None, spellings))))


@explained
def default_learning_rate(name: str) -> float:
    """The learning rate that ``get(name)`` uses where none is given.

    It is optax's default where optax has one, else the paper's or the reference code's, else
    1e-3: a place to start, not a tuned value.

    Raises:
      UnknownNameError: no optimizer has that name.
    """
    key = catalog.REGISTRY.resolve(name)
    return catalog.recipe(key, catalog.REGISTRY.entry(key)).default_rate


def _remembered(key: Any, make: Callable[[], Optimizer]) -> Optimizer:
    try:
        frozen = cache_key(key)
    except TypeError:  # an array or another unhashable object among the options
        return make()
    # Under one lock: of two threads that ask for the same, both get the same object.
    with _CACHING:
        if frozen not in _CACHE:
            _CACHE[frozen] = make()
            if len(_CACHE) > _CACHE_SIZE:
                _CACHE.popitem(last=False)
        _CACHE.move_to_end(frozen)
        return _CACHE[frozen]


def _build(
    recipe: Recipe,
    learning_rate: Any,
    schedule_options: Mapping[str, Any] | None,
    total_steps: int | None,
    options: dict[str, Any],
    own: dict[str, Any],
    *,
    named: bool,
    needs: frozenset[str] = frozenset(),
) -> Optimizer:
    own = from_json(own)
    # optax's own spellings of what every optimizer here takes.
    learning_rate = _alias(recipe.rate_keyword, "learning_rate", learning_rate, own)
    for keyword, key in (
        (recipe.decay_keyword, "weight_decay"),
        (recipe.mask_keyword, "weight_decay_mask"),
    ):
        options[key] = _alias(keyword, key, options.get(key), own)
    _check_own(recipe, own)
    if is_checked(recipe.factory):
        check_options(recipe.name, recipe.own, own)
    common = _Common.checked(**options)
    all_needs = (recipe.needs | needs) - _waived(recipe, own)
    common.check_with(recipe.name, all_needs)
    if recipe.rate_keyword is None and learning_rate is not None:
        raise UnknownArgumentError(f"optimizer {recipe.name!r} does not take 'learning_rate'")
    rate = _rate(recipe, learning_rate, schedule_options, total_steps, common.accumulate_steps)

    def make() -> Optimizer:
        mask = as_decay_mask(common.weight_decay_mask)
        tx = transformation(recipe, rate, common.weight_decay, mask, own)
        inner_needs = tx.needs if isinstance(tx, Optimizer) else frozenset()
        return _finish(
            tx,
            common,
            name=recipe.name,
            needs=all_needs | inner_needs,
            strict=named,
            learning_rate=None if recipe.rate_keyword is None else schedules.as_schedule(rate),
            config=_config(recipe.name, rate, {**vars(common), **own}) if named else None,
        )

    return _remembered((recipe.factory, recipe.name, rate, vars(common), needs, own), make)


def _wrap(
    tx: optax.GradientTransformation, needs: frozenset[str], options: dict[str, Any]
) -> Optimizer:
    takes = [field.name for field in dataclasses.fields(_Common)]
    options = {key: value for key, value in options.items() if value is not None}
    options.pop("total_steps", None)  # loops pass it always; there is no schedule to tell
    unknown = [key for key in options if key not in takes]
    if unknown:
        foreign = [key for key in unknown if key not in COMMON]
        hints = keyword_hints(foreign, takes) if foreign else ""
        raise UnknownArgumentError(
            f"a built GradientTransformation does not take {', '.join(map(repr, unknown))}: its "
            f"learning rate and other options are inside it.{hints} "
            f"It takes: {', '.join(takes)}. To set more, pass a name or a factory"
        )
    common = _Common.checked(**options)
    name, rate, inner_steps = "custom", None, 1
    if isinstance(tx, Optimizer):
        if dataclasses.replace(common, weight_decay_mask=None) == _Common() and needs <= tx.needs:
            return tx
        needs, name, rate, inner_steps = (
            needs | tx.needs,
            tx.name,
            tx.learning_rate,
            tx.accumulate_steps,
        )
        if common.accumulate_steps > 1 and inner_steps > 1:
            raise ValueError(
                f"accumulate_steps: optimizer {name!r} accumulates over {inner_steps} steps already"
            )
    common.check_with(name, needs)
    if "per_example_gradients" in needs and common.weight_decay is not None:
        raise ValueError("weight_decay cannot be added around per-example gradients")
    mask = as_decay_mask(common.weight_decay_mask)

    def make() -> Optimizer:
        amount = common.weight_decay
        return _finish(
            tx if amount is None else decay.coupled(tx, amount, mask),
            common,
            name=name,
            needs=needs,
            strict=False,
            inner_steps=inner_steps,
            learning_rate=rate,
            config=None,
        )

    return _remembered(("wrap", tx, needs, {**vars(common), "weight_decay_mask": mask}), make)


def _finish(
    tx: optax.GradientTransformation,
    common: _Common,
    *,
    name: str,
    needs: frozenset[str],
    strict: bool,
    learning_rate: Callable[[Any], Any] | None,
    config: dict[str, Any] | None,
    inner_steps: int = 1,
) -> Optimizer:
    if common.clip_norm is not None:
        tx = optax.chain(optax.clip_by_global_norm(common.clip_norm), tx)
    if common.ema_decay is not None:
        tx = average(tx, common.ema_decay)
    if common.accumulate_steps > 1:
        tx = accumulate(tx, common.accumulate_steps, mean_value="value_fn" not in needs)
    return Optimizer(
        tx.init,
        call_update(tx, name=name, needs=needs, strict=strict),
        name=name,
        config=config,
        learning_rate=learning_rate,
        accumulate_steps=common.accumulate_steps * inner_steps,
        needs=needs,
    )


def _alias(keyword: str | None, common: str, value: Any, own: dict[str, Any]) -> Any:
    if keyword is None or keyword == common or keyword not in own:
        return value
    aliased = own.pop(keyword)
    if value is not None and aliased is not None:
        raise UnknownArgumentError(f"{keyword!r} and {common!r} are the same; pass one of them")
    return value if aliased is None else aliased


def _check_own(recipe: Recipe, own: Mapping[str, Any]) -> None:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [key for key, p in recipe.own.items() if p.kind in kinds]
    takes = f"It takes: {', '.join((*COMMON, *named))}."
    unknown = [key for key in own if key not in named]
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in recipe.own.values())
    if unknown and not open_ended:
        raise UnknownArgumentError(
            f"optimizer {recipe.name!r} does not take {', '.join(map(repr, unknown))}."
            f"{keyword_hints(unknown, (*COMMON, *named))} {takes}"
        )
    empty = inspect.Parameter.empty
    missing = [k for k in named if recipe.own[k].default is empty and k not in own]
    if missing:
        raise UnknownArgumentError(
            f"optimizer {recipe.name!r} needs {', '.join(map(repr, missing))}. {takes}"
        )


def _waived(recipe: Recipe, own: Mapping[str, Any]) -> frozenset[str]:
    without_search = recipe.factory is optax.lbfgs and own.get("linesearch", 0) is None
    return frozenset({"value", "value_fn"}) if without_search else frozenset()


def _rate(
    recipe: Recipe,
    learning_rate: Any,
    schedule_options: Mapping[str, Any] | None,
    total_steps: int | None,
    accumulate_steps: int,
) -> Any:
    if schedule_options and not isinstance(learning_rate, str):
        raise UnknownArgumentError(
            "schedule_options go with the name of a schedule as learning_rate, not with "
            f"{learning_rate!r}. Schedules: {', '.join(schedules.list())}"
        )
    if learning_rate is None:
        return recipe.default_rate
    if callable(learning_rate):
        refuse_foreign("learning_rate", learning_rate, schedules.REGISTRY)
        return learning_rate
    if not isinstance(learning_rate, str):
        return check_number("learning_rate", learning_rate, minimum=0)
    takes = schedules.REGISTRY.parameters(learning_rate)
    options = dict(schedule_options or {})
    if "peak_value" in takes:
        options.setdefault("peak_value", recipe.default_rate)
    if "total_steps" in takes and options.get("total_steps") is None:
        options.pop("total_steps", None)
        if total_steps is not None:
            total = check_size("total_steps", total_steps)
            options["total_steps"] = max(1, total // accumulate_steps)
        elif schedules.needs_total_steps(learning_rate):
            raise UnknownArgumentError(
                f"schedule {learning_rate!r} needs total_steps, the number of training steps: "
                "pass total_steps=... (flaxzoo.Trainer works it out)"
            )
    return schedules.get(learning_rate, **options)


def _config(name: str, rate: Any, options: Mapping[str, Any]) -> dict[str, Any] | None:
    config: dict[str, Any] = {"name": name}
    if isinstance(rate, schedules.Schedule):
        config.update(learning_rate=rate.name, schedule_options=dict(rate.options))
    else:
        config["learning_rate"] = rate
    config.update({key: value for key, value in options.items() if value is not None})
    if config["accumulate_steps"] == 1:
        del config["accumulate_steps"]
    try:
        return to_json(config)
    except NotJsonableError:
        return None
