"""examples/router.py with two servers: both answer, and one alone where the other has stopped."""

import json
import re
from pathlib import Path

import pytest
from support.examples import DEMO, run, scans
from support.serving import running_server

pytest.importorskip("litellm")


def texts(output: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert not any(row["error"] for row in rows)
    return {row["file"]: row["text"] for row in rows}


def test_two_servers(tmp_path: Path) -> None:
    folder = scans(tmp_path, 10)
    expected = {f"copy {number}.png": "K7RM2" for number in range(10)} | {"read.png": "K7RM2", "more/SMALL.PNG": "T5X"}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    command = ("router.py", folder, "--model", DEMO, "--max-tokens", "10")
    with running_server(tmp_path / "first", Path(DEMO)) as first:
        with running_server(tmp_path / "second", Path(DEMO)) as second:
            command += ("--server", f"{first.address}/v1", "--server", f"{second.address}/v1")
            both = run(*command, "-o", "both.jsonl", folder=tmp_path)
            assert both.returncode == 0, both.stderr
            assert texts(tmp_path / "both.jsonl") == expected
            shares = {address: int(count) for address, count in re.findall(r"(http\S+)/v1: (\d+)", both.stdout)}
            assert sum(shares.values()) == 12
            assert min(shares[first.address], shares[second.address]) >= 3
        one = run(*command, "-o", "one.jsonl", folder=tmp_path)
        assert one.returncode == 0, one.stderr
        assert texts(tmp_path / "one.jsonl") == expected
        assert f"{first.address}/v1: 12" in one.stdout

        # What is wrong with a request is its row's error, in the server's words.
        bad = run(*command, "-o", "bad.jsonl", "--max-slice-nums", "0", folder=tmp_path)
        assert bad.returncode == 1
        rows = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
        assert len(rows) == 12
        assert all("max_slice_nums" in row["error"] for row in rows)
