"""What other libraries raise, in one line; and output that cannot show every letter."""

import subprocess
import sys

import pytest

from osed_jax.config.build import as_plain, check
from osed_jax.config.command_line import mistake_in
from osed_jax.config.compare import changed_fields
from osed_jax.runtime.exit_status import exit_status_of
from osed_jax.runtime.signals import Stopped
from tests.command_line import command, environment


def failing(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(28, "No space left on device"), 2, "free some space, then start again"),
        (ValueError("stack of Orbax\nwrite failed: No space left on device"), 2, "write failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Stopped(15), 143, "ended by SIGTERM; the same command continues"),
        (ModuleNotFoundError("No module", name="tensorflow"), 2, "needs the package tensorflow"),
        (ModuleNotFoundError("No module", name="numpyy"), 1, "No module"),
        (RuntimeError("a defect"), 1, "a defect"),
    ],
)
def test_an_error_becomes_one_line_and_a_status(capsys, error, status, said):
    assert exit_status_of(failing(error)) == status
    captured = capsys.readouterr().err
    assert said in captured and ("Traceback" in captured) == (status == 1)


def test_threads_that_find_their_event_loop_closed_are_not_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def command():
        for text in ("Event loop is closed", "something else"):
            sys.excepthook(RuntimeError, RuntimeError(text), None)

    assert exit_status_of(command) == 0
    assert capsys.readouterr().err == "RuntimeError: something else\n"


@pytest.mark.parametrize("platform", ["cuda", "no_such"])
def test_a_platform_that_jax_does_not_have(tmp_path, platform):
    arguments = ("--config=configs/digits.py:erm", f"--workdir={tmp_path}")
    done = subprocess.run(
        command(*arguments),
        env={**environment(), "JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and line.startswith("error: JAX finds no device of JAX_PLATFORMS")


def test_output_in_ascii_shows_what_it_can():
    program = "import sys; from osed_jax.runtime.exit_status import exit_status_of as f; "
    program += "sys.exit(f(lambda: print('a ± b')))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "a \\xb1 b\n")


def test_a_mistake_in_a_config_file_is_placed(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import json\nvalue = json.loads('{')\n")
    with pytest.raises(ValueError) as caught:
        exec(compile(path.read_text(), str(path), "exec"), {})
    arguments = ["main.py", f"--config={path}:erm"]
    assert mistake_in(arguments, caught.value).startswith(f"{path}, line 2: Expecting property")
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = caught.value
    assert f"{path}, line 2" in mistake_in(arguments, wrapped)
    assert mistake_in(["main.py", "--config=other.py"], caught.value) == ""


def test_a_folder_may_be_spelt_in_several_ways(tmp_path, monkeypatch):
    from configs import digits

    monkeypatch.chdir(tmp_path)

    def with_store(path):
        config = digits.get_config("fill")
        config.oversampling.generated_dir = path
        return as_plain(check(config))

    before = with_store("made")
    for path in ("made/", "./made", str(tmp_path / "made")):
        assert changed_fields(before, with_store(path)) == {}
    assert list(changed_fields(before, with_store("other"))) == ["oversampling.generated_dir"]
