"""GhostNet against timm: images of any size, features, the authors' files."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.training.rates import rate_entries
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
optim = pytest.importorskip("timm.optim")
ghostnet = pytest.importorskip("timm.models.ghostnet")

pytestmark = pytest.mark.family("ghostnet")

KINDS = {kind.name: kind for kind in FAMILIES["ghostnet"].kinds}


def pair(name, classes=4):
    """Our small network and timm's, and timm's random tensors."""
    kind = KINDS[name]
    reference = kind.create(name, num_classes=classes, **kind.timm).eval()
    tensors = fill_reference(reference, **MODELS.architecture(name).reference.random)
    model = fz.models.get(name, num_classes=classes, input_shape=kind.input_shape, **kind.fields)
    return model, reference, tensors


@pytest.mark.parametrize("classes", [4, 0])
def test_maps_of_odd_sides_and_features(classes):
    model, reference, tensors = pair("ghostnetv2_100", classes)
    model = with_reference(model, tensors, source="random weights")
    images = synthetic_images((2, 37, 58, 3), 0)
    if classes:
        found = compare(model, reference, images)
        assert max(difference.relative for difference in found.values()) < 1e-5
    else:
        expected = outputs_of(reference, images)
        assert expected.shape == (2, 1280)
        np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-5 * expected.max())


def test_the_authors_files_of_v3():
    model, reference, tensors = pair("ghostnetv3_100")

    def old(name):
        inside = ".ghost" in name or ".dw_rpr_" in name
        return name.replace("bn1.", "bn.") if inside else name

    file = {old(name): value for name, value in tensors.items()}
    assert file.keys() != tensors.keys()
    file["blocks.0.0.total_ops"] = file["total_params"] = np.zeros(1)
    state = {key: torch.tensor(value) for key, value in file.items()}
    assert ghostnet.checkpoint_filter_fn(state, reference).keys() == tensors.keys()
    exported = with_reference(model, file, source="old").to_torch_state_dict(as_numpy=True)
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


def test_depths_are_timm_s_but_that_of_the_heads_layer():
    model, reference, tensors = pair("ghostnetv2_100")
    model = with_reference(model, tensors, source="random weights")
    owners = {id(p): key for key, p in reference.named_parameters()}
    groups = optim.param_groups_layer_decay(reference, weight_decay=0.0, layer_decay=0.9)
    expected = {owners[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    # timm's last block has it, ours the head where it is.
    expected |= {"conv_head.weight": 1.0, "conv_head.bias": 1.0}
    rates = fz.transfer.layer_decay_rates(model, 1.0, 0.9)
    entries = rate_entries(flatten(model.variables["params"]), rates)
    rules = MODELS.architecture("ghostnetv2_100").reference
    found = {reference_name(f"params/{path}", rules): rates[e] for path, e in entries.items()}
    assert found == pytest.approx(expected)


def test_sums_of_v3_become_convolutions_as_timm_s():
    model, reference, tensors = pair("ghostnetv3_100")
    model = with_reference(model, tensors, source="random weights")
    fused = model.reparameterize()
    images = synthetic_images((2, 37, 58, 3), 0)
    before, after = (np.asarray(network(images)) for network in (model, fused))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    for module in reference.modules():
        if hasattr(module, "reparameterize"):
            module.reparameterize()
    expected = {key: leaf.numpy() for key, leaf in reference.state_dict().items()}
    expected = {k: leaf for k, leaf in expected.items() if not k.endswith("num_batches_tracked")}
    exported = fused.to_torch_state_dict(as_numpy=True)
    assert expected.keys() <= exported.keys()
    for key, leaf in expected.items():
        limit = 1e-5 * np.abs(leaf).max()
        np.testing.assert_allclose(exported[key], leaf, rtol=0, atol=limit, err_msg=key)
