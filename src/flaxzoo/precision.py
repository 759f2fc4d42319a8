"""In which precision a model computes: one word, or one for each of its modules.

The parameters stay what they are, float32, and each layer rounds its own as it uses them. That is
Linen's way of mixed precision: a module has a field ``dtype``, the dtype of its computation. A
policy fills these fields in while a model is applied, module by module, so that a rule by path
holds for the modules below that path and for nothing behind them.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._calls import apply_module
from flaxzoo._checks import check_choice, check_number, check_size
from flaxzoo._explain import explained
from flaxzoo._globs import DEFAULT, entry_of_each, is_glob
from flaxzoo._trees import flatten, prefixes, unflatten
from flaxzoo.errors import ArgumentError

WORDS = ("float32", "bfloat16", "float16")
# What others call these.
_ELSEWHERE = {
    "float32": "32 fp32 32-true single full highest",
    "bfloat16": "mixed_bfloat16 bf16 bf16-mixed bf16-true",
    "float16": "mixed_float16 fp16 16 16-mixed 16-true half amp",
}
_HERE = {theirs: ours for ours, names in _ELSEWHERE.items() for theirs in names.split()}
# Large enough that small gradients are not flushed to zero, as jmp and Keras begin.
_FIRST_SCALE = 2.0**15
# ``PrecisionPolicy.residual`` of the policy in which modules are applied here.
_RESIDUAL: contextvars.ContextVar[str | None] = contextvars.ContextVar("residual", default=None)


@explained
@dataclasses.dataclass(frozen=True)
class PrecisionPolicy:
    """The precision of each module's computation, and how a float16 loss is scaled.

    Wherever ``precision=`` is taken, a word or a mapping stands for the policy of these rules.

    Attributes:
      rules: ``"float32"``, ``"bfloat16"`` or ``"float16"`` for all modules, or a mapping from
        patterns over their paths to these words, ``{"*": "bfloat16", "head": "float32"}``. A
        pattern is a module, a group of them, a glob, or one of these behind a ``!`` for all
        others; the last entry that matches wins, and ``"*"`` is for what none of the others
        matches, wherever it stands. Without it that is float32. Kept as pairs.
      loss_scale: what the loss is multiplied by at first, a number of at least 1; None for 32768
        where a rule says float16, and for no scaling elsewhere. It doubles and halves as training
        goes on; see ``flaxzoo.training.loss_scaling``.
      growth_interval: after how many finite steps in a row the scale doubles.
      residual: ``"float32"`` for float32 sums of shortcuts, which grow with each block that adds to
        them: what goes from part to part of a zoo's backbone is widened, and blocks round their own
        input. That takes twice the memory of these sums and halves the number of roundings, as
        ``torch.autocast`` does where a float32 parameter enters the sum. None for the dtype that
        blocks return.

    Raises:
      ArgumentError: (a ValueError) a word or a number is none of these.
    """

    rules: Any = "float32"
    loss_scale: float | None = None
    growth_interval: int = 2000
    residual: str | None = None

    def __post_init__(self) -> None:
        rules = self.rules
        if isinstance(rules, tuple):
            rules = dict(rules)
        if not isinstance(rules, Mapping):
            rules = {DEFAULT: rules}
        if not rules:
            raise ArgumentError("precision has no entries: give patterns and their precisions")
        pairs = tuple((pattern, _word(word)) for pattern, word in rules.items())
        object.__setattr__(self, "rules", pairs)
        scale = check_number("loss_scale", self.loss_scale, minimum=1, optional=True)
        object.__setattr__(self, "loss_scale", scale)
        interval = check_size("growth_interval", self.growth_interval)
        object.__setattr__(self, "growth_interval", interval)
        if self.residual is not None:
            check_choice("residual", self.residual, ("float32",), " or None")

    def __str__(self) -> str:
        plain = [pattern for pattern, _ in self.rules] == [DEFAULT]
        text = self.rules[0][1] if plain else str(dict(self.rules))
        return text if self.residual is None else f"{text}, residual {self.residual}"

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal policy, in terms of JSON."""
        return {**dataclasses.asdict(self), "rules": dict(self.rules)}

    @property
    def first_scale(self) -> float | None:
        """What the loss is multiplied by at first; None where it is not scaled."""
        if self.loss_scale is not None:
            return self.loss_scale
        return _FIRST_SCALE if "float16" in dict(self.rules).values() else None

    def dtype_of(self, path: str) -> Any:
        """The dtype that the module of a path computes in.

        Args:
          path: joined by ``/``; empty for the whole model.
        """
        return jnp.dtype(_resolved(self.rules, path))

    def check(self, params: Mapping[str, Any]) -> None:
        """Checks that each rule is for a module that has parameters.

        Args:
          params: the parameters, or their shapes.

        Raises:
          UnknownNameError: (a KeyError) a pattern matches no module; it lists the nearest ones.
          ValueError: an entry is not used, as later ones match all that it does.
        """
        patterns = [pattern for pattern, _ in self.rules]
        if patterns != [DEFAULT]:
            owners = dict.fromkeys(path.rpartition("/")[0] for path in flatten(params))
            entry_of_each(filter(None, owners), patterns, label="precision", kind="module")

    def within(self, params: Mapping[str, Any]) -> PrecisionPolicy:
        """The policy for a part of a model: without the rules for modules that are not in it."""
        owners = {path.rpartition("/")[0] for path in flatten(params)}
        used = {_entry(self.rules, owner) for owner in owners}
        words = dict(self.rules)
        others = [pattern for pattern in used if pattern.startswith("!")]
        if len(used) == 1 and others:
            # What it leaves out is not there: it is the rule for all that is.
            return dataclasses.replace(self, rules={DEFAULT: words[others[0]]})
        kept = {pattern: word for pattern, word in self.rules if pattern in used}
        return dataclasses.replace(self, rules={DEFAULT: words.get(DEFAULT, "float32"), **kept})


