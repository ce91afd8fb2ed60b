"""How mlx-vlm comes to use this package, each time in a fresh interpreter of a real virtual environment.

The environments are made without an index: our wheel is built and installed by the running interpreter's pip
and hatchling, and everything else is linked from its site-packages, less any installation of this package.
"""

import os
import re
import shutil
import site
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[1]
OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation")

TAKEN_OVER = """
    import mlx_vlm.prompt_utils, mlx_vlm.utils
    from importlib.util import find_spec

    assert mlx_vlm.utils.MODEL_REMAPPING["minicpmv4_6"] == "minicpmv46"
    assert mlx_vlm.prompt_utils.MODEL_CONFIG["minicpmv4_6"].name == "LIST_WITH_IMAGE_FIRST"
    assert find_spec("mlx_vlm.models.minicpmv46").origin.endswith("arch.py")
    for function in (
        mlx_vlm.utils.load_model, mlx_vlm.utils.prepare_inputs, mlx_vlm.prompt_utils.apply_chat_template
    ):
        original = function.__wrapped__
        assert not hasattr(original, "__wrapped__") and original.__name__ == function.__name__
    assert type(mlx_vlm.utils.AutoProcessor).__module__ == "minicpmv46.plugin.patches"
"""
LEFT_ALONE = """
    import sys
    import mlx_vlm.prompt_utils, mlx_vlm.utils, transformers
    from importlib.util import find_spec

    assert "minicpmv4_6" not in mlx_vlm.utils.MODEL_REMAPPING
    assert mlx_vlm.prompt_utils.MODEL_CONFIG["minicpmv4_6"].name != "LIST_WITH_IMAGE_FIRST"
    assert find_spec("mlx_vlm.models.minicpmv46") is None
    for function in (
        mlx_vlm.utils.load_model, mlx_vlm.utils.prepare_inputs, mlx_vlm.prompt_utils.apply_chat_template
    ):
        assert not hasattr(function, "__wrapped__")
    assert mlx_vlm.utils.AutoProcessor is transformers.AutoProcessor
    assert not any("minicpmv46" in str(finder) for finder in sys.meta_path)
"""


def execute(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment and what a test does with it."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    def install(self, *what: str | Path) -> None:
        execute(sys.executable, "-m", "pip", "--python", self.python, "install", *OFFLINE, *what)

    def uninstall(self) -> None:
        execute(sys.executable, "-m", "pip", "--python", self.python, "uninstall", "--yes", "minicpmv46")

    def start(
        self, *code: str, flags: Sequence[str] = (), pythonpath: str | Path = "", disable: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run pieces of code, one after the other; the caller looks at the exit status."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {"HF_HUB_OFFLINE": "1", "MINICPMV46_DISABLE": disable, "PYTHONPATH": str(pythonpath)}
        return subprocess.run(
            [self.python, *flags, "-c", "\n".join(map(textwrap.dedent, code))],
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.folder,
        )

    def run(self, *code: str, flags: Sequence[str] = (), pythonpath: str | Path = "", disable: str = "") -> str:
        """Run pieces of code, which must succeed, and return what they printed."""
        done = self.start(*code, flags=flags, pythonpath=pythonpath, disable=disable)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def paths(self) -> str:
        """The environment's import paths as a PYTHONPATH, for starts that read no .pth file."""
        return os.pathsep.join([str(self.packages), *(self.packages / "linked.pth").read_text().splitlines()])


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from, so that nothing is written into the working tree."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "LICENSE", "README.md", "minicpmv46-hook.pth"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "minicpmv46", folder / "minicpmv46", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    execute(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", folder, source)
    return next(folder.glob("minicpmv46-*.whl"))


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    def link(without: str) -> Path:
        folder = tmp_path_factory.mktemp("packages")
        for packages in map(Path, site.getsitepackages()):
            for entry in packages.iterdir() if packages.is_dir() else ():
                if not re.match(without, entry.name.lstrip("_")) and not (folder / entry.name).exists():
                    (folder / entry.name).symlink_to(entry)
        return folder

    def make(*install: str | Path, without: str = "minicpmv46") -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, symlinks=True, with_pip=False)
        environment = Environment(folder)
        (environment.packages / "linked.pth").write_text(f"{link(without)}\n")
        if install:
            environment.install(*install)
        return environment

    return make


@pytest.fixture(scope="session")
def installed(make_environment: Callable[..., Environment], wheel: Path) -> Environment:
    """The wheel beside mlx-vlm: the usual case."""
    return make_environment(wheel)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


# Interpreter start


