"""LSTM networks over feature sequences or token ids."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_rate, check_size, is_size
from flaxzoo.errors import CheckpointError, DataError, ShapeError, did_you_mean
from flaxzoo.layers.lstm import Carry, LSTMLayer
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head
from flaxzoo.models.registry import register, takes_fields_of

Array = jax.Array

POOLINGS = ("last", "mean", "max")
_INPUT_KEYS = ("inputs", "text")


class LSTM(nn.Module):
    """Stacked LSTM layers with optional embedding, pooling and classification layer.

    Computes what ``torch.nn.LSTM(batch_first=True)`` computes, and its parameters map to torch's
    one to one (``from_torch_state_dict``): layer ``n`` is the group ``l<n>``, its reverse
    direction ``l<n>_reverse``; ``embedding`` and ``head`` are the optional parts around them.

    Attributes:
      hidden_size: units H of each layer and direction.
      num_layers: layers, each over the outputs of the one below.
      bidirectional: add a layer from the end to the start and concatenate the two outputs.
      vocab_size: number of token ids; the inputs are then ids [B, T]. None takes float features
        [B, T, F].
      embedding_dim: size of a token's vector; None means ``hidden_size``.
      pad_id: a token id that stands for padding: such steps are masked. It may lie outside the
        vocabulary (-1, say). It needs ``vocab_size``.
      pooling: ``"last"`` (the state after the last valid step, of both directions), ``"mean"`` or
        ``"max"`` over the valid steps, or None (or ``"none"``) for the outputs of all steps.
      dropout: rate in [0, 1) applied between layers while training, where torch applies it.
      num_classes: width of a final linear layer; 0 leaves it out and returns the features.
      remat: recompute the layers in the backward pass, in blocks of about ``sqrt(T)`` steps, for
        less memory.
      remat_policy: what remat may keep: a name in ``jax.checkpoint_policies`` or a policy.
      unroll: steps per iteration of the compiled loop.
      custom_gradient: use the fast hand-written reverse pass. It has first derivatives in reverse
        mode only; set False for ``jax.jvp``, ``jax.hessian`` and the like.
      dtype: of the computation; None keeps the promotion of inputs and parameters.
      param_dtype: of the parameters.
    """

    hidden_size: int = 128
    num_layers: int = 1
    bidirectional: bool = False
    vocab_size: int | None = None
    embedding_dim: int | None = None
    pad_id: int | None = None
    pooling: str | None = "last"
    dropout: float = 0.0
    num_classes: int = 0
    remat: bool = False
    remat_policy: str | Callable[..., Any] | None = None
    unroll: int = 1
    custom_gradient: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def num_directions(self) -> int:
        """1, or 2 where bidirectional."""
        return 2 if self.bidirectional else 1

    def initialize_carry(self, batch_size: int) -> Carry:
        """The zero state (h, c), each [num_layers * num_directions, batch_size, hidden_size].

        The order along the first axis is torch's: layer 0, layer 0 reverse, layer 1, ...
        """
        shape = (self.num_layers * self.num_directions, batch_size, self.hidden_size)
        dtype = self.param_dtype if self.dtype is None else self.dtype
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """The embedding if there is one, the layers, the linear layer if there is one.

        Pooling belongs to the last layer.

        Raises:
          ValueError: a field holds what it does not take.
        """
        self._check_fields()
        found: dict[str, tuple[str, ...]] = {}
        if self.vocab_size is not None:
            found["embedding"] = ("embedding",)
        for n in range(self.num_layers):
            found[f"l{n}"] = (f"l{n}", f"l{n}_reverse")[: self.num_directions]
        return found | ({"head": ("head",)} if self.num_classes else {})

    def __call__(
        self,
        inputs: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        carry: Carry | None = None,
        return_carry: bool = False,
        train: bool = False,
    ) -> Any:
        """Runs the network.

        Args:
          inputs: float features [B, T, F], or integer ids [B, T] where ``vocab_size`` is set. Ids
            outside the vocabulary give NaN, as in ``jnp.take``. Or a mapping with ``inputs`` (or
            ``text``) and ``lengths`` or ``mask``: the form in which batches carry them through
            ``train_step``.
          lengths: integers [B]: how many leading steps are valid, 0 to T.
          mask: [B, T], true (or 1) at valid steps. Any pattern: the result is that of the sequence
            with the other steps cut out. With ``lengths``, a step must be valid in both.
          carry: the state (h, c) to start from, as ``initialize_carry`` and ``return_carry`` give
            it; None for zeros. Feeding a sequence in pieces equals feeding it whole, unless
            bidirectional.
          return_carry: also return the state after each sequence's last valid step.
          train: apply dropout; it needs the RNG stream ``dropout``.

        Returns:
          [B, D * H] for D directions; without pooling [B, T, D * H], zeros at masked steps; with
          ``num_classes``, logits [B, num_classes] or [B, T, num_classes]. A sequence without valid
          steps pools to zeros (``"last"``: to the state it started from, zeros by default). With
          ``return_carry``, the pair of that and the state (h, c).

        Raises:
          ShapeError: an argument has the wrong shape or dtype.
          DataError: a mapping lacks inputs or has unknown keys; a length is out of range.
          UnknownNameError: no remat policy has that name.
          ValueError: a field holds what it does not take: an unknown pooling, a size below 1, or a
            rate outside [0, 1).
        """
        return self.run_stages(
            inputs, lengths=lengths, mask=mask, carry=carry, return_carry=return_carry, train=train
        )

    @nn.compact
    def run_stages(
        self,
        inputs: Any,
        start: int = 0,
        stop: int | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        carry: Carry | None = None,
        return_carry: bool = False,
        train: bool = False,
    ) -> Any:
        """Computes the stages ``start`` to ``stop`` of ``stages()``.

        Args:
          inputs: as for a call, or what the stage before returns.
          start: number of the first stage.
          stop: number of the first one that is left out; None for none.
          lengths: as for a call.
          mask: as for a call.
          carry: as for a call, of the layers in the range.
          return_carry: also return that.
          train: as for a call.

        Returns:
          As a call. Before the last layer of all, where steps are masked, a mapping with ``inputs``
          and ``mask``, which the next range takes.

        Raises:
          ShapeError, DataError, UnknownNameError, ValueError: as a call does.
        """
        names = list(self.stages())[start:stop]
        layers = [n for n in range(self.num_layers) if f"l{n}" in names]
        inputs, lengths, mask = _unpack(inputs, lengths, mask)
        x, valid = jnp.asarray(inputs), None
        if names != ["head"]:
            x, valid = self._check_inputs(x, lengths, mask, ids="embedding" in names)
            x, valid = self._embed(x, valid, ids="embedding" in names)
        batch = x.shape[0]
        if carry is not None:
            shape = (len(layers) * self.num_directions, batch, self.hidden_size)
            _check_carry(carry, shape)

        last: list[Carry] = []
        for layer in layers:
            if layer and self.dropout:
                # Named, so that a slice draws what the whole network does.
                drop = nn.Dropout(self.dropout, name=f"Dropout_{layer - 1}")
                x = drop(x, deterministic=not train)
            outputs = []
            for direction in range(self.num_directions):
                index = len(last)
                state = None if carry is None else (carry[0][index], carry[1][index])
                y, state = LSTMLayer(
                    self.hidden_size,
                    reverse=direction == 1,
                    remat=self.remat,
                    remat_policy=self.remat_policy,
                    unroll=self.unroll,
                    custom_gradient=self.custom_gradient,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=f"l{layer}" + "_reverse" * direction,
                )(x, state, valid)
                outputs.append(y)
                last.append(state)
            x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)

        if layers and layers[-1] == self.num_layers - 1:
            x = self._pooled(x, valid, last)
        elif valid is not None:
            # The form in which inputs carry their mask.
            masked = {"inputs": x, "mask": valid}
            return (masked, self._stacked(last, batch)) if return_carry else masked
        if "head" in names:
            x = nn.Dense(
                self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="head"
            )(x)
        return (x, self._stacked(last, batch)) if return_carry else x

    @nn.nowrap
    def _stacked(self, last: list[Carry], batch: int) -> Carry:
        """The layers' states in one array each; a range may have no layer."""
        if not last:
            h, c = self.initialize_carry(batch)
            return h[:0], c[:0]
        return jnp.stack([h for h, _ in last]), jnp.stack([c for _, c in last])

    @nn.nowrap
    def _pooled(self, x: Array, valid: Array | None, last: list[Carry]) -> Array:
        if self.pooling == "last":
            x = jnp.concatenate([h for h, _ in last[-self.num_directions :]], axis=-1)
        elif self.pooling in POOLINGS:
            x = _pool(x, valid, self.pooling)
        return x

    @nn.nowrap
    def _check_fields(self) -> None:
        if not (is_size(self.hidden_size) and is_size(self.num_layers)):
            raise ValueError(
                "hidden_size and num_layers must be ints of at least 1, got "
                f"{self.hidden_size!r} and {self.num_layers!r}"
            )
        if self.pooling is not None and self.pooling not in (*POOLINGS, "none"):
            raise ValueError(
                f"unknown pooling {self.pooling!r}.{did_you_mean(str(self.pooling), POOLINGS)} "
                f"It is one of {', '.join(POOLINGS)} or None"
            )
        check_rate("dropout", self.dropout)
        check_size("num_classes", self.num_classes, minimum=0)
        check_size("unroll", self.unroll)
        check_size("vocab_size", self.vocab_size, optional=True)
        check_size("embedding_dim", self.embedding_dim, optional=True)
        if self.pad_id is not None and not isinstance(self.pad_id, numbers.Integral):
            raise ValueError(f"pad_id must be an int or None, got {self.pad_id!r}")
        if self.pad_id is not None and self.vocab_size is None:
            raise ValueError("pad_id needs vocab_size: only token ids can be compared with it")

    @nn.nowrap
    def _check_inputs(
        self, x: Array, lengths: Any, mask: Any, ids: bool
    ) -> tuple[Array, Array | None]:
        """The inputs, and the valid steps [B, T] or None where every step is."""
        if not ids:
            if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
                raise ShapeError(
                    f"inputs must be floats [B, T, F], got {x.dtype} {list(x.shape)}"
                    + ("; for token ids [B, T] set vocab_size" * (self.vocab_size is None))
                )
        elif x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ShapeError(
                f"inputs must be integer token ids [B, T], as vocab_size={self.vocab_size} is set, "
                f"got {x.dtype} {list(x.shape)}"
            )
        if x.shape[1] == 0:
            raise ShapeError(f"inputs must have at least one step, got {list(x.shape)}")
        valid = None
        if lengths is not None:
            valid = _mask_from_lengths(lengths, *x.shape[:2])
        if mask is not None:
            mask = jnp.asarray(mask)
            if mask.shape != x.shape[:2]:
                raise ShapeError(
                    f"mask must be [B, T] = {list(x.shape[:2])}, got {list(mask.shape)}"
                )
            valid = mask.astype(bool) if valid is None else valid & mask.astype(bool)
        if self.pad_id is not None and ids:
            tokens = x != self.pad_id
            valid = tokens if valid is None else valid & tokens
        return x, valid

    def _embed(self, x: Array, valid: Array | None, ids: bool) -> tuple[Array, Array | None]:
        if ids and self.vocab_size is not None:
            # Padding may hold any number, also one outside the vocabulary.
            x = x if valid is None else jnp.where(valid, x, 0)
            x = nn.Embed(
                self.vocab_size,
                self.hidden_size if self.embedding_dim is None else self.embedding_dim,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name="embedding",
            )(x)
        # Zeros, so that a NaN in the padding cannot reach the gradient of the kernel.
        return (x if valid is None else jnp.where(valid[..., None], x, 0)), valid


