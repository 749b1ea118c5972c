"""The group itself: what every command has in common."""

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import fastmte
from fastmte._tiers import TierError
from fastmte.cli import COMMANDS, main
from fastmte.errors import InputError


def run(*args: str):
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert f"fastmte {name}" in result.output.partition("Options:")[0].partition("\n")[2]


def test_help_names_every_command():
    output = run("--help").output
    assert all(f"  {name} " in output for name in COMMANDS)


def test_version():
    assert fastmte.__version__ in run("--version").output


def test_unknown_command_is_a_usage_error():
    assert run("tagg").exit_code == 2


@pytest.fixture
def failing(monkeypatch):
    """A group whose one command raises what it is told to."""

    def command(error: BaseException):
        @click.command()
        def fails() -> None:
            raise error

        monkeypatch.setattr(main, "get_command", lambda ctx, name: fails)
        return run("fails")

    return command


@pytest.mark.parametrize("kind", [InputError, TierError])
def test_input_errors_are_one_line(failing, monkeypatch, kind):
    monkeypatch.delenv("FASTMTE_DEBUG", raising=False)
    result = failing(kind("songs.tsv:3: no tags,\n  add some"))
    assert result.exit_code == 1
    assert result.output == "Error: songs.tsv:3: no tags, add some\n"


def test_os_errors_name_the_file(failing, monkeypatch):
    monkeypatch.delenv("FASTMTE_DEBUG", raising=False)
    result = failing(PermissionError(13, "Permission denied", "/out"))
    assert result.exit_code == 1
    assert result.output == "Error: /out: Permission denied\n"


def test_a_reader_that_has_enough_is_no_error(failing):
    result = failing(BrokenPipeError(32, "Broken pipe"))
    assert (result.exit_code, result.output) == (1, "")


def test_debug_shows_the_traceback(failing, monkeypatch):
    monkeypatch.setenv("FASTMTE_DEBUG", "1")
    assert isinstance(failing(InputError("bad")).exception, InputError)


def test_ctrl_c_is_130(failing):
    assert failing(KeyboardInterrupt()).exit_code == 130


def test_mistakes_of_the_program_are_not_hidden(failing):
    assert isinstance(failing(ZeroDivisionError()).exception, ZeroDivisionError)


def test_the_public_names_resolve():
    assert all(getattr(fastmte, name) is not None for name in fastmte.__all__)
    assert set(fastmte.__all__) <= set(dir(fastmte))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fastmte.nonsense


def test_the_script_is_installed_or_runs_as_a_module():
    code = "import sys; from fastmte.cli import main; main(['--version'], prog_name='fastmte')"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0 and b"fastmte" in done.stdout
