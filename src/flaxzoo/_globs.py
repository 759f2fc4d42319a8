"""The glob language over paths of parameters: which of them a pattern means."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

from flaxzoo._trees import prefixes
from flaxzoo.errors import UnknownNameError, did_you_mean

# The entry of a mapping from patterns for what no other one matches.
DEFAULT = "*"


def paths_by_group(paths: Iterable[str]) -> dict[str, set[str]]:
    """Each group of parameters, and each parameter, to the paths of the parameters in it."""
    groups: dict[str, set[str]] = {}
    for path in paths:
        for prefix in prefixes(path):
            groups.setdefault(prefix, set()).add(path)
    return groups


def is_glob(pattern: str) -> bool:
    """Whether a pattern has a character that stands for others."""
    return any(character in pattern for character in "*?[")


def matched(
    groups: Mapping[str, set[str]], pattern: str, *, label: str, kind: str = "parameter"
) -> set[str]:
    """The paths that one pattern matches, itself or by a group above them.

    Args:
      groups: what ``paths_by_group`` gives for all parameters.
      pattern: a group or a glob.
      label: what messages call the pattern.
      kind: what messages call that which has a path.

    Raises:
      UnknownNameError: there are none; it lists the nearest groups and paths.
    """
    wanted = pattern.strip("/")
    if is_glob(wanted):
        matches = [paths for group, paths in groups.items() if fnmatch.fnmatchcase(group, wanted)]
    else:
        # Schedules name hundreds of parameters one by one: no search through all of them for each.
        matches = [groups[wanted]] if wanted in groups else []
    hits = set().union(*matches)
    if not hits:
        hint = did_you_mean(wanted, groups)
        top = [group for group in groups if "/" not in group]
        raise UnknownNameError(
            f"{label} matches no {kind}.{hint} Top-level groups: {', '.join(top)}"
        )
    return hits


def entry_of_each(
    paths: Iterable[str], entries: Iterable[str], *, label: str, kind: str = "parameter"
) -> dict[str, str]:
    """Which entry of a mapping from patterns each path follows.

    The last entry that matches wins; ``"*"`` is for what none of the others matches, wherever it
    stands. An entry that begins with ``!`` is for all that the rest of it does not match.

    Args:
      paths: the paths of all parameters.
      entries: patterns, as ``freeze`` takes them.
      label: the name of the argument, for messages.
      kind: what messages call that which has a path.

    Returns:
      Path to pattern, without the paths that no entry matches.

    Raises:
      UnknownNameError: (a KeyError) a pattern matches no path; it lists the nearest ones.
      ValueError: an entry is not used, as later ones match all that it does.
      TypeError: a pattern is not text.
    """
    paths, entries = list(paths), list(entries)
    groups = paths_by_group(paths)
    chosen = dict.fromkeys(paths, DEFAULT) if DEFAULT in entries else {}
    for pattern in entries:
        if not isinstance(pattern, str):
            raise TypeError(f"{label}: a pattern must be text, got {pattern!r}")
        if pattern == DEFAULT:
            continue
        wanted = pattern.removeprefix("!")
        hits = matched(groups, wanted, label=f"{label} {pattern!r}", kind=kind)
        for path in set(paths) - hits if pattern.startswith("!") else hits:
            chosen[path] = pattern
    unused = set(entries) - set(chosen.values()) - {DEFAULT}
    if unused:
        raise ValueError(
            f"{label}: {', '.join(map(repr, sorted(unused)))} is for nothing, because "
            "later entries match all that it does: the last entry that matches wins, so put "
            "the general ones first"
        )
    return {path: chosen[path] for path in paths if path in chosen}