def _unpack(inputs: Any, lengths: Any, mask: Any) -> tuple[Any, Any, Any]:
    if not isinstance(inputs, Mapping):
        return inputs, lengths, mask
    rest = dict(inputs)
    found = [rest.pop(key) for key in _INPUT_KEYS if key in rest]
    lengths, mask = rest.pop("lengths", lengths), rest.pop("mask", mask)
    if len(found) != 1 or rest:
        raise DataError(
            "a mapping of inputs must have 'inputs' or 'text', and may have 'lengths' and 'mask'; "
            f"got {', '.join(map(repr, inputs))}"
        )
    return found[0], lengths, mask


def _mask_from_lengths(lengths: Any, batch: int, steps: int) -> Array:
    traced = isinstance(lengths, jax.core.Tracer)
    if not traced:
        lengths = np.asarray(lengths)
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ShapeError(
            f"lengths must be integers [B] = [{batch}], got {lengths.dtype} {list(lengths.shape)}"
        )
    if not traced and batch and (lengths.min() < 0 or lengths.max() > steps):
        raise DataError(
            f"lengths must lie between 0 and the {steps} steps of the inputs, got "
            f"{lengths.min()} to {lengths.max()}"
        )
    return jnp.arange(steps) < jnp.asarray(lengths)[:, None]


