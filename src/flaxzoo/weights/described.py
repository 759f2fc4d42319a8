"""The description of a model in a directory or repository: ``config.json``, ours or timm's."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxzoo._files import as_path
from flaxzoo.errors import CheckpointError, FlaxzooError, UnknownNameError
from flaxzoo.spec import ModelSpec
from flaxzoo.weights import hub
from flaxzoo.weights.folders import CONFIG, SAVED
from flaxzoo.weights.timm_config import from_timm_config

# The version of what Model.save writes, and of the section that save_pretrained writes.
FORMAT = 1
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def read_spec(config: Mapping[str, Any], label: str) -> ModelSpec:
    """What a ``config.json`` says of its model: one of ours in either form, or one of timm's.

    Args:
      config: its content.
      label: names it in messages.

    Raises:
      CheckpointError: it is none of these, or damaged.
      UnknownNameError: timm's architecture is not in the registry.
    """
    with naming(label):
        if config.get("format") == SAVED:
            check_version(config["format_version"], config.get("flaxzoo"), label)
            return ModelSpec.from_json(config["spec"])
        if "flaxzoo" not in config:
            return from_timm_config(config, label)[1]
        section = config["flaxzoo"]
        check_version(section["format_version"], section["version"], label)
        spec = ModelSpec.from_json(section["spec"])
        if spec.config is None and "architecture" in config:
            # A new head, but one that timm has too.
            spec = dataclasses.replace(spec, config=from_timm_config(config, label)[1].config)
        return spec


def check_version(version: Any, written: Any, label: str) -> None:
    """Raises CheckpointError for a configuration of a later version than this one reads."""
    if not isinstance(version, int):
        raise TypeError(f"format_version must be an int, got {version!r}")
    if version > FORMAT:
        raise CheckpointError(
            f"{label}: written by flaxzoo {written} in a later format; pip install -U flaxzoo"
        )


@contextlib.contextmanager
def naming(label: str) -> Iterator[None]:
    """Makes what a ``config.json`` of wrong content leads to an error that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except UnknownNameError as error:
        raise UnknownNameError(f"{label}: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{label}: its {CONFIG} lacks the entry {error}") from error
    except (TypeError, AttributeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        if not isinstance(error, FlaxzooError):
            reason = f"{type(error).__name__}: {reason}"
        raise CheckpointError(f"{label}: its {CONFIG} is not understood ({reason})") from error


def locate(
    source: str | os.PathLike[str], revision: str | None = None
) -> tuple[Path, Callable[[], Path], str]:
    """Where the config and the weights of a directory or repository lie, and their name.

    Args:
      source: a directory, ``"org/repo"``, or ``"hf:org/repo[@revision]"``.
      revision: a branch, tag or commit of the repository.

    Returns:
      The path of ``config.json``; a function that gives the path of the weights, after a download
      if need be; and what to call the source in messages.

    Raises:
      CheckpointError: no such directory.
      DownloadError: the repository can't be had.
      ValueError: ``source`` is malformed, or two revisions are given.
    """
    text = os.fspath(source)
    path = as_path(text)
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for the Hub, and {text} is a directory")
        return path / CONFIG, lambda: path, text
    if text.startswith("hf:"):
        repo_id, pinned = hub.parse(text)
        if pinned is not None and revision not in (None, pinned):
            raise ValueError(f"{text} and revision={revision!r} name two revisions")
        revision = revision or pinned
    elif isinstance(source, str) and _REPOSITORY.fullmatch(text):
        repo_id = text
    else:
        raise CheckpointError(
            f"{text}: no such directory; a repository of the Hub is written hf:org/repo"
        )
    config = hub.download(repo_id, CONFIG, revision=revision)
    # The cache files a snapshot under its commit: the weights are to be of the same one.
    commit = config.parent.name
    if re.fullmatch("[0-9a-f]{40}", commit):
        revision = commit
    label = f"hf:{repo_id} ({config.parent})"
    return config, lambda: hub.weight_file(repo_id, revision), label
