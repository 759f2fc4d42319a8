import dataclasses
import errno
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import CheckpointError, DataError, UninitializedError, UnknownNameError
from flaxzoo.weights.readers import read_tensors

TINY = "test_resnet"


def filled(model):
    """The model with random variables, which costs less than its initialisation."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        return (rng.normal(size=leaf.shape) * 0.2).astype(leaf.dtype)

    return model.with_variables(jax.tree_util.tree_map_with_path(draw, model.shapes()))


def tiny(**options):
    options = {"num_classes": 4, "input_shape": (32, 32, 3), **options}
    return filled(fz.models.get(TINY, **options))


@pytest.fixture(scope="module")
def model():
    return tiny()


class Own(nn.Module):
    """A head that timm has not."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(5, name="hidden")(x.mean((1, 2)))
        return nn.Dense(2, name="fc")(nn.relu(x))


def config_of(directory):
    return json.loads((directory / "config.json").read_text())


def write_config(directory, config):
    text = config if isinstance(config, str) else json.dumps(config)
    (directory / "config.json").write_text(text)


def outputs(model):
    shape = (2, *model.spec.input_shape)
    return model(np.random.default_rng(1).normal(size=shape).astype(np.float32))


# To PyTorch


def test_state_dict_has_timm_s_names_and_layout(model):
    state = model.to_torch_state_dict(as_numpy=True)
    params, stats = (model.variables[name] for name in ("params", "batch_stats"))
    kernel = np.asarray(params["backbone"]["layer1_0"]["conv1"]["kernel"])
    np.testing.assert_array_equal(state["layer1.0.conv1.weight"], kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(state["fc.weight"], params["head"]["fc"]["kernel"].T)
    np.testing.assert_array_equal(state["fc.bias"], params["head"]["fc"]["bias"])
    np.testing.assert_array_equal(state["bn1.running_var"], stats["backbone"]["bn1"]["var"])
    counts = [value for name, value in state.items() if name.endswith("num_batches_tracked")]
    means = [name for name in state if name.endswith("running_mean")]
    assert len(counts) == len(means) > 0
    assert {(value.dtype, value.shape) for value in counts} == {(np.dtype(np.int64), ())}
    leaves = jax.tree.leaves(model.variables)
    assert len(state) == len(leaves) + len(counts)


def test_state_dict_of_what_has_none(model):
    with pytest.raises(UninitializedError, match="no variables yet"):
        fz.models.get(TINY).to_torch_state_dict()
    cnn = filled(fz.models.get("cnn", input_shape=(8, 8, 1)))
    with pytest.raises(CheckpointError, match=r"'cnn' has no counterpart in timm.*save_pretrained"):
        cnn.to_torch_state_dict(as_numpy=True)


def test_state_dict_with_a_head_of_one_s_own_keeps_its_names(model):
    state = filled(model.replace_head(Own())).to_torch_state_dict(as_numpy=True)
    assert state["hidden.weight"].shape == (5, 96)
    assert state["fc.weight"].shape == (2, 5)
    assert "layer4.0.conv1.weight" in state


def test_state_dict_without_torch_says_what_to_do(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install torch") as caught:
        model.to_torch_state_dict()
    assert "as_numpy=True" in str(caught.value)


# A directory, there and back


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes": 0},
        {"pooling": "max"},
        {"output_stride": 8},
        {"input_shape": (32, 48, 1)},
        {"input_shape": (32, 32, 5)},
        {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16},
        {"drop_path": 0.1, "dropout": 0.2, "remat": True},
    ],
    ids=str,
)
def test_what_timm_has_is_written_under_its_names(tmp_path, assert_trees_equal, options):
    model = tiny(**options)
    model.save_pretrained(tmp_path)
    config, tensors = config_of(tmp_path), read_tensors(tmp_path)
    assert config["architecture"] == TINY
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"]
    assert config["num_classes"] == options.get("num_classes", 4)
    height, width, channels = model.spec.input_shape
    assert config["pretrained_cfg"]["input_size"] == [channels, height, width]
    assert tensors.keys() == model.to_torch_state_dict(as_numpy=True).keys()
    again = fz.Model.from_pretrained(tmp_path)
    assert again.spec == model.spec
    # One module, one set of variables: the outputs are the same.
    assert again.module == model.module
    assert_trees_equal(again.variables, model.variables)


