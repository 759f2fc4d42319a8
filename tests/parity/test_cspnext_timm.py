"""CSPNeXt against timm: dilated, images of any size, features alone, rates of dropped paths."""

import functools

import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

pytestmark = pytest.mark.family("cspnext")

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

(KIND,) = FAMILIES["cspnext"].kinds


@pytest.mark.parametrize(("stride", "num_classes"), [(32, 0), (16, 4), (8, 0)])
def test_dilated_stages_and_images_of_an_odd_size(stride, num_classes):
    options = {"num_classes": num_classes, "output_stride": stride}
    reference = timm.create_model(KIND.name, **options, **KIND.timm).eval()
    norm = reference.stem[0].bn
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)
    model = fz.models.get(KIND.name, **options, **KIND.fields)
    model = with_reference(model, fill_reference(reference), source="the same")
    assert_same(model, reference, (93, 130, 3))


def test_rates_grow_until_the_stage_before_the_last():
    reference = timm.create_model(KIND.name, drop_path_rate=0.3, **KIND.timm)
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0)
        for stage in reference.stages
        for block in stage[-1].blocks
    ]
    backbone = fz.models.get(KIND.name, drop_path=0.3, **KIND.fields).module.backbone
    runs = [part.run for part in backbone.parts() if isinstance(part.run, functools.partial)]
    ours = [run.args[1]["drop_path"] for run in runs if isinstance(run.args[1], dict)]
    assert ours == pytest.approx(rates)
