"""The table of what is changed in mlx-vlm, row by row, against the mlx-vlm that is installed."""

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from support.environments import Environment

from minicpmv46.plugin import patches, routing
from minicpmv46.plugin.patches import TABLE
from minicpmv46.plugin.rows import Entry, Patch

PATCHES = [row for row in TABLE if isinstance(row, Patch)]

# Parameters of the originals in the releases that are supported. A row whose function has others in a new release
# needs a look at the function: does ours take what it takes, and is the row still needed?
RECORDED = {
    "mlx_vlm.utils.load_model": {"0.7.9, 0.7.10": "model_path lazy **kwargs"},
    "transformers.models.auto.processing_auto.AutoProcessor.from_pretrained": {
        "transformers 5.23.0": "cls pretrained_model_name_or_path **kwargs"
    },
    "mlx_vlm.utils.prepare_inputs": {
        "0.7.9, 0.7.10": "processor images audio videos prompts image_token_index resize_shape add_special_tokens "
        "padding padding_side pad_to_uniform_size return_tensors **kwargs"
    },
    "mlx_vlm.prompt_utils.apply_chat_template": {
        "0.7.9, 0.7.10": "processor config prompt add_generation_prompt return_messages num_images num_audios **kwargs"
    },
    "mlx_vlm.generate.dispatch.stream_generate": {"0.7.9, 0.7.10": "model processor prompt image audio video **kwargs"},
    "mlx_vlm.generate.ar.batch_generate": {
        "0.7.9, 0.7.10": "model processor images audios prompts max_tokens verbose group_by_shape track_image_sizes "
        "videos **kwargs"
    },
    "mlx_vlm.apc_coordinator.APCCoordinator.checkpoint_lengths": {"0.7.9, 0.7.10": "self token_ids media_token_ids"},
    "mlx_vlm.utils.group_images_by_shape": {"0.7.9, 0.7.10": "images disable_grouping"},
    "mlx_vlm.structured.build_json_schema_logits_processor": {"0.7.9, 0.7.10": "tokenizer schema"},
    "mlx_vlm.speculative.drafters.validate_drafter_compatibility": {
        "0.7.9, 0.7.10": "target_model draft_model draft_kind"
    },
    "mlx_vlm.server.request_normalization._build_gen_args": {
        "0.7.9, 0.7.10": "request processor tenant_id structured_logits_processor_builder"
    },
    "mlx_vlm.server.generation.ResponseGenerator.validate_context_budget": {
        "0.7.9, 0.7.10": "self prompt images audio args videos"
    },
    "mlx_vlm.server.generation.ResponseGenerator.generate": {"0.7.9, 0.7.10": "self prompt images audio args videos"},
    "mlx_vlm.server.anthropic._anthropic_error_response": {"0.7.9, 0.7.10": "status_code message error_type"},
    "mlx_vlm.generate.diffusion.diffusion_kwargs_from_args": {"0.7.9, 0.7.10": "args config"},
    "mlx_vlm.quant_utils.quantize_model": {"0.7.9, 0.7.10": "model config group_size bits mode quant_predicate"},
    "mlx_vlm.utils.save_weights": {"0.7.9, 0.7.10": "save_path model donate_weights"},
    "mlx_vlm.utils.save_config": {"0.7.9, 0.7.10": "config config_path"},
    "mlx_vlm.utils.process_inputs_with_fallback": {
        "0.7.9, 0.7.10": "processor prompts images audio add_special_tokens return_tensors **kwargs"
    },
    "mlx_vlm.trainer.peft.utils.unfreeze_modules": {"0.7.9, 0.7.10": "model module_names"},
}


def title(row: Patch | Entry) -> str:
    return f"{row.module}.{row.name}"


def installed_parameters(function: Any) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return " ".join(stars.get(p.kind, "") + p.name for p in inspect.signature(function).parameters.values())


def held(row: Patch) -> Any:
    """What stands at a row's place; a class method's function."""
    owner, _, name = row.name.rpartition(".")
    module = importlib.import_module(row.module)
    value = vars(routing.lookup(module, owner) if owner else module).get(name)
    return getattr(value, "__func__", value)


@pytest.mark.parametrize("row", PATCHES, ids=title)
def test_original_is_the_recorded_one(row: Patch) -> None:
    recorded = RECORDED.get(title(row))
    assert recorded, f"{title(row)}: its parameters are not recorded here"
    function = held(row)
    assert function is not None, f"{title(row)} is not there any more; {row.why}"
    found = installed_parameters(function)
    known = "".join(f"\n  {release}: {names}" for release, names in recorded.items())
    assert found in recorded.values(), f"{title(row)} changed:{known}\n  installed: {found}\nThe row: {row.why}"