def test_the_config_that_timm_reads(tmp_path):
    model = tiny(num_classes=2)
    preprocess = fz.Preprocess((32, 32, 3), (0.5, 0.4, 0.3), (0.2,), "bicubic", crop=0.9)
    spec = dataclasses.replace(
        model.spec, preprocess=preprocess, classes=("cat", "dog"), licence="mit"
    )
    model = dataclasses.replace(model, spec=spec)
    model.save_pretrained(tmp_path)
    config = config_of(tmp_path)
    ours = config.pop("flaxzoo")
    assert config == {
        "architecture": TINY,
        "num_classes": 2,
        "num_features": 96,
        "global_pool": "avg",
        "label_names": ["cat", "dog"],
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.2, 0.2],
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "num_classes": 2,
            "first_conv": "conv1.0",
            "classifier": "fc",
            "license": "mit",
        },
    }
    assert ours["format_version"] == 1
    assert ours["version"] == fz.__version__
    assert ours["module"] == "Classifier"
    assert fz.Model.from_pretrained(tmp_path).spec == spec


def test_variations_that_timm_is_told_of(tmp_path):
    tiny(pooling="avg+max", output_stride=16).save_pretrained(tmp_path)
    assert config_of(tmp_path)["model_args"] == {"global_pool": "avgmax", "output_stride": 16}


def test_a_new_plain_head_is_timm_s_too(tmp_path, model, assert_trees_equal):
    model = model.replace_head(fz.models.Head(3))
    model.save_pretrained(tmp_path)
    assert config_of(tmp_path)["num_classes"] == 3
    again = fz.Model.from_pretrained(tmp_path)
    assert_trees_equal(again.variables, model.variables)
    np.testing.assert_array_equal(outputs(again), outputs(model))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (TINY, {"gate": "se", "num_classes": 3, "input_shape": (32, 32, 3)}),
        (TINY, {"activation": "gelu", "num_classes": 3, "input_shape": (32, 32, 3)}),
        (TINY, {"features": True, "input_shape": (32, 32, 3)}),
        ("cnn", {"input_shape": (8, 8, 1), "batch_norm": True}),
        ("lstm", {"vocab_size": 7, "num_classes": 2, "hidden_size": 4}),
        ("autoencoder", {"input_shape": (4, 4, 1)}),
    ],
)
def test_anything_else_is_written_under_flaxzoo_s_names(
    tmp_path, assert_trees_equal, name, options
):
    model = filled(fz.models.get(name, **options))
    model.save_pretrained(tmp_path)
    assert config_of(tmp_path).keys() == {"flaxzoo"}
    assert all(key.startswith(("params/", "batch_stats/")) for key in read_tensors(tmp_path))
    again = fz.Model.from_pretrained(tmp_path)
    assert again.spec == model.spec
    assert_trees_equal(again.variables, model.variables)


def test_a_head_of_one_s_own_is_given_again(tmp_path, model, assert_trees_equal):
    model = filled(model.replace_head(Own()))
    model.save_pretrained(tmp_path)
    assert config_of(tmp_path).keys() == {"flaxzoo"}
    with pytest.raises(CheckpointError, match=r"pass the module: from_pretrained\(source, module="):
        fz.Model.from_pretrained(tmp_path)
    again = fz.Model.from_pretrained(tmp_path, module=model.module)
    assert_trees_equal(again.variables, model.variables)
    plain = fz.models.get(TINY, num_classes=2).module
    with pytest.raises(CheckpointError, match=r"only in the file: params/head/hidden"):
        fz.Model.from_pretrained(tmp_path, module=plain)


