"""Augmentations by name."""

from __future__ import annotations

from typing import Any

from flaxzoo.registry import Registry


class AugmentationRegistry(Registry[Any]):
    """Factories of augmentations: single ones in the snake case of their class, and presets."""

    def register(self, name: Any = None, **options: Any) -> Any:
        """Decorator; a class goes by its name in snake case.

        Raises:
          ValueError: the name or an alias is taken and ``override`` is not given.
        """
        if isinstance(name, type):
            return super().register(_snake(name.__name__), **options)(name)
        if name is not None:
            return super().register(name, **options)

        def add(entry: Any) -> Any:
            key = _snake(entry.__name__) if isinstance(entry, type) else entry.__name__
            return super(AugmentationRegistry, self).register(key, **options)(entry)

        return add

    def _namespace(self) -> str:
        return "augment"


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


REGISTRY = AugmentationRegistry("augmentation")
