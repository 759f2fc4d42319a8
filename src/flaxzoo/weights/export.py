"""Models out of flaxzoo, for PyTorch, a directory or the Hub, and back in."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._version import __version__
from flaxzoo.errors import CheckpointError, UnknownNameError
from flaxzoo.weights.files import write_atomically
from flaxzoo.weights.names import to_reference
from flaxzoo.weights.timm_config import from_timm_config, reference_of, to_timm_config
from flaxzoo.weights.torch_files import import_torch
from flaxzoo.weights.trees import flatten, unflatten

if TYPE_CHECKING:
    from flaxzoo.model import Model
    from flaxzoo.spec import ModelSpec

_FORMAT = 1
_WEIGHTS, _CONFIG, _CARD = "model.safetensors", "config.json", "README.md"
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def to_torch_state_dict(model: Model, *, as_numpy: bool = False) -> dict[str, Any]:
    """The model's variables as a PyTorch state dict under timm's names.

    Args:
      model: of an architecture that timm has; its head may be another.
      as_numpy: whether to give NumPy arrays, for which torch is not needed; they may share the
        memory of the model's variables.

    Returns:
      Name to ``torch.Tensor`` on the CPU, or to array, in PyTorch's layout: kernels ``[out, in,
      height, width]``. ``timm.create_model(name).load_state_dict(..., strict=True)`` takes it;
      BatchNorm's ``num_batches_tracked``, which Flax does not count, is 0. A head of your own
      keeps its own names.

    Raises:
      UninitializedError: the model has no variables.
      CheckpointError: the architecture has no counterpart in timm.
      MissingExtraError: torch is not installed and ``as_numpy`` is false.
    """
    model._require_variables()
    reference = reference_of(model.spec.name)
    if reference is None:
        raise CheckpointError(
            f"model {model.spec.name!r} has no counterpart in timm, so its variables have no "
            "PyTorch names; model.save_pretrained(directory) writes them under flaxzoo's"
        )
    tensors = to_reference(flatten(model.variables), reference)
    if as_numpy:
        return dict(tensors)
    torch = import_torch(
        "to_torch_state_dict (as_numpy=True gives NumPy arrays instead, which"
        " torch.from_numpy takes elsewhere)"
    )
    return {name: _to_torch(torch, tensor) for name, tensor in tensors.items()}


def save_pretrained(model: Model, directory: str | os.PathLike[str]) -> None:
    """Writes ``model.safetensors`` and ``config.json``, for flaxzoo and, where it can be, for timm.

    A model that timm has, that is one of its architectures with its own fields and pooling and one
    linear layer as head, is written under timm's names, so that
    ``timm.create_model("local-dir:<directory>", pretrained=True)`` loads it too. Any other is
    written under flaxzoo's own.

    Args:
      model: with variables.
      directory: made if need be. Files of the same names are replaced, both or none.

    Raises:
      UninitializedError: the model has no variables.
      ValueError: its configuration holds a function that JSON cannot.
      DataError: the directory cannot be written.
    """
    from safetensors.numpy import save_file

    model._require_variables()
    directory = Path(directory)
    timm = to_timm_config(model)
    tensors = to_torch_state_dict(model, as_numpy=True) if timm else flatten(model.variables)
    tensors = {name: _contiguous(tensor) for name, tensor in tensors.items()}
    document = {
        **(timm or {}),
        "flaxzoo": {
            "format_version": _FORMAT,
            "version": __version__,
            "module": type(model.module).__name__,
            "spec": model.spec.to_json(),
        },
    }
    text = json.dumps(document, indent=2) + "\n"

    def write(file: Path) -> None:
        file.write_text(text, "utf-8")
        # Between the text and its renaming, so that a full disk leaves the old pair as it was.
        metadata = {"format": "pt" if timm else "flaxzoo"}
        write_atomically(
            directory / _WEIGHTS, lambda weights: save_file(tensors, weights, metadata)
        )

    write_atomically(directory / _CONFIG, write)


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    module: nn.Module | None = None,
    revision: str | None = None,
) -> Model:
    """Reads a model from a directory or a repository of the Hub, whatever its architecture.

    Args:
      source: a directory; or ``"org/repo"``, ``"hf:org/repo"`` or ``"hf:org/repo@revision"``. An
        existing directory comes before a repository of the same name.
      module: the module, for one that is not from the registry (a head of your own).
      revision: a branch, tag or commit of the repository.

    Returns:
      A model with variables. What ``save_pretrained`` and ``Model.save`` wrote comes back as it
      was; of timm's files the preprocessing, the labels and the number of classes are taken.

    Raises:
      CheckpointError: a file is missing, damaged or of another model, or the module is not in the
        registry and was not given.
      UnknownNameError: the architecture is not in the registry.
      DownloadError: the repository can't be had.
      ValueError: ``source`` is malformed, or ``revision`` is given for a directory or twice.
    """
    from flaxzoo import models
    from flaxzoo.model import Model
    from flaxzoo.weights.pretrained import load_pretrained, read_file

    config_path, weights, label = find(source, revision)
    config = read_json(config_path, label)
    if config.get("format") == "flaxzoo.model":
        return Model.load(config_path.parent, module)
    spec = read_spec(config, label)
    with _naming(label):
        if module is None and spec.config is None:
            raise CheckpointError(
                f"{label}: holds {config['flaxzoo']['module']!r}, which is not from the registry; "
                "pass the module: from_pretrained(source, module=...)"
            )
        model = Model(models.module_of(spec) if module is None else module, None, spec)
    read = read_file(weights, label)
    if read.ours and model.spec.input_shape is None:
        # Several inputs, as a module of one's own may have: there is nothing to compare with.
        return model.with_variables(jax.tree.map(jnp.asarray, unflatten(read.tensors)))
    # What a module of the registry finds wrong with its fields, the file is to blame for.
    with _naming(label) if module is None else contextlib.nullcontext():
        return load_pretrained(model, read, fresh_head=False)


def push_to_hub(
    model: Model,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload a flaxzoo model",
    licence: str | None = None,
) -> str:
    """Sends what ``save_pretrained`` writes to a repository of the Hub, creating it if need be.

    A repository without a ``README.md`` gets a short one that says how to load the model.

    Args:
      model: with variables.
      repo_id: ``"org/repo"``.
      revision: the branch; by default the default branch.
      private: whether a repository that is created is private; None for the account's default.
      token: with write access; by default that of ``HF_TOKEN`` or of ``hf auth login``.
      commit_message: of the commit.
      licence: of the weights, for the ``README.md``, such as ``"apache-2.0"``; by default
        ``spec.licence``.

    Returns:
      The URL of the repository, or of its branch.

    Raises:
      UninitializedError: the model has no variables.
      DownloadError: the files could not be sent; the message says why and what to do.
      ValueError: ``repo_id`` is malformed.
    """
    from flaxzoo.weights import hub

    hub.check_names(repo_id, revision)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        save_pretrained(model, directory)
        if not _has_card(repo_id, revision, token):
            card = model_card(model, repo_id, licence=licence)
            (directory / _CARD).write_text(card, "utf-8")
        return hub.upload(
            directory,
            repo_id,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
        )


def model_card(model: Model, repo_id: str, *, licence: str | None = None) -> str:
    """The text of a repository's ``README.md``.

    Args:
      model: with variables.
      repo_id: ``"org/repo"``.
      licence: of the weights; by default ``spec.licence``; none is claimed if both are empty.
    """
    spec, timm = model.spec, to_timm_config(model) is not None
    images = spec.task == "classification" and spec.preprocess is not None
    licence = licence or spec.licence
    tags = [
        "flax",
        "jax",
        *(["timm"] if timm else []),
        *(["image-classification"] if images else []),
    ]
    front = ["library_name: flaxzoo", "tags:", *(f"- {tag}" for tag in tags)]
    front += ["pipeline_tag: image-classification"] if images else []
    front += [f"license: {licence}"] if licence else []
    count = sum(np.size(leaf) for leaf in flatten(model.variables["params"]).values())
    own = spec.config is None and not timm
    given = ", module=module" if own else ""
    facts = [
        f"- architecture: `{spec.name}`{f' ({spec.paper})' if spec.paper else ''}",
        f"- parameters: {count:,}",
        *([f"- input: `[B, {', '.join(map(str, spec.input_shape))}]`"] if spec.input_shape else []),
        *([f"- classes: {len(spec.classes)}"] if spec.classes else []),
    ]
    code = [
        "import flaxzoo as fz",
        "",
        *(["# module: the Linen module that this was trained as"] if own else []),
        f'model = fz.Model.from_pretrained("{repo_id}"{given})',
        *(['print(model.predict(["image.jpg"]))'] if images else ["outputs = model(inputs)"]),
    ]
    lines = ["---", *front, "---", f"# {repo_id.rpartition('/')[2]}", ""]
    lines += [*([spec.description, ""] if spec.description else []), *facts, ""]
    lines += ["```python", *code, "```"]
    if timm:
        create = f'model = timm.create_model("hf-hub:{repo_id}", pretrained=True)'
        lines += ["", "In PyTorch:", "", "```python", "import timm", "", create, "```"]
    return "\n".join(lines) + "\n"


def read_spec(config: Mapping[str, Any], label: str) -> ModelSpec:
    """What a ``config.json`` says of its model: one of ours in either form, or one of timm's.

    Args:
      config: its content.
      label: names it in messages.

    Raises:
      CheckpointError: it is none of these, or damaged.
      UnknownNameError: timm's architecture is not in the registry.
    """
    from flaxzoo.spec import ModelSpec

    with _naming(label):
        if config.get("format") == "flaxzoo.model":
            return ModelSpec.from_json(config["spec"])
        if "flaxzoo" not in config:
            return from_timm_config(config, label).spec
        section = config["flaxzoo"]
        version, written = section["format_version"], section["version"]
        if version > _FORMAT:
            raise CheckpointError(
                f"{label}: written by flaxzoo {written} in a later format; pip install -U flaxzoo"
            )
        spec = ModelSpec.from_json(section["spec"])
        if spec.config is None and "architecture" in config:
            # A new head, but one that timm has too.
            spec = dataclasses.replace(spec, config=from_timm_config(config, label).spec.config)
        return spec


@contextlib.contextmanager
def _naming(label: str) -> Iterator[None]:
    """Makes what a ``config.json`` of wrong content leads to an error that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except UnknownNameError as error:
        raise UnknownNameError(f"{label}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(f"{label}: its {_CONFIG} is not understood ({reason})") from error


def find(source: str | os.PathLike[str], revision: str | None) -> tuple[Path, Path, str]:
    """Where the config and the weights of a directory or repository lie, and their name.

    Raises:
      CheckpointError: no such directory.
      DownloadError: the repository can't be had.
      ValueError: ``source`` is malformed, or two revisions are given.
    """
    from flaxzoo.weights import hub

    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for the Hub, and {text} is a directory")
        return path / _CONFIG, path, text
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
    config = hub.download(repo_id, _CONFIG, revision=revision)
    # The cache files a snapshot under its commit: the weights are to be of the same one.
    commit = config.parent.name
    if re.fullmatch("[0-9a-f]{40}", commit):
        revision = commit
    return config, hub.weight_file(repo_id, revision), f"hf:{repo_id} ({config.parent})"


def read_json(path: Path, label: str) -> Mapping[str, Any]:
    """The content of a ``config.json``; CheckpointError where it is no JSON object."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{label}: no {_CONFIG} in it; for weights alone, "
            "flaxzoo.models.get(name, pretrained=path)"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{label}: its {_CONFIG} is not readable JSON ({error})") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{label}: its {_CONFIG} is not a JSON object")
    return document


def _has_card(repo_id: str, revision: str | None, token: str | None) -> bool:
    from huggingface_hub import HfApi

    from flaxzoo.weights.hub_errors import explain

    try:
        return HfApi(token=token).file_exists(repo_id, _CARD, revision=revision)
    except Exception as error:
        raise explain(error, repo_id, None, revision, upload=True) from error


def _contiguous(leaf: Any) -> np.ndarray:
    return np.require(np.asarray(leaf), requirements="C")


def _to_torch(torch: Any, tensor: np.ndarray) -> Any:
    # Copied: it may be a view of the model's own variables, and tensors are written to.
    tensor = tensor.copy()
    if tensor.dtype.name == "bfloat16":
        return torch.from_numpy(tensor.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(tensor)
