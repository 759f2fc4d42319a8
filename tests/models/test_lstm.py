import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo.errors import CheckpointError, DataError, ShapeError, UnknownNameError
from flaxzoo.layers.remat import as_remat_policy
from flaxzoo.models.lstm import (
    LSTM,
    LSTMLayer,
    from_torch_state_dict,
    to_torch_state_dict,
)

pytestmark = pytest.mark.family("lstm")

B, T, F, H = 3, 7, 4, 5
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (B, T, F))
LENGTHS = np.array([7, 3, 0])


def make(**fields):
    model = LSTM(**{"hidden_size": H, **fields})
    example = jnp.zeros((1, 2), jnp.int32) if model.vocab_size else jnp.zeros((1, 2, F))
    # Random weights of the right shapes: initialising would compile, and its ones and zeros for
    # the biases would hide a mixed-up gate.
    leaves, tree = jax.tree.flatten(jax.eval_shape(model.init, KEY, example))
    rng = np.random.default_rng(2)
    new = [jnp.asarray(0.4 * rng.standard_normal(v.shape, np.float32)) for v in leaves]
    return model, jax.tree.unflatten(tree, new)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("return_carry", "train"))
def _run(model, variables, x, **kwargs):
    return model.apply(variables, x, **kwargs)


def run(model, variables, x=X, lengths=None, **kwargs):
    # One compilation per model and shape: lengths are traced here, checked in test_bad_arguments.
    return _run(model, variables, x, lengths=lengths, **kwargs)


