"""`python -m minicpmv46`: its commands, and one that cannot be imported."""

import importlib

import pytest

from minicpmv46 import __version__, commands

Said = pytest.CaptureFixture[str]


def status(*arguments: str) -> object:
    """How a command ends that argparse ends."""
    with pytest.raises(SystemExit) as ended:
        commands.main(arguments)
    return ended.value.code


def test_version(capsys: Said) -> None:
    assert status("--version") == 0
    assert capsys.readouterr().out == f"minicpmv46 {__version__}\n"


def test_help_has_a_line_for_each_command(capsys: Said) -> None:
    assert status("--help") == 0
    words = " ".join(capsys.readouterr().out.split())
    for name in commands.COMMANDS:
        text = " ".join((importlib.import_module(f"minicpmv46.commands.{name}").__doc__ or "").split())
        assert f"{name} {text.partition('.')[0]}" in words


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_shows_an_example(capsys: Said, name: str) -> None:
    assert status(name, "--help") == 0
    out = capsys.readouterr().out
    assert f"example:\n  python -m minicpmv46 {name}" in out and "--json" in out
    assert max(map(len, out.splitlines())) <= 100


def test_wrong_arguments(capsys: Said) -> None:
    for arguments in ((), ("doctr",), ("doctor", "--jsn"), ("doctor", "one", "two"), ("-x",)):
        assert status(*arguments) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_a_command_that_cannot_be_imported_stops_no_other(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "COMMANDS", (*commands.COMMANDS, "broken"))
    assert status("doctor", "--help") == 0
    assert status("--help") == 0
    out = capsys.readouterr().out
    assert "broken" in out and "cannot be imported (ModuleNotFoundError)" in " ".join(out.split())
    assert status("nothing") == 2
    assert "doctor" in capsys.readouterr().err
