"""How mlx-vlm comes to use this package, or not, each time in a fresh interpreter of a real virtual environment."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.environments import LEFT_ALONE, TAKEN_OVER, Environment

# Interpreter start


def test_start_runs_few_lines(installed: Environment) -> None:
    """All that every interpreter pays for, counted: less than a millisecond on a quiet machine."""
    code = """
        import site, sys

        lines = {}

        def count(frame, event, argument):
            if event == "line":
                lines[frame.f_code.co_filename] = lines.get(frame.f_code.co_filename, 0) + 1
            return count

        sys.settrace(count)
        site.addpackage(FOLDER, "minicpmv46-hook.pth", set())
        sys.settrace(None)
        assert "minicpmv46" in sys.modules
        print(sum(number for file, number in lines.items() if "minicpmv46" in file or file == "<string>"))
    """
    code = code.replace("FOLDER", repr(str(installed.packages)))
    assert int(installed.run(code, flags=["-S"], pythonpath=installed.packages)) <= 60


def test_start_imports_nothing_else_and_is_silent(
    installed: Environment, make_environment: Callable[..., Environment]
) -> None:
    code = "import sys; print(*sorted(sys.modules))"
    done = installed.start(code)
    assert done.stderr == ""
    assert set(done.stdout.split()) - set(make_environment().run(code).split()) == {"minicpmv46"}


# Ways to be registered


def test_wheel_registers(installed: Environment) -> None:
    installed.run(TAKEN_OVER)


def test_editable_install_registers(source: Path, make_environment: Callable[..., Environment]) -> None:
    editable = make_environment("--editable", source)
    editable.run(TAKEN_OVER)
    assert editable.run("import minicpmv46; print(minicpmv46.__file__)").startswith(str(source))
    assert editable.start("pass").stderr == ""


def test_import_registers_where_pth_files_are_not_read(installed: Environment) -> None:
    paths = installed.paths()
    installed.run(LEFT_ALONE, flags=["-S"], pythonpath=paths)
    installed.run("import minicpmv46", TAKEN_OVER, flags=["-S"], pythonpath=paths)


def test_import_registers_after_mlx_vlm(installed: Environment) -> None:
    code = """
        import sys
        import mlx_vlm.server.generation, mlx_vlm.utils
        from mlx_vlm import apply_chat_template, prepare_inputs

        earlier = apply_chat_template, prepare_inputs
        import minicpmv46

        assert prepare_inputs is mlx_vlm.prepare_inputs is mlx_vlm.utils.prepare_inputs is not earlier[1]
        assert apply_chat_template is mlx_vlm.apply_chat_template is not earlier[0]
        assert sys.modules["mlx_vlm.generate.ar"].prepare_inputs is prepare_inputs
        assert mlx_vlm.server.generation.prepare_inputs is prepare_inputs
    """
    installed.run(code, TAKEN_OVER, flags=["-S"], pythonpath=installed.paths())


def test_registering_again_and_reloading_change_nothing(installed: Environment) -> None:
    code = """
        import importlib, sys
        import minicpmv46, mlx_vlm.utils

        finders = list(sys.meta_path)
        minicpmv46.register()
        importlib.reload(minicpmv46).register()
        assert sys.meta_path == finders
    """
    installed.run(code, TAKEN_OVER)
    installed.run(code, "importlib.reload(mlx_vlm.utils)", TAKEN_OVER)


def test_modules_keep_their_own_loader(installed: Environment) -> None:
    installed.run("""
        import importlib.machinery, inspect
        import mlx_vlm.utils as utils

        assert type(utils.__loader__) is type(utils.__spec__.loader) is importlib.machinery.SourceFileLoader
        assert "MODEL_REMAPPING" in inspect.getsource(utils)
        assert list(inspect.signature(utils.load_model).parameters) == ["model_path", "lazy", "kwargs"]
    """)


def test_gets_along_with_a_finder_that_asks_all_others(installed: Environment) -> None:
    code = """
        import sys

        class Asking:
            def find_spec(self, *arguments):
                if arguments[0].startswith("mlx_vlm."):
                    specs = [other.find_spec(*arguments) for other in sys.meta_path if other is not self]
                    return next(spec for spec in specs if spec is not None)

        sys.meta_path.insert(0, Asking())
    """
    installed.run(code, TAKEN_OVER)


def test_public_names_load_on_first_use(installed: Environment) -> None:
    installed.run("""
        import minicpmv46, sys

        assert "numpy" not in sys.modules and "minicpmv46.processing" not in sys.modules
        assert {"Processor", "plan_slices"} <= set(dir(minicpmv46))
        assert minicpmv46.Processor.__module__ == "minicpmv46.processing"
        assert callable(minicpmv46.plan_slices)
        assert not hasattr(minicpmv46, "Misspelt")
    """)


# Ways not to be registered


@pytest.mark.parametrize("also_imported", ["", "import minicpmv46"], ids=["start", "import"])
def test_disable_variable_leaves_mlx_vlm_alone(installed: Environment, also_imported: str) -> None:
    installed.run(also_imported, LEFT_ALONE, disable="1")


@pytest.mark.parametrize("value", ["true", "YES", " on ", "y", "T"])
def test_words_that_disable(installed: Environment, value: str) -> None:
    assert installed.start(LEFT_ALONE, disable=value).stderr == ""


@pytest.mark.parametrize("value", ["0", "false", "No", "OFF", " off ", "n", "F", " "])
def test_words_that_do_not_disable(installed: Environment, value: str) -> None:
    done = installed.start(TAKEN_OVER, disable=value)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("flags", [[], ["-W", "error"]], ids=["warning", "error"])
@pytest.mark.parametrize("value", ["maybe", "2", "x" * 1000])
def test_other_words_disable_with_a_warning(installed: Environment, value: str, flags: list[str]) -> None:
    assert installed.start("pass", disable=value, flags=flags).stderr == ""
    code = "import mlx_vlm.utils; assert 'minicpmv4_6' not in mlx_vlm.utils.MODEL_REMAPPING"
    done = installed.start(code, disable=value, flags=flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"RuntimeWarning: MINICPMV46_DISABLE={value[:20]!r} is neither 1 nor 0") == 1
    assert len(done.stderr) < 500


@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_uninstalling_leaves_nothing(
    editable: bool, source: Path, wheel: Path, make_environment: Callable[..., Environment]
) -> None:
    environment = make_environment()
    before = sorted(environment.folder.rglob("*"))
    environment.install(*(["--editable", source] if editable else [wheel]))
    assert (environment.packages / "minicpmv46-hook.pth").exists()
    environment.run("import mlx_vlm")
    environment.uninstall()
    assert sorted(environment.folder.rglob("*")) == before
    environment.run("from importlib.util import find_spec; assert not find_spec('minicpmv46')", LEFT_ALONE)


@pytest.mark.parametrize(
    "removed", ["minicpmv46", "minicpmv46/__init__.py", "minicpmv46/plugin", "minicpmv46/plugin/patches.py"]
)
def test_half_removed_package_stays_out_of_the_way(
    removed: str, wheel: Path, make_environment: Callable[..., Environment]
) -> None:
    environment = make_environment(wheel)
    victim = environment.packages / removed
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    assert environment.start("pass").stderr == ""
    done = environment.start(
        "from mlx_vlm.utils import get_model_and_args; get_model_and_args({'model_type': 'qwen3_5'})"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning: minicpmv46 is damaged") == (removed != "minicpmv46")
