"""LSTM against torch.nn.LSTM with copied weights, to 1e-5: outputs, state and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.models.lstm import LSTM, from_torch_state_dict, to_torch_state_dict

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.family("lstm")

B, T, F, H = 4, 9, 6, 5
LENGTHS = np.array([9, 4, 1, 6])
close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)


def reference(layers, bidirectional):
    torch.manual_seed(layers)
    return torch.nn.LSTM(F, H, layers, batch_first=True, bidirectional=bidirectional)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_outputs_state_and_gradients(layers, bidirectional, masked):
    theirs = reference(layers, bidirectional)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, T, F), np.float32)
    shape = (layers * (1 + bidirectional), B, H)
    carry = rng.standard_normal((2, *shape), np.float32)
    weights = rng.standard_normal((B, T, H * (1 + bidirectional)), np.float32)
    h_weights, c_weights = rng.standard_normal((2, *shape), np.float32)

    tx, th, tc = (torch.tensor(a, requires_grad=True) for a in (x, *carry))
    inputs = tx
    if masked:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(
            tx, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
        )
    ty, (th_n, tc_n) = theirs(inputs, (th, tc))
    if masked:
        ty, _ = torch.nn.utils.rnn.pad_packed_sequence(ty, batch_first=True, total_length=T)
    loss = (ty * torch.tensor(weights)).sum() + (th_n * torch.tensor(h_weights)).sum()
    (loss + (tc_n * torch.tensor(c_weights)).sum()).backward()

    model = LSTM(H, num_layers=layers, bidirectional=bidirectional, pooling=None)
    params = from_torch_state_dict(theirs.state_dict())

    @jax.jit
    def ours(params, x, carry):
        def loss(params, x, carry):
            y, (h_n, c_n) = model.apply(
                {"params": params},
                x,
                lengths=jnp.asarray(LENGTHS) if masked else None,
                carry=carry,
                return_carry=True,
            )
            total = (y * weights).sum() + (h_n * h_weights).sum() + (c_n * c_weights).sum()
            return total, (y, h_n, c_n)

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, x, carry)

    (d_params, dx, (dh, dc)), (y, h_n, c_n) = ours(params, x, tuple(carry))
    for a, b in ((y, ty), (h_n, th_n), (c_n, tc_n)):
        close(a, b.detach().numpy())
    for a, b in ((dx, tx), (dh, th), (dc, tc)):
        close(a, b.grad.numpy())
    grads = to_torch_state_dict(d_params)
    for name, parameter in theirs.named_parameters():
        # torch's two biases are summed: each has the gradient of the sum.
        close(grads[name.replace("bias_hh", "bias_ih")], parameter.grad.numpy())


def test_pooled_last_state_is_torch_s_final_hidden_state():
    theirs = reference(2, True)
    x = np.random.default_rng(1).standard_normal((B, T, F), np.float32)
    _, (h_n, _) = theirs(torch.tensor(x))
    model = LSTM(H, num_layers=2, bidirectional=True)
    y = model.apply({"params": from_torch_state_dict(theirs.state_dict())}, x)
    close(y, torch.cat([h_n[-2], h_n[-1]], dim=-1).detach().numpy())


def test_torch_loads_our_weights():
    model = LSTM(H, num_layers=2, bidirectional=True, pooling=None)
    x = np.random.default_rng(2).standard_normal((B, T, F), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    theirs = torch.nn.LSTM(F, H, 2, batch_first=True, bidirectional=True)
    state = to_torch_state_dict(variables["params"])
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    close(model.apply(variables, x), theirs(torch.tensor(x))[0].detach().numpy())
    jax.tree.map(
        np.testing.assert_array_equal,
        from_torch_state_dict(theirs.state_dict()),
        variables["params"],
    )
