"""Random changes of training images, on the device, inside the compiled training step.

``Trainer(augment=...)`` and ``create_train_state(augment=...)`` take a name, an augmentation, a
function ``f(key, batch) -> batch`` or a list of these. Each can be used by itself::

    light = augment.Affine(rotation=15, zoom=0.2) | augment.Flip()
    images = light.images(0, images)  # the key, here a seed, decides everything
"""

from __future__ import annotations

from flaxzoo._explain import missing_from
from flaxzoo.augment import presets
from flaxzoo.augment.base import Augmentation, Compose, ImageAugmentation, as_augmentation
from flaxzoo.augment.color import ColorJitter, GaussianBlur, Grayscale
from flaxzoo.augment.cropping import RandomCrop, RandomResizedCrop
from flaxzoo.augment.erasing import RandomErasing
from flaxzoo.augment.geometry import Affine, Flip, rotation, shear, shift, zoom
from flaxzoo.augment.mixing import CutMix, MixUp
from flaxzoo.augment.one_of import OneOf
from flaxzoo.augment.randaugment import RandAugment, TrivialAugment
from flaxzoo.augment.registry import REGISTRY

__all__ = [
    "REGISTRY",
    "Affine",
    "Augmentation",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Flip",
    "GaussianBlur",
    "Grayscale",
    "ImageAugmentation",
    "MixUp",
    "OneOf",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "TrivialAugment",
    "as_augmentation",
    "get",
    "info",
    "list",
    "register",
    "rotation",
    "shear",
    "shift",
    "zoom",
]

# Importing it is what registers the presets.
del presets

get = REGISTRY.get
register = REGISTRY.register
info = REGISTRY.info
list = REGISTRY.list

__getattr__ = missing_from(__name__, REGISTRY)