def _check_carry(carry: Any, shape: tuple[int, ...]) -> None:
    shapes = [tuple(np.shape(leaf)) for leaf in jax.tree.leaves(carry)]
    if shapes != [shape, shape]:
        raise ShapeError(
            "carry must be a pair (h, c), each [num_layers * num_directions, B, hidden_size] = "
            f"{list(shape)}, got {[list(s) for s in shapes]}"
        )


def _pool(x: Array, valid: Array | None, kind: str) -> Array:
    """The mean or maximum over valid steps of [B, T, C]; zeros where there are none."""
    if valid is None:
        return x.mean(axis=1) if kind == "mean" else x.max(axis=1)
    if kind == "mean":
        count = jnp.maximum(valid.sum(axis=1, keepdims=True), 1)
        return x.sum(axis=1) / count.astype(x.dtype)
    highest = jnp.where(valid[..., None], x, -jnp.inf).max(axis=1)
    return jnp.where(valid.any(axis=1, keepdims=True), highest, 0)


def from_torch_state_dict(
    state_dict: Mapping[str, Any], *, prefix: str = ""
) -> dict[str, dict[str, Array]]:
    """Parameters of ``LSTM``'s layers from the state dict of a ``torch.nn.LSTM``.

    Args:
      state_dict: names to arrays (torch tensors or NumPy arrays).
      prefix: of the LSTM's names in a larger model's state dict, such as ``"encoder.lstm."``;
        names without it are left out.

    Returns:
      Groups ``l0``, ``l0_reverse``, ``l1`` ... of ``kernel_ih`` [F, 4 * H], ``kernel_hh``
      [H, 4 * H] and ``bias`` [4 * H] (the sum of torch's two), to be merged into the parameters.

    Raises:
      CheckpointError: a name is missing, or is none of ``nn.LSTM``'s (projections are not
        supported).
    """
    rest = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    params: dict[str, dict[str, Array]] = {}
    for name in [k.removeprefix("weight_ih_") for k in rest if k.startswith("weight_ih_l")]:
        try:
            kernel_ih = _to_numpy(rest.pop(f"weight_ih_{name}")).T
            kernel_hh = _to_numpy(rest.pop(f"weight_hh_{name}")).T
            bias = np.zeros(kernel_ih.shape[1], kernel_ih.dtype)
            if f"bias_ih_{name}" in rest:
                bias = _to_numpy(rest.pop(f"bias_ih_{name}"))
                bias = bias + _to_numpy(rest.pop(f"bias_hh_{name}"))
        except KeyError as error:
            raise CheckpointError(f"the state dict lacks {prefix + error.args[0]!r}") from None
        arrays = {"kernel_ih": kernel_ih, "kernel_hh": kernel_hh, "bias": bias}
        params[name] = {key: jnp.asarray(value) for key, value in arrays.items()}
    if rest or not params:
        unknown = ", ".join(sorted(prefix + key for key in rest)) or "no names"
        raise CheckpointError(
            f"not the state dict of a torch.nn.LSTM without projections (prefix {prefix!r}): "
            f"it has {unknown}"
        )
    return params


