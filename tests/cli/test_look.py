"""``list`` and ``info``."""

import shlex
import sys

import pytest
from _commands import fails

import flaxzoo as fz
from flaxzoo.cli import main
from flaxzoo.cli.look import KINDS, in_columns
from flaxzoo.models.build import counted


@pytest.mark.parametrize("kind", KINDS)
def test_list_prints_a_name_per_line(capsys, kind):
    assert main(["list", "--kind", kind]) == 0
    assert capsys.readouterr().out.splitlines() == getattr(fz, kind).list()


def test_list_with_a_pattern(capsys):
    assert main(["list", "c*n"]) == 0
    assert "cnn" in capsys.readouterr().out.splitlines()
    assert "Did you mean 'adam'" in fails(capsys, ["list", "--kind", "optimizers", "adm*"])


def test_list_pretrained(capsys):
    names = fz.models.list(pretrained=True)
    assert main(["list", "--pretrained"]) == (0 if names else 1)
    assert capsys.readouterr().out.split() == names


def test_list_on_a_terminal_makes_columns(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["list", "--kind", "activations"]) == 0
    out = capsys.readouterr().out
    assert sorted(out.split()) == fz.activations.list()
    assert len(out.splitlines()) < len(out.split())
    assert max(map(len, out.splitlines())) <= 60


def test_columns_read_downwards():
    assert in_columns(["a", "b", "c", "d", "e"], 8) == "a  c  e\nb  d"
    assert in_columns(["long_name", "b"], 3) == "long_name\nb"
    # A long name widens its own column only.
    assert in_columns(["a", "long_name", "c", "d"], 16) == "a          c\nlong_name  d"
    assert in_columns(["a", "b", "c", "long_name"], 18) == "a  b  c  long_name"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["resnet18.a1*"],
            "no models match 'resnet18.a1*'. It matches pretrained weights (1): "
            "flaxzoo list --pretrained 'resnet18.a1*'",
        ),
        (["cnn.digits"], "(1): flaxzoo list --pretrained cnn.digits"),
        (
            ["--pretrained", "cnn"],
            "no pretrained weights match 'cnn'. They are listed as NAME.TAG: "
            "flaxzoo list --pretrained 'cnn.*'",
        ),
        (["--pretrained", "cnn.digit"], "Did you mean 'cnn.digits'"),
    ],
)
def test_a_pattern_for_the_other_list_says_which(capsys, argv, message):
    assert message in fails(capsys, ["list", *argv])
    if "flaxzoo list" in message:
        command = message[message.index("flaxzoo list") :]
        assert main(shlex.split(command)[1:]) == 0
        assert capsys.readouterr().out


def test_info_has_a_line_for_each_weights(capsys):
    spec = fz.models.info("resnet50")
    assert main(["info", "resnet50"]) == 0
    out = capsys.readouterr().out
    before, _, table = out.partition("  pretrained (the first is the default)\n")
    rows = table.splitlines()
    assert [row.split()[0] for row in rows] == [f"resnet50.{tag}" for tag in spec.tags]
    first = fz.models.info(f"resnet50.{spec.tags[0]}")
    assert rows[0].split() == [
        f"resnet50.{first.tag}", "top-1", f"{first.top1:.2f}", "%", "224x224", first.licence
    ]  # fmt: skip
    assert f"parameters {spec.parameters:,}" in before
    assert max(map(len, out.splitlines())) <= 100


def test_info_of_weights_counts_the_others(capsys):
    tags = fz.models.info("resnet18").tags
    assert main(["info", f"resnet18.{tags[1]}"]) == 0
    out = capsys.readouterr().out
    assert f"others     {len(tags) - 1} more weights: flaxzoo info resnet18\n" in out
    assert tags[0] not in out
    assert main(["info", "cnn.digits"]) == 0
    assert "more weights" not in capsys.readouterr().out


def test_info_of_a_saved_model(run, capsys, monkeypatch):
    parameters = fz.Model.load(run / "model").summary().parameters
    for target in (run, run / "model"):
        assert main(["info", str(target), "--layers"]) == 0
        out = capsys.readouterr().out
        assert "input      float32 [B, 8, 8, 1]" in out
        assert f"parameters {parameters:,}, " in out
    assert "--set goes with a model's name" in fails(capsys, ["info", run, "--set", "features=8"])
    monkeypatch.chdir(run)
    assert main(["info", "model"]) == 0
    assert f"parameters {parameters:,}" in capsys.readouterr().out


def test_info_of_a_model(capsys):
    assert main(["info", "mlp"]) == 0
    assert capsys.readouterr().out.strip() == str(fz.models.info("mlp"))
    assert main(["info", "mlp", "--layers", "--set", "features=8", "--set", "num_classes=3"]) == 0
    out = capsys.readouterr().out
    model = fz.models.get("mlp", features=(8,), num_classes=3)
    assert str(model.summary()) in out
    assert str(counted(model.module, model.spec)) in out
    assert "parameters 6,307" in out


def test_info_looks_in_all_registries(capsys):
    assert main(["info", "adamw"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("optimizer adamw: ")
    assert "  b1 (default: 0.9)\n" in out
    # A schedule and an activation share this name.
    assert main(["info", "linear"]) == 0
    out = capsys.readouterr().out
    assert "schedule linear" in out
    assert "activation identity" in out
    assert "also known as linear" in out
    assert main(["info", "linear", "--kind", "schedules"]) == 0
    assert "activation" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["info", "cn"], "unknown model 'cn'. Did you mean 'cnn'"),
        (["info", "adm", "--kind", "optimizers"], "Did you mean 'adam'"),
        (["info", "adam", "--kind", "optimizers", "--layers"], "go with models"),
        (["info", "adam", "--layers"], "unknown model 'adam'"),
        (["info", "mlp", "--set", "feature=3"], "Did you mean 'features'"),
        (["info", "mlp", "--set", "pretrained=1"], "reads no weights"),
        (["info", "cnn", "--layers", "--set", "pooling=sum"], "model 'cnn' with pooling='sum': "),
    ],
)
def test_info_mistakes(capsys, argv, message):
    assert message in fails(capsys, argv)
