"""What ``save_pretrained`` writes is read by timm itself, and what timm writes by us."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

TINY = "test_resnet"
DISTILLED = "deit_tiny_distilled_patch16_224"


def filled(model):
    """The model with random variables; with random BatchNorm statistics, too."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if path[-1].key == "kernel" else 0.1
        return (rng.normal(size=leaf.shape) * scale).astype(leaf.dtype)

    return model.with_variables(jax.tree_util.tree_map_with_path(draw, model.shapes()))


def images(model):
    shape = (2, *model.spec.input_shape)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def torch_outputs(model, x):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def check_outputs(ours, theirs):
    x = images(ours)
    expected = torch_outputs(theirs, x)
    found = np.asarray(ours(x))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"num_classes": 7, "input_shape": (64, 64, 3)}),
        (TINY, {"num_classes": 5, "input_shape": (64, 48, 3), "pooling": "max"}),
        (TINY, {"num_classes": 5, "input_shape": (64, 64, 3), "pooling": "avg+max"}),
        (TINY, {"num_classes": 5, "input_shape": (64, 64, 1)}),
        (TINY, {"num_classes": 5, "input_shape": (64, 64, 5)}),
        (TINY, {"num_classes": 5, "input_shape": (64, 64, 3), "output_stride": 8}),
        (TINY, {"num_classes": 0, "input_shape": (64, 64, 3)}),
        (DISTILLED, {"num_classes": 7, "input_shape": (32, 48, 3)}),
        (DISTILLED, {"num_classes": 7, "input_shape": (32, 32, 3), "distilled_training": True}),
        (DISTILLED, {"num_classes": 0, "input_shape": (32, 32, 3)}),
        ("beit_base_patch16_224", {"num_classes": 7, "input_shape": (32, 48, 3)}),
    ],
)
def test_timm_loads_what_we_save(tmp_path, name, options):
    model = filled(fz.models.get(name, **options))
    model.save_pretrained(tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert theirs.num_classes == options["num_classes"]
    check_outputs(model, theirs)
    # Not only the numbers: how images are to be prepared, too.
    settings = timm.data.resolve_model_data_config(theirs)
    height, width, channels = model.spec.input_shape
    assert tuple(settings["input_size"]) == (channels, height, width)
    if model.spec.preprocess is not None:
        assert model.spec.preprocess.to_timm() == {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in settings.items()
        }


def test_timm_gives_it_a_new_head_and_stem(tmp_path):
    filled(fz.models.get(TINY, num_classes=5, input_shape=(64, 64, 3))).save_pretrained(tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2, in_chans=1)
    ours = fz.models.get(TINY, pretrained=str(tmp_path), num_classes=2, input_shape=(64, 64, 1))
    stem = ours.variables["params"]["backbone"]["conv1_0"]["kernel"]
    expected = theirs.state_dict()["conv1.0.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(stem, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_state_dict_for_strict_loading(dtype):
    model = filled(fz.models.get("resnet50", num_classes=3, param_dtype=dtype))
    state = model.to_torch_state_dict()
    theirs = timm.create_model("resnet50", num_classes=3)
    expected = theirs.state_dict()
    assert state.keys() == expected.keys()
    wanted = getattr(torch, jnp.dtype(dtype).name)
    assert {v.dtype for k, v in state.items() if k.endswith("weight")} == {wanted}
    theirs.load_state_dict(state, strict=True)
    kernel = model.variables["params"]["backbone"]["layer2_1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(
        theirs.state_dict()["layer2.1.conv2.weight"].numpy().transpose(2, 3, 1, 0),
        np.asarray(kernel, np.float32),
    )
    # The tensors are the caller's own.
    before = np.array(model.variables["params"]["head"]["fc"]["bias"])
    state["fc.bias"].zero_()
    np.testing.assert_array_equal(model.variables["params"]["head"]["fc"]["bias"], before)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 6},
        {"num_classes": 6, "global_pool": "max", "in_chans": 1},
        {"num_classes": 6, "output_stride": 16, "drop_rate": 0.1, "drop_path_rate": 0.1},
        {"num_classes": 0},
    ],
    ids=str,
)
def test_we_load_what_timm_saves(tmp_path, options, safe):
    from timm.models import save_for_hf

    torch.manual_seed(0)
    theirs = timm.create_model(TINY, **options)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    labels = {"model_config": {"label_names": list("abcdef")}} if options["num_classes"] else {}
    save_for_hf(theirs, tmp_path, safe_serialization=safe, **labels)
    ours = fz.Model.from_pretrained(tmp_path)
    assert ours.spec.classes == (tuple("abcdef") if labels else None)
    settings = timm.data.resolve_model_data_config(theirs)
    assert ours.spec.input_shape == (*settings["input_size"][1:], options.get("in_chans", 3))
    assert ours.spec.preprocess.crop == settings["crop_pct"]
    check_outputs(ours, theirs)


@pytest.mark.parametrize("name", [DISTILLED, "beit_base_patch16_224"])
def test_we_load_transformers_that_timm_saves(tmp_path, name):
    from timm.models import save_for_hf

    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=6, img_size=(32, 48))
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if key.startswith("head") or "table" in key:
                parameter.normal_(0, 0.2)
    save_for_hf(theirs, tmp_path, model_args={"img_size": (32, 48)})
    ours = fz.Model.from_pretrained(tmp_path)
    assert ours.spec.input_shape == (32, 48, 3)
    check_outputs(ours, theirs)