def by_hand(params, x):
    """One direction over one sequence, straight from the equations."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    p = {k: np.asarray(v, np.float64) for k, v in params.items()}
    h = c = np.zeros(p["kernel_hh"].shape[0])
    hs = []
    for step in np.asarray(x, np.float64):
        i, f, g, o = np.split(step @ p["kernel_ih"] + h @ p["kernel_hh"] + p["bias"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        hs.append(h)
    return np.array(hs), h, c


def test_matches_the_equations():
    model, variables = make(pooling=None)
    y, (h, c) = run(model, variables, return_carry=True)
    for b in range(B):
        hs, last, cell = by_hand(variables["params"]["l0"], X[b])
        np.testing.assert_allclose(y[b], hs, atol=1e-6)
        np.testing.assert_allclose(h[0, b], last, atol=1e-6)
        np.testing.assert_allclose(c[0, b], cell, atol=1e-6)


def test_reverse_direction_starts_at_each_sequence_s_own_end():
    model, variables = make(pooling=None, bidirectional=True)
    y = run(model, variables, lengths=LENGTHS)
    for b, n in enumerate(LENGTHS):
        if n:
            hs, _, _ = by_hand(variables["params"]["l0_reverse"], X[b, :n][::-1])
            np.testing.assert_allclose(y[b, :n, H:], hs[::-1], atol=1e-6)
        np.testing.assert_array_equal(y[b, n:], 0)


@pytest.mark.parametrize("remat", [False, True])
def test_padding_never_changes_the_result(remat):
    model, variables = make(pooling=None, bidirectional=True, num_layers=2, remat=remat)
    y, carry = run(model, variables, lengths=LENGTHS, return_carry=True)
    # Bitwise the same whatever the padding holds ...
    valid = np.arange(T) < LENGTHS[:, None]
    for junk in (1e3, np.nan, np.inf):
        dirty = jnp.where(valid[..., None], X, junk)
        again = run(model, variables, dirty, lengths=LENGTHS, return_carry=True)
        jax.tree.map(np.testing.assert_array_equal, (y, carry), again)
    # ... and the same as that of each sequence alone, without padding.
    for b, n in enumerate(LENGTHS[:2]):
        alone, alone_carry = run(model, variables, X[b : b + 1, :n], return_carry=True)
        np.testing.assert_allclose(y[b, :n], alone[0], atol=1e-6)
        for a, s in zip(carry, alone_carry, strict=True):
            np.testing.assert_allclose(a[:, b], s[:, 0], atol=1e-6)
    np.testing.assert_array_equal(y[~valid], 0)
    np.testing.assert_array_equal(carry[0][:, 2], 0)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_pooling_ignores_padding(pooling):
    model, variables = make(pooling=pooling, bidirectional=True)
    sequence = run(LSTM(H, bidirectional=True, pooling=None), variables, lengths=LENGTHS)
    y = run(model, variables, lengths=LENGTHS)
    valid = np.arange(T) < LENGTHS[:, None]
    np.testing.assert_array_equal(y, run(model, variables, {"inputs": X, "mask": valid * 1.0}))
    for b, n in enumerate(LENGTHS[:2]):
        steps = np.asarray(sequence[b, :n])
        expected = {
            "last": np.concatenate([steps[-1, :H], steps[0, H:]]),
            "mean": steps.mean(axis=0),
            "max": steps.max(axis=0),
        }
        np.testing.assert_allclose(y[b], expected[pooling], atol=1e-6)
    np.testing.assert_array_equal(y[2], 0)
    # Without a mask, too.
    full = run(model, variables, lengths=np.full(B, T))
    np.testing.assert_allclose(run(model, variables), full, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=T, max_size=T).filter(any), st.booleans())
def test_masked_steps_anywhere_are_cut_out(bits, remat):
    model, variables = _small(remat)
    keep = np.array(bits)
    y = run(model, variables, X[:1], mask=keep[None])
    # The kept steps, moved to the front, are the same sequence.
    order = np.argsort(~keep, kind="stable")
    y2 = run(model, variables, X[:1, order], mask=(np.arange(T) < keep.sum())[None])
    np.testing.assert_allclose(y, y2, atol=1e-6)


@functools.cache
def _small(remat):
    return make(bidirectional=True, pooling="mean", remat=remat)


def test_nan_padding_does_not_reach_the_gradient():
    model, variables = make(bidirectional=True, pooling="max")
    dirty = jnp.where((np.arange(T) < LENGTHS[:, None])[..., None], X, jnp.nan)

    @jax.jit
    def grads(x):
        loss = lambda v, x: (model.apply(v, x, lengths=LENGTHS) ** 2).sum()  # noqa: E731
        return jax.grad(loss, argnums=(0, 1))(variables, x)

    clean, from_dirty = grads(X), grads(dirty)
    jax.tree.map(np.testing.assert_array_equal, clean, from_dirty)
    assert np.isfinite(clean[1]).all()
    assert np.abs(clean[1][1, :3]).max() > 1e-4
    np.testing.assert_array_equal(clean[1][1, 3:], 0)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_streaming_equals_feeding_at_once(lengths):
    model, variables = make(num_layers=2, pooling=None)
    whole, whole_carry = run(model, variables, lengths=lengths, return_carry=True)
    carry, parts = model.initialize_carry(B), []
    for start, stop in ((0, 2), (2, 3), (3, 7)):
        left = None if lengths is None else np.clip(lengths - start, 0, stop - start)
        y, carry = run(
            model, variables, X[:, start:stop], carry=carry, lengths=left, return_carry=True
        )
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), carry, whole_carry)


def _value_and_grads(model, variables, x, carry, mask):
    def loss(variables, x, carry):
        y, (h, c) = model.apply(variables, x, carry=carry, mask=mask, return_carry=True)
        weights = jnp.cos(jnp.arange(y.size)).reshape(y.shape)
        return (y * weights).sum() + (h**2).sum() + (c**3).sum()

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(variables, x, carry)


@functools.cache
def _autodiff_reference(masked):
    model, variables = make(bidirectional=True, pooling=None, custom_gradient=False)
    carry = jax.tree.map(
        lambda a: jax.random.normal(jax.random.key(4), a.shape), model.initialize_carry(B)
    )
    mask = jnp.array([[1] * 7, [0, 1, 1, 0, 1, 0, 0], [0] * 7]) if masked else None
    args = (variables, X, carry, mask)
    return args, jax.jit(functools.partial(_value_and_grads, model))(*args)


@pytest.mark.parametrize(
    ("fields", "masked"),
    [
        ({}, False),
        ({}, True),
        ({"remat": True}, False),
        ({"remat": True, "remat_policy": "dots_saveable"}, True),
        ({"unroll": 3}, True),
    ],
)
def test_custom_gradient_agrees_with_autodiff(fields, masked):
    args, expected = _autodiff_reference(masked)
    model = LSTM(H, bidirectional=True, pooling=None, **fields)
    ours = jax.jit(functools.partial(_value_and_grads, model))(*args)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5), ours, expected
    )


def test_gradient_under_vmap():
    model, variables = make(pooling="mean")

    def grads(model, xs):
        loss = lambda v, x: (model.apply(v, x, lengths=jnp.array([5, 7, 0])) ** 2).sum()  # noqa: E731
        return jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(variables, xs)

    fast = grads(model, jnp.stack([X, 2 * X]))
    slow = grads(LSTM(hidden_size=H, pooling="mean", custom_gradient=False), jnp.stack([X, 2 * X]))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), fast, slow)


def test_forward_mode_needs_the_plain_gradient():
    model, variables = make()
    plain = LSTM(hidden_size=H, custom_gradient=False)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: model.apply(variables, x), (X,), (X,))
    _, tangent = jax.jvp(lambda x: plain.apply(variables, x), (X,), (X,))
    eps = 1e-2
    numeric = (run(plain, variables, X * (1 + eps)) - run(plain, variables, X * (1 - eps))) / (
        2 * eps
    )
    np.testing.assert_allclose(tangent, numeric, atol=2e-3)


@pytest.mark.full_compiler
def test_remat_saves_memory_and_changes_nothing():
    x = jax.random.normal(KEY, (4, 100, 16))

    def compiled(**fields):
        model = LSTM(hidden_size=16, **fields)
        variables = jax.eval_shape(model.init, KEY, x)
        loss = lambda v, x: model.apply(v, x).sum()  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(variables, x).compile()

    plain, remat = compiled(), compiled(remat=True)
    assert remat.memory_analysis().temp_size_in_bytes < (
        0.6 * plain.memory_analysis().temp_size_in_bytes
    )
    variables = jax.jit(LSTM(hidden_size=16).init)(KEY, x)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4),
        plain(variables, x),
        remat(variables, x),
    )


def test_a_policy_decides_what_remat_keeps():
    x = jnp.zeros((2, 9, F))

    def dots_in_backward(policy):
        layer = LSTMLayer(H, remat=True, remat_policy=policy, custom_gradient=False)
        variables = layer.init(KEY, x)
        text = str(jax.make_jaxpr(jax.grad(lambda v: layer.apply(v, x)[0].sum()))(variables))
        return text.count("dot_general")

    assert dots_in_backward("dots_saveable") < dots_in_backward("nothing_saveable")
    assert dots_in_backward(None) == dots_in_backward("nothing_saveable")
    assert as_remat_policy(jax.checkpoint_policies.dots_saveable) is (
        jax.checkpoint_policies.dots_saveable
    )
    with pytest.raises(UnknownNameError, match="Did you mean 'dots_saveable'"):
        as_remat_policy("dots_savable")


def test_the_program_does_not_grow_with_the_sequence():
    model, variables = make()
    text = str(jax.make_jaxpr(model.apply)(variables, X))
    assert "scan[" in text
    longer = str(jax.make_jaxpr(model.apply)(variables, jnp.zeros((B, 50, F))))
    for product in ("dot_general", "flaxzoo_conv"):
        assert text.count(product) == longer.count(product) == 1


def test_token_ids_with_embedding_and_pad_id():
    model, variables = make(vocab_size=11, embedding_dim=F, pad_id=-1, num_classes=2)
    params = variables["params"]
    assert params["embedding"]["embedding"].shape == (11, F)
    assert params["head"]["kernel"].shape == (H, 2)
    ids = np.array([[3, 1, 10], [5, 2, -1], [-1, -1, -1]])
    y = run(model, variables, ids)
    assert y.shape == (3, 2)
    np.testing.assert_allclose(y[1], run(model, variables, ids[1:2, :2])[0], atol=1e-6)
    np.testing.assert_allclose(y[2], params["head"]["bias"], atol=1e-6)
    np.testing.assert_array_equal(y, run(model, variables, {"text": ids}))
    # Out of the vocabulary: loud, not wrong.
    assert np.isnan(run(model, variables, np.array([[3, 11]]))).all()


def test_output_shapes():
    for fields, shape in [
        ({}, (B, H)),
        ({"bidirectional": True}, (B, 2 * H)),
        ({"pooling": None}, (B, T, H)),
        ({"pooling": "none"}, (B, T, H)),
        ({"pooling": None, "num_classes": 2}, (B, T, 2)),
        ({"pooling": "max", "num_classes": 2, "bidirectional": True}, (B, 2)),
    ]:
        model = LSTM(hidden_size=H, **fields)
        assert jax.eval_shape(model.init_with_output, KEY, X)[0].shape == shape


def test_dropout_acts_between_layers_only_while_training():
    model, variables = make(num_layers=2, dropout=0.5, pooling=None)
    rngs = [{"dropout": jax.random.key(i)} for i in (0, 0, 1)]
    a, b, c = (run(model, variables, train=True, rngs=r) for r in rngs)
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)
    np.testing.assert_array_equal(run(model, variables), run(model, variables, rngs=rngs[2]))
    single, variables = make(num_layers=1, dropout=0.5)
    np.testing.assert_array_equal(
        run(single, variables, train=True), run(single, variables, train=False)
    )


def test_dtypes():
    model, variables = make(dtype=jnp.bfloat16, num_classes=2)
    assert run(model, variables).dtype == jnp.bfloat16
    assert variables["params"]["l0"]["kernel_ih"].dtype == jnp.float32
    full = run(LSTM(hidden_size=H, num_classes=2), variables)
    np.testing.assert_allclose(run(model, variables).astype(np.float32), full, atol=0.05)
    half = LSTM(hidden_size=H, param_dtype=jnp.float16)
    shapes = jax.eval_shape(half.init, KEY, X)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float16")}
    assert model.initialize_carry(2)[0].dtype == jnp.bfloat16


def test_initialisation():
    params = LSTM(hidden_size=H).init(KEY, X)["params"]["l0"]
    np.testing.assert_array_equal(params["bias"], [0] * H + [1] * H + [0] * 2 * H)
    for gate in np.split(params["kernel_hh"], 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(H), atol=1e-5)
    half = LSTM(hidden_size=H, param_dtype=jnp.bfloat16).init(KEY, X)["params"]["l0"]
    assert half["kernel_hh"].dtype == jnp.bfloat16
    # Drawn as the wide one is, then rounded.
    np.testing.assert_array_equal(half["kernel_hh"], params["kernel_hh"].astype(jnp.bfloat16))


def test_learns_to_tell_the_first_token_across_padding():
    import optax

    model = LSTM(hidden_size=8, vocab_size=4, pad_id=0, num_classes=2)
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 4, (128, 10))
    ids[:, 0] = rng.integers(1, 3, 128)
    labels = ids[:, 0] - 1
    ids[np.arange(10) >= rng.integers(2, 11, (128, 1))] = 0
    params, tx = model.init(KEY, ids), optax.adam(0.03)

    @jax.jit
    def step(carry, _):
        params, state = carry
        loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(  # noqa: E731
            model.apply(p, ids), labels
        ).mean()
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), length=80)
    assert losses[0] > 0.6
    assert (model.apply(params, ids).argmax(-1) == labels).mean() > 0.98


def test_torch_names_there_and_back():
    _, variables = make(num_layers=2, bidirectional=True, vocab_size=5, num_classes=2)
    state = to_torch_state_dict(variables["params"], prefix="rnn.")
    assert state["rnn.weight_ih_l1_reverse"].shape == (4 * H, 2 * H)
    assert len(state) == 16
    back = from_torch_state_dict({**state, "other.weight": np.zeros(2)}, prefix="rnn.")
    layers = {k: v for k, v in variables["params"].items() if k not in ("embedding", "head")}
    jax.tree.map(np.testing.assert_array_equal, back, layers)
    without_bias = {k[4:]: v for k, v in state.items() if "bias" not in k}
    np.testing.assert_array_equal(from_torch_state_dict(without_bias)["l0"]["bias"], 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("weight_hh_l0"), "lacks 'weight_hh_l0'"),
        (lambda s: s.pop("bias_hh_l0"), "lacks 'bias_hh_l0'"),
        (lambda s: s.update(weight_hr_l0=np.zeros(2)), "weight_hr_l0"),
        (lambda s: s.clear(), "no names"),
    ],
)
def test_foreign_state_dicts_are_refused(change, message):
    _, variables = make()
    state = to_torch_state_dict(variables["params"])
    change(state)
    with pytest.raises(CheckpointError, match=message):
        from_torch_state_dict(state)


@pytest.mark.parametrize(
    ("fields", "args", "kwargs", "error", "message"),
    [
        ({}, (X[0],), {}, ShapeError, r"inputs must be floats \[B, T, F\], got float32 \[7, 4\]"),
        ({}, (X[:, :0],), {}, ShapeError, "at least one step"),
        ({}, (np.ones((2, 3), int),), {}, ShapeError, "set vocab_size"),
        ({"vocab_size": 9}, (X,), {}, ShapeError, r"integer token ids \[B, T\]"),
        ({}, (X,), {"lengths": [1, 2]}, ShapeError, r"lengths must be integers \[B\] = \[3\]"),
        ({}, (X,), {"lengths": [1.0, 2, 3]}, ShapeError, "lengths must be integers"),
        ({}, (X,), {"lengths": [1, 2, 8]}, DataError, "between 0 and the 7 steps.* 1 to 8"),
        ({}, (X,), {"mask": np.ones((3, 6))}, ShapeError, r"mask must be \[B, T\] = \[3, 7\]"),
        ({}, (X,), {"carry": (X, X)}, ShapeError, r"carry must be a pair .* \[1, 3, 5\]"),
        ({}, ({"x": X},), {}, DataError, "must have 'inputs' or 'text'.* 'x'"),
        ({}, ({"inputs": X, "length": [1]},), {}, DataError, "'length'"),
        ({"pooling": "avg"}, (X,), {}, ValueError, "last, mean, max or None"),
        ({"pooling": "meen"}, (X,), {}, ValueError, "Did you mean 'mean'"),
        ({"remat": True, "remat_policy": "dots"}, (X,), {}, UnknownNameError, "remat policy"),
        ({"pad_id": 0}, (X,), {}, ValueError, "pad_id needs vocab_size"),
        ({"hidden_size": 0}, (X,), {}, ValueError, "hidden_size and num_layers"),
        ({"hidden_size": "a"}, (X,), {}, ValueError, "ints of at least 1, got 'a' and 1"),
        ({"num_layers": 1.5}, (X,), {}, ValueError, "ints of at least 1, got 5 and 1.5"),
        ({"dropout": 1.5}, (X,), {}, ValueError, r"dropout must be a number in \[0, 1\), got 1.5"),
        ({"dropout": -0.5}, (X,), {}, ValueError, "dropout must be .*, got -0.5"),
        ({"dropout": "a"}, (X,), {}, ValueError, "dropout must be .*, got 'a'"),
        ({"num_classes": -1}, (X,), {}, ValueError, "num_classes must be an int of at least 0"),
        ({"unroll": 0}, (X,), {}, ValueError, "unroll must be an int of at least 1, got 0"),
        ({"vocab_size": 0}, (X,), {}, ValueError, "vocab_size must be .* or None, got 0"),
        ({"embedding_dim": "a"}, (X,), {}, ValueError, "embedding_dim must be .* or None, got 'a'"),
        (
            {"vocab_size": 9, "pad_id": 0.5},
            (X,),
            {},
            ValueError,
            "pad_id must be an int or None, got 0.5",
        ),
    ],
)
def test_bad_arguments(fields, args, kwargs, error, message):
    with pytest.raises(error, match=message):
        LSTM(**{"hidden_size": H, **fields}).init(KEY, *args, **kwargs)


def test_layer_refuses_wrong_ranks():
    with pytest.raises(ShapeError, match=r"x must be \[B, T, F\]"):
        LSTMLayer(H).init(KEY, X[0])
