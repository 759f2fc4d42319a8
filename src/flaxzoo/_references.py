"""The networks that ours are compared with: timm's, and torchvision's where timm has none.

Neither package is a dependency of flaxzoo. torchvision's networks get the two methods of timm's
that comparisons call.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from flaxzoo.errors import MissingExtraError, UnknownNameError
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import MODELS
from flaxzoo.weights.names import indexed

# timm imports torchvision, and both torch.
_NEEDED = {"timm": ("torch", "torchvision", "timm"), "torchvision": ("torch", "torchvision")}
_KEPT: list[Any] = []


def reference_network(name: str, **options: Any) -> Any:
    """The reference's network of an architecture, a ``torch.nn.Module`` with random weights.

    Args:
      name: of an architecture that has a reference.
      **options: keywords of ``timm.create_model`` or ``torchvision.models.get_model``; they come
        before those of ``Reference.options``.

    Raises:
      MissingExtraError: the package, or one that it needs, is not installed.
      UnknownNameError: the installed release has no such network.
    """
    package, architecture = package_with(name), MODELS.architecture(name)
    rules = architecture.reference or Reference()
    options = {**dict(rules.options), **options}
    if rules.package == "timm":
        return package.create_model(name, **options)
    ours: Any = architecture.factory()
    maps = ours.backbone.reductions()
    return with_maps(package.models.get_model(name, **options), tuple(maps), rules.classifier)


def package_with(name: str) -> ModuleType:
    """The package of an architecture's reference, after a look whether it has the network.

    Args:
      name: of the architecture.

    Raises:
      MissingExtraError: the package, or one that it needs, is not installed.
      UnknownNameError: the installed release has no such network.
    """
    rules = MODELS.architecture(name).reference or Reference()
    package = import_reference(rules.package)
    timms = rules.package == "timm"
    if not (package.is_model(name) if timms else name in package.models.list_models()):
        raise UnknownNameError(f"{release(rules.package)}, which is installed, has no {name!r}")
    return package


def with_maps(network: Any, maps: Sequence[str], classifier: str) -> Any:
    """Gives torchvision's network the methods of timm's that comparisons call.

    ``forward_intermediates`` returns what the classifier sees and the feature maps, and
    ``forward_head`` pools the former where it still is a map.

    Args:
      network: torchvision's.
      maps: our names of the feature maps, which are those of the submodules that compute them.
      classifier: the name of the last layer with parameters.

    Returns:
      The network.
    """
    names = [indexed(name) for name in maps]

    def forward_intermediates(x: Any, *, intermediates_only: bool = False) -> Any:
        seen: dict[str, Any] = {}

        def keep(name: str, value: Any) -> None:
            # Copied, since the next activation may work in place.
            seen[name] = value.clone()

        hooks = [
            network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: keep(name, output)
            )
            for name in names
        ]
        last = network.get_submodule(classifier)
        hooks.append(last.register_forward_pre_hook(lambda module, inputs: keep("", inputs[0])))
        try:
            network(x)
        finally:
            for hook in hooks:
                hook.remove()
        found = [seen[name] for name in names]
        return found if intermediates_only else (seen[""], found)

    def forward_head(x: Any, *, pre_logits: bool) -> Any:
        del pre_logits  # The logits are what the network itself returns.
        return x if x.ndim == 2 else x.mean((2, 3))

    network.forward_intermediates = forward_intermediates
    network.forward_head = forward_head
    return network


def release(package: str) -> str:
    """The name and version of an installed package, ``"timm 1.0.31"``."""
    version = importlib.import_module(package).__version__
    # What comes behind the plus sign says how it was built.
    return f"{package} {version.partition('+')[0]}"


def package_of(network: Any) -> str:
    """The package that a reference's network is of."""
    return type(network).__module__.partition(".")[0]


def import_timm() -> ModuleType:
    """Imports timm; see ``import_reference``."""
    return import_reference("timm")


def import_reference(package: str) -> ModuleType:
    """Imports timm or torchvision, also where the latter was built for another torch.

    The operators of such a torchvision don't load, and its import stops at the first one that it
    looks up. No classification model uses them: declaring their signatures is enough.

    Args:
      package: ``"timm"`` or ``"torchvision"``.

    Raises:
      MissingExtraError: the package, torch or torchvision is not installed.
    """
    for needed in _NEEDED[package]:
        try:
            importlib.import_module(needed)
        except ModuleNotFoundError as error:
            if error.name != needed:
                raise
            raise MissingExtraError(
                f"verify compares with {package} and needs {needed}, which is not installed: "
                f"pip install {package}"
            ) from error
        except RuntimeError as error:
            if needed != "torchvision" or "operator torchvision::" not in str(error):
                raise
            _declare_operators()
            importlib.import_module(needed)
    return importlib.import_module(package)


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # The declarations live as long as this object does.
    _KEPT.append(library)