def test_a_module_of_several_inputs(tmp_path, assert_trees_equal):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, pair):
            return nn.Dense(3)(pair[0]) + nn.Dense(3)(pair[1])

    model = fz.Model(Two()).init(0, (jnp.ones((1, 2)), jnp.ones((1, 4))))
    model.save_pretrained(tmp_path)
    again = fz.Model.from_pretrained(tmp_path, module=Two())
    assert_trees_equal(again.variables, model.variables)


def test_what_save_wrote_is_read_too(tmp_path, model, assert_trees_equal):
    model.save(tmp_path)
    again = fz.Model.from_pretrained(str(tmp_path))
    assert again.spec == model.spec
    assert_trees_equal(again.variables, model.variables)


def test_uninitialised_models_are_not_written(tmp_path):
    with pytest.raises(UninitializedError):
        fz.models.get(TINY).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_what_was_there(tmp_path, model, monkeypatch, old):
    if old:
        model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, tensors, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flaxzoo.weights.folders.write_safetensors", full)
    with pytest.raises(DataError, match="No space left on device"):
        tiny(num_classes=9).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# What timm wrote


@pytest.fixture
def from_timm(tmp_path, model):
    """Writes a directory as timm does: its config and the tensors of ``model``."""

    def write(model=model, **changes):
        model.save_pretrained(tmp_path)
        config = config_of(tmp_path)
        del config["flaxzoo"]
        config["pretrained_cfg"] |= {"mean": [0.5] * 3, "tag": "a1_in1k", "test_crop_pct": 1.0}
        config |= changes
        write_config(tmp_path, config)
        return tmp_path

    return write


def test_timm_s_config(from_timm, model, assert_trees_equal):
    again = fz.Model.from_pretrained(from_timm(label_names=["a", "b", "c", "d"]))
    assert again.module == model.module
    assert_trees_equal(again.variables, model.variables)
    spec = again.spec
    assert (spec.name, spec.tag, spec.input_shape) == (TINY, "a1_in1k", (32, 32, 3))
    assert spec.preprocess.mean == (0.5, 0.5, 0.5)
    assert spec.classes == ("a", "b", "c", "d")
    assert not spec.declared
    labels = {"3": "d", "0": "a", "1": "b", "2": "c"}
    assert fz.Model.from_pretrained(from_timm(label_names=labels)).spec.classes == spec.classes
    # Four classes are not ImageNet's, whatever the tag says.
    assert fz.Model.from_pretrained(from_timm()).spec.classes is None


def test_the_tag_tells_the_classes(from_timm):
    spec = fz.Model.from_pretrained(from_timm(tiny(num_classes=1000))).spec
    assert spec.classes == fz.classes.class_names("imagenet1k")


def test_timm_s_model_args(from_timm):
    model = tiny(pooling="max", output_stride=8, input_shape=(32, 32, 1))
    config = from_timm(
        model,
        model_args={"in_chans": 1, "global_pool": "max", "output_stride": 8, "drop_rate": 0.1},
    )
    again = fz.Model.from_pretrained(config)
    np.testing.assert_array_equal(outputs(again), outputs(model))
    assert again.module.head.dropout == 0.1
    path = from_timm(model_args={"block_args": {"attn_layer": "se"}, "aa_layer": "blur"})
    with pytest.raises(
        CheckpointError, match="model_args that flaxzoo does not read: block_args, aa"
    ):
        fz.Model.from_pretrained(path)


