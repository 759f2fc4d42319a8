"""ViTs with relative positions against timm: images of another size, tables."""

import numpy as np
import pytest
from parity.pairs import load_resized, outputs_of

import flaxzoo as fz
from flaxzoo.verify import fill_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
relpos = pytest.importorskip("timm.models.vision_transformer_relpos")

pytestmark = pytest.mark.family("vision_transformer_relpos")

FIELDS = {"num_classes": 5, "width": 24, "depth": 2, "heads": 3}
TIMM = {"num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3}
TABLE = {"rel_pos_type": "bias"}
CLS = "vit_relpos_base_patch16_clsgap_224"


def check(model, reference):
    images = synthetic_images((2, *model.spec.input_shape), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("name", "fields", "options", "old", "new"),
    [
        ("vit_relpos_small_patch16_224", {}, {}, (32, 48), (64, 32)),
        ("vit_srelpos_small_patch16_224", {}, {}, (32, 32), (48, 64)),
        (CLS, {"positions": "table"}, TABLE, (64, 64), (48, 96)),
        (CLS, {"positions": "table"}, TABLE, (32, 64), (64, 48)),
        ("vit_srelpos_small_patch16_224", {"positions": "table"}, TABLE, (64, 64), (32, 96)),
    ],
)
def test_weights_for_images_of_another_size(name, fields, options, old, new):
    reference = timm.create_model(name, img_size=old, **TIMM, **options).eval()
    tensors = fill_reference(reference)
    model = fz.models.get(name, input_shape=(*new, 3), **FIELDS, **fields)
    older = {"blocks.0.attn.rel_pos.relative_position_index": np.zeros((4, 4), np.int64)}
    model = load_resized(model, {**tensors, **older}, (*old, 3))
    reference.set_input_size(new)
    check(model, reference)
    if old[0] == old[1]:
        # What timm makes of a file, whose size it does not know.
        fresh = timm.create_model(name, img_size=new, **TIMM, **options).eval()
        state = {key: torch.tensor(value) for key, value in tensors.items()}
        fresh.load_state_dict(relpos.checkpoint_filter_fn(state, fresh))
        check(model, fresh)
