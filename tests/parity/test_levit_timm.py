"""LeViT against timm: images that are not square, other sizes at load, older files."""

import numpy as np
import pytest
from parity.pairs import assert_same, fill_whole, load_into, load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import with_reference
from flaxzoo.weights.names import reference_name

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
levit = pytest.importorskip("timm.models.levit")
layers = pytest.importorskip("timm.layers")

pytestmark = pytest.mark.family("levit")

SMALL = {"layers": (1, 1), "widths": (16, 24), "heads": (2, 3), "key_width": 8, "num_classes": 5}
SMALL_TIMM = {
    "depth": (1, 1),
    "embed_dim": (16, 24),
    "num_heads": (2, 3),
    "key_dim": 8,
    "num_classes": 5,
}


def reference_of(name, size, **options):
    """timm's with random weights, and these."""
    reference = timm.create_model(name, img_size=size, **SMALL_TIMM, **options).eval()
    return reference, fill_whole(reference)


@pytest.mark.parametrize("name", ["levit_384_s8", "levit_conv_256"])
def test_images_that_are_not_square(name):
    reference, tensors = reference_of(name, (48, 80))
    model = fz.models.get(name, input_shape=(48, 80, 3), **SMALL)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (48, 80, 3))


@pytest.mark.parametrize(("old", "new"), [((64, 64), (96, 96)), ((64, 32), (48, 80))])
def test_biases_for_images_of_another_size(old, new):
    """Such weights timm refuses: here they are resampled as timm resamples those of TinyViT."""
    name = "levit_128s"
    _, tensors = reference_of(name, old)
    model = fz.models.get(name, input_shape=(*new, 3), **SMALL)
    model = load_resized(model, tensors, (*old, 3))
    leaves = flatten(model.variables)
    for module, halved in (
        ("stages_0_blocks_0/attn", 0),
        ("stages_1_downsample/attn_downsample", 0),
        ("stages_1_blocks_0/attn", 1),
    ):
        path = f"params/backbone/{module}/attention_biases"
        ours = np.asarray(leaves[path])
        key = reference_name(path, MODELS.architecture(name).reference)
        table = torch.tensor(tensors[key])
        before, after = ([-(-n // 16 // (1 + halved)) for n in size] for size in (old, new))
        if old[0] == old[1]:
            expected = layers.resize_rel_pos_bias_table_levit(table.T, ours.T.shape).T
        else:
            cells = torch.nn.functional.interpolate(
                table.reshape(1, -1, *before), size=after, mode="bicubic", antialias=True
            )
            expected = cells.flatten(2)[0]
        np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-6)


def test_indices_of_older_files_are_ignored():
    name = "levit_conv_512"
    reference, tensors = reference_of(name, (32, 32))
    key = "stages.0.blocks.0.attn.attention_bias_idxs"
    older = {**tensors, key: np.zeros((4, 4), np.int64)}
    assert levit.checkpoint_filter_fn(older, reference).keys() == tensors.keys()
    model = fz.models.get(name, input_shape=(32, 32, 3), **SMALL)
    exported = with_reference(model, older, source="a file").to_torch_state_dict(as_numpy=True)
    assert exported.keys() == tensors.keys()
    for name, value in exported.items():
        np.testing.assert_array_equal(value, tensors[name])


def test_another_number_of_classes_keeps_the_norms_of_the_classifiers():
    name = "levit_128s"
    _, tensors = reference_of(name, (32, 32))
    model = fz.models.get(name, input_shape=(32, 32, 3), **{**SMALL, "num_classes": 7})
    variables, missing = load_into(model, tensors, fresh_classifier=True)
    assert {path.split("/")[2] for path in missing} == {"fc", "fc_dist"}
    kept = flatten(variables)["batch_stats/head/fc_dist_norm/mean"]
    np.testing.assert_array_equal(kept, tensors["head_dist.bn.running_mean"])