def test_timm_s_older_form(tmp_path, from_timm, model, assert_trees_equal):
    from_timm()
    config = config_of(tmp_path)
    settings = config.pop("pretrained_cfg") | {"labels": list("abcd")}
    write_config(tmp_path, {**settings, "architecture": TINY, "num_features": 96})
    again = fz.Model.from_pretrained(tmp_path)
    assert_trees_equal(again.variables, model.variables)
    assert again.spec.classes == tuple("abcd")
    assert again.spec.preprocess.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"architecture": "resnet5O"}, UnknownNameError, "'resnet5O'. Did you mean"),
        ({"architecture": None}, CheckpointError, "neither flaxzoo's nor timm's"),
        ({"pretrained_cfg": 3}, CheckpointError, "must be objects"),
        ({"pretrained_cfg": {"input_size": [3]}}, CheckpointError, "input_size must be three ints"),
        (
            {"pretrained_cfg": {"input_size": "3"}},
            CheckpointError,
            "input_size must be .*, got '3'",
        ),
        ({"pretrained_cfg": {"tag": 3}}, CheckpointError, "tag must be text, got 3"),
        ({"model_args": {"img_size": [1]}}, CheckpointError, r"img_size must be .*, got \[1\]"),
        ({"model_args": {"in_chans": "x"}}, CheckpointError, "in_chans must be .*, got 'x'"),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, CheckpointError, "std must be positive"),
        ({"num_classes": "many"}, CheckpointError, "num_classes must be"),
        ({"global_pool": "median"}, CheckpointError, "global_pool 'median'; flaxzoo reads avg"),
        ({"num_classes": 5}, CheckpointError, r"fc\.weight: file \[4, 96\], expected \[5, 96\]"),
    ],
)
def test_configs_that_are_not_understood(from_timm, changes, error, match):
    path = from_timm(**changes)
    with pytest.raises(error, match=match) as caught:
        fz.Model.from_pretrained(path)
    assert str(path) in str(caught.value)


# What is no model


def fails(source, match, error=CheckpointError, **options):
    with pytest.raises(error, match=match) as caught:
        fz.Model.from_pretrained(source, **options)
    assert "\n" not in str(caught.value)


def test_directories_that_hold_no_model(tmp_path, model):
    fails(tmp_path / "absent", "absent: no such directory")
    fails("./absent/model", "no such directory; a repository of the Hub is written hf:org/repo")
    fails(tmp_path, r"no config\.json in it; for weights alone, flaxzoo\.models\.get")
    for text, match in {
        "<html>": "not readable as JSON",
        "[]": "holds no JSON object",
        '{"flaxzoo": {}}': r"its config\.json lacks the entry 'format_version'",
        '{"flaxzoo": 3}': r"its config\.json is not understood \(TypeError",
        '{"flaxzoo": {"format_version": 1, "version": "1", "spec": {}}}': "must be an object with",
        '{"flaxzoo": {"format_version": 99, "version": "9.0"}}': "written by flaxzoo 9.0",
        '{"model_type": "bert"}': "neither flaxzoo's nor timm's",
    }.items():
        write_config(tmp_path, text)
        fails(tmp_path, match)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    fails(tmp_path, "no weights in this directory")
    (tmp_path / "model.safetensors").write_bytes(b"<!DOCTYPE html>")
    fails(tmp_path, "a web page")
    fails(tmp_path, "is for the Hub", ValueError, revision="main")
    fails("hf:org/repo@a", "two revisions", ValueError, revision="b")
    fails("hf:nonsense", "written hf:org/repo", ValueError)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "test_resnet2"}, "unknown model 'test_resnet2'. Did you mean"),
        ({"config": {"widths": [4]}}, "layers and widths must be of one length"),
        ({"config": {"colour": 1}}, "does not take 'colour'"),
        ({"config": [1]}, r"config.json is not understood \(spec.config must be an object or null"),
        ({"name": 3}, "spec.name must be text, got 3"),
        ({"classes": "cat"}, "spec.classes must be a list of names, or null, got 'cat'"),
        ({"input_dtype": "text"}, "spec.input_dtype must be the name of a dtype of numbers"),
        ({"top1": "good"}, "spec.top1 must be a number or null, got 'good'"),
        ({"task": "sums"}, "unknown task 'sums'"),
        ({"preprocess": 3}, "spec.preprocess must be an object or null"),
        ({"preprocess": {"interpolation": "x", "input_shape": [1, 1, 1]}}, "spec.preprocess: unkn"),
        ({"config": None, "name": "cnn"}, "pass the module"),
        ({"input_shape": ["a", 2, 3]}, "spec.input_shape must be a list of ints of at least 1"),
        ({"preprocess": {"input_shape": [1]}}, "input_shape must be"),
    ],
)
def test_specs_that_are_not_understood(tmp_path, model, changes, match):
    model.save_pretrained(tmp_path)
    config = {"flaxzoo": config_of(tmp_path)["flaxzoo"]}
    del config["flaxzoo"]["document_sha256"]
    config["flaxzoo"]["spec"] |= changes
    write_config(tmp_path, config)
    with pytest.raises((CheckpointError, UnknownNameError), match=match) as caught:
        fz.Model.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_config_cannot_send_us_to_other_weights(tmp_path, model, assert_trees_equal):
    model.save_pretrained(tmp_path)
    config = config_of(tmp_path)
    config["flaxzoo"]["spec"]["config"]["pretrained"] = "hf:evil/weights"
    write_config(tmp_path, config)
    assert_trees_equal(fz.Model.from_pretrained(tmp_path).variables, model.variables)


