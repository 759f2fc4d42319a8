"""iFormer against timm: images of any size, names in both directions, the authors' files."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
iformer = pytest.importorskip("timm.models.iformer")

pytestmark = pytest.mark.family("iformer")

KINDS = FAMILIES["iformer"].kinds
every_kind = pytest.mark.parametrize("kind", [pytest.param(k, id=k.name) for k in KINDS])


def pair(kind):
    """Ours and timm's, small."""
    model = fz.models.get(kind.name, num_classes=5, **kind.fields)
    return model, timm.create_model(kind.name, num_classes=5, **kind.timm).eval()


@every_kind
@pytest.mark.parametrize("size", [(64, 96), (71, 37)])
def test_images_of_any_size(kind, size):
    model, reference = pair(kind)
    tensors = fill_reference(reference)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == reference.state_dict().keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


def authors_name(name, distilled):
    """What the authors' files call a tensor of timm's."""
    for old, new in (
        ("head.head_dist.", "classifier.classifier_dist."),
        ("head.head.", "classifier.classifier." if distilled else "classifier."),
        ("stem.conv1.", "downsample_layers.0.0."),
        ("stem.conv2.", "downsample_layers.0.2.conv_exp_bn1."),
        ("stem.conv3.", "downsample_layers.0.2.conv_pwl_bn2."),
        (".module.", ".m."),
    ):
        name = name.replace(old, new)
    group, _, rest = name.partition(".downsample.")
    if rest:
        return f"downsample_layers.{group.partition('.')[2]}.0.{rest}"
    mixer = "token_channel_mixer" if "_blocks" in name or ".m.q" in name else "channel_mixer"
    return name.replace(".blocks.", ".").replace(".mixer.", f".block.{mixer}.")


@every_kind
def test_the_authors_files(kind):
    model, reference = pair(kind)
    tensors = fill_reference(reference)
    authors = {authors_name(key, "distilled" in kind.name): v for key, v in tensors.items()}
    assert not authors.keys() & tensors.keys()
    theirs = iformer.checkpoint_filter_fn(dict(authors), reference)
    ours = MODELS.architecture(kind.name).reference.convert(authors, model.module.backbone)
    assert ours.keys() == theirs.keys() == tensors.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, tensors[key], err_msg=key)
