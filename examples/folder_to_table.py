"""Read a folder of scans, crops and PDFs into a table or a Markdown document.

    python examples/folder_to_table.py "my scans" -o table.csv --mode 4x
    python examples/folder_to_table.py report.pdf -o report.md --max-slice-nums 36

The ending of the output says what it is: .csv, .jsonl or .md. Pictures go through the model in batches of sixteen. A
file that cannot be read gets a row with the error. PDFs need pypdfium2 (pip install pypdfium2). Started again, the same
command reads what is new, and what had an error.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from resumable import Rows, run, write_whole
from tqdm import tqdm

PICTURES = {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
OUTPUTS = {".csv", ".jsonl", ".md"}

Item = tuple[str, int]  # a file's path inside the folder, and a page of a PDF or 0


def arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, checked before anything is loaded."""
    parser.add_argument("folder", type=Path, help="a folder, its subfolders included, or one picture or PDF")
    parser.add_argument("-o", "--output", type=Path, required=True, help="table.csv, table.jsonl or document.md")
    parser.add_argument("--model", default="openbmb/MiniCPM-V-4.6")
    parser.add_argument("--prompt", default="Read all visible text.")
    parser.add_argument("--mode", choices=["4x", "16x"], help="visual tokens: 4x keeps four times as many as 16x")
    parser.add_argument("--max-slice-nums", type=int, help="slices of a large picture; 36 for documents")
    parser.add_argument("--max-tokens", type=int, default=1024, help="longer answers are cut (default: 1024)")
    parser.add_argument("--batch", type=int, default=16, help="pictures at a time (default: 16, the most)")
    parser.add_argument("--dpi", type=int, default=150, help="resolution of PDF pages (default: 150)")
    args = parser.parse_args()
    args.base = args.folder if args.folder.is_dir() else args.folder.parent
    if not args.folder.exists():
        parser.error(f"{args.folder} does not exist")
    if args.output.suffix not in OUTPUTS:
        parser.error(f"-o {args.output}: the name must end in {', '.join(sorted(OUTPUTS))}")
    if not args.output.absolute().parent.is_dir():
        parser.error(f"-o {args.output}: there is no folder {args.output.absolute().parent}")
    if not 1 <= args.batch <= 16 or args.dpi < 1 or args.max_tokens < 1:
        parser.error("--batch is 1 to 16, --dpi and --max-tokens are at least 1")
    return args


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on. Not --max-tokens: rows that were cut have an error, and the others do not change."""
    names = ("model", "prompt", "mode", "max_slice_nums", "dpi")
    return {"folder": str(args.base.absolute())} | {name: getattr(args, name) for name in names}


def items_of(folder: Path) -> Iterator[Item]:
    """The pictures and the pages of a folder, hidden files left out."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(folder).as_posix() if folder.is_dir() else path.name
        if path.suffix.lower() == ".pdf":
            yield from ((name, page) for page in range(1, pages_of(path) + 1))
        elif path.suffix.lower() in PICTURES or path == folder:
            yield name, 0


def pages_of(path: Path) -> int:
    try:
        import pypdfium2
    except ImportError:
        sys.exit(f"{path} needs pypdfium2: pip install pypdfium2")
    try:
        with pypdfium2.PdfDocument(path) as pdf:
            return len(pdf)
    except pypdfium2.PdfiumError:
        return 1  # opening the page fails again, and its row gets the error


def picture_of(item: Item, args: argparse.Namespace) -> Any:
    """What the model is given: a picture's path, which mlx-vlm opens, or a page as a PIL image."""
    name, page = item
    if page == 0:
        return str(args.base / name)
    import pypdfium2

    with pypdfium2.PdfDocument(args.base / name) as pdf:
        return pdf[page - 1].render(scale=args.dpi / 72).to_pil()


def load_reader(args: argparse.Namespace) -> tuple[Any, Any]:
    """Model and processor; the processor has the options as its defaults, since batches take no others."""
    from mlx_vlm import load

    model, processor = load(args.model)
    options = {"downsample_mode": args.mode, "max_slice_nums": args.max_slice_nums}
    return model, processor.with_defaults(**{name: value for name, value in options.items() if value is not None})


def read(reader: tuple[Any, Any], items: Sequence[Item], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each item. A batch that fails is halved until the item that fails is alone."""
    from mlx_vlm import batch_generate

    try:
        pictures = [picture_of(item, args) for item in items]
        prompts = [args.prompt] * len(items)
        texts = batch_generate(*reader, images=pictures, prompts=prompts, max_tokens=args.max_tokens).texts
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        if len(items) == 1:
            return [row_of(items[0], "", str(error))]
        half = len(items) // 2
        return read(reader, items[:half], args) + read(reader, items[half:], args)
    tokenizer, cut = reader[1].tokenizer, f"cut at {args.max_tokens} tokens: raise --max-tokens"
    return [
        row_of(item, text, cut if len(tokenizer.encode(text)) >= args.max_tokens else "")
        for item, text in zip(items, texts, strict=True)
    ]


def row_of(item: Item, text: str, error: str) -> dict[str, Any]:
    return {"file": item[0], "page": item[1], "text": text.strip(), "error": error}


def write_table(output: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows in the order of files and pages."""
    rows = sorted(rows, key=lambda row: (row["file"], row["page"]))
    if output.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif output.suffix == ".csv":
        table = io.StringIO()
        writer = csv.DictWriter(table, ["file", "page", "text", "error"])
        writer.writeheader()
        writer.writerows(rows)
        text = table.getvalue()
    else:
        titles = (f"{row['file']}, page {row['page']}" if row["page"] else row["file"] for row in rows)
        bodies = (f"> {row['error']}\n\n{row['text']}" if row["error"] else row["text"] for row in rows)
        text = "\n".join(f"## {title}\n\n{body.strip()}\n" for title, body in zip(titles, bodies, strict=True))
    write_whole(output, text)


def finish(output: Path, rows: list[dict[str, Any]]) -> int:
    """Write the table and say where it is; the number of rows with an error."""
    write_table(output, rows)
    failed = sum(bool(row["error"]) for row in rows)
    print(f"{output}: {len(rows)} rows, {failed} with an error")
    return failed


def main() -> int:
    description, example = (__doc__ or "").split("\n\n", 1)
    style = argparse.RawDescriptionHelpFormatter
    args = arguments(argparse.ArgumentParser(description=description, epilog=example, formatter_class=style))
    items = list(items_of(args.folder))
    if not items:
        print(f"{args.folder} has no pictures ({', '.join(sorted(PICTURES))}) and no PDFs", file=sys.stderr)
        return 1
    rows = Rows(args.output, settings(args))
    finished = {(row["file"], row["page"]) for row in rows.rows}
    waiting = [item for item in items if item not in finished]
    print(f"{len(items)} pictures and pages, {len(items) - len(waiting)} of them read before")
    try:
        if waiting:
            try:
                reader = load_reader(args)
            except (OSError, ValueError) as error:
                sys.exit(f"{args.model} cannot be loaded with these options: {error}")
            with tqdm(total=len(items), initial=len(items) - len(waiting), unit="picture") as bar:
                for start in range(0, len(waiting), args.batch):
                    batch = waiting[start : start + args.batch]
                    rows.add(read(reader, batch, args))
                    bar.update(len(batch))
    finally:
        failed = finish(args.output, rows.rows)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
