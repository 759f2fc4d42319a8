"""One registry for everything that has a name: models, optimizers, losses, metrics, ..."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from flaxzoo._explain import explained, folded, keyword_hints, name_hint
from flaxzoo._warnings import warn as warn_reader
from flaxzoo.errors import UnknownArgumentError, UnknownNameError, did_you_mean

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class EntryInfo:
    """What ``Registry.info`` returns; printing it gives a readable summary."""

    kind: str
    name: str
    aliases: tuple[str, ...]
    summary: str
    signature: inspect.Signature

    def __str__(self) -> str:
        # optax's annotations alone would fill lines.
        plain = [p.replace(annotation=p.empty) for p in self.signature.parameters.values()]
        lines = [f"{self.kind} {self.name}{inspect.Signature(plain)}", f"  {self.summary}"]
        if self.aliases:
            lines.append(f"  also known as: {', '.join(self.aliases)}")
        return "\n".join(lines)


def call_entry(entry: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Builds by calling the entry: it is a factory."""
    return entry(*args, **kwargs)


def bind_entry(entry: Callable[..., Any], /, **kwargs: Any) -> Callable[..., Any]:
    """Builds by fixing keywords: the entry itself is the function that users want."""
    return functools.partial(entry, **kwargs) if kwargs else entry


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that match a glob; where none does, those that do in another case."""
    names = [*names]
    exact = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    lower = pattern.lower()
    return exact or [name for name in names if fnmatch.fnmatchcase(name.lower(), lower)]


class Registry(Generic[T]):
    """Named callables, found by name or alias, whatever the case, and with or without - and _.

    Args:
      kind: what an entry is, in the singular ("optimizer"); it appears in every message.
      build: makes what ``get`` returns from an entry and the caller's keywords. The default calls
        the entry as a factory; ``bind_entry`` fixes keywords instead.
      skip: leading parameters of an entry that ``build`` does not take from ``get``'s keywords
        (for losses, the predictions and targets).
    """

    def __init__(
        self, kind: str, *, build: Callable[..., T] = call_entry, skip: Iterable[str] = ()
    ) -> None:
        self.kind = kind
        self._build = build
        self._skip = frozenset(skip)
        self._entries: dict[str, Callable[..., Any]] = {}
        self._aliases: dict[str, str] = {}
        self._renamed: dict[str, dict[str, str]] = {}
        # From a folded name to the name or alias that it stands for.
        self._spellings: dict[str, str] = {}
        self._writing = threading.Lock()

    def __contains__(self, name: object) -> bool:
        return self.spelling(name) is not None

    def register(
        self,
        name: str | Callable[..., Any] | None = None,
        *,
        aliases: Iterable[str] = (),
        override: bool = False,
        renamed: Mapping[str, str] | None = None,
    ) -> Any:
        """Decorator that adds a callable under ``name`` (default: its own name).

        ``@register``, ``@register("name", aliases=["other"])`` and ``register("name")(f)`` all
        work, and return the callable unchanged. ``renamed`` maps keywords that the callable had
        to those that it has now: ``get`` still takes the old ones, with a warning.

        Raises:
          ValueError: the name or an alias is taken, or differs from that of another entry in case,
            ``-`` and ``_`` alone, and ``override`` is false.
        """
        if callable(name):
            return self.register()(name)

        def add(entry: F) -> F:
            key = name if name is not None else entry.__name__
            with self._writing:
                for taken in (key, *aliases):
                    if not override:
                        self._refuse_taken(taken)
                # An overridden alias must not keep pointing past the new entry, nor may a new
                # alias be shadowed by an entry of the same name. No name is missing meanwhile.
                self._renamed[key] = dict(renamed or {})
                self._entries[key] = entry
                self._aliases.pop(key, None)
                for alias in aliases:
                    self._aliases[alias] = key
                    self._entries.pop(alias, None)
                for spelled in (key, *aliases):
                    self._spellings[folded(spelled)] = spelled
            return entry

        return add

    def _refuse_taken(self, name: str) -> None:
        # Of what is registered, not of what a subclass knows to come.
        held = Registry.spelling(self, name)
        if held is None:
            return
        same = "" if held == name else f" as {held!r}, which is the same name"
        raise ValueError(
            f"{self.kind} {name!r} is registered already{same}; pass override=True to replace it"
        )

    @explained
    def list(self, pattern: str = "*") -> list[str]:
        """Names of the entries that match a glob by name or alias, sorted."""
        entries, aliases = self._snapshot()
        return sorted({aliases.get(name, name) for name in matching((*entries, *aliases), pattern)})

    def spelling(self, name: object) -> str | None:
        """The name or alias that is meant, as it is registered; None where there is none.

        It is ``name`` itself, or the one that differs from it in case, ``-`` and ``_`` alone.
        """
        if not isinstance(name, str):
            return None
        if name in self._entries or name in self._aliases:
            return name
        return self._spellings.get(folded(name))

    def resolve(self, name: str) -> str:
        """The name an alias stands for; a name stands for itself.

        Raises:
          UnknownNameError: (a KeyError) no entry has that name; it lists the closest ones.
        """
        spelled = self.spelling(name)
        if spelled is not None:
            return self._aliases.get(spelled, spelled)
        if not isinstance(name, str):
            raise UnknownNameError(
                f"a name of flaxzoo.{self._namespace()}.list() is a string, got {name!r}"
            )
        hint = name_hint(self.kind, name) or did_you_mean(name, self._names())
        raise UnknownNameError(
            f"unknown {self.kind} {name!r}.{hint} "
            f"All {len(self.list())} names: flaxzoo.{self._namespace()}.list()"
        )

    def entry(self, name: str) -> Callable[..., Any]:
        """The registered callable itself."""
        return self._entries[self.resolve(name)]

    @explained
    def get(self, name: str, /, **kwargs: Any) -> T:
        """Builds the entry ``name`` with ``kwargs``.

        Raises:
          UnknownNameError: (a KeyError) no entry has that name; it lists the closest ones.
          UnknownArgumentError: (a TypeError) the entry does not take a keyword, or needs one
            that is missing; it lists what the entry takes.
        """
        entry = self.entry(name)
        kwargs = self.current_keywords(name, kwargs, warn=True)
        self.check_arguments(name, kwargs)
        return self._build(entry, **kwargs)

    def from_config(self, config: Mapping[str, Any]) -> T:
        """Builds what a dictionary describes, perhaps read from JSON.

        Args:
          config: ``{"name": ..., "kwargs": {...}}``; ``kwargs`` may be left out.

        Raises:
          UnknownNameError: (a KeyError) no entry has that name.
          UnknownArgumentError: (a TypeError) other keys, or a keyword that the entry does not take.
        """
        if "name" not in config or set(config) - {"name", "kwargs"}:
            raise UnknownArgumentError(
                f"a dictionary that describes one {self.kind} has the keys 'name' and 'kwargs', "
                f"got {sorted(config)}"
            )
        return self.get(config["name"], **config.get("kwargs", {}))

    def current_keywords(
        self, name: str, kwargs: Mapping[str, Any], *, warn: bool = False
    ) -> dict[str, Any]:
        """Returns ``kwargs`` with keywords that were renamed under their present names.

        Args:
          name: of the entry.
          kwargs: what ``get`` was called with, or a file holds.
          warn: whether each old keyword gives a DeprecationWarning; what a file holds needs none.

        Raises:
          UnknownArgumentError: (a TypeError) a keyword comes under both names.
        """
        renamed = self._renamed[self.resolve(name)]
        current = dict(kwargs)
        for old in [key for key in kwargs if key in renamed]:
            new = renamed[old]
            if new in kwargs:
                raise UnknownArgumentError(
                    f"{self.kind} {name!r} got both {new!r} and {old!r}, its former name"
                )
            if warn:
                message = f"{self.kind} {name!r}: {old!r} is called {new!r} now"
                warn_reader(message, DeprecationWarning)
            current[new] = current.pop(old)
        return current

    def parameters(self, name: str) -> Mapping[str, inspect.Parameter]:
        """The parameters that ``get(name, ...)`` takes by keyword."""
        signature = inspect.signature(self.entry(name))
        return {k: p for k, p in signature.parameters.items() if k not in self._skip}

    def check_arguments(self, name: str, kwargs: Mapping[str, Any]) -> None:
        """Raises UnknownArgumentError unless the entry takes just these keywords."""
        parameters = self.parameters(name)
        kinds = {p.kind for p in parameters.values()}
        named = [
            k
            for k, p in parameters.items()
            if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        ]
        takes = f"It takes: {', '.join(named)}." if named else "It takes no keywords."
        unknown = [k for k in kwargs if k not in named]
        if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
            hint = keyword_hints(unknown, named, self.kind)
            raise UnknownArgumentError(
                f"{self.kind} {name!r} does not take {', '.join(map(repr, unknown))}.{hint} {takes}"
            )
        missing = [
            k for k in named if parameters[k].default is inspect.Parameter.empty and k not in kwargs
        ]
        if missing:
            raise UnknownArgumentError(
                f"{self.kind} {name!r} needs {', '.join(map(repr, missing))}. {takes}"
            )

    @explained
    def info(self, name: str) -> EntryInfo:
        """Docstring summary, aliases and signature of an entry."""
        key = self.resolve(name)
        summary = (inspect.getdoc(self._entries[key]) or "").partition("\n\n")[0]
        return EntryInfo(
            kind=self.kind,
            name=key,
            aliases=tuple(sorted(a for a, target in self._snapshot()[1].items() if target == key)),
            summary=" ".join(summary.split()),
            signature=inspect.Signature(list(self.parameters(key).values())),
        )

    def _names(self) -> tuple[str, ...]:
        """All names and aliases, for suggestions."""
        entries, aliases = self._snapshot()
        return (*entries, *aliases)

    def _snapshot(self) -> tuple[dict[str, Callable[..., Any]], dict[str, str]]:
        """Copies of entries and aliases, to go through while another thread registers."""
        with self._writing:
            return dict(self._entries), dict(self._aliases)

    def _namespace(self) -> str:
        return {"loss": "losses"}.get(self.kind, self.kind + "s")
