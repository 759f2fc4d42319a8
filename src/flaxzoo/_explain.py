"""Errors about unknown words, with what they are here; ``words.toml`` has the table."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from flaxzoo._words import tables
from flaxzoo.errors import UnknownArgumentError, closest, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])


def _by_word(rows: Iterable[tuple[str, str, str]]) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    table: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for words, names, line in rows:
        for word in words.split():
            table.setdefault(folded(word), []).append((tuple(names.split()), line))
    return table


def folded(name: str) -> str:
    """A name without case, ``-``, ``_`` and spaces, none of which tells two names apart."""
    return name.lower().translate(_IGNORED)


_IGNORED = str.maketrans("", "", "-_ ")


@functools.cache
def _table(what: str) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """The rows for a callable; built at the first error."""
    return _by_word((*tables()["special"].get(what, ()), *tables()["keywords"]))


def _answer(word: str, takes: Iterable[str], what: str) -> tuple[str | None, str]:
    """The name that an unknown keyword has here, if it is taken, and else what to type."""
    table = {folded(name): name for name in takes}
    if folded(word) in table:
        return table[folded(word)], ""
    line = ""
    for names, otherwise in _table(what).get(folded(word), ()):
        known = next((name for name in names if name in table.values()), None)
        if known is not None:
            return known, ""
        line = line or otherwise
    return None, line


def meant(word: str, takes: Iterable[str], what: str = "") -> str | None:
    """Which of the names an unknown word means here, if the table has it; see ``keyword_hint``."""
    return _answer(word, takes, what)[0]


def keyword_hint(word: str, takes: Iterable[str], what: str = "") -> str:
    """What an unknown keyword is called here: a sentence with a space before it, or nothing.

    Args:
      word: the keyword.
      takes: the keywords that there are, those of the callable itself first.
      what: the callable's name.
    """
    name, line = _answer(word, takes, what)
    if name is None:
        stop = "" if line.endswith(".") else "."
        return f" For {word!r} here: {line}{stop}" if line else ""
    if folded(name) == folded(word):
        return f" Did you mean {name!r}?"
    return f" {word!r} is called {name!r} here."


def keyword_hints(words: Iterable[str], takes: Iterable[str], what: str = "") -> str:
    """``keyword_hint`` of each, or else the closest spelling of the first."""
    words, takes = tuple(words), tuple(takes)
    hints = "".join(keyword_hint(word, takes, what) for word in words)
    return hints or did_you_mean(words[0], takes)


def check_options(
    function: Callable[..., Any],
    options: Iterable[str],
    takes: Iterable[str] | None,
    whose: str,
    *,
    what: str | None = None,
) -> None:
    """Refuses keywords that neither a function takes nor what it hands them on to.

    Args:
      function: with ``**options``; or a class.
      options: the names of these.
      takes: what they may be; None for anything.
      whose: what takes them, in words.
      what: the function's name in the message, where it is not its own.

    Raises:
      UnknownArgumentError: (a TypeError) there are others. It lists what the function takes where
        one is another library's word for that, or closest to it, and else what takes them.
    """
    if takes is None:
        return
    takes, what = tuple(takes), what or function.__name__
    unknown = [name for name in options if name not in takes]
    if not unknown:
        return
    parameters = inspect.signature(function).parameters.values()
    own = tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
    names = (*own, *takes)
    refused = f"does not take {', '.join(map(repr, unknown))}.{keyword_hints(unknown, names, what)}"
    if any(_is_meant(word, own, names, what) for word in unknown):
        raise UnknownArgumentError(
            f"{what} {refused} It takes: {', '.join(own)}, and what {whose} takes."
        )
    raise UnknownArgumentError(f"{whose} {refused} It takes: {', '.join(takes)}.")


def _is_meant(word: str, own: tuple[str, ...], names: tuple[str, ...], what: str) -> bool:
    """Whether a keyword is meant for the function itself."""
    name, line = _answer(word, names, what)
    if name is None and not line:
        name = next(iter(closest(word, names)), None)
    return name in own or bool(line)


def explained(function: F) -> F:
    """Decorator: keywords and positional arguments that a function does not take are explained.

    What a class is made of is explained as well: the decorator wraps its ``__init__``.

    Raises:
      UnknownArgumentError: (a TypeError) at a call, with what the words are here.
    """
    if isinstance(function, type):
        function.__init__ = _explained(function.__init__, function.__name__)  # type: ignore[misc]
        return function
    # "Loss" for "Loss.__call__", and "get" for that of any registry.
    what = function.__qualname__.removesuffix(".__call__")
    if what.endswith("Registry.get"):
        what = "get"
    return _explained(function, what)  # type: ignore[return-value]


def _explained(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    # The code tells, and at once: signatures of all that is public would take milliseconds.
    code = inspect.unwrap(function).__code__
    count, names = code.co_argcount, code.co_varnames
    by_name = names[count : count + code.co_kwonlyargcount]
    bound = int(names[:1] in (("self",), ("cls",)))
    own = (*names[code.co_posonlyargcount or bound : count], *by_name)
    required = names[: count - len(inspect.unwrap(function).__defaults__ or ())]
    takes = f"It takes: {', '.join(own)}."
    open_ended = bool(code.co_flags & inspect.CO_VARKEYWORDS)
    most = None if code.co_flags & inspect.CO_VARARGS else count
    known = frozenset(own)
    # Where each that may have a name stands, those without one before it.
    first = code.co_posonlyargcount

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if most is not None and len(args) > most:
            other = f", such as {by_name[0]}=..." if by_name else ""
            line = tables()["positions"].get(what, f"name the others{other}")
            raise UnknownArgumentError(
                f"{what} takes {most - bound} positional argument{'s' * (most - bound != 1)}, "
                f"got {len(args) - bound}: {line}"
            )
        if kwargs and (
            both := [name for name in names[first : min(len(args), count)] if name in kwargs]
        ):
            twice = both[0]
            line = tables()["positions"].get(what, f"leave one of {twice!r} out")
            raise UnknownArgumentError(f"{what} got {twice!r} by its place and by its name: {line}")
        if not open_ended and not known.issuperset(kwargs):
            unknown = [name for name in kwargs if name not in known]
            raise UnknownArgumentError(
                f"{what} does not take {', '.join(map(repr, unknown))}."
                f"{keyword_hints(unknown, own, what)} {takes}"
            )
        if len(args) < len(required):
            missing = [name for name in required[len(args) :] if name not in kwargs]
            if missing:
                unknown = [name for name in kwargs if name not in known]
                hints = keyword_hints(unknown, own, what) if unknown else ""
                raise UnknownArgumentError(
                    f"{what} needs {', '.join(map(repr, missing))}.{hints} {takes}"
                )
        return function(*args, **kwargs)

    return wrapper


_OTHERS = {
    "torch": "PyTorch",
    "torchvision": "torchvision",
    "torchmetrics": "torchmetrics",
    "timm": "timm",
    "keras": "Keras",
    "tensorflow": "TensorFlow",
    "tf_keras": "Keras",
    "transformers": "transformers",
    "equinox": "Equinox",
    "haiku": "Haiku",
    "elegy": "Elegy",
    "treex": "Treex",
    "lightning": "Lightning",
    "pytorch_lightning": "Lightning",
}


def foreign(value: Any) -> str | None:
    """The library whose class ``value`` is an instance of, or None for ours and a user's own."""
    for cls in type(value).__mro__:
        if cls.__module__.startswith("flax.nnx"):
            return "Flax NNX"
        library = _OTHERS.get(cls.__module__.partition(".")[0])
        if library is not None:
            return library
    return None


