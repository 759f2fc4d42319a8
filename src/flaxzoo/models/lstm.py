"""LSTM: recurrent networks over feature sequences or token ids."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from flaxzoo._checks import check_size, is_size
from flaxzoo._explain import explained
from flaxzoo._inputs import check_ids
from flaxzoo.errors import CheckpointError, DataError, ShapeError, did_you_mean
from flaxzoo.layers.lowering.convolution import product
from flaxzoo.layers.lowering.recurrence import Carry, run_recurrence
from flaxzoo.layers.remat import as_remat_policy
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head
from flaxzoo.models.registry import register, takes_fields_of

Array = jax.Array
Initializer = Callable[..., Array]

POOLINGS = ("last", "mean", "max")
_INPUT_KEYS = ("inputs", "text")


def forget_bias_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Makes a bias [4 * H] of zeros, with ones for the forget gate (Jozefowicz et al. 2015)."""
    del key
    hidden_size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[hidden_size : 2 * hidden_size].set(1)


def recurrent_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Makes a kernel [H, 4 * H] of one orthogonal matrix [H, H] per gate (Saxe et al., 2014)."""
    one_gate = nn.initializers.orthogonal()
    # The decomposition behind an orthogonal matrix takes no half precision.
    exact = jnp.promote_types(dtype, jnp.float32)
    gates = [one_gate(k, (shape[0], shape[1] // 4), exact) for k in jax.random.split(key, 4)]
    return jnp.concatenate(gates, axis=-1).astype(dtype)


class LSTMLayer(nn.Module):
    """One LSTM layer in one direction over a batch of sequences.

    At each step the gates are ``[i, f, g, o] = x @ kernel_ih + h @ kernel_hh + bias``, and then
    ``c = sigmoid(f) * c + sigmoid(i) * tanh(g)`` and ``h = sigmoid(o) * tanh(c)``.

    Parameters: ``kernel_ih`` [F, 4 * H], ``kernel_hh`` [H, 4 * H] and ``bias`` [4 * H], gates in
    the order i, f, g, o: the transposes of torch's ``weight_ih`` and ``weight_hh`` and the sum of
    its two biases. Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    Attributes:
      hidden_size: units H.
      reverse: run from the last step to the first.
      remat: run the sequence in blocks of about ``sqrt(T)`` steps and keep only the state between
        them, recomputing a block when its gradient is taken.
      remat_policy: what a block may keep all the same; see ``flaxzoo.layers.remat``.
      unroll: steps per iteration of the compiled loop.
      custom_gradient: the hand-written reverse pass; False for forward-mode or second derivatives.
      dtype: the dtype of the computation; None promotes inputs and parameters.
      param_dtype: the dtype of the parameters.
      kernel_init: the initialiser of ``kernel_ih``.
      recurrent_init: the initialiser of ``kernel_hh``.
      bias_init: the initialiser of ``bias``.
    """

    hidden_size: int
    reverse: bool = False
    remat: bool = False
    remat_policy: str | Callable[..., Any] | None = None
    unroll: int = 1
    custom_gradient: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    recurrent_init: Initializer = recurrent_init
    bias_init: Initializer = forget_bias_init

    @nn.compact
    def __call__(
        self, x: Array, carry: Carry | None = None, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        """Runs the layer.

        Args:
          x: inputs [B, T, F].
          carry: the state (h, c) to start from, each [B, H]; None for zeros.
          mask: bool [B, T]; a step that is False is skipped: it leaves the state as it was, and
            its output is zero. None takes every step.

        Returns:
          The outputs [B, T, H], and the state (h, c) after the last step in the layer's direction.

        Raises:
          ShapeError: ``x`` is not [B, T, F], or has no steps or no features.
          UnknownNameError: no ``remat_policy`` has that name.
        """
        if x.ndim != 3 or 0 in x.shape[1:]:
            raise ShapeError(
                f"x must be [B, T, F] with at least one step and one feature, got {list(x.shape)}"
            )
        size = self.hidden_size
        kernel_ih = self.param(
            "kernel_ih", self.kernel_init, (x.shape[-1], 4 * size), self.param_dtype
        )
        kernel_hh = self.param("kernel_hh", self.recurrent_init, (size, 4 * size), self.param_dtype)
        bias = self.param("bias", self.bias_init, (4 * size,), self.param_dtype)
        x, kernel_ih, kernel_hh, bias = promote_dtype(
            x, kernel_ih, kernel_hh, bias, dtype=self.dtype
        )
        batch, steps, _ = x.shape
        if carry is None:
            carry = (jnp.zeros((batch, size), x.dtype),) * 2
        weights = (kernel_ih, kernel_hh, bias)
        xs = x.swapaxes(0, 1), None if mask is None else mask.swapaxes(0, 1)[..., None]

        length = math.ceil(math.sqrt(steps)) if self.remat else steps
        blocks = math.ceil(steps / length)
        if blocks * length > steps:
            # Blocks are of one length: fill up the last one with steps that are skipped.
            xs = xs[0], jnp.ones((steps, batch, 1), bool) if mask is None else xs[1]
            fill = ((0, blocks * length - steps), (0, 0), (0, 0))
            xs = jax.tree.map(lambda a: jnp.pad(a, fill), xs)
        xs = jax.tree.map(lambda a: a.reshape(blocks, length, *a.shape[1:]), xs)

        run = _run_block
        if self.remat:
            # Inside a scan nothing can be merged across iterations, so CSE needs no guarding.
            run = nn.remat(run, prevent_cse=False, policy=as_remat_policy(self.remat_policy))
        over_time = nn.scan(run, in_axes=(nn.broadcast, 0), out_axes=0, reverse=self.reverse)
        start = jax.tree.map(lambda a: a.astype(x.dtype), tuple(carry))
        carry, hs = over_time(self, start, weights, xs)
        hs = hs.reshape(blocks * length, batch, size)[:steps].swapaxes(0, 1)
        return hs if mask is None else jnp.where(mask[..., None], hs, 0), carry


def _run_block(
    layer: LSTMLayer, carry: Carry, weights: tuple[Array, Array, Array], xs: Any
) -> tuple[Carry, Array]:
    """Runs a block of consecutive steps: one projection [T * B, F] x [F, 4 * H], then the loop."""
    kernel_ih, kernel_hh, bias = weights
    x, mask = xs
    z = product(x, kernel_ih)
    arguments = (z, kernel_hh, bias, *carry, mask, layer.reverse, layer.unroll)
    hs, h, c = run_recurrence(*arguments, custom_gradient=layer.custom_gradient)
    return (h, c), hs


class _Steps(NamedTuple):
    """What flows through the layers.

    Attributes:
      x: steps [B, T, F], token ids [B, T] before the embedding, features [B, F] behind the pooling.
      valid: bool [B, T], or None where every step counts.
      carry: the state that the layers start from; None for zeros.
      states: of each layer and direction so far, after the last valid step.
    """

    x: Array
    valid: Array | None
    carry: Carry | None
    states: tuple[Carry, ...]

    def with_outputs(self, x: Array) -> _Steps:
        """Other steps, zeros where they don't count: no NaN there may reach a gradient."""
        return self._replace(x=x if self.valid is None else jnp.where(self.valid[..., None], x, 0))

    def carry_of(self, index: int) -> Carry | None:
        """The state that one layer in one direction starts from."""
        return None if self.carry is None else (self.carry[0][index], self.carry[1][index])


