"""Activations against torch: values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo import activations

torch = pytest.importorskip("torch")
F = torch.nn.functional

CASES = [
    ("celu", {}, F.celu),
    ("celu", {"alpha": 2.0}, lambda x: F.celu(x, alpha=2.0)),
    ("elu", {}, F.elu),
    ("elu", {"alpha": 0.5}, lambda x: F.elu(x, alpha=0.5)),
    ("gelu", {}, F.gelu),
    ("gelu", {"approximate": True}, lambda x: F.gelu(x, approximate="tanh")),
    ("gelu_tanh", {}, lambda x: F.gelu(x, approximate="tanh")),
    ("glu", {}, F.glu),
    ("hard_shrink", {}, F.hardshrink),
    ("hard_sigmoid", {}, F.hardsigmoid),
    ("hard_swish", {}, F.hardswish),
    ("hard_tanh", {}, F.hardtanh),
    ("identity", {}, torch.nn.Identity()),
    ("leaky_relu", {}, F.leaky_relu),
    ("leaky_relu", {"negative_slope": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    ("log_sigmoid", {}, F.logsigmoid),
    ("log_softmax", {}, lambda x: F.log_softmax(x, dim=-1)),
    ("log_softmax", {"axis": 0}, lambda x: F.log_softmax(x, dim=0)),
    ("mish", {}, F.mish),
    ("relu", {}, F.relu),
    ("relu6", {}, F.relu6),
    ("selu", {}, F.selu),
    ("sigmoid", {}, torch.sigmoid),
    ("silu", {}, F.silu),
    ("soft_shrink", {}, F.softshrink),
    ("soft_sign", {}, F.softsign),
    ("softmax", {}, lambda x: F.softmax(x, dim=-1)),
    ("softplus", {}, F.softplus),
    ("swish", {}, F.silu),
    ("tanh", {}, torch.tanh),
    ("tanh_shrink", {}, F.tanhshrink),
]


@pytest.mark.parametrize(
    ("name", "kwargs", "reference"), CASES, ids=[f"{n}-{k}" for n, k, _ in CASES]
)
def test_values_and_gradients(name, kwargs, reference):
    # Away from kinks, where the two libraries may choose different subgradients.
    x = np.random.default_rng(0).normal(scale=3.0, size=(5, 8)).astype(np.float32)
    theirs_x = torch.tensor(x, requires_grad=True)
    theirs = reference(theirs_x)
    weights = np.random.default_rng(1).normal(size=tuple(theirs.shape)).astype(np.float32)
    (theirs * torch.tensor(weights)).sum().backward()

    activation = activations.get(name, **kwargs)
    ours, gradient = jax.jit(
        lambda x: (activation(x), jax.grad(lambda x: (activation(x) * weights).sum())(x))
    )(x)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(gradient, theirs_x.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_channel", [False, True])
def test_prelu(per_channel):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    theirs = torch.nn.PReLU(3 if per_channel else 1)
    module = activations.PReLU(per_channel=per_channel)
    ours, variables = module.init_with_output(jax.random.key(0), jnp.asarray(x))
    np.testing.assert_allclose(ours, theirs(torch.tensor(x)).detach().numpy(), rtol=1e-6)
    assert np.size(variables["params"]["negative_slope"]) == theirs.weight.numel()
