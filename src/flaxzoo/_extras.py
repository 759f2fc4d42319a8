"""Optional dependencies: imported where they are used, with an error that says what to type."""

from __future__ import annotations

import importlib
from types import ModuleType

from flaxzoo.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports ``module``, which the extra ``extra`` installs.

    Args:
      module: dotted name of the module, such as ``"matplotlib.pyplot"``.
      extra: name of the flaxzoo extra that installs it.
      purpose: what needs it, for the message.

    Raises:
      MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f'{purpose} needs {package}, which is not installed: pip install "flaxzoo[{extra}]"'
        ) from error
