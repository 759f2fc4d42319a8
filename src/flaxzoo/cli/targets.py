"""What MODEL may be for ``evaluate`` and ``predict``: a run, a directory, a repository, a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flaxzoo._files import as_path
from flaxzoo.cli.configs import as_sequences, describe
from flaxzoo.cli.values import SettingError, settings
from flaxzoo.errors import CheckpointError, UnknownNameError

if TYPE_CHECKING:
    from flaxzoo.model import Model

_TAKES = (
    "MODEL is a run's directory, a saved model's directory, hf:org/repo, pretrained weights as "
    "NAME.TAG, or a NAME with --weights"
)


def is_run(target: str) -> bool:
    """Whether ``Trainer.load`` reads the target."""
    return (as_path(target) / "trainer.json").is_file()


def load_model(
    target: str,
    *,
    weights: str | None = None,
    config: dict[str, Any] | None = None,
    which: int | str | None = None,
) -> Model:
    """The model that the command line's MODEL stands for.

    Args:
      target: a directory of a run, of ``Model.save``, of ``save_pretrained`` or of timm;
        ``hf:org/repo[@revision]``; or a name of the registry, with its tag or without.
      weights: the source of a name's variables, as ``flaxzoo.models.get(pretrained=...)`` takes
        it; None for the catalogue's.
      config: the model's configuration, for a name.
      which: the checkpoint of a run; None for the last.

    Returns:
      The model, with variables.

    Raises:
      SettingError: an option that does not go with this kind of target.
      CheckpointError: nothing at this place is a model, or what is there is damaged.
      UnknownNameError: neither a directory nor a name.
      DownloadError: weights that cannot be had.
    """
    path = as_path(target)
    run, hub = is_run(target) and weights is None, target.startswith("hf:")
    if which is not None and not run:
        source = target if weights is None else f"--weights {weights}"
        raise SettingError(f"--which chooses a checkpoint of a run's directory; {source} is none")
    if weights is not None:
        return _by_name(target, weights, config or {})
    if config and (run or hub or path.is_dir()):
        raise SettingError(f"--set goes with a model's name; {target} has its configuration")
    if run:
        from flaxzoo.training.trainer import Trainer

        return Trainer.load(path, which=which or "last").model
    if hub or path.is_dir():
        return _described(target, hub=hub)
    return _by_name(target, True, config or {})


def _described(target: str, *, hub: bool) -> Model:
    """A model whose ``config.json`` says what it is."""
    from flaxzoo.model import Model

    if not hub and not (as_path(target) / "config.json").is_file():
        raise CheckpointError(
            f"{target} is neither a run (no trainer.json) nor a saved model (no config.json); "
            f"weights alone are read by NAME --weights {target}"
        )
    return Model.from_pretrained(target)


def _by_name(name: str, source: str | bool, config: dict[str, Any]) -> Model:
    from flaxzoo import models

    path = as_path(name)
    if source is True and path.is_file():
        raise CheckpointError(f"{name} is a file: weights are read by NAME --weights {name}")
    if len(path.parts) > 1 or name.startswith("hf:"):
        if source is not True:
            raise SettingError(f"--weights goes with a model's name, such as resnet50; got {name}")
        raise CheckpointError(f"{name}: there is no such directory. {_TAKES}")
    try:
        spec = models.info(name)
    except UnknownNameError as error:
        if source is not True:
            raise
        raise UnknownNameError(f"there is no directory {name!r}, and {error}") from error
    config = as_sequences(spec.name, config)
    with settings(describe(name, config)):
        return models.get(name, pretrained=source, **config)
