"""What the command line takes, and its help."""

import subprocess
import sys

import pytest
from _commands import fails

import flaxzoo as fz
from flaxzoo.cli import main

PLACE = ["--coordinator-address", "localhost:1234", "--num-processes", "2"]


def test_parsing_loads_no_heavy_module():
    code = (
        "import sys\n"
        "from flaxzoo.cli import main\n"
        "codes = [main(a) for a in (['--version'], ['--help'], ['train', '--help'], ['train'])]\n"
        "heavy = [m for m in ('jax', 'flax', 'numpy', 'optax', 'tqdm') if m in sys.modules]\n"
        "print(codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 2] []"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flaxzoo {fz.__version__}\n"


@pytest.mark.parametrize(
    "command", [[], ["list"], ["info"], ["train"], ["evaluate"], ["predict"], ["verify"]]
)
def test_help_has_examples(capsys, command):
    assert main([*command, "--help"]) == 0
    captured = capsys.readouterr()
    assert f"\n  flaxzoo {' '.join(command)}" in captured.out.partition("examples:")[2]
    assert captured.err == ""


def test_help_shows_defaults_that_say_something(capsys):
    main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "examples per step (default: 64)" in text
    assert "default: None" not in text
    assert "default: []" not in text
    for title in ("data:", "model:", "training:", "output:"):
        assert title in text


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "commands:" in captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["--verson"], "Did you mean '--version'"),
        (["train", "mlp"], "required: --data"),
        (["train", "mlp", "--data", "digit"], "Did you mean 'digits'"),
        (["train", "mlp", "--data", "mnist"], "mnist:DIR"),
        (["train", "mlp", "--data", "digits", "--epoch", "3"], "Did you mean '--epochs'"),
        (["train", "mlp", "--data", "digits", "--epochs", "0"], "at least 1, got 0"),
        (["train", "mlp", "--data", "digits", "--epochs", "x"], "an integer, got 'x'"),
        (["train", "mlp", "--data", "digits", "--steps-per-call", "0"], "at least 1, got 0"),
        (["train", "mlp", "--data", "digits", "--devices", "al"], "'all' or how many"),
        (["train", "mlp", "--data", "digits", "--sharding", "fdsp"], "invalid choice: 'fdsp'"),
        (
            ["train", "mlp", "--data", "digits", "--num-processes", "2"],
            "--process-id must be given",
        ),
        (["train", "mlp", "--data", "digits", *PLACE, "--process-id", "2"], "the last is 1"),
        (["train", "mlp", "--data", "digits", "--coordinator-address", "host"], "'host:port'"),
        (["evaluate", "run", *PLACE], "'flaxzoo train' has it"),
        (["train", "mlp", "--data", "digits", "--lr", "nan"], "finite"),
        (["train", "mlp", "--data", "digits", "--lr", "0"], "above 0"),
        (["train", "mlp", "--data", "digits", "--validation-fraction", "1"], "between 0 and 1"),
        (["train", "mlp", "--data", "digits", "--set", "features"], "KEY=VALUE"),
        (["train", "mlp", "--data", "digits", "--metrics", "a,,b"], "separated by commas"),
        (["train", "mlp", "--data", "digits", "--resume", "--overwrite"], "not allowed with"),
        (["train", "mlp", "--data", "digits", "--schedule-set", "a=1"], "goes with --schedule"),
        (["evaluate", "run", "--which", "first"], "'last', 'best' or a step"),
        (["predict", "run"], "required: FILE"),
        (["list", "--pretrained", "--kind", "losses"], "--kind models"),
    ],
)
def test_wrong_usage(capsys, argv, message):
    assert message in fails(capsys, argv, code=2)


def test_options_of_other_programs_are_answered(capsys):
    for option, here in (("--bs", "--batch-size"), ("--output-dir=x", "--run-dir")):
        assert main(["train", "mlp", "--data", "digits", option, "3"]) == 2
        assert f"It is called '{here}' here." in capsys.readouterr().err
    assert main(["train", "mlp", "--data", "digits", "--epoch", "3"]) == 2
    assert "'--epochs'" in capsys.readouterr().err
