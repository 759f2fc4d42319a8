"""NASNet and PNASNet against timm: images of odd sizes, the norms' epsilon and statistics."""

import numpy as np
import pytest
from conformance.families import FAMILIES

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
pytest.importorskip("timm")


@pytest.mark.parametrize("family", ["nasnet", "pnasnet"])
def test_features_and_statistics_of_images_of_an_odd_size(family):
    kind = FAMILIES[family].kinds[0]
    reference = kind.create(kind.name, num_classes=4)
    tensors = fill_reference(reference)
    model = fz.models.get(kind.name, num_classes=4, **kind.fields)
    model = with_reference(model, tensors, source="random weights")
    images = synthetic_images((3, 47, 66, 3), 0)
    # One pass in training: its logits have the batch's statistics, and the running ones move.
    logits, moved = model.module.apply(model.variables, images, train=True, mutable=["batch_stats"])
    exported = model.with_variables({**model.variables, **moved}).to_torch_state_dict(as_numpy=True)
    with torch.no_grad():
        theirs = reference.train()(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(logits, theirs, atol=1e-4 * np.abs(theirs).max())
    for key, value in reference.state_dict().items():
        if "running" in key:
            limit = 1e-4 * np.abs(value.numpy()).max()
            np.testing.assert_allclose(exported[key], value.numpy(), atol=limit, err_msg=key)
