"""Training against torch: the same network, batches and optimizer, step by step."""

import jax
import numpy as np
import pytest
import torch

import flaxzoo as fz


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    images = generator.normal(size=(48, 8, 8, 1)).astype(np.float32)
    return images, generator.integers(0, 10, 48)


class TorchCNN(torch.nn.Module):
    """The classic network, channels first, flattened in the order of NHWC."""

    def __init__(self):
        super().__init__()
        self.conv_0 = torch.nn.Conv2d(1, 32, 3, padding=1)
        self.norm_0 = torch.nn.BatchNorm2d(32, momentum=0.01)
        self.conv_1 = torch.nn.Conv2d(32, 64, 3, padding=1)
        self.norm_1 = torch.nn.BatchNorm2d(64, momentum=0.01)
        self.dense_0 = torch.nn.Linear(2 * 2 * 64, 256)
        self.fc = torch.nn.Linear(256, 10)

    def forward(self, x):
        for conv, norm in ((self.conv_0, self.norm_0), (self.conv_1, self.norm_1)):
            x = torch.nn.functional.avg_pool2d(torch.relu(norm(conv(x))), 2)
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.fc(torch.relu(self.dense_0(x)))


def to_ours(net):
    """Variables of models.get("cnn", batch_norm=True) from the torch network."""
    params, stats = {"backbone": {}, "head": {}}, {"backbone": {}}
    for name, module in net.named_children():
        weight = module.weight.detach().numpy().copy()
        group = params["head"] if name == "fc" else params["backbone"]
        if weight.ndim == 1:
            group[name] = {"scale": weight, "bias": module.bias.detach().numpy().copy()}
            stats["backbone"][name] = {
                "mean": module.running_mean.numpy().copy(),
                "var": module.running_var.numpy().copy(),
            }
            continue
        kernel = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        group[name] = {"kernel": kernel, "bias": module.bias.detach().numpy().copy()}
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_three_steps(data, optimizer):
    images, labels = data
    torch.manual_seed(0)
    net = TorchCNN()
    # Ours has no bias before BatchNorm, where it would have no effect.
    for conv in (net.conv_0, net.conv_1):
        torch.nn.init.zeros_(conv.bias)
    variables = to_ours(net)
    for name in ("conv_0", "conv_1"):
        del variables["params"]["backbone"][name]["bias"]
    model = fz.models.get("cnn", input_shape=(8, 8, 1), batch_norm=True)
    state = fz.create_train_state(
        model.with_variables(jax.tree.map(jax.numpy.asarray, variables)),
        optimizer=optimizer,
        learning_rate=1e-2,
        # torch decays every parameter; a rate of zero keeps the comparison to the step.
        **({"weight_decay": 0.0} if optimizer == "adamw" else {}),
        **({"momentum": 0.9} if optimizer == "sgd" else {}),
    )
    torch_optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
        "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.0),
    }[optimizer](net.parameters())
    # Adam divides by the gradient's size: components near zero carry float32's noise up to the
    # learning rate, so that one step is compared there.
    for step in range(3 if optimizer == "sgd" else 1):
        batch = slice(16 * step, 16 * step + 16)
        net.train()
        torch_optimizer.zero_grad()
        logits = net(torch.from_numpy(images[batch]).permute(0, 3, 1, 2))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch]))
        loss.backward()
        torch_optimizer.step()
        state, metrics = fz.train_step(state, (images[batch], labels[batch]))
        assert metrics.compute()["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    expected = to_ours(net)
    tolerance = 1e-5 if optimizer == "sgd" else 1e-4
    ours = state.params
    np.testing.assert_allclose(
        ours["head"]["fc"]["kernel"],
        expected["params"]["head"]["fc"]["kernel"],
        atol=tolerance,
    )
    np.testing.assert_allclose(
        ours["backbone"]["conv_1"]["kernel"],
        expected["params"]["backbone"]["conv_1"]["kernel"],
        atol=10 * tolerance,
    )
    for name in ("norm_0", "norm_1"):
        got, want = state.batch_stats["backbone"][name], expected["batch_stats"]["backbone"][name]
        np.testing.assert_allclose(got["mean"], want["mean"], atol=1e-5)
        # torch keeps the unbiased variance, Flax the biased one: n/(n-1) of what is added.
        count = 16 * 64 if name == "norm_0" else 16 * 16
        np.testing.assert_allclose(got["var"], want["var"], rtol=0.05 / count + 1e-3)


def test_data_loaders(data):
    images, labels = data
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    model = fz.models.get("mlp", input_shape=(8, 8, 1), features=(16,)).init(rng=0)
    loader = fz.Trainer(model)
    loader.fit(torch.utils.data.DataLoader(dataset, batch_size=20), epochs=2, progress=False)
    arrays = fz.Trainer(model)
    arrays.fit(data, epochs=2, batch_size=20, shuffle=False, progress=False)
    assert loader.step == arrays.step == 6
    np.testing.assert_allclose(loader.history["loss"], arrays.history["loss"], rtol=1e-5)