@pytest.mark.parametrize("row", TABLE, ids=title)
def test_row_is_applied_and_told(row: Patch | Entry) -> None:
    importlib.import_module(routing.modules_of(row)[0])
    assert row.why and row.until
    if isinstance(row, Entry):
        entered = routing.lookup(sys.modules[row.module], row.name)["minicpmv4_6"]
        assert entered == (row.value or routing.lookup(sys.modules[row.module], row.value_of))
        return
    assert getattr(held(row), routing.ROW) is row
    assert not hasattr(held(row).__wrapped__, routing.ROW)
    ours = installed_parameters(routing.resolve(row.instead)).split()
    assert (ours[0] == "original") == row.around
    assert row.argument in ours or "*args" in ours or "**kwargs" in ours


def test_nothing_is_recorded_for_rows_that_are_gone() -> None:
    assert RECORDED.keys() == {title(row) for row in PATCHES}


def test_modules_of_rows_are_seen_by_tools_that_follow_imports() -> None:
    """Those that freeze an application look for import statements, run or not."""
    source = inspect.getsource(patches)
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert {row.instead.partition(":")[0] for row in PATCHES} | {"minicpmv46.plugin.arch"} <= imported


EVERYWHERE = """
    import sys, types
    import mlx_vlm, mlx_vlm.convert, mlx_vlm.generate, mlx_vlm.quant_utils, mlx_vlm.server, mlx_vlm.server.app
    import mlx_vlm.speculative.drafters, mlx_vlm.structured, mlx_vlm.trainer, mlx_vlm.trainer.peft, mlx_vlm.train
    LATE
    from minicpmv46.plugin.patches import TABLE
    from minicpmv46.plugin.routing import lookup
    from minicpmv46.plugin.rows import Patch

    originals = {
        id(lookup(sys.modules[row.module], row.name).__wrapped__): row.name for row in TABLE if isinstance(row, Patch)
    }
    held = [
        (module.__name__, name, originals[id(value)])
        for module in sys.modules.values() if isinstance(module, types.ModuleType)
        for name, value in dict(vars(module)).items() if id(value) in originals
    ]
    assert len(originals) == sum(isinstance(row, Patch) for row in TABLE) and not held, held
"""


def test_no_module_holds_an_original(installed: Environment) -> None:
    """Without a sweep in the usual order; by one where this package comes after mlx-vlm."""
    no_sweep = "import minicpmv46.plugin.hook as hook; hook.rebind = None"
    installed.run(no_sweep, EVERYWHERE.replace("LATE", ""))
    installed.run(EVERYWHERE.replace("LATE", "import minicpmv46"), flags=["-S"], pythonpath=installed.paths())


# The router


class Owner:
    def method(self, first: Any, second: Any = None) -> tuple[Any, ...]:
        return "original", first, second

    @classmethod
    def of_class(cls, first: Any, *, second: Any = None) -> tuple[Any, ...]:
        return "original", cls, first, second

    @staticmethod
    def static(first: Any) -> tuple[Any, ...]:
        return "original", first


def plain(first: Any, second: Any = None, **more: Any) -> tuple[Any, ...]:
    return "original", first, second, more


def instead(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return "ours", args, kwargs


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    made = ModuleType("routed_module")
    made.Owner, made.plain, made.instead = type("Owner", (), dict(vars(Owner))), plain, instead  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "routed_module", made)
    yield made


def patched(monkeypatch: pytest.MonkeyPatch, name: str, argument: str, around: bool = False) -> Any:
    row = Patch(
        "routed_module",
        name,
        argument,
        lambda value, _: value == "ours",
        "routed_module:instead",
        "why",
        "until",
        around,
    )
    monkeypatch.setattr(routing, "TABLE", (row,))
    return routing.apply("routed_module")


def test_functions_are_routed_however_they_are_called(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    [(original, replacement)] = patched(monkeypatch, "plain", "second")
    assert original is plain and module.plain is replacement and replacement.__wrapped__ is plain
    assert module.plain(1, "ours", x=2) == ("ours", (1, "ours"), {"x": 2})
    assert module.plain(1, second="ours") == ("ours", (1,), {"second": "ours"})
    assert module.plain("ours", 2) == ("original", "ours", 2, {})
    assert module.plain("ours") == ("original", "ours", None, {})
    with pytest.raises(TypeError, match="first"):
        module.plain()
    assert routing.apply("routed_module") == [] and module.plain is replacement


def test_methods_of_each_kind_are_routed(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = module.Owner()
    for name, expected in (("method", owner), ("of_class", module.Owner), ("static", None)):
        assert patched(monkeypatch, f"Owner.{name}", "first", around=True) == []
        kind, args, kwargs = getattr(owner, name)("ours")
        assert (kind, args[1:], kwargs) == ("ours", ("ours",) if expected is None else (expected, "ours"), {})
        assert args[0](*args[1:])[0] == "original"
        assert getattr(owner, name)(1)[0] == "original"


def test_what_is_not_there_is_passed_over(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, argument in (("missing", "first"), ("Missing.method", "first"), ("plain", "renamed")):
        assert patched(monkeypatch, name, argument) == []
    assert module.plain is plain
