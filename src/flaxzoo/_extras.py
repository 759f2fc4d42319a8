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
      MissingExtraError: the package that holds the module is not installed. Any other failure of
        the import, such as an absent dependency of that package, is raised as it is.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtraError(
            f'{purpose} needs {package}, which is not installed: pip install "flaxzoo[{extra}]"'
        ) from error
