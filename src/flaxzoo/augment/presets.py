"""Augmentations that go together, by name."""

from __future__ import annotations

from flaxzoo._checks import check_number
from flaxzoo.augment.base import Augmentation, Compose
from flaxzoo.augment.color import ColorJitter, Grayscale
from flaxzoo.augment.cropping import RandomCrop, RandomResizedCrop
from flaxzoo.augment.erasing import RandomErasing
from flaxzoo.augment.geometry import Affine, Fill, Flip
from flaxzoo.augment.mixing import CutMix, MixUp
from flaxzoo.augment.one_of import OneOf
from flaxzoo.augment.randaugment import RandAugment
from flaxzoo.augment.registry import REGISTRY


@REGISTRY.register(aliases=["digits"])
def light(
    rotation: float = 10.0, shift: float = 0.1, zoom: float = 0.1, fill: Fill = 0.0
) -> Augmentation:
    """Small rotations, shifts and zooms and no flips, as digits and letters bear; black outside."""
    return Affine(rotation=rotation, shift_x=shift, shift_y=shift, zoom=zoom, fill=fill)


@REGISTRY.register(aliases=["crop_flip"])
def cifar(padding: int = 4, fill: Fill = "mean") -> Augmentation:
    """A window on the padded image and a flip, as is usual for CIFAR."""
    return Compose((RandomCrop(padding, fill=fill), Flip()))


@REGISTRY.register(aliases=["imagenet"])
def standard(
    scale: tuple[float, float] = (0.08, 1.0), size: int | tuple[int, int] | None = None
) -> Augmentation:
    """A random part of the image, resized, and a flip, as is usual for ImageNet."""
    return Compose((RandomResizedCrop(scale, size=size), Flip()))


@REGISTRY.register
def color(strength: float = 0.4) -> Augmentation:
    """A flip, and jitter of brightness, contrast, saturation and, a quarter of it, hue."""
    strength = check_number("strength", strength, minimum=0)
    return Compose((Flip(), ColorJitter(strength, strength, strength, strength / 4), Grayscale()))


@REGISTRY.register
def strong(
    magnitude: float = 9,
    scale: tuple[float, float] = (0.08, 1.0),
    size: int | tuple[int, int] | None = None,
) -> Augmentation:
    """The standard part and flip, RandAugment, and erasing of every fourth image."""
    return Compose(
        (
            RandomResizedCrop(scale, size=size),
            Flip(),
            RandAugment(magnitude=magnitude),
            RandomErasing(p=0.25),
        )
    )


@REGISTRY.register
def mixup_cutmix(
    num_classes: int | None = None, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0
) -> Augmentation:
    """Mixup or CutMix, one of the two for each batch."""
    for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        check_number(name, alpha, above=0)
    return OneOf((MixUp(mixup_alpha, num_classes), CutMix(cutmix_alpha, num_classes)))


@REGISTRY.register
def keras_tutorial(
    rotation: float = 15.0,
    shift: float = 0.1,
    shear: float = 0.1,
    zoom: float = 0.2,
    fill: Fill = "nearest",
) -> Augmentation:
    """What many a tutorial asks of Keras's ImageDataGenerator, in degrees and fractions."""
    return Compose(
        (
            Affine(
                rotation=rotation, shift_x=shift, shift_y=shift, shear_x=shear, zoom=zoom, fill=fill
            ),
            Flip(),
        )
    )
