"""How a command ends: exit codes, signals, pipes and tracebacks."""

import signal
import subprocess
import sys

import pytest
from _commands import MODEL, fails

import flaxzoo as fz
from flaxzoo.cli import main


@pytest.mark.parametrize(
    ("argv", "kind"),
    [
        (["train", "mlp", "--data", "digits", "--optimizer", "zzzz"], "optimizers"),
        (["train", "mlp", "--data", "digits", "--loss", "zzzz"], "losses"),
        (["train", "mlp", "--data", "digits", "--metrics", "zzzz"], "metrics"),
        (["info", "zzzz"], "models"),
    ],
)
def test_messages_point_to_commands_not_to_python(capsys, tmp_path, monkeypatch, argv, kind):
    monkeypatch.chdir(tmp_path)
    message = fails(capsys, argv)
    assert message.endswith(f"names: flaxzoo list --kind {kind}")
    assert main(["list", "--kind", kind]) == 0


def test_traceback_on_request(capsys, tmp_path):
    argv = [*MODEL, "--run-dir", str(tmp_path / "run"), "--optimizer", "adm"]
    assert main([*argv, "--traceback"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("flaxzoo: error: unknown optimizer")


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_programming_errors_keep_their_traceback(tmp_path, monkeypatch, error):
    def broken(*args, **kwargs):
        raise error("a bug")

    monkeypatch.setattr(fz.Trainer, "fit", broken)
    with pytest.raises(error, match="a bug"):
        main([*MODEL, "--run-dir", str(tmp_path / "run")])


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no pipes of this kind")
def test_closed_pipe_is_silent():
    process = subprocess.Popen(
        [sys.executable, "-m", "flaxzoo.cli", "list", "--kind", "schedules"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 141


@pytest.mark.slow
def test_exit_code_of_a_mistake(tmp_path):
    argv = ["train", "nothing", "--data", "digits"]
    done = subprocess.run(
        [sys.executable, "-m", "flaxzoo.cli", *argv], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("flaxzoo: error: unknown model 'nothing'")
