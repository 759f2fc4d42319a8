"""A transposed convolution of PyTorch's, from its weights in our layout."""

import flax.linen as nn
import numpy as np
import pytest

from flaxzoo.weights.layouts import LAYOUTS

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 1), (4, 2)])
def test_transposed_convolution(size, stride):
    torch.manual_seed(0)
    reference = torch.nn.ConvTranspose2d(5, 3, size, stride=stride, bias=False)
    images = np.random.default_rng(0).standard_normal((2, 6, 7, 5)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    kernel = LAYOUTS["transposed"].ours(reference.weight.detach().numpy())
    layer = nn.ConvTranspose(3, (size, size), (stride, stride), padding="VALID", use_bias=False)
    output = layer.apply({"params": {"kernel": kernel}}, images)
    np.testing.assert_allclose(output, expected.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
