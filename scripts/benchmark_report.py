"""Table and plot of what `benchmark.py` measured."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log2
from typing import Any

from scripts.benchmark_stages import STAGES, Stage

PORTS = ("built-in", "ours")
SAME_WORK = 0.05  # prompts of the two ports differ by a few tokens
LONGEST_ERROR = 90  # in a cell; the JSON file has the whole line
Results = Mapping[str, Any]  # of one stage: seconds, work, peak_bytes; or count; or error


@dataclass(frozen=True)
class Row:
    """One stage of all rounds."""

    name: str
    values: dict[str, str]  # by port, as the table shows it; the error where it failed
    peaks: dict[str, str]
    ratios: tuple[float, ...]  # built-in / ours of each round; empty where a port failed
    notes: tuple[str, ...]

    @property
    def stage(self) -> Stage:
        return STAGES[self.name]

    @property
    def ratio(self) -> str:
        """The median, and the least and largest of several rounds."""
        if not self.ratios:
            return ""
        middle = f"{statistics.median(self.ratios):.2f}"
        low, high = min(self.ratios), max(self.ratios)
        return middle if len(self.ratios) == 1 or low == high else f"{middle} ({low:.2f} to {high:.2f})"


def amount(stage: Stage, found: Results) -> float:
    """The number that two ports are compared by: seconds of the best call, or a count; less is better."""
    return float(found["count"]) if "count" in found else min(found["seconds"])


def shown(stage: Stage, value: float, work: int) -> str:
    """A number with its unit."""
    if stage.unit == "launches":
        return f"{value:.0f}"
    if stage.unit == "bytes":
        return f"{value / 1e6:.4g} MB"
    if stage.is_rate:
        return f"{work / value:.3g} {stage.unit}/s"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def make_row(name: str, found: Mapping[str, Sequence[Results]]) -> Row:
    """A row from the results of each port's rounds."""
    stage = STAGES[name]
    values, peaks, best, work = {}, {}, {}, {}
    notes = []
    for port in PORTS:
        errors = [result["error"] for result in found[port] if "error" in result]
        if errors or not found[port]:
            error = textwrap.shorten(errors[0], LONGEST_ERROR, placeholder=" …") if errors else ""
            values[port], peaks[port] = f"fails: {error}" if error else "not measured", ""
            continue
        best[port] = [amount(stage, result) for result in found[port]]
        work[port] = found[port][0].get("work", 1)
        values[port] = shown(stage, statistics.median(best[port]), work[port])
        peak = max((result.get("peak_bytes", 0) for result in found[port]), default=0)
        peaks[port] = f"{peak / 1e6:.4g} MB" if peak and not name.startswith("preprocess") else ""
    if len(best) < len(PORTS):
        return Row(name, values, peaks, (), ())
    if len(set(work.values())) > 1 and abs(work["ours"] - work["built-in"]) > SAME_WORK * work["ours"]:
        notes.append(f"not the same work: {work['built-in']} {stage.unit} in the built-in port, {work['ours']} in ours")
    ratios = tuple(b / o for b, o in zip(best["built-in"], best["ours"], strict=False))
    return Row(name, values, peaks, ratios, tuple(notes))


def make_rows(record: Mapping[str, Any]) -> list[Row]:
    """Rows of the table in the order of the stages."""
    runs = record["runs"]

    def of(name: str) -> dict[str, list[Results]]:
        return {
            port: [r["results"][name] for r in runs if r["port"] == port and name in r["results"]] for port in PORTS
        }

    return [make_row(name, of(name)) for name in record["stages"]]


def markdown(record: Mapping[str, Any]) -> str:
    """The table with what it was measured on."""
    lines = ["| | built-in | ours | built-in / ours | memory, built-in | memory, ours |", "|---|---|---|---|---|---|"]
    notes: list[str] = []
    for row in make_rows(record):
        marks = ""
        for note in row.notes:
            notes.append(note)
            marks += f" [{len(notes)}]"
        cells = [row.stage.title, *(row.values[port] for port in PORTS), row.ratio + marks]
        cells += [row.peaks[port] for port in PORTS]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    lines += ["", *(f"[{i}] {note}  " for i, note in enumerate(notes, 1))]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines += [f"{record['date']}, {record['device']}, {record['model']}, {record['dtype']}: {versions}."]
    lines += ["Above 1, ours is faster, or does with less. Median of the rounds, (least to largest)."]
    return "\n".join(lines) + "\n"


def svg(record: Mapping[str, Any]) -> str:
    """A bar of built-in / ours for each stage, with its spread, on a logarithmic axis; without ours or theirs, text."""
    rows = make_rows(record)
    high = max([2.0, *(max(row.ratios) for row in rows if row.ratios)])
    low = min([0.5, *(min(row.ratios) for row in rows if row.ratios)])
    left, width, step, top = 330, 470, 24, 44
    height = top + step * len(rows) + 34

    def x(ratio: float) -> float:
        return left + width * (log2(ratio) - log2(low)) / (log2(high) - log2(low))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 130}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="22" font-size="14">built-in / ours: right of 1, ours is faster or does with less '
        f"({escape(record['device'])})</text>",
    ]
    for tick in (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32):
        if low <= tick <= high:
            colour = "black" if tick == 1 else "#cccccc"
            at = x(tick)
            parts.append(f'<line x1="{at:.1f}" y1="{top - 8}" x2="{at:.1f}" y2="{height - 24}" stroke="{colour}"/>')
            parts.append(f'<text x="{at:.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    for i, row in enumerate(rows):
        y = top + step * i
        parts.append(f'<text x="{left - 10}" y="{y + 9}" text-anchor="end">{escape(row.stage.title)}</text>')
        if not row.ratios:
            failed = [port for port in PORTS if row.values[port].startswith("fails")]
            why = f"{' and '.join(failed)} fails" if failed else "not measured"
            parts.append(f'<text x="{x(1) + 6:.1f}" y="{y + 9}" fill="#aa3333">{why}</text>')
            continue
        middle = statistics.median(row.ratios)
        start, end = sorted((x(1), x(middle)))
        fill = "#4a7ab5" if middle >= 1 else "#c77c48"
        parts.append(f'<rect x="{start:.1f}" y="{y - 2}" width="{end - start:.1f}" height="13" fill="{fill}"/>')
        least, largest = x(min(row.ratios)), x(max(row.ratios))
        parts.append(f'<line x1="{least:.1f}" y1="{y + 4.5}" x2="{largest:.1f}" y2="{y + 4.5}" stroke="black"/>')
        parts.append(f'<text x="{max(largest, x(1)) + 6:.1f}" y="{y + 9}">{middle:.2f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