def to_torch_state_dict(params: Mapping[str, Any], *, prefix: str = "") -> dict[str, np.ndarray]:
    """The state dict of the ``torch.nn.LSTM`` that computes what these layers compute.

    Args:
      params: of an ``LSTM``; ``embedding`` and ``head`` are left out.
      prefix: put before every name.

    Returns:
      Names to NumPy arrays. Our bias becomes ``bias_ih``; ``bias_hh`` is zero.
    """
    state: dict[str, np.ndarray] = {}
    for name, group in params.items():
        if "kernel_hh" not in group:
            continue
        bias = np.array(group["bias"])
        state[f"{prefix}weight_ih_{name}"] = np.array(np.asarray(group["kernel_ih"]).T, order="C")
        state[f"{prefix}weight_hh_{name}"] = np.array(np.asarray(group["kernel_hh"]).T, order="C")
        state[f"{prefix}bias_ih_{name}"] = bias
        state[f"{prefix}bias_hh_{name}"] = np.zeros_like(bias)
    return state


def _to_numpy(value: Any) -> np.ndarray:
    # torch refuses NumPy conversion while a tensor requires a gradient or lies on a device.
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _lstm_inputs(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("vocab_size") is None:
        return {"input_shape": (50, 128), "input_dtype": "float32"}
    return {"input_shape": (50,), "input_dtype": "int32"}


@register("lstm", inputs=_lstm_inputs, paper="https://doi.org/10.1162/neco.1997.9.8.1735")
@takes_fields_of(LSTM)
def lstm(num_classes: int = 2, **fields: Any) -> Classifier:
    """LSTM over feature sequences, or over token ids where ``vocab_size`` is given."""
    head = {k: fields[k] for k in ("dtype", "param_dtype") if k in fields}
    return Classifier(backbone=LSTM(num_classes=0, **fields), head=Head(num_classes, **head))