def as_policy(value: Any) -> PrecisionPolicy | None:
    """The policy that a value of ``precision=`` stands for; None stays None.

    Raises:
      ArgumentError: (a ValueError) it is no word, mapping or policy.
    """
    if value is None or isinstance(value, PrecisionPolicy):
        return value
    return PrecisionPolicy(value)


def apply_in(
    policy: PrecisionPolicy | None,
    module: nn.Module,
    variables: Any,
    inputs: Any,
    *,
    below: str = "",
    **options: Any,
) -> Any:
    """``apply_module`` in the precision of a policy; to be called under ``jit``.

    Args:
      policy: None for none.
      module: an unbound Linen module.
      variables: its variables, which stay as they are.
      inputs: what it takes.
      below: the path of the module in the model that the rules are about.
      **options: of ``apply_module``.

    Returns:
      What the module returns; its outputs are float32 at least, other collections as the module
      makes them.
    """
    if policy is None:
        return apply_module(module, variables, inputs, **options)
    own = [] if _is_zoo_s(module) else _without_dtype(module, variables, inputs, options)
    with computing_in(policy, below, own):
        outputs = apply_module(module, _rounded(policy, below, own, variables), inputs, **options)
    if options.get("mutable"):
        return widened(outputs[0]), outputs[1]
    return widened(outputs)


@contextlib.contextmanager
def computing_in(
    policy: PrecisionPolicy, below: str = "", own: list[str] | None = None
) -> Iterator[None]:
    """Within it, modules that are applied compute in the precision of a policy.

    Args:
      policy: the policy.
      below: the path of the module in the model that the rules are about.
      own: paths of the modules that have parameters and no field ``dtype``: what they are called
        with is rounded.
    """
    bare = frozenset(own or ())

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        path = "/".join(module.path)
        dtype = policy.dtype_of(_joined(below, path))
        if path in bare:
            args, kwargs = _cast((args, kwargs), dtype)
        elif _has_dtype(type(module)):
            _fill_in(module, dtype, policy.dtype_of(_joined(below, path.rpartition("/")[0])))
        return next_fun(*args, **kwargs)

    token = _RESIDUAL.set(policy.residual)
    try:
        with nn.intercept_methods(intercept):
            yield
    finally:
        _RESIDUAL.reset(token)


def as_residual(tree: Any) -> Any:
    """What a backbone hands from part to part: float32 where the policy that holds here says so."""
    return tree if _RESIDUAL.get() is None else widened(tree)


