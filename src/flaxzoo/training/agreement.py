"""What several processes compare before they train: a difference would be a hang, or wrong numbers.

Each says what it has, as text through JAX's coordinator; all see the same texts, and raise the same
error.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxzoo import _version
from flaxzoo._processes import Channel, several
from flaxzoo._spread import local
from flaxzoo._trees import by_path
from flaxzoo.data.batch import Batch
from flaxzoo.errors import ArgumentError, DistributedError
from flaxzoo.training.feed import Feed


def agree_on_fit(
    train: Feed, validation: Feed | None, settings: Mapping[str, Any], call: Mapping[str, Any]
) -> None:
    """Compares code, settings and data, before anything is made; one process has nothing to say.

    Raises:
      ArgumentError: ``devices`` is None, so that each process would train alone.
      DistributedError: the processes differ; the message says in what.
    """
    if not several():
        return
    if settings.get("devices") is None:
        raise ArgumentError(
            f"there are {jax.process_count()} processes, and devices=None is one device of one of "
            "them: devices='all' trains on those of all"
        )
    words = {
        name: value for name, value in settings.items() if isinstance(value, str | int | float)
    }
    feeds = [train] if validation is None else [train, validation]
    compare(
        {
            "jax": jax.__version__,
            "flaxzoo": f"{_version.__version__} with source {_source()}",
            **call,
            **words,
            "validation_data": "given" if validation is not None else "None",
        }
    )
    for feed in feeds:
        feed.agree()
        compare(_of_data(feed))


def agree_on_state(state: Any, position: Mapping[str, int]) -> None:
    """Compares the arrays that training begins with, and where it begins.

    Raises:
      DistributedError: they differ; the message names an array.
    """
    if not several():
        return
    compare(position)
    digests = _digests(state)
    total = hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]
    said = Channel("the first arrays").gather(total)
    if len(set(said)) > 1:
        compare(digests)
        compare({"the arrays of the state": total})


def compare(facts: Mapping[str, Any]) -> None:
    """Has all processes say the same facts.

    Raises:
      DistributedError: they do not; the message names facts, and the processes of each answer.
    """
    own = {name: str(value) for name, value in facts.items()}
    every = [json.loads(text) for text in Channel("the comparison").gather(json.dumps(own))]
    names = list(dict.fromkeys(name for each in every for name in each))
    differences = []
    for name in names:
        answers: dict[str, list[int]] = {}
        for index, each in enumerate(every):
            answers.setdefault(each.get(name, "missing"), []).append(index)
        if len(answers) > 1:
            differences.append(f"{name} is {_listed(answers)}")
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise DistributedError(
            f"the processes differ, and must not: {'; '.join(differences[:5])}{more}. All run the "
            "same program with the same arguments and versions"
        )


def _of_data(feed: Feed) -> dict[str, Any]:
    first = feed.first()
    facts = {
        f"a batch of {feed.name}": _shapes(first),
        f"the number of examples of {feed.name}": feed.num_examples,
        f"the number of batches of {feed.name}": feed.steps_per_epoch,
    }
    if feed.num_examples is not None:
        # The same data set in all processes, of which each takes its part.
        known = first if feed.arrays is not None else Batch((), first.targets)
        facts[f"the first batch of {feed.name}, which every process has whole,"] = _digest(known)
    return facts


def _shapes(batch: Batch) -> str:
    named = by_path(batch._asdict()).items()
    return ", ".join(f"{path} {list(np.shape(leaf))} {leaf.dtype}" for path, leaf in named)


def _digest(tree: Any) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:8]


def _digests(state: Any) -> dict[str, str]:
    digests = {}
    for path, leaf in by_path(local({"params": state.params, "rng": state.rng})).items():
        whole = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        digests[path] = _digest(leaf) if whole else f"{leaf.shape} {leaf.dtype}"
    return digests


@functools.cache
def _source() -> str:
    """A digest of the package's own code: versions do not tell what somebody has changed."""
    digest = hashlib.sha256()
    root = Path(_version.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _listed(answers: Mapping[str, list[int]]) -> str:
    each = (
        f"{answer} in process {', '.join(map(str, processes))}"
        for answer, processes in answers.items()
    )
    return " and ".join(each)