def test_start_costs_less_than_a_millisecond(installed: Environment) -> None:
    code = """
        import site, sys, time

        begin = time.perf_counter()
        site.addpackage(sys.argv[1], "minicpmv46-hook.pth", set())
        print(time.perf_counter() - begin)
        assert "minicpmv46" in sys.modules
    """
    code = code.replace("sys.argv[1]", repr(str(installed.packages)))
    seconds = [float(installed.run(code, flags=["-S"], pythonpath=installed.packages)) for _ in range(5)]
    assert min(seconds) < 1e-3, seconds


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
        assert {"MiniCPMV46Processor", "plan_slices"} <= set(dir(minicpmv46))
        assert minicpmv46.MiniCPMV46Processor.__module__ == "minicpmv46.processing"
        assert callable(minicpmv46.plan_slices)
        assert not hasattr(minicpmv46, "Misspelt")
    """)


# Ways not to be registered


@pytest.mark.parametrize("also_imported", ["", "import minicpmv46"], ids=["start", "import"])
def test_disable_variable_leaves_mlx_vlm_alone(installed: Environment, also_imported: str) -> None:
    installed.run(also_imported, LEFT_ALONE, disable="1")


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
    assert ("RuntimeWarning: minicpmv46" in done.stderr) == ("plugin" in removed)


# An mlx-vlm that does not fit


def test_without_mlx_vlm(wheel: Path, make_environment: Callable[..., Environment]) -> None:
    environment = make_environment(wheel, without="minicpmv46|mlx_vlm")
    done = environment.start("import minicpmv46")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = environment.start("import mlx_vlm")
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'mlx_vlm'"
    assert "minicpmv46" not in done.stderr
    done = environment.start("import minicpmv46.plugin.arch")
    assert "RuntimeError: minicpmv46 0.1.0 does not fit mlx-vlm: it is not installed (" in done.stderr


def rewrite(folder: Path, target: Path, pattern: str, replacement: str) -> None:
    """Make `target` a copy of the package in `folder` with every `pattern` replaced; links where it can."""
    target.mkdir()
    for entry in folder.iterdir():
        copy = target / entry.name
        if entry.is_dir() and any(re.search(pattern, file.read_text()) for file in entry.rglob("*.py")):
            rewrite(entry, copy, pattern, replacement)
        elif entry.suffix == ".py" and re.search(pattern, text := entry.read_text()):
            copy.write_text(re.sub(pattern, replacement, text))
        elif entry.name != "__pycache__":
            copy.symlink_to(entry)


@pytest.mark.parametrize(
    ("pattern", "replacement", "clause"),
    [
        ('__version__ = "[^"]*"', '__version__ = "0.7.8"', "mlx-vlm 0.7.8: it is older than 0.7.9"),
        (r"\bMODEL_REMAPPING\b", "REMAPPING", "mlx_vlm.utils.MODEL_REMAPPING is missing"),
        (r"\b_?prepare_inputs\b", "make_inputs", "mlx_vlm.utils.prepare_inputs is missing"),
        (r"\bload_model\b", "read_model", "mlx_vlm.utils.load_model is missing"),
        (r"\bapply_chat_template\b", "to_chat", "mlx_vlm.prompt_utils.apply_chat_template is missing"),
        (
            r"\bgated_delta_kernel\b",
            "delta",
            "mlx_vlm.models.qwen3_5.gated_delta.gated_delta_kernel is missing",
        ),
        (
            r"MODEL_CONFIG = (\{[^}]*\})",
            r"MODEL_CONFIG = __import__('types').MappingProxyType(\1)",
            "is not a dict",
        ),
    ],
)
def test_older_or_changed_mlx_vlm(
    installed: Environment, checkpoint: Path, tmp_path: Path, pattern: str, replacement: str, clause: str
) -> None:
    [folder] = (installed.paths().split(os.pathsep))[1:]
    rewrite(Path(folder) / "mlx_vlm", tmp_path / "mlx_vlm", pattern, replacement)
    done = installed.start("pass", pythonpath=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    code = f"""
        import mlx_vlm
        from mlx_vlm.utils import get_model_and_args

        assert mlx_vlm.__file__.startswith({str(tmp_path)!r})
        get_model_and_args({{"model_type": "qwen3_5"}})
        try:
            mlx_vlm.load({str(checkpoint)!r})
        except RuntimeError as error:
            print(error)
    """
    [sentence] = installed.run(code, flags=["-W", "error::RuntimeWarning"], pythonpath=tmp_path).splitlines()
    assert sentence.startswith("minicpmv46 0.1.0 does not fit mlx-vlm 0.7.") and sentence.endswith(".")
    assert clause in sentence
    assert sentence.count(" is missing") == ("is missing" in clause)


# What the registration is for


def test_load_generate_and_convert_use_our_model(installed: Environment, checkpoint: Path) -> None:
    code = f"""
        import mlx_vlm
        from mlx_vlm.convert import convert

        def load(path):
            model, processor = mlx_vlm.load(path, trust_remote_code=True)
            assert type(model).__module__ == "minicpmv46.model"
            assert type(processor).__module__ == "minicpmv46.processing"
            return model, processor

        model, processor = load({str(checkpoint)!r})
        prompt = mlx_vlm.apply_chat_template(processor, model.config, "Hello")
        before = mlx_vlm.generate(model, processor, prompt, max_tokens=4, temperature=0)
        convert({str(checkpoint)!r}, "converted", dtype="float32")
        model, processor = load("converted")
        assert mlx_vlm.generate(model, processor, prompt, max_tokens=4, temperature=0).text == before.text
    """
    installed.run(code)


def test_builtin_ports_stay_importable_and_do_not_take_over(installed: Environment, checkpoint: Path) -> None:
    code = f"""
        import json, pathlib
        import mlx_vlm.utils
        import mlx_vlm.models.minicpmv4_6 as builtin
        import mlx_vlm.models.minicpmv4_7 as newer
        import mlx_vlm.models.minicpmv4_6.language, mlx_vlm.models.minicpmv4_6.processing_minicpmv4_6

        assert builtin.Model.__module__ == "mlx_vlm.models.minicpmv4_6.minicpmv4_6"
        assert newer.VisionModel is builtin.VisionModel
        processor = mlx_vlm.utils.load_processor(pathlib.Path({str(checkpoint)!r}))
        assert type(processor).__module__ == "minicpmv46.processing"

        # The 4.7 port still gets its own checkpoints, through its own patch of AutoProcessor.
        newer.MiniCPMV4_7Processor.from_pretrained = lambda path, **kwargs: "4.7"
        pathlib.Path("newer").mkdir(exist_ok=True)
        pathlib.Path("newer/config.json").write_text(json.dumps({{"model_type": "minicpmv4_7"}}))
        assert mlx_vlm.utils.AutoProcessor.from_pretrained("newer") == "4.7"
        assert mlx_vlm.utils.get_model_and_args({{"model_type": "minicpmv4_7"}})[0] is newer
    """
    installed.run(code)


@pytest.mark.parametrize("builtin_imported", ["", "import mlx_vlm.models.minicpmv4_6"], ids=["alone", "builtin"])
def test_processor_failure_is_shown_as_it_is(
    installed: Environment, checkpoint: Path, tmp_path: Path, builtin_imported: str
) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"scale_resolution": "large"}}')
    code = f"""
        import pathlib
        import mlx_vlm.utils
        from minicpmv46 import MiniCPMV46Processor

        errors = []
        for load in (MiniCPMV46Processor.from_pretrained, mlx_vlm.utils.load_processor):
            try:
                load(pathlib.Path({str(tmp_path)!r}))
            except (TypeError, ValueError) as error:
                errors.append((type(error), str(error)))
        assert len(errors) == 2 and errors[0] == errors[1], errors
        print(errors[0][1])
    """
    message = installed.run(builtin_imported, code)
    assert "scale_resolution" in message and "torch" not in message.lower()


def test_other_processors_do_not_import_ours(installed: Environment) -> None:
    installed.run("""
        import sys
        import mlx_vlm.utils, mlx_vlm.prompt_utils
        from transformers import BatchEncoding

        class Tokenizer:
            pad_token = "<pad>"

            def __call__(self, prompts, **options):
                return BatchEncoding({"input_ids": [[1]], "attention_mask": [[1]]})

        assert mlx_vlm.utils.prepare_inputs(Tokenizer(), prompts="Hello")["input_ids"].tolist() == [[1]]
        messages = mlx_vlm.prompt_utils.apply_chat_template(
            None, config={"model_type": "qwen3_5"}, prompt="Hello", return_messages=True
        )
        assert messages[0]["role"] == "user"
        assert not [name for name in sys.modules if name.startswith("minicpmv46.processing")]
    """)


def test_hub_repository_and_options_reach_our_processor(installed: Environment, checkpoint: Path) -> None:
    installed.run(f"""
        from types import SimpleNamespace

        import huggingface_hub, minicpmv46.processing
        import mlx_vlm.utils

        asked = []
        huggingface_hub.hf_hub_download = lambda *file, **options: (
            asked.append((file, options)) or {str(checkpoint / "config.json")!r}
        )
        loaded = []
        ours = SimpleNamespace(tokenizer=SimpleNamespace())
        minicpmv46.processing.MiniCPMV46Processor.from_pretrained = lambda path, **options: (
            loaded.append((path, options)) or ours
        )
        assert mlx_vlm.utils.AutoProcessor.from_pretrained("owner/name", revision="1", use_fast=True) is ours
        assert loaded == [("owner/name", {{"revision": "1"}})]
        assert asked == [(("owner/name", "config.json"), {{"revision": "1"}})]
    """)
