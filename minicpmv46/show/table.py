"""A table as text and as HTML: the first column to the left, the others to the right."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table, columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def html_table(rows: Sequence[Sequence[str]], note: str) -> str:
    """The same for a notebook, the first row as its head, with a note below."""
    head, *body = [[escape(cell) for cell in row] for row in rows]
    lines = ["<table>", "<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for first, *others in body:
        cells = "".join(f'<td style="text-align: right">{cell}</td>' for cell in others)
        lines.append(f'<tr><td style="text-align: left">{first}</td>{cells}</tr>')
    return "\n".join([*lines, "</table>", f"<p>{escape(note)}</p>"])