def refuse_foreign(argument: str, value: Any, registry: Any = None) -> None:
    """Refuses an object of another library, which would compute with arrays of its own.

    Args:
      argument: what it was given for, such as ``"loss"``.
      value: whatever it is.
      registry: where a name like its class's is looked for.

    Raises:
      UnknownArgumentError: (a TypeError) it is one; with the name to type where there is one.
    """
    library = foreign(value)
    if library is None:
        return
    kind = type(value).__name__
    spelled = None if registry is None else registry.spelling(kind)
    hint = name_hint(registry.kind, kind) if registry is not None and not spelled else ""
    line = f": write {argument}={spelled!r}" if spelled else f".{hint}"
    raise UnknownArgumentError(f"{argument} is {kind}, an object of {library}{line}")


def name_hint(kind: str, name: str) -> str:
    """What a name that a registry does not hold is called here: a sentence, or nothing.

    Args:
      kind: what the registry holds, such as ``"optimizer"``.
      name: the name.
    """
    line = _line(tables()["names"].get(kind, ()), name)
    return f" Here it is {line}." if line else ""


def missing_attribute(self: Any, name: str) -> Any:
    """The ``__getattr__`` of a class of ours: says where what other libraries have is here.

    Raises:
      AttributeError: always.
    """
    cls = type(self)
    if hasattr(cls, name):
        # A property that failed: its own error.
        return object.__getattribute__(self, name)
    table = tables()["attributes"]
    rows = next((table[c.__name__] for c in cls.__mro__ if c.__name__ in table), ())
    public = [known for known in dir(cls) if not known.startswith("_")]
    raise AttributeError(f"a {cls.__name__} has no attribute {name!r}.{_where(rows, name, public)}")


def assignment_hint(owner: Any, name: str) -> str:
    """Where what other libraries set on an object is set here: a sentence, or nothing."""
    line = _line(tables()["attributes"].get(type(owner).__name__, ()), name)
    return f" Here: {line}" if line else ""


def missing_from(module: str, registry: Any = None) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module of ours; what its registry holds is found there.

    Args:
      module: its name.
      registry: a ``flaxzoo.registry.Registry``, or None.
    """

    def missing(name: str) -> Any:
        raise attribute_error(module, name, registry)

    return missing


def attribute_error(module: str, name: str, registry: Any = None) -> AttributeError:
    """The error for a name that a module of ours does not have; see ``missing_from``."""
    text = f"module {module!r} has no attribute {name!r}"
    if name.startswith("_"):
        return AttributeError(text)
    spelled = None if registry is None else registry.spelling(name)
    if spelled is not None:
        return AttributeError(f"{text}: write {module}.get({spelled!r})")
    hint = _where(
        tables()["attributes"].get(module, ()), name, getattr(sys.modules[module], "__all__", ())
    )
    if not hint and registry is not None:
        hint = name_hint(registry.kind, name)
    return AttributeError(f"{text}.{hint}")


def _where(rows: Iterable[tuple[str, str]], name: str, public: Iterable[str]) -> str:
    if name.startswith("_"):
        return ""
    line = _line(rows, name)
    return f" Here: {line}" if line else did_you_mean(name, public)


def _line(rows: Iterable[tuple[str, str]], name: str) -> str:
    wanted = folded(str(name))
    return next((line for words, line in rows if wanted in map(folded, words.split())), "")
