"""ConvMixer against timm: images of any size, features, statistics of the norms."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of, pair_of

from flaxzoo.verify import compare
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

pytestmark = pytest.mark.family("convmixer")

every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.name) for kind in FAMILIES["convmixer"].kinds]
)


def pair(kind, classes=4):
    """Ours and timm's, small, with the same random weights."""
    options = {"classes": classes, "create": kind.create}
    return pair_of(kind.name, kind.fields, kind.timm, **options)[:2]


@every_kind
@pytest.mark.parametrize("size", [(28, 42), (47, 30)])
def test_images_of_any_size(kind, size):
    model, reference = pair(kind)
    differences = compare(model, reference, synthetic_images((2, *size, 3), 0))
    assert max(found.relative for found in differences.values()) < 1e-5


def test_features():
    model, reference = pair(FAMILIES["convmixer"].kinds[0], classes=0)
    images = synthetic_images((2, 28, 42, 3), 0)
    expected = outputs_of(reference, images)
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


def test_statistics_after_a_step():
    model, reference = pair(FAMILIES["convmixer"].kinds[0])
    images = synthetic_images((3, 28, 42, 3), 0)
    _, moved = model.module.apply(model.variables, images, train=True, mutable=["batch_stats"])
    exported = model.with_variables({**model.variables, **moved}).to_torch_state_dict(as_numpy=True)
    with torch.no_grad():
        reference.train()(torch.tensor(images.transpose(0, 3, 1, 2)))
    for key, value in reference.state_dict().items():
        if "running" in key:
            limit = 1e-5 * np.abs(value.numpy()).max()
            np.testing.assert_allclose(exported[key], value.numpy(), atol=limit, err_msg=key)
