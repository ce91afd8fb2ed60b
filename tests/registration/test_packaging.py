"""The package where its modules are no files of a folder."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.environments import TAKEN_OVER, Environment

ANSWERS = """
    import mlx_vlm, transformers
    from mlx_vlm.convert import convert

    model, processor = mlx_vlm.load(CHECKPOINT)
    assert type(model).__module__ == "minicpmv46.model"
    assert type(processor).__module__ == "minicpmv46.processing"
    prompt = mlx_vlm.apply_chat_template(processor, model.config, "Hello")
    assert mlx_vlm.generate(model, processor, prompt, max_tokens=2, temperature=0).generation_tokens == 2
"""

# Modules from memory, as the importers of frozen applications serve them: no file and no path.
FROZEN = """
    import importlib.abc, importlib.machinery, sys, zipfile

    class Frozen(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def __init__(self, wheel):
            with zipfile.ZipFile(wheel) as archive:
                names = [name for name in archive.namelist() if name.endswith(".py")]
                self.sources = {name[:-3].replace("/", "."): archive.read(name) for name in names}

        def find_spec(self, fullname, path=None, target=None):
            package = f"{fullname}.__init__" in self.sources
            if package or fullname in self.sources:
                return importlib.machinery.ModuleSpec(fullname, self, is_package=package)

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            name = module.__name__
            source = self.sources.get(f"{name}.__init__") or self.sources[name]
            exec(compile(source, f"<frozen {name}>", "exec"), module.__dict__)

    sys.meta_path.append(Frozen(WHEEL))
"""


@pytest.fixture(scope="module")
def bare(make_environment: Callable[..., Environment]) -> Environment:
    """mlx-vlm without this package."""
    return make_environment()


@pytest.fixture(scope="module")
def archive(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package alone in a zip."""
    target = tmp_path_factory.mktemp("zip") / "app.zip"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in source.namelist():
            if name.startswith("minicpmv46/"):
                copy.writestr(name, source.read(name))
    return target


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["wheel", "zip", "frozen"])
def test_package_without_files(
    bare: Environment, checkpoint: Path, wheel: Path, archive: Path, kind: str, when: str
) -> None:
    found = (
        FROZEN.replace("WHEEL", repr(str(wheel)))
        if kind == "frozen"
        else f"import sys; sys.path.insert(0, {str(wheel if kind == 'wheel' else archive)!r})"
    )
    order = ["import minicpmv46", "import mlx_vlm"]
    takeover = TAKEN_OVER if kind != "frozen" else "assert mlx_vlm.utils.MODEL_REMAPPING['minicpmv4_6'] == 'minicpmv46'"
    done = bare.start(
        found,
        *(order if when == "before" else order[::-1]),
        takeover,
        ANSWERS.replace("CHECKPOINT", repr(str(checkpoint))),
    )
    assert done.returncode == 0, done.stderr
    assert "minicpmv46" not in done.stderr


@pytest.mark.parametrize("kind", ["zip", "frozen"])
def test_demo_says_that_it_needs_a_folder(bare: Environment, wheel: Path, archive: Path, kind: str) -> None:
    code = """
        from minicpmv46 import demo

        for ask in (demo.path, lambda: demo.sample("read.png")):
            try:
                ask()
            except FileNotFoundError as error:
                assert "the demo needs an unpacked package" in str(error)
            else:
                raise AssertionError
    """
    found = (
        FROZEN.replace("WHEEL", repr(str(wheel)))
        if kind == "frozen"
        else f"import sys; sys.path.insert(0, {str(archive)!r})"
    )
    bare.run(found, code)


def test_target_folder(bare: Environment, checkpoint: Path, wheel: Path, tmp_path: Path) -> None:
    """`pip install --target`, whose `.pth` files nobody reads: importing the package is enough."""
    with zipfile.ZipFile(wheel) as source:
        source.extractall(tmp_path)
    bare.run("import minicpmv46", TAKEN_OVER, ANSWERS.replace("CHECKPOINT", repr(str(checkpoint))), pythonpath=tmp_path)
    code = "import runpy, sys; sys.argv = ['demo']; runpy.run_module('minicpmv46.demo', run_name='__main__')"
    done = bare.start(code, pythonpath=tmp_path)
    assert done.stdout == f"{tmp_path / 'minicpmv46' / 'demo' / 'checkpoint'}\n"
    assert "does not read minicpmv46-hook.pth" in done.stderr and done.stderr.count("\n") == 1


def test_demo_is_silent_where_the_package_is_active(installed: Environment) -> None:
    done = installed.start(
        "import runpy, sys; sys.argv = ['demo']; runpy.run_module('minicpmv46.demo', run_name='__main__')"
    )
    assert (done.returncode, done.stderr) == (0, "")
