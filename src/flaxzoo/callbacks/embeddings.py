"""A sample whose features ``TensorBoard`` writes for the Projector tab."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_choice, check_size
from flaxzoo._explain import explained
from flaxzoo.errors import ArgumentError, CallbackError, DataError, ShapeError
from flaxzoo.model import Model, run_batches
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import global_pool

_BATCH_SIZE = 64


@explained
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Embeddings:
    """What a backbone makes of some examples, one vector each, as points to look at.

    Attributes:
      inputs: N examples, as the model takes them; uint8 images for a model with preprocessing are
        preprocessed.
      labels: N labels, or several columns of them by name; class ids become names where the
        model's classes, or the callback's ``class_names``, are known.
      layer: the feature map to take (``Model.feature_maps`` has the names), averaged over its
        area; None for the backbone's output, pooled as its head pools it.
      every: number of epochs between them; 0 for the end of training only.
      thumbnails: whether the points are drawn as pictures. None draws them where the inputs are
        images, False does not; other pictures, N of them, may be given.
      name: what the entries of the tab's menu are called; the step follows.

    Raises:
      ArgumentError: a setting is out of range.
      DataError: there are no inputs.
      ShapeError: labels or thumbnails are not as many as inputs, or the inputs are no images
        though ``thumbnails=True``.
    """

    inputs: Any
    labels: Sequence[Any] | Mapping[str, Sequence[Any]] | None = None
    layer: str | None = None
    every: int = 0
    thumbnails: Any = None
    name: str = "features"

    def __post_init__(self) -> None:
        check_size("every", self.every, minimum=0)
        leaves = jax.tree.leaves(self.inputs)
        if not leaves or not all(np.ndim(leaf) for leaf in leaves) or not len(leaves[0]):
            raise DataError("the inputs of embeddings are empty: pass N examples [N, ...]")
        for name, values in self._columns().items():
            self._require_length(f"labels {name!r}", values)
        if self.thumbnails is True and not self._are_images():
            raise ShapeError(
                f"thumbnails=True takes inputs [N, H, W, 1] or [N, H, W, 3], got {self._shapes()}: "
                "pass thumbnails=<N pictures>, or leave it out"
            )
        if not isinstance(self.thumbnails, bool | None):
            self._require_length("thumbnails", self.thumbnails)

    def check(self, model: Model) -> None:
        """Looks whether a model has these features, before it is trained for long.

        Raises:
          CallbackError: it has no backbone, or the backbone no feature maps.
          ArgumentError: it has none of the name ``layer``.
          ShapeError: it does not take the inputs.
        """
        if not isinstance(model.module, Classifier):
            raise CallbackError(
                f"embeddings are the features of a backbone, and {model.spec.name!r} is no "
                f"Classifier(backbone, head) but a {type(model.module).__name__}: write vectors "
                "of your own with TensorBoard(...).writer.embedding(name, vectors)"
            )
        if self.layer is not None:
            backbone = model.module.backbone
            maps = tuple(backbone.reductions()) if hasattr(backbone, "reductions") else ()
            if not maps:
                raise CallbackError(
                    f"layer={self.layer!r}: a {type(backbone).__name__} has no feature maps; leave "
                    "layer out for its output"
                )
            check_choice("layer", self.layer, maps)
        first = jax.tree.map(lambda x: np.asarray(x[:1]), self.inputs)
        jax.eval_shape(lambda: self._features(model, self._prepared(model, first)))

    def vectors(self, model: Model) -> np.ndarray:
        """The features of all examples, float32 ``[N, D]``."""
        return run_batches(
            lambda part: self._features(model, self._prepared(model, part)),
            self.inputs,
            len(self),
            _BATCH_SIZE,
        )

    def named(self, classes: Sequence[str] | None) -> dict[str, list[Any]]:
        """The columns of labels, with names in place of class ids."""
        return {name: _named(values, classes) for name, values in self._columns().items()}

    def pictures(self) -> Any:
        """The thumbnails, or None."""
        if not isinstance(self.thumbnails, bool | None):
            return self.thumbnails
        return self.inputs if self.thumbnails is not False and self._are_images() else None

    def __len__(self) -> int:
        """Number of examples."""
        return len(jax.tree.leaves(self.inputs)[0])

    def __repr__(self) -> str:
        return f"Embeddings({len(self)} examples, inputs {self._shapes()}, layer={self.layer!r})"

    def _features(self, model: Model, inputs: Any) -> jax.Array:
        backbone = model.module.backbone
        options: dict[str, Any] = getattr(backbone, "pooling_options", dict)()
        if self.layer is not None:
            features, pooling = model.feature_maps(inputs)[self.layer], "avg"
        else:
            features, pooling = model.features(inputs), options.get("pooling", "auto")
        if pooling != "attention":
            features = global_pool(features, pooling, options.get("prefix_tokens", 0))
        if features.ndim > 2:
            # What the head pools by parameters of its own, or not at all.
            features = global_pool(features, "avg", options.get("prefix_tokens", 0))
        return features.astype(jnp.float32)

    def _prepared(self, model: Model, inputs: Any) -> Any:
        raw = getattr(inputs, "dtype", None) == np.uint8 and model.spec.preprocess is not None
        return model.spec.preprocess(inputs) if raw else inputs  # type: ignore[misc]

    def _columns(self) -> dict[str, Any]:
        if self.labels is None:
            return {}
        return dict(self.labels) if isinstance(self.labels, Mapping) else {"label": self.labels}

    def _require_length(self, name: str, values: Any) -> None:
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise ArgumentError(f"{name} must be {len(self)} values, got {values!r}")
        if len(values) != len(self):
            raise ShapeError(f"{len(self)} inputs have {len(values)} {name}")

    def _are_images(self) -> bool:
        shape: Any = getattr(self.inputs, "shape", ())
        return len(shape) == 4 and shape[-1] in (1, 3)

    def _shapes(self) -> str:
        return ", ".join(str(list(np.shape(leaf))) for leaf in jax.tree.leaves(self.inputs))


def as_embeddings(value: Any) -> Embeddings | None:
    """``Embeddings`` of inputs, ``(inputs, labels)`` or themselves.

    Raises:
      ArgumentError: it is none of these.
    """
    if value is None or isinstance(value, Embeddings):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return Embeddings(*value)
    if hasattr(value, "shape"):
        return Embeddings(value)
    raise ArgumentError(
        "embeddings must be inputs [N, ...], (inputs, labels) or flaxzoo.callbacks.Embeddings("
        f"...), got {type(value).__name__}"
    )


def _named(values: Any, classes: Sequence[str] | None) -> list[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ShapeError(f"labels must be one value for each example, got {list(array.shape)}")
    if classes is None or not np.issubdtype(array.dtype, np.integer):
        return array.tolist()
    return [classes[i] if 0 <= i < len(classes) else i for i in array.tolist()]