@explained
class LSTM(Backbone):
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
    def parts(self) -> Iterator[Part]:
        """The embedding if there is one, the layers, the linear layer if there is one."""
        if self.vocab_size is not None:
            yield Part("embedding", self._embed, owns=("embedding",))
        for n in range(self.num_layers):
            owns = (f"l{n}", f"l{n}_reverse")[: self.num_directions]
            yield Part(f"l{n}", functools.partial(self._layer, n), owns=owns)
        yield Part(f"l{self.num_layers - 1}", self._pool)
        if self.num_classes:
            yield Part("head", self._classify, owns=("head",))

    def _embed(self, steps: _Steps, train: bool) -> _Steps:
        del train
        # Padding may hold any number, also one outside the vocabulary.
        ids = steps.x if steps.valid is None else jnp.where(steps.valid, steps.x, 0)
        size: Any = self.vocab_size
        width = self.hidden_size if self.embedding_dim is None else self.embedding_dim
        embed = nn.Embed(size, width, name="embedding", **self.dtypes)
        return steps.with_outputs(embed(ids))

    def _layer(self, n: int, steps: _Steps, train: bool) -> _Steps:
        x, outputs, states = steps.x, [], list(steps.states)
        if n and self.dropout:
            # Named, so that a slice draws what the whole network does.
            drop = nn.Dropout(self.dropout, name=f"Dropout_{n - 1}")
            x = drop(x, deterministic=not train)
        for direction in range(self.num_directions):
            layer = LSTMLayer(
                self.hidden_size,
                reverse=direction == 1,
                remat=self.remat,
                remat_policy=self.remat_policy,
                unroll=self.unroll,
                custom_gradient=self.custom_gradient,
                name=f"l{n}" + "_reverse" * direction,
                **self.dtypes,
            )
            y, state = layer(x, steps.carry_of(len(states)), steps.valid)
            outputs.append(y)
            states.append(state)
        x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
        return steps._replace(x=x, states=tuple(states))

    def _pool(self, steps: _Steps, train: bool) -> _Steps:
        del train
        if self.pooling == "last":
            last = [h for h, _ in steps.states[-self.num_directions :]]
            return steps._replace(x=jnp.concatenate(last, axis=-1))
        if self.pooling in POOLINGS:
            return steps._replace(x=_pool(steps.x, steps.valid, self.pooling))
        return steps

    def _classify(self, steps: _Steps, train: bool) -> _Steps:
        del train
        head = nn.Dense(self.num_classes, name="head", **self.dtypes)
        return steps._replace(x=head(steps.x))

    def __call__(  # type: ignore[override]
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
            outside the vocabulary give NaN, as in ``jnp.take``; steps refuse them. Or a mapping
            with ``inputs`` (or ``text``) and ``lengths`` or ``mask``: the form in which batches
            carry them through ``train_step``.
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

    @nn.nowrap
    def enter(
        self,
        x: Any,
        parts: Sequence[Part],
        *,
        lengths: Any = None,
        mask: Any = None,
        carry: Carry | None = None,
        return_carry: bool = False,
    ) -> _Steps:
        """Brings inputs, lengths and masks into the form that flows through the layers.

        The arguments are those of a call; the state is that of the layers in the range. The range
        behind masked steps takes the mapping that the one before returns.
        """
        del return_carry
        names = [part.name for part in parts]
        inputs, lengths, mask = _unpack(x, lengths, mask)
        x, valid, ids = jnp.asarray(inputs), None, "embedding" in names
        if names != ["head"]:
            x, valid = self._check_inputs(x, lengths, mask, ids)
        if carry is not None:
            layers = len(dict.fromkeys(name for name in names if name not in ("embedding", "head")))
            _check_carry(carry, (layers * self.num_directions, x.shape[0], self.hidden_size))
        steps = _Steps(x, valid, carry, ())
        return steps if ids else steps.with_outputs(x)

    @nn.nowrap
    def leave(
        self,
        x: _Steps,
        parts: Sequence[Part],
        *,
        return_carry: bool = False,
        **options: Any,
    ) -> Any:
        """Returns the outputs, with their mask where later layers need it, and the state."""
        del options
        outputs: Any = x.x
        pooled = any(part.name == f"l{self.num_layers - 1}" for part in parts)
        if x.valid is not None and not pooled:
            # The form in which inputs carry their mask.
            outputs = {"inputs": x.x, "mask": x.valid}
        return (outputs, self._stacked(x)) if return_carry else outputs

    @nn.nowrap
    def _stacked(self, steps: _Steps) -> Carry:
        """The layers' states in one array each; a range may have no layer."""
        if not steps.states:
            h, c = self.initialize_carry(steps.x.shape[0])
            return h[:0], c[:0]
        return jnp.stack([h for h, _ in steps.states]), jnp.stack([c for _, c in steps.states])

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises an error for what a field does not take."""
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
        check_size("num_classes", self.num_classes, minimum=0)
        check_size("unroll", self.unroll)
        check_size("vocab_size", self.vocab_size, optional=True)
        check_size("embedding_dim", self.embedding_dim, optional=True)
        if self.pad_id is not None and not isinstance(self.pad_id, numbers.Integral):
            raise ValueError(f"pad_id must be an int or None, got {self.pad_id!r}")
        if self.pad_id is not None and self.vocab_size is None:
            raise ValueError("pad_id needs vocab_size: only token ids can be compared with it")
        as_remat_policy(self.remat_policy)

    @nn.nowrap
    def check_values(
        self, inputs: Any, *, lengths: Any = None, mask: Any = None, **options: Any
    ) -> None:
        """Looks at values that only NumPy arrays show: in a compiled step nothing can be raised.

        Args:
          inputs: as for a call, and so are the others.
          lengths: likewise.
          mask: likewise.
          **options: not looked at.

        Raises:
          DataError: a length is negative or beyond the steps; an id of a step that is not masked
            lies outside the vocabulary.
        """
        del options
        ids, lengths, mask = _unpack(inputs, lengths, mask)
        valid = np.ones(ids.shape[:2], bool)
        if lengths is not None:
            _check_lengths(lengths, ids.shape[1])
            valid &= np.arange(ids.shape[1]) < lengths[:, None]
        if self.vocab_size is None:
            return
        if mask is not None:
            valid &= mask.astype(bool)
        if self.pad_id is not None:
            valid &= ids != self.pad_id
        takes = f"the vocabulary of vocab_size={self.vocab_size}"
        check_ids(np.where(valid, ids, 0), self.vocab_size, "inputs", takes)

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


def _unpack(inputs: Any, lengths: Any, mask: Any) -> tuple[Any, Any, Any]:
    if not isinstance(inputs, Mapping):
        return inputs, lengths, mask
    rest = dict(inputs)
    values = [rest.pop(key) for key in _INPUT_KEYS if key in rest]
    lengths, mask = rest.pop("lengths", lengths), rest.pop("mask", mask)
    if len(values) != 1 or rest:
        raise DataError(
            "a mapping of inputs must have 'inputs' or 'text', and may have 'lengths' and 'mask'; "
            f"got {', '.join(map(repr, inputs))}"
        )
    return values[0], lengths, mask


def _mask_from_lengths(lengths: Any, batch: int, steps: int) -> Array:
    traced = isinstance(lengths, jax.core.Tracer)
    if not traced:
        lengths = np.asarray(lengths)
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ShapeError(
            f"lengths must be integers [B] = [{batch}], got {lengths.dtype} {list(lengths.shape)}"
        )
    if not traced:
        _check_lengths(lengths, steps)
    return jnp.arange(steps) < jnp.asarray(lengths)[:, None]


def _check_lengths(lengths: np.ndarray, steps: int) -> None:
    if lengths.size and (lengths.min() < 0 or lengths.max() > steps):
        raise DataError(
            f"lengths must lie between 0 and the {steps} steps of the inputs, got "
            f"{lengths.min()} to {lengths.max()}"
        )


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