# The Hub


@pytest.mark.slow
def test_push_and_pull(hub, model, assert_trees_equal):
    with pytest.raises(fz.errors.DownloadError, match=r"cannot upload to me/tiny.*HF_TOKEN"):
        model.push_to_hub("me/tiny")
    url = model.push_to_hub("me/tiny", licence="apache-2.0", token="hf_secret")
    assert url.endswith("me/tiny")
    repo = hub.repos["me/tiny"]
    files = repo.commits[repo.resolve("main")]
    assert {"model.safetensors", "config.json", "README.md"} <= files.keys()
    card = bytes(files["README.md"]).decode()
    assert card.startswith("---\nlibrary_name: flaxzoo\ntags:\n- flax\n- jax\n- timm\n")
    assert "\nlicense: apache-2.0\n---\n# tiny\n" in card
    assert 'fz.Model.from_pretrained("me/tiny")' in card
    assert 'timm.create_model("hf-hub:me/tiny", pretrained=True)' in card
    first = repo.resolve("main")
    for source in ("me/tiny", "hf:me/tiny", f"hf:me/tiny@{first}"):
        again = fz.Model.from_pretrained(source)
        assert again.spec == model.spec
        assert_trees_equal(again.variables, model.variables)
    # A card that is there is its owner's.
    repo.commit({"README.md": b"mine"})
    other = tiny(num_classes=9)
    other.push_to_hub("me/tiny", token="hf_secret")
    assert bytes(repo.commits[repo.resolve("main")]["README.md"]) == b"mine"
    assert fz.Model.from_pretrained("me/tiny").spec.config["num_classes"] == 9
    assert fz.Model.from_pretrained("me/tiny", revision=first).spec.config["num_classes"] == 4


@pytest.mark.slow
def test_other_formats_on_the_hub(hub, hub_server, tmp_path, from_timm, model, assert_trees_equal):
    model.save(tmp_path / "own")
    for repo_id, path in {"me/own": tmp_path / "own", "timm/tiny": from_timm()}.items():
        files = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
        hub.repos[repo_id] = hub_server.Repo(files)
        assert_trees_equal(fz.Model.from_pretrained(repo_id).variables, model.variables)
    with pytest.raises(fz.errors.DownloadError, match="me/absent"):
        fz.Model.from_pretrained("me/absent")


def test_the_card_of_a_module_of_one_s_own(model):
    from flaxzoo.weights.export import model_card

    own = filled(model.replace_head(Own()))
    card = model_card(own, "me/own")
    assert 'fz.Model.from_pretrained("me/own", module=module)' in card
    assert "timm" not in card.replace("test_resnet", "")
    assert "license" not in card


def test_importing_export_is_cheap():
    program = (
        "import sys, flaxzoo.weights.export\n"
        "heavy = ('torch', 'h5py', 'huggingface_hub', 'PIL', 'safetensors')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
