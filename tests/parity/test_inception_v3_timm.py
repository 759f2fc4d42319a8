"""Inception V3's auxiliary classifier against timm: a step of both losses, files without it."""

import jax
import numpy as np
import pytest
from conformance.families import FAMILIES
from safetensors.torch import save_file

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.names import to_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("inception_v3")

(KIND,) = FAMILIES["inception_v3"].kinds
LABELS = np.array([0, 1])


@pytest.fixture(scope="module")
def pair():
    """Ours with its auxiliary classifier and timm's, with the same random weights, and these."""
    reference = KIND.create("inception_v3", num_classes=4, aux_logits=True)
    tensors = fill_reference(reference)
    model = fz.models.get("inception_v3", num_classes=4, auxiliary=True, **KIND.fields)
    return with_reference(model, tensors, source="the same"), reference, tensors


def test_a_step_of_both_losses_in_float64(pair):
    model, reference, _ = pair
    images = synthetic_images((2, 299, 299, 3), 0).astype(np.float64)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), dict(model.variables))
        state = fz.create_train_state(
            model.with_variables(variables), optimizer="sgd", learning_rate=1.0
        )
        after, metrics = fz.train_step(state, (images, LABELS))
        gradients = jax.tree.map(lambda a, b: np.asarray(a - b), state.params, after.params)
        loss = float(metrics.compute()["loss"])
    rules = MODELS.architecture("inception_v3").reference
    gradients = to_reference(flatten({"params": gradients}), rules)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    labels, entropy = torch.from_numpy(LABELS), torch.nn.functional.cross_entropy
    reference.double().train().zero_grad()
    try:
        logits, auxiliary = reference(x)
        expected = entropy(logits, labels) + 0.4 * entropy(auxiliary, labels)
        expected.backward()
    finally:
        reference.float().eval()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    derivatives = {key: p.grad.numpy() for key, p in reference.named_parameters()}
    assert gradients.keys() == derivatives.keys()
    for key, value in derivatives.items():
        limit = 1e-6 * np.abs(value).max() + 1e-12
        np.testing.assert_allclose(gradients[key], value, rtol=0, atol=limit, err_msg=key)


def test_files_with_and_without_the_auxiliary_classifier(pair, tmp_path):
    model, _, tensors = pair
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    whole, bare = tmp_path / "whole.safetensors", tmp_path / "bare.safetensors"
    save_file(state, whole)
    save_file({key: t for key, t in state.items() if not key.startswith("AuxLogits")}, bare)
    fields = {**KIND.fields, "input_shape": (299, 299, 3)}
    get = lambda **options: fz.models.get("inception_v3", **fields, **options)  # noqa: E731
    expected = flatten(model.variables)

    def fresh(variables):
        """The modules of which variables are others than those of the pair."""
        found = flatten(variables)
        assert found.keys() == expected.keys()
        differ = (key for key, value in found.items() if not np.array_equal(value, expected[key]))
        return {key.rpartition("/")[0].partition("/")[2] for key in differ}

    aux = "backbone/AuxLogits"
    assert not fresh(get(auxiliary=True, pretrained=whole).variables)
    assert "AuxLogits" not in get(pretrained=whole).variables["params"]["backbone"]
    parts = {f"{aux}/{name}" for name in ("conv0/conv", "conv0/bn", "conv1/conv", "conv1/bn", "fc")}
    assert fresh(get(auxiliary=True, pretrained=bare).variables) == parts
    two = get(auxiliary=True, pretrained=whole, num_classes=2).variables
    assert fresh(two) == {"head/fc", f"{aux}/fc"}
    assert two["params"]["backbone"]["AuxLogits"]["fc"]["kernel"].shape[-1] == 2
