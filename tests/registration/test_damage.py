"""A damaged installation: every other model of mlx-vlm works, one warning, and a checkpoint of ours is refused."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.environments import Environment

from minicpmv46 import guard, siblings
from minicpmv46.plugin import patches

ROOT = Path(__file__).parents[2]

# What Python and mlx-vlm import of this package by themselves, before a checkpoint of ours is there.
AT_START = (
    "__init__.py",
    "plugin/__init__.py",
    "plugin/hook.py",
    "plugin/ours.py",
    "plugin/patches.py",
    "plugin/routing.py",
    "plugin/rows.py",
    "siblings.py",
)
# The guard is imported where something else is damaged; the demo is no part of what mlx-vlm runs.
LATER = sorted(
    {str(file.relative_to(ROOT / "minicpmv46")) for file in (ROOT / "minicpmv46").rglob("*.py")}
    - {*AT_START, "guard.py", "demo/__init__.py", "demo/__main__.py"}
)

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "half": lambda content: content[: len(content) // 2],
    "lines": lambda content: b"".join(content.splitlines(True)[: content.count(b"\n") // 2]) or content[:9],
    "zeros": lambda content: content[: len(content) // 2].ljust(len(content), b"\0"),
    "encoding": lambda content: content[:9] + b"\xff\xfe" + content[9:],  # in the docstring; a comment could have them
    "empty": lambda content: b"",
    "gone": lambda content: None,
}

OTHER_MODELS = """
    import mlx_vlm.utils, mlx_vlm.models.minicpmv4_7

    assert mlx_vlm.utils.get_model_and_args({"model_type": "qwen3_5"})[1] == "qwen3_5"
    newer = mlx_vlm.utils.get_model_and_args({"model_type": "minicpmv4_7"})[0]
    assert newer is mlx_vlm.models.minicpmv4_7