def widened(tree: Any) -> Any:
    """A tree whose half-precision arrays are float32."""
    return jax.tree.map(
        lambda x: x.astype(jnp.float32) if _is_narrow(getattr(x, "dtype", None)) else x, tree
    )


def _word(value: Any) -> str:
    if str(value).lower() in _HERE:
        raise ArgumentError(f"precision {value!r} is called {_HERE[str(value).lower()]!r} here")
    if not isinstance(value, str) and value is not None:
        # jnp.bfloat16, which is what a module's dtype takes as well.
        with contextlib.suppress(TypeError):
            value = jnp.dtype(value).name
    return check_choice("precision", value, WORDS, " or a mapping from patterns to these")


@functools.lru_cache(maxsize=8192)
def _resolved(rules: tuple[tuple[str, str], ...], path: str) -> str:
    return dict(rules).get(_entry(rules, path), "float32")


def _entry(rules: tuple[tuple[str, str], ...], path: str) -> str:
    """The pattern that a module follows: the last that matches its path, or the default."""
    chosen = DEFAULT
    for pattern, _ in rules:
        wanted = pattern.removeprefix("!").strip("/")
        if pattern != DEFAULT and _matches(path, wanted) != pattern.startswith("!"):
            chosen = pattern
    return chosen


def _matches(path: str, pattern: str) -> bool:
    if is_glob(pattern):
        return any(fnmatch.fnmatchcase(group, pattern) for group in prefixes(path))
    return pattern in prefixes(path)


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _has_dtype(cls: Any) -> bool:
    return any(field.name == "dtype" for field in dataclasses.fields(cls))


def _fill_in(module: Any, dtype: Any, above: Any) -> None:
    """Sets a module's dtype, unless whoever wrote the module wants another one."""
    if not _has_own(module, above):
        object.__setattr__(module, "dtype", dtype)
    if _is_narrow(module.dtype) and hasattr(module, "force_fp32_for_softmax"):
        object.__setattr__(module, "force_fp32_for_softmax", True)


def _has_own(module: Any, above: Any) -> bool:
    """Whether a module's dtype, or that it has none, is a wish of its own."""
    field = next(f for f in dataclasses.fields(module) if f.name == "dtype")
    if module.dtype is None or module.dtype is field.default:
        # Layers of this package hand their dtype down to all but what is to stay wide.
        parent = type(module.parent)
        return module.dtype is None and _is_ours(parent) and _has_dtype(parent)
    # What equals the dtype of the module around it was handed down.
    return bool(jnp.dtype(module.dtype) != above)


def _is_narrow(dtype: Any) -> bool:
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return False
    return jnp.dtype(dtype).itemsize < 4


def _cast(tree: Any, dtype: Any) -> Any:
    """A tree whose floating arrays have a dtype."""
    return jax.tree.map(
        lambda x: (
            x.astype(dtype)
            if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
            else x
        ),
        tree,
    )


def _rounded(policy: PrecisionPolicy, below: str, own: list[str], variables: Any) -> Any:
    """The variables with the parameters of modules that have no dtype in the policy's."""
    if not own:
        return variables
    params = {
        path: (
            _cast(leaf, policy.dtype_of(_joined(below, owner)))
            if (owner := path.rpartition("/")[0]) in own
            else leaf
        )
        for path, leaf in flatten(variables["params"]).items()
    }
    return {**variables, "params": unflatten(params)}


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("flaxzoo.")


def _is_zoo_s(module: Any) -> bool:
    """Whether all layers of a module are of this package, every one of which has a dtype."""
    parts = (module, *(getattr(module, name, module) for name in ("backbone", "head")))
    return all(_is_ours(type(part)) for part in parts)


def _without_dtype(
    module: nn.Module, variables: Any, inputs: Any, options: Mapping[str, Any]
) -> list[str]:
    """The paths of the modules that have parameters of their own and no field ``dtype``."""
    known: set[str] = set()

    def note(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if _has_dtype(type(context.module)):
            known.add("/".join(context.module.path))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda v, x: apply_module(module, v, x, **options), variables, inputs)
    owners = dict.fromkeys(path.rpartition("/")[0] for path in flatten(variables["params"]))
    return [owner for owner in owners if owner not in known]
