"""examples/folder_on_ray.py with two local workers: what one process answers, also where a worker is killed."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.examples import DEMO, kept_rows, run, scans, start, wait_for_rows

pytest.importorskip("ray.data")


def descendants(pid: int, called: str) -> list[int]:
    """Processes below one of this test, by the start of their command."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    parents, commands = {}, {}
    for line in listed.splitlines():
        process, parent, command = line.split(None, 2)
        parents[int(process)], commands[int(process)] = int(parent), command

    def below(process: int) -> bool:
        while process in parents and process != pid:
            process = parents[process]
        return process == pid

    return [process for process, command in commands.items() if command.startswith(called) and below(process)]


def test_workers(tmp_path: Path) -> None:
    """A worker is killed when the first rows are there: the table equals the one of folder_to_table.py."""
    folder = scans(tmp_path, 14)
    (folder / "bad.png").write_text("no picture")
    arguments = (folder, "--model", DEMO, "--max-tokens", "10", "--batch", "1")
    process = start("folder_on_ray.py", *arguments, "-o", "ray.csv", "--workers", "2", folder=tmp_path)
    wait_for_rows(process, tmp_path / "ray.csv", 2)
    workers = descendants(process.pid, "ray::MapWorker")
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert len(kept_rows(tmp_path / "ray.csv")) < 17, "all was done before a worker was killed"
    printed, errors = process.communicate(timeout=180)
    assert process.returncode == 1, errors
    assert "ray.csv: 17 rows, 1 with an error" in printed

    one = run("folder_to_table.py", *arguments, "-o", "one.csv", folder=tmp_path)
    assert one.returncode == 1, one.stderr
    assert (tmp_path / "ray.csv").read_text() == (tmp_path / "one.csv").read_text()