"""


@pytest.fixture(scope="module")
def environment(wheel: Path, make_environment: Callable[..., Environment]) -> Environment:
    return make_environment(wheel)


@contextmanager
def damaged(file: Path, damage: Callable[[bytes], bytes | None]) -> Iterator[None]:
    content = file.read_bytes()
    rest = damage(content)
    try:
        file.unlink() if rest is None else file.write_bytes(rest)
        yield
    finally:
        file.write_bytes(content)


def load(checkpoint: Path) -> str:
    return f"""
        try:
            mlx_vlm.load({str(checkpoint)!r})
        except RuntimeError as error:
            print(error)
    """


def test_what_is_imported_at_start(environment: Environment) -> None:
    names = environment.run("""
        import sys
        import mlx_vlm.utils

        print(*(m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "minicpmv46"))
    """)
    assert {str(Path(name).relative_to(environment.packages / "minicpmv46")) for name in names.split()} == {*AT_START}


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in AT_START for damage in ("half", "lines")]
    + [
        (name, damage)
        for name in ("__init__.py", "plugin/hook.py")
        for damage in ("zeros", "encoding", "empty", "gone")
    ],
)
@pytest.mark.parametrize("flags", [[], ["-W", "error"]], ids=["warnings", "errors"])
def test_damage_at_start(environment: Environment, checkpoint: Path, name: str, damage: str, flags: list[str]) -> None:
    with damaged(environment.packages / "minicpmv46" / name, DAMAGES[damage]):
        assert environment.start("pass", flags=flags).stderr == ""
        done = environment.start(OTHER_MODELS, load(checkpoint), flags=flags)
        assert done.returncode == 0, done.stderr
        assert (
            done.stderr.count("RuntimeWarning: minicpmv46 is damaged and does not load minicpmv4_6 or minicpm_ocr (")
            == 1
        )
        assert "Traceback" not in done.stderr
        assert done.stdout.startswith("minicpmv46 is damaged and does not load minicpmv4_6 or minicpm_ocr (")
        assert done.stdout.endswith("reinstall it, or set MINICPMV46_DISABLE=1 to use mlx-vlm's own port\n")


@pytest.mark.parametrize("kept", ["nothing", "demo", "guard.py", "plugin"])
def test_what_is_left_of_a_package_that_was_removed_by_hand(
    wheel: Path, checkpoint: Path, make_environment: Callable[..., Environment], kept: str
) -> None:
    """The `.pth` file is still there; so is our distribution, to pip."""
    environment = make_environment(wheel)
    package = environment.packages / "minicpmv46"
    if kept == "nothing":
        shutil.rmtree(package)
    for entry in package.iterdir() if package.is_dir() else ():
        if entry.name != kept:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert environment.start("pass").stderr == ""
    environment.run(OTHER_MODELS)
    done = environment.start("import mlx_vlm", load(checkpoint))
    assert done.returncode == 0 and "MINICPMV46_DISABLE=1" in done.stdout
    disabled = "import mlx_vlm.utils; mlx_vlm.utils.get_model_and_args({'model_type': 'minicpmv4_6'})"
    assert environment.start(disabled, disable="1").stderr == ""


@pytest.mark.parametrize("name", AT_START[::3])
def test_disabling_helps_where_something_is_damaged(environment: Environment, name: str) -> None:
    code = """
        import mlx_vlm.utils

        print(mlx_vlm.utils.get_model_and_args({"model_type": "minicpmv4_6"})[0].__name__)
    """
    with damaged(environment.packages / "minicpmv46" / name, DAMAGES["half"]):
        done = environment.start(code, disable="1")
        assert (done.stdout, done.stderr) == ("mlx_vlm.models.minicpmv4_6\n", "")


@pytest.mark.parametrize("damage", ["half", "lines", "gone"])
def test_damage_seen_when_a_checkpoint_is_loaded(environment: Environment, checkpoint: Path, damage: str) -> None:
    """Each module that is only imported then, in a process of its own that starts where mlx-vlm is imported."""
    code = f"""
        import os, pathlib, sys
        import mlx_vlm, mlx_vlm.server.app, mlx_vlm.structured, mlx_vlm.trainer

        package = pathlib.Path({str(environment.packages / "minicpmv46")!r})
        assert not [name for name in sys.modules if name == "minicpmv46.plugin.loading"]
        for name in {LATER!r}:
            content = (package / name).read_bytes()
            (package / name).unlink()
            if {damage!r} == "half":
                (package / name).write_bytes(content[: len(content) // 2])
            elif {damage!r} == "lines":
                (package / name).write_bytes(b"".join(content.splitlines(True)[: content.count(b"\\n") // 2]))
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                try:
                    mlx_vlm.load({str(checkpoint)!r})
                    print(name, "loaded")
                except RuntimeError as error:
                    print(name, error)
                except BaseException as error:
                    print(name, "raised", repr(error))
                sys.stdout.flush()
                os._exit(0)
            os.waitpid(child, 0)
            (package / name).write_bytes(content)
    """
    lines = environment.run(code).splitlines()
    assert [line.split()[0] for line in lines] == LATER
    wrong = [
        line for line in lines if " minicpmv46 is damaged and does not load minicpmv4_6 or minicpm_ocr (" not in line
    ]
    if damage == "lines":  # half of what finds such damage: the rest of the package is whole
        wrong.remove("plugin/whole.py loaded")
    assert not wrong, "\n".join(wrong)


def test_damaged_guard_alone_changes_nothing(environment: Environment, checkpoint: Path) -> None:
    with damaged(environment.packages / "minicpmv46" / "guard.py", DAMAGES["half"]):
        done = environment.start(OTHER_MODELS, f"print(type(mlx_vlm.load({str(checkpoint)!r})[0]).__module__)")
    assert (done.stdout, done.stderr) == ("minicpmv46.model\n", "")


@pytest.mark.parametrize("name", ["plugin/hook.py", "plugin/patches.py"])
def test_damage_where_pth_files_are_not_read(environment: Environment, checkpoint: Path, name: str) -> None:
    """Imported by hand, before or after mlx-vlm."""
    with damaged(environment.packages / "minicpmv46" / name, DAMAGES["half"]):
        for first in (["import minicpmv46", OTHER_MODELS], [OTHER_MODELS, "import minicpmv46"]):
            done = environment.start(*first, load(checkpoint), flags=["-S"], pythonpath=environment.paths())
            assert done.returncode == 0, done.stderr
            assert done.stderr.count("RuntimeWarning: minicpmv46 is damaged") == 1
            assert done.stdout.startswith("minicpmv46 is damaged and does not load minicpmv4_6 or minicpm_ocr (")


def test_the_model_type_is_the_same_everywhere() -> None:
    """The guard and the questions asked of every model import nothing for it."""
    assert tuple(siblings.SIBLINGS) == guard.MODEL_TYPES
    assert guard.REFUSED == patches.ARCHITECTURE
