"""What the comparisons with timm share: two networks of the same weights, and how they agree."""

from __future__ import annotations

import numpy as np

import flaxzoo as fz
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import (
    compare,
    fill_reference,
    load_reference,
    reference_network,
    with_reference,
)
from flaxzoo.weights.pretrained import Weights, load
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors


def pair_of(name, fields, options, *, classes=4, create=None):
    """Ours and timm's with the same random weights, and these.

    Args:
      name: of the network.
      fields: that make ours small.
      options: the same in timm's keywords.
      classes: their number.
      create: what makes timm's, where ``timm.create_model`` does not take these options.
    """
    reference = (create or reference_network)(name, num_classes=classes, **options).eval()
    tensors = fill_reference(reference)
    model = fz.models.get(name, num_classes=classes, **fields)
    return with_reference(model, tensors, source="random weights"), reference, tensors


def fill_whole(reference, gain=2.0):
    """Gives a reference random tensors, its counters and indices too, and returns them."""
    shapes = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    tensors = synthetic_tensors(shapes, 0, gain=gain)
    load_reference(reference, tensors, source="random weights")
    return tensors


def load_into(model, tensors, **options):
    """Our variables with these tensors, by the architecture's rules, and the paths they lack.

    Args:
      model: ours.
      tensors: of the reference, by its names.
      **options: further ones of ``flaxzoo.weights.pretrained.load``.
    """
    name, weights = model.spec.name, Weights(tensors, "memory", ours=False)
    reference = MODELS.architecture(name).reference
    return load(model.shapes(), weights, model.module, name=name, reference=reference, **options)


def load_resized(model, tensors, input_shape):
    """Our model with weights of images ``input_shape``, made fit for its own; none is missing."""
    sizes = (input_shape, model.spec.input_shape)
    variables, missing = load_into(model, tensors, image_sizes=sizes)
    assert missing == ()
    return model.with_variables(variables)


def outputs_of(reference, images):
    """What a reference makes of images ``[N, H, W, C]``, an array."""
    import torch

    with torch.no_grad():
        outputs = reference(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        # NumPy has no bfloat16, which autocast returns.
        return outputs.float().numpy() if outputs.dtype == torch.bfloat16 else outputs.numpy()


def assert_same(model, reference, shape, limit=1e-5):
    """Maps, features and logits of two random images ``[H, W, C]`` are the reference's."""
    differences = compare(model, reference, synthetic_images((2, *shape), 0))
    assert max(difference.relative for difference in differences.values()) < limit


def assert_exports(model, tensors):
    """Exported variables have the names and the numbers of these tensors."""
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)
