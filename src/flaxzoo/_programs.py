"""Compiled functions whose programs are let go in time, and the memory that all caches hold.

``jax.jit`` keeps each program for as long as there is the function that it was compiled for, so a
function of a module would keep those of every model, optimizer and loss that a process ever saw:
some 6 MB and hundreds of memory maps for each, of which Linux gives a process 65,530.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import jax

# Models, or models with an optimizer and a loss, whose programs a function keeps at first.
SIZE = 16
# As many names for one of them, such as equal modules that are different objects.
_ALIASES = 16
# Hashes of keys that had to go.
_REMEMBERED = 4096

_clearing: list[Callable[[], Any]] = []


def clear_caches() -> None:
    """Gives back the memory of all compiled programs, flaxzoo's and those of JAX itself.

    Nothing is lost but time: what is used again is compiled again. It is for processes that live
    long and see many models; flaxzoo keeps the programs of those used last in any case, a few of
    each kind. ``jax.clear_caches`` is part of it, so that functions of your own compile again, too.
    """
    for clear in _clearing:
        clear()
    jax.clear_caches()
    gc.collect()
    # What is free by now stays with the process otherwise, in pieces; glibc alone has this.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def cleared(clear: Callable[[], Any]) -> None:
    """Has ``clear_caches`` call a function, such as a dictionary's ``clear``."""
    _clearing.append(clear)


# Whether flaxzoo has had JAX compute in this process, and whether in one that it was forked from.
_computed = _forked = False


def computing() -> None:
    """Notes that JAX is about to compute, where that may work.

    Raises:
      RuntimeError: the process was forked from one in which it had computed: its threads are not
        there, and JAX would wait for them for good.
    """
    global _computed
    if _forked:
        raise RuntimeError(
            "this process was forked after JAX had computed in its parent, and JAX's threads do "
            'not come along: start workers by multiprocessing.get_context("spawn") (or '
            '"forkserver"), to which models can be handed, or fork before the first model runs'
        )
    _computed = True


def _note_fork() -> None:
    global _forked
    _forked = _computed


# A flag and nothing else: workers that load data and leave JAX alone are as they were.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class _Entry:
    """The function for one key, when it was last used, and the objects that it was asked for by."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.used = 0
        self.aliases: dict[tuple[int, ...], tuple[Any, ...]] = {}


class Jitted:
    """``jax.jit`` that keeps the programs of what was used last, and lets go of the others.

    Args:
      function: what to compile.
      key: says what of the arguments programs belong to, such as the model: a tuple of objects
        that can be hashed. It decides what is let go together, and nothing about the results.
      handle: a quicker way to the same, a tuple of objects that are the same ones from call to
        call; by default ``key`` itself.
      size: how many keys to keep. It doubles when one comes back that had to go: whoever goes
        round more of them would compile at every turn.
      **options: of ``jax.jit``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        key: Callable[..., tuple[Any, ...]],
        *,
        handle: Callable[..., tuple[Any, ...]] | None = None,
        size: int = SIZE,
        **options: Any,
    ) -> None:
        functools.update_wrapper(self, function)
        self._key, self._handle = key, handle or key
        self._options, self.size = options, size
        self._lock = threading.RLock()
        self._clock = itertools.count(1)
        self._entries: dict[Any, _Entry] = {}
        # By the identities of the objects in a handle, which an entry keeps alive: the hash of a
        # module or an optimizer takes longer than a small step.
        self._by_identity: dict[tuple[int, ...], _Entry] = {}
        self._gone: set[int] = set()
        # How many programs there were of keys that had to go.
        self._past = 0
        _jitted.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the compiled function."""
        return self.function(*args, **kwargs)(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(function).trace``."""
        return self.function(*args, **kwargs).trace(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(function).lower``."""
        return self.function(*args, **kwargs).lower(*args, **kwargs)

    def function(self, *args: Any, **kwargs: Any) -> Any:
        """The function that ``jax.jit`` made for arguments of this key."""
        if _forked:
            computing()
        handle = self._handle(*args, **kwargs)
        entry = self._by_identity.get(tuple(map(id, handle)))
        if entry is None:
            entry = self._found(self._key(*args, **kwargs), handle)
        entry.used = next(self._clock)
        return entry.function

    def with_options(self, **options: Any) -> Jitted:
        """The same function with other options of ``jax.jit``."""
        function = self.__wrapped__  # type: ignore[attr-defined]
        return Jitted(function, self._key, handle=self._handle, size=self.size, **options)

    def clear_cache(self) -> None:
        """Lets go of all programs."""
        with self._lock:
            self._past = 0
            self._entries.clear()
            self._by_identity.clear()
            self._gone.clear()

    def _found(self, key: tuple[Any, ...], handle: tuple[Any, ...]) -> _Entry:
        computing()
        try:
            number = hash(key)
        except TypeError:
            # jit says what cannot be hashed, and keeps nothing.
            return _Entry(self._made())
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                if number in self._gone:
                    self.size *= 2
                    self._gone.clear()
                while len(self._entries) >= self.size:
                    self._let_go()
                entry = self._entries[key] = _Entry(self._made())
            if len(entry.aliases) >= _ALIASES:
                oldest = next(iter(entry.aliases))
                self._by_identity.pop(oldest, None)
                del entry.aliases[oldest]
            identities = tuple(map(id, handle))
            entry.aliases[identities] = handle
            self._by_identity[identities] = entry
            return entry

    def _let_go(self) -> None:
        key = min(self._entries, key=lambda key: self._entries[key].used)
        entry = self._entries.pop(key)
        self._past += entry.function._cache_size()
        for identities in entry.aliases:
            self._by_identity.pop(identities, None)
        if len(self._gone) >= _REMEMBERED:
            self._gone.clear()
        self._gone.add(hash(key))

    def _made(self) -> Any:
        function = self.__wrapped__  # type: ignore[attr-defined]

        # A function of its own: jax's caches go by that, and drop what belongs to one that is gone.
        @functools.wraps(function)
        def own(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return jax.jit(own, **self._options)

    def _cache_size(self) -> int:
        """How many programs were compiled so far, those that are gone included."""
        with self._lock:
            return self._past + sum(e.function._cache_size() for e in self._entries.values())


_jitted: weakref.WeakSet[Jitted] = weakref.WeakSet()


@cleared
def _clear_jitted() -> None:
    for jitted in tuple(_jitted):
        jitted.clear_cache()


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one that is not known to JAX yet, which forgets what it traces of it."""
    return lambda *args, **kwargs: function(*args, **kwargs)
