"""examples/receipt_to_json.py against a server: JSON by the schema, the server's own words, a run that goes on."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.examples import DEMO, run
from support.serving import Server, running_server

from minicpmv46.demo import sample

pytest.importorskip("openai")

NAME = "receipt_to_json.py"
SCHEMA = {
    "type": "object",
    "properties": {"number": {"type": "string", "pattern": "^[A-Z0-9]{1,6}$"}, "kind": {"enum": ["receipt", "bill"]}},
    "required": ["number", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, Path(DEMO), MLX_VLM_SERVER_API_KEY="", MINICPMV46_LIMITS="pixels=300000") as server:
        yield server


def test_receipts(server: Server, tmp_path: Path) -> None:
    """Two receipts and a file that is none; then the same again, where only the third is asked for."""
    for name, source in (("re ceipt.png", "read.png"), ("second.png", "star.png")):
        shutil.copy(sample(source), tmp_path / name)
    (tmp_path / "third.png").write_text("no picture")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    command = (NAME, "re ceipt.png", "second.png", "third.png", "-o", "out.jsonl", "--schema", "schema.json")
    command += ("--server", f"{server.address}/v1", "--model", server.model, "--prompt", "What does it say?")
    first = run(*command, folder=tmp_path)
    assert first.returncode == 1, first.stderr
    *rows, bad = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, name in zip(rows, ("re ceipt.png", "second.png"), strict=True):
        assert (row["file"], row["error"], row["receipt"].keys()) == (name, "", {"number", "kind"})
        assert row["receipt"]["number"].isalnum()
        assert row["receipt"]["kind"] in ("receipt", "bill")
    assert bad["error"].startswith("status 400: ")
    assert "cannot identify its format" in bad["error"]

    shutil.copy(sample("star.png"), tmp_path / "third.png")
    second = run(*command, "--mode", "4x", folder=tmp_path)
    assert second.returncode == 1
    assert "rows of an earlier run with other settings" in second.stderr
    third = run(*command, folder=tmp_path)
    assert third.returncode == 0, third.stderr
    assert "2 of them done before" in third.stdout
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()][:2] == rows


def test_cut(server: Server, tmp_path: Path) -> None:
    """The default schema, of which three tokens are no JSON; the same with options of the processor."""
    command = (NAME, sample("read.png"), "-o", "out.jsonl", "--server", f"{server.address}/v1", "--model", server.model)
    answer = run(*command, "--max-tokens", "3", "--mode", "4x", folder=tmp_path)
    assert answer.returncode == 1, answer.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["error"] == "cut at 3 tokens: raise --max-tokens"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nowhere.jpg",), 2, "not a file: nowhere.jpg"),
        (("a.png", "--schema", "a.png"), 2, "is not JSON"),
        (("a.png", "--server", "http://127.0.0.1:9/v1"), 1, "no server answers at http://127.0.0.1:9/v1"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    (tmp_path / "a.png").write_text("{no picture")
    answer = run(NAME, *arguments, "-o", "out.jsonl", folder=tmp_path)
    assert answer.returncode == status
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
