"""Several augmentations as one, and what users may pass as ``augment=``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax

from flaxzoo._checks import check_number
from flaxzoo._random import as_key
from flaxzoo.augment.base import Augmentation, images_of, name_of, replace_images, set_field
from flaxzoo.augment.color import ColorJitter
from flaxzoo.augment.geometry import Affine, Geometric, warp_together
from flaxzoo.augment.registry import REGISTRY
from flaxzoo.data.batch import Batch

if TYPE_CHECKING:
    from flaxzoo.preprocess import Preprocess


@dataclasses.dataclass(frozen=True, repr=False)
class _Several(Augmentation):
    """One made of others.

    Attributes:
      ops: augmentations, their names, or functions ``f(key, batch) -> batch``.
    """

    ops: tuple[Callable[..., Any], ...]

    def __post_init__(self) -> None:
        ops = (self.ops,) if isinstance(self.ops, str) or callable(self.ops) else self.ops
        if not isinstance(ops, Iterable):
            raise TypeError(f"ops must be a sequence of augmentations, got {ops!r}")
        set_field(self, "ops", tuple(_one(op) for op in ops))
        if not self.ops:
            raise ValueError(f"{type(self).__name__} needs at least one augmentation in ops")

    def images(self, key: Any, images: Any) -> jax.Array:
        return self(key, Batch(images)).inputs

    def _mapped(self, method: str, *args: Any) -> Any:
        ops = tuple(
            getattr(op, method)(*args) if isinstance(op, Augmentation) else op for op in self.ops
        )
        return dataclasses.replace(self, ops=ops)

    def normalized_by(self, preprocess: Preprocess | None) -> Augmentation:
        return self._mapped("normalized_by", preprocess)

    def with_num_classes(self, num_classes: int) -> Augmentation:
        return self._mapped("with_num_classes", num_classes)

    @property
    def soft_targets(self) -> bool:
        return any(isinstance(op, Augmentation) and op.soft_targets for op in self.ops)


@dataclasses.dataclass(frozen=True, repr=False)
class Compose(_Several):
    """Does one augmentation after the other.

    Neighbours that move pixels by affine maps and fill up alike (``Affine`` and ``Flip``) are done
    in one sampling: faster, sharper, and what one moves out another can still move back in.

    Attributes:
      ops: augmentations, their names, or functions ``f(key, batch) -> batch``; the first is done
        first.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        # A chain of chains is one chain.
        flat = [op.ops if isinstance(op, Compose) else (op,) for op in self.ops]
        set_field(self, "ops", tuple(itertools.chain(*flat)))

    def __call__(self, key: Any, batch: Batch) -> Batch:  # noqa: D102 - inherited
        keys = iter(jax.random.split(as_key(key), len(self.ops)))
        for group in self._groups():
            own = list(itertools.islice(keys, len(group)))
            if len(group) > 1 and any(op.border is not None for op in group):
                images = warp_together(tuple(group), own, images_of(batch, group[0]))
                batch = replace_images(batch, images)
            else:
                for op, op_key in zip(group, own, strict=True):
                    batch = op(op_key, batch)
        return batch

    def _groups(self) -> Iterator[list[Any]]:
        """Runs of geometric augmentations that one sampling can do; others alone."""
        group: list[Any] = []
        for op in self.ops:
            if group and not _joins(group, op):
                yield group
                group = []
            group.append(op)
        yield group


def _joins(group: list[Any], op: Any) -> bool:
    members = [*group, op]
    if not all(isinstance(member, Geometric) for member in members):
        return False
    kinds = {(m.border, m.mean, m.std) for m in members if m.border is not None}
    return len(kinds) <= 1


@dataclasses.dataclass(frozen=True, repr=False)
class OneOf(_Several):
    """Does one of several augmentations, drawn for the batch as a whole.

    Only the one drawn is computed. If one of them makes soft targets, all do.

    Attributes:
      ops: augmentations, their names, or functions ``f(key, batch) -> batch``, which must keep
        shapes and dtypes alike.
      weights: how likely each is, relative to the others; None for all alike.
    """

    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is None:
            return
        weights = tuple(check_number("weights", w) for w in self.weights)
        if len(weights) != len(self.ops) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                f"weights must be {len(self.ops)} numbers, one per augmentation, not negative and "
                f"not all 0, got {weights}"
            )
        set_field(self, "weights", weights)

    def __call__(self, key: Any, batch: Batch) -> Batch:  # noqa: D102 - inherited
        from flaxzoo.augment.mixing import soften

        choice, key = jax.random.split(as_key(key))
        if self.soft_targets and batch.targets is not None:
            batch = soften(batch, next(_classes(self), None), self)
        weights = jax.numpy.asarray(self.weights or (1.0,) * len(self.ops))
        index = jax.random.choice(choice, len(self.ops), p=weights / weights.sum())
        return jax.lax.switch(index, self.ops, key, batch)


def _classes(op: Any) -> Iterator[int]:
    """The numbers of classes that an augmentation and its parts were given."""
    if isinstance(op, _Several):
        for part in op.ops:
            yield from _classes(part)
    elif getattr(op, "num_classes", None) is not None:
        yield op.num_classes


def as_augmentation(
    value: Any, preprocess: Preprocess | None = None, num_classes: int | None = None
) -> Callable[..., Any] | None:
    """What a user passes as ``augment=`` as a function ``f(key, batch) -> batch``.

    Args:
      value: None, a registered name, an ``Augmentation``, any hashable function
        ``f(key, batch) -> batch``, or a sequence of these, which are done in order.
      preprocess: how the images were normalised; None for images in [0, 1].
      num_classes: of the model, for mixing, where the augmentation does not say.

    Raises:
      UnknownNameError: (a KeyError) no augmentation has that name.
      TypeError: ``value`` is none of these, or a function that is not hashable.
    """
    if value is None or (isinstance(value, list | tuple) and not value):
        return None
    found = Compose(tuple(value)) if isinstance(value, list | tuple) else _one(value)
    if isinstance(found, Augmentation):
        found = found.normalized_by(preprocess)
        # One output is a number to predict or the odds of one class: mixed as it is.
        if num_classes and num_classes > 1:
            found = found.with_num_classes(num_classes)
    return found


def _one(value: Any) -> Callable[..., Any]:
    if isinstance(value, str):
        found = REGISTRY.get(value)
        if found in (Affine(), ColorJitter()):
            raise ValueError(
                f"the augmentation {value!r} changes nothing unless it is told what: see "
                f"flaxzoo.augment.info({value!r}), and pass flaxzoo.augment.get({value!r}, ...)"
            )
        return found
    if isinstance(value, Sequence):
        return Compose(tuple(value))
    if isinstance(value, type) or not callable(value):
        raise TypeError(
            "an augmentation is a name, a flaxzoo.augment.Augmentation or a function "
            f"f(key, batch) -> batch, got {value!r}"
        )
    _check_fields(value)
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(
            f"augmentation {name_of(value)} is not hashable, so that a compiled step cannot hold it"
        ) from error
    return value


def _check_fields(value: Any) -> None:
    """Refuses a subclass whose instances would be equal, and share a compiled step, wrongly."""
    if not isinstance(value, Augmentation):
        return
    hidden = vars(value).keys() - {field.name for field in dataclasses.fields(value)}
    own_equality = any("__eq__" in vars(cls) for cls in type(value).__mro__[:1])
    if hidden and not own_equality:
        raise TypeError(
            f"{name_of(value)} holds {', '.join(sorted(hidden))}, which its equality does not "
            "know, so that a compiled step would take one for another: declare them as fields of "
            "a @dataclasses.dataclass(frozen=True)"
        )
