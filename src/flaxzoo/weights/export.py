"""Models out of flaxzoo, for PyTorch, a directory or the Hub, and back in."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import numpy as np

from flaxzoo._config import hashable_module
from flaxzoo._files import as_path
from flaxzoo._trees import flatten, unflatten
from flaxzoo._version import __version__
from flaxzoo.errors import CheckpointError, UninitializedError
from flaxzoo.layers.lowering.initialise import variable_shapes
from flaxzoo.models.build import module_of
from flaxzoo.spec import ModelSpec
from flaxzoo.weights import hub
from flaxzoo.weights.described import FORMAT, locate, naming, read_spec
from flaxzoo.weights.folders import DIGEST, SAVED, read_together, weights_digest, write_folder
from flaxzoo.weights.names import to_reference
from flaxzoo.weights.pretrained import load, read_file
from flaxzoo.weights.saved import from_config
from flaxzoo.weights.timm_config import reference_of, to_timm_config
from flaxzoo.weights.torch_files import import_torch
from flaxzoo.weights.values import as_weights, in_dtype

_CARD = "README.md"


class Model(Protocol):
    """What is exported: a ``flaxzoo.Model``, whose methods these functions are."""

    @property
    def module(self) -> nn.Module:
        """The Linen module."""

    @property
    def variables(self) -> Any:
        """Its variables, or None."""

    @property
    def spec(self) -> ModelSpec:
        """What is known about the model."""


def to_torch_state_dict(model: Model, *, as_numpy: bool = False) -> dict[str, Any]:
    """The model's variables as a PyTorch state dict under timm's names, or torchvision's.

    Args:
      model: of an architecture that timm has, or torchvision where timm has not; its head may be
        another.
      as_numpy: whether to give NumPy arrays, for which torch is not needed; they may share the
        memory of the model's variables.

    Returns:
      Name to ``torch.Tensor`` on the CPU, or to array, in PyTorch's layout: kernels ``[out, in,
      height, width]``. ``timm.create_model(name).load_state_dict(..., strict=True)`` takes it;
      BatchNorm's ``num_batches_tracked``, which Flax does not count, is 0. A head of your own
      keeps its own names.

    Raises:
      UninitializedError: the model has no variables.
      CheckpointError: the architecture has no counterpart there.
      MissingExtraError: torch is not installed and ``as_numpy`` is false.
    """
    require_variables(model)
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
    require_variables(model)
    timm = to_timm_config(model)
    tensors = to_torch_state_dict(model, as_numpy=True) if timm else flatten(model.variables)
    section = {
        "format_version": FORMAT,
        "version": __version__,
        "module": type(model.module).__name__,
        "spec": model.spec.to_json(),
    }
    write_folder(
        as_path(directory),
        tensors,
        lambda sha256: {**(timm or {}), "flaxzoo": {**section, DIGEST: sha256}},
        form="pt" if timm else "flaxzoo",
    )


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    module: nn.Module | None = None,
    revision: str | None = None,
    param_dtype: Any = None,
) -> tuple[nn.Module, Any, ModelSpec]:
    """Reads a model from a directory or a repository of the Hub, whatever its architecture.

    Args:
      source: a directory; or ``"org/repo"``, ``"hf:org/repo"`` or ``"hf:org/repo@revision"``. An
        existing directory comes before a repository of the same name.
      module: the module, for one that is not from the registry (a head of your own).
      revision: a branch, tag or commit of the repository.
      param_dtype: the dtype of the parameters; None for that in which flaxzoo saved them, and of
        other files for the model's own, float32: a warning says where these are narrower.

    Returns:
      The module, its variables and what is known of them, for a ``flaxzoo.Model``. What
      ``save_pretrained`` and ``Model.save`` wrote comes back as it was; of timm's files the
      preprocessing, the labels and the number of classes are taken.

    Raises:
      CheckpointError: a file is missing, damaged or of another model, or the module is not in the
        registry and was not given.
      UnknownNameError: the architecture is not in the registry.
      DownloadError: the repository can't be had.
      ValueError: ``source`` is malformed, or ``revision`` is given for a directory or twice.
    """
    config_path, weights, label = locate(source, revision)
    chosen = param_dtype is not None

    def read(config: Mapping[str, Any]) -> tuple[nn.Module, Any, ModelSpec]:
        return _from_config(config, weights, label, module, chosen=chosen)

    found, variables, spec = read_together(config_path, label, read)
    return found, in_dtype(variables, param_dtype) if chosen else variables, spec


def _from_config(
    config: Mapping[str, Any],
    weights: Callable[[], Path],
    label: str,
    module: nn.Module | None,
    *,
    chosen: bool,
) -> tuple[nn.Module, Any, ModelSpec]:
    """What ``from_pretrained`` returns, for a configuration that has been read."""
    if config.get("format") == SAVED:
        return from_config(config, weights(), label, module)
    spec = read_spec(config, label)
    with naming(label):
        if module is None and spec.config is None:
            raise CheckpointError(
                f"{label}: holds {config['flaxzoo']['module']!r}, which is not from the registry; "
                "pass the module: from_pretrained(source, module=...)"
            )
        module_found = module_of(spec) if module is None else hashable_module(module)
    tensors = read_file(weights(), label, weights_digest(config, label))
    if tensors.ours and spec.input_shape is None:
        # Several inputs, as a module of one's own may have: there is nothing to compare with.
        leaves = tensors.tensors
        arrays = as_weights(leaves, leaves, source=label, own=True)
        return module_found, unflatten(arrays), spec
    # What a module of the registry finds wrong with its fields, the file is to blame for.
    with naming(label) if module is None else contextlib.nullcontext():
        shapes = variable_shapes(module_found, spec.sample())
        variables, _ = load(
            shapes,
            tensors,
            module_found,
            name=spec.name,
            reference=reference_of(spec.name),
            own="flaxzoo" in config,
            chosen=chosen or "flaxzoo" in config,
        )
        return module_found, variables, spec


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
    argument = ", module=module" if own else ""
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
        f'model = fz.Model.from_pretrained("{repo_id}"{argument})',
        *(['print(model.predict(["image.jpg"]))'] if images else ["outputs = model(inputs)"]),
    ]
    lines = ["---", *front, "---", f"# {repo_id.rpartition('/')[2]}", ""]
    lines += [*([spec.description, ""] if spec.description else []), *facts, ""]
    lines += ["```python", *code, "```"]
    if timm:
        create = f'model = timm.create_model("hf-hub:{repo_id}", pretrained=True)'
        lines += ["", "In PyTorch:", "", "```python", "import timm", "", create, "```"]
    return "\n".join(lines) + "\n"


def require_variables(model: Model) -> None:
    """Raises UninitializedError for a model without variables, and says how it gets some."""
    if model.variables is None:
        raise UninitializedError(
            f"model {model.spec.name!r} has no variables yet: model = model.init(rng=0), "
            "or get it with pretrained=True"
        )


def _has_card(repo_id: str, revision: str | None, token: str | None) -> bool:
    from huggingface_hub import HfApi

    from flaxzoo.weights.hub_errors import explain

    try:
        return HfApi(token=token).file_exists(repo_id, _CARD, revision=revision)
    except Exception as error:
        raise explain(error, repo_id, None, revision, upload=True) from error


def _to_torch(torch: Any, tensor: np.ndarray) -> Any:
    # Copied: it may be a view of the model's own variables, and tensors are written to.
    tensor = tensor.copy()
    if tensor.dtype.name == "bfloat16":
        return torch.from_numpy(tensor.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(tensor)
