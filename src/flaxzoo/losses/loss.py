"""The object that every name in the registry becomes."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._config import NotJsonableError, to_json
from flaxzoo._explain import explained
from flaxzoo.errors import DataError, ShapeError, UnknownArgumentError
from flaxzoo.losses.regularizers import Regularizer
from flaxzoo.losses.traits import Traits, as_number_array, map_arrays, spec_of


@dataclasses.dataclass(frozen=True, repr=False)
class Loss:
    """A loss with its options fixed: what ``losses.get`` and ``losses.as_loss`` return.

    Immutable and hashable, and equal to any other built from equal arguments, so that it can be
    a static argument of a jitted step without causing recompilation. Arithmetic is in float32 at
    least: half-precision predictions are widened first.

    Attributes:
      name: the registered name, or the ``__name__`` of a user's function.
      function: ``f(predictions, targets, **options)``, unreduced.
      traits: the shapes and values that it takes.
      options: its keywords, as hashable pairs, defaults included.
      reduction: what calling the loss returns: "none", "mean" or "sum".
      regularizers: penalties that were added with ``+``.
      registered: whether ``losses.get(name)`` finds it.
    """

    name: str
    function: Callable[..., Any]
    traits: Traits
    options: tuple[tuple[str, Any], ...] = ()
    reduction: str = "none"
    regularizers: tuple[Regularizer, ...] = ()
    registered: bool = False

    @property
    def per_example(self) -> bool:
        """Whether the loss has a value for each example, so that examples can be weighted.

        For a user's function this is True until its result says otherwise; see
        :meth:`gives_per_example`.
        """
        return self.traits.per_example

    @property
    def integer_labels(self) -> bool:
        """Whether targets must be integer class indices."""
        return self.traits.integer_labels

    @property
    def config(self) -> dict[str, Any] | None:
        """Keywords for ``losses.get(**config)`` that build an equal loss, fit for JSON.

        None for a user's function that is not registered, and for options that JSON cannot hold.
        """
        if not self.registered:
            return None
        parameters = inspect.signature(self.function).parameters
        config: dict[str, Any] = {"name": self.name}
        for key, value in self.options:
            if key not in parameters or parameters[key].default != value:
                config[key] = value
        if self.reduction != "none":
            config["reduction"] = self.reduction
        if self.regularizers:
            config["regularizers"] = [regularizer.config for regularizer in self.regularizers]
        try:
            return to_json(config)
        except NotJsonableError:
            return None

    def __repr__(self) -> str:
        config = self.config or {"name": self.name, **dict(self.options)}
        shown = {k: v for k, v in config.items() if k not in ("name", "regularizers")}
        arguments = [repr(self.name), *(f"{k}={v!r}" for k, v in shown.items())]
        return " + ".join([f"Loss({', '.join(arguments)})", *map(repr, self.regularizers)])

    def __reduce__(self) -> Any:
        # It imports Linen, which losses do without.
        from flaxzoo._pickling import packed, restored

        return restored, (type(self), packed(vars(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Loss:
        # It cannot change; and what it holds need not be picklable.
        return self

    def __copy__(self) -> Loss:
        return self

    def __add__(self, other: Any) -> Loss:
        """The same loss with one more penalty on the parameters."""
        if not isinstance(other, Regularizer):
            return NotImplemented
        return dataclasses.replace(self, regularizers=(*self.regularizers, other))

    @explained
    def __call__(self, predictions: Any, targets: Any, *, weights: Any = None) -> jax.Array:
        """The loss, reduced as ``reduction`` says; by default not at all.

        Args:
          predictions: a model's outputs, ``[B, ...]``; numbers and lists are accepted.
          targets: what they should be; each loss's documentation gives shape and meaning.
          weights: one number per example, ``[B]``, or per element of the leading axes
            (``[B, T]``); 0 removes an example.

        Returns:
          "none": the unreduced loss, times the weights. "mean": as :meth:`mean`.
          "sum": the sum of "none".

        Raises:
          ShapeError: shapes or dtypes that do not fit; nothing is broadcast silently.
          UnknownArgumentError: weights for a loss that has one value for the whole batch.
        """
        if self.reduction == "mean":
            return self.mean(predictions, targets, weights)
        values = self._unreduced(predictions, targets)
        if weights is not None:
            self._refuse_weights(values, predictions)
            weights = self._weights(weights, values)
            weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
            values = jnp.where(weights != 0, weights * values, 0)
        return jnp.sum(values) if self.reduction == "sum" else values

    def values(self, predictions: Any, targets: Any) -> jax.Array:
        """One loss per example: the mean over all axes but the first.

        Args:
          predictions: a model's outputs, ``[B, ...]``.
          targets: what they should be.

        Returns:
          float32 ``[B]``; a scalar for a loss that has one value for the whole batch.

        Raises:
          ShapeError: shapes that do not fit.
        """
        values = self._unreduced(predictions, targets)
        if self._is_batch_value(values, predictions):
            return jnp.mean(values)
        values = jnp.atleast_1d(values)
        return jnp.mean(values, axis=tuple(range(1, values.ndim)))

    def mean(self, predictions: Any, targets: Any, weights: Any = None) -> jax.Array:
        """The weighted mean over the batch: what training minimises, without regularisation.

        ``sum(weights * values) / sum(weights)``, and 0 where all weights are 0. Class weights do
        not enter the denominator (Keras's mean; torch divides by their sum too).

        Args:
          predictions: a model's outputs, ``[B, ...]``.
          targets: what they should be.
          weights: one number per example, ``[B]``, or per element of the leading axes
            (``[B, T]`` for sequences); 0 removes an example. None weighs all alike.

        Returns:
          float32 scalar.

        Raises:
          ShapeError: shapes that do not fit.
          UnknownArgumentError: weights for a loss that has one value for the whole batch.
        """
        values = self._unreduced(predictions, targets)
        if weights is None:
            return jnp.mean(values)
        self._refuse_weights(values, predictions)
        weights = self._weights(weights, values)
        values = jnp.mean(values, axis=tuple(range(weights.ndim, values.ndim)))
        total = jnp.sum(weights)
        # where, not only a product: a masked example may well hold NaN.
        weighted = jnp.sum(jnp.where(weights != 0, weights * values, 0))
        return jnp.where(total != 0, weighted / jnp.where(total != 0, total, 1), 0)

    def regularization(self, params: Any) -> jax.Array:
        """The sum of the added penalties, a float32 scalar; 0 where none was added.

        Args:
          params: a pytree of parameters, such as ``variables["params"]``.
        """
        total = jnp.zeros((), jnp.float32)
        for regularizer in self.regularizers:
            total += regularizer(params)
        return total

    def gives_per_example(self, predictions: Any, targets: Any) -> bool:
        """Whether the loss has a value per example for arrays of these shapes.

        Unlike :attr:`per_example` this is exact for a user's function too: its result is traced,
        not computed.

        Args:
          predictions: arrays or ``jax.ShapeDtypeStruct``.
          targets: arrays or ``jax.ShapeDtypeStruct``.
        """
        if self.traits.known:
            return self.per_example
        predictions, targets = self._specs(predictions), self._specs(targets)
        values = jax.eval_shape(self._unreduced, predictions, targets)
        return not self._is_batch_value(values, predictions)

    def check(self, predictions: Any, targets: Any) -> None:
        """Checks shapes and dtypes; values are not read, so tracers and specs will do.

        Args:
          predictions: arrays, tracers or ``jax.ShapeDtypeStruct``, in the loss's structure.
          targets: the same.

        Raises:
          ShapeError: names the argument, what it got, what it takes and what was probably meant.
        """
        predictions, targets = self._specs(predictions), self._specs(targets)
        options = dict(self.options)
        try:
            self.traits.check(self.name, predictions, targets, options)
        except ShapeError as error:
            with contextlib.suppress(Exception):
                self.traits.check(self.name, targets, predictions, options)
                hint = "These fit the other way round: predictions come first, then targets."
                error = ShapeError(f"{error} {hint}")
            raise error from None
        if any(leaf.shape[:1] == (0,) for leaf in jax.tree.leaves(predictions)):
            raise ShapeError(f"predictions of loss {self.name!r} hold no examples")

    def check_targets(self, targets: Any, predictions: Any) -> None:
        """Checks the values of targets, on the host.

        Args:
          targets: NumPy arrays (or what converts to them).
          predictions: arrays or ``jax.ShapeDtypeStruct`` of the model's outputs for them.

        Raises:
          ShapeError: shapes that do not fit.
          DataError: empty targets, labels out of range, NaN or infinity, numbers that are no
            probabilities; it says which values and where the first one is.
        """
        arrays = self._map(np.asarray, targets)
        if any(array.size == 0 for array in jax.tree.leaves(arrays)):
            raise DataError(f"targets of loss {self.name!r} are empty")
        self.check(predictions, targets)
        specs = self._specs(predictions)
        self.traits.check_values(self.name, arrays, specs, dict(self.options))

    def _map(self, function: Callable[[Any], Any], tree: Any) -> Any:
        return map_arrays(function, tree, lists_are_arrays=self.traits.known)

    def _specs(self, tree: Any) -> Any:
        return self._map(spec_of, tree)

    def _unreduced(self, predictions: Any, targets: Any) -> jax.Array:
        self.check(predictions, targets)
        known = self.traits.known
        predictions = self._map(lambda x: as_number_array(x, floating=known), predictions)
        targets = self._map(lambda x: as_number_array(x, floating=False), targets)
        result = self.function(predictions, targets, **dict(self.options))
        if not known:
            _check_result(self.name, result, predictions, targets)
        result = as_number_array(result, floating=True)
        if not known:
            return result
        # optax makes one-hot targets, and with them losses, of float64 where JAX has it.
        widest = jnp.result_type(jnp.float32, *jax.tree.leaves(predictions))
        return result.astype(widest)

    def _is_batch_value(self, values: Any, predictions: Any) -> bool:
        if self.traits.known:
            return not self.per_example
        batched = any(len(leaf.shape) for leaf in jax.tree.leaves(self._specs(predictions)))
        return values.ndim == 0 and batched

    def _refuse_weights(self, values: Any, predictions: Any) -> None:
        if self._is_batch_value(values, predictions):
            raise UnknownArgumentError(
                f"loss {self.name!r} does not take weights: it has one value for the whole batch, "
                "none per example"
            )

    def _weights(self, weights: Any, values: jax.Array) -> jax.Array:
        weights = as_number_array(weights, floating=True)
        if not values.ndim and weights.size == 1:
            return weights.reshape(())
        if weights.ndim == 0 or weights.shape != values.shape[: weights.ndim]:
            allowed = [str(values.shape[: n + 1]) for n in range(values.ndim)] or ["()"]
            raise ShapeError(
                f"weights of loss {self.name!r} has shape {weights.shape}; "
                f"it takes shape {' or '.join(allowed)}"
            )
        return weights


def _check_result(name: str, result: Any, predictions: Any, targets: Any) -> None:
    """Raises ShapeError unless a user's function returned one usable array."""
    leaves = jax.tree.leaves(result)
    if len(leaves) != 1 or leaves[0] is not result:
        raise ShapeError(
            f"loss function {name!r} returned a {type(result).__name__}; it must return one "
            "array: a scalar, or values whose first axis is the batch"
        )
    shape = jnp.shape(result)
    p, t = jax.tree.leaves(predictions), jax.tree.leaves(targets)
    if not shape or not p or not p[0].ndim:
        return
    if shape[0] != p[0].shape[0]:
        raise ShapeError(
            f"loss function {name!r} returned shape {shape} for predictions of shape "
            f"{p[0].shape}; it must return a scalar, or values whose first axis is the batch"
        )
    size = int(np.prod(shape))
    if len(p) == len(t) == 1 and p[0].shape != t[0].shape and size > max(p[0].size, t[0].size):
        raise ShapeError(
            f"loss function {name!r} broadcast predictions of shape {p[0].shape} against targets "
            f"of shape {t[0].shape} to {shape}; reshape the targets to {p[0].shape}"
        )
