"""The line in the server's log that says which port has loaded what."""

from pathlib import Path

from support.serving import running_server, skip_without_server

from minicpmv46 import __version__, demo

skip_without_server()


def test_the_log_says_what_is_loaded(tmp_path: Path) -> None:
    """At INFO, the server's own default."""
    with running_server(tmp_path, Path(demo.path()), "--log-level", "INFO") as server:
        log = server.log.read_text()
    assert log.count(f" - INFO - minicpmv46 {__version__} loaded MiniCPM-V 4.6 (official layout, bfloat16)\n") == 1, log
