"""Receipts to JSON by a schema, from a running server.

    bash examples/serve.sh openbmb/MiniCPM-V-4.6     # in another terminal
    python examples/receipt_to_json.py receipt.jpg "second receipt.jpg" -o receipts.jsonl --mode 4x

Every answer fits the schema, because the server lets the model write nothing else; whether it is true is the model's
affair. Needs OpenAI's client (pip install openai). Started again with the same -o, what is done is left out.
"""

from __future__ import annotations

import argparse
import base64
import json
import mimetypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
from resumable import Rows, run, write_whole
from tqdm import tqdm

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "shop": {"type": "string", "maxLength": 80},
        "date": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
        "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "total": {"type": "number"},
        "items": {
            "type": "array",
            "maxItems": 60,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 60}, "price": {"type": "number"}},
                "required": ["name", "price"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["shop", "date", "currency", "total", "items"],
    "additionalProperties": False,
}


def arguments() -> argparse.Namespace:
    description, example = (__doc__ or "").split("\n\n", 1)
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=example, formatter_class=style)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("-o", "--output", type=Path, required=True, help="receipts.jsonl")
    parser.add_argument("--server", default="http://127.0.0.1:8080/v1", help="(default: %(default)s)")
    parser.add_argument("--model", default="openbmb/MiniCPM-V-4.6", help="the one that the server has loaded")
    parser.add_argument("--prompt", default="Write this receipt as JSON. The date is YYYY-MM-DD.")
    parser.add_argument("--schema", type=Path, help="a file with another JSON schema")
    parser.add_argument("--mode", choices=["4x", "16x"], help="visual tokens: 4x keeps four times as many as 16x")
    parser.add_argument("--max-tokens", type=int, default=2000)
    args = parser.parse_args()
    missing = [str(path) for path in (*args.images, *([args.schema] if args.schema else [])) if not path.is_file()]
    if missing:
        parser.error(f"not a file: {', '.join(missing)}")
    try:
        args.schema = json.loads(args.schema.read_text("utf-8")) if args.schema else SCHEMA
    except ValueError as error:
        parser.error(f"--schema {args.schema} is not JSON: {error}")
    return args


def ask(client: openai.OpenAI, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The row of one receipt; what the server says is wrong with the request is its error."""
    kind = mimetypes.guess_type(path)[0] or "image/png"
    url = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": args.prompt}]
    try:
        answer = client.chat.completions.create(
            model=args.model,
            messages=[{"role": "user", "content": content}],
            response_format={"type": "json_schema", "json_schema": {"name": "receipt", "schema": args.schema}},
            temperature=0,
            max_tokens=args.max_tokens,
            extra_body={"downsample_mode": args.mode} if args.mode else {},  # options of the processor
        ).choices[0]
    except openai.APIStatusError as error:
        # The client's own message is "Error code: 400 - …"; the sentence that says why is in the body.
        detail = error.body.get("detail", error.body) if isinstance(error.body, dict) else error.body
        return {"file": str(path), "error": f"status {error.status_code}: {detail or error.message}"}
    if answer.finish_reason != "stop":
        return {"file": str(path), "error": f"cut at {args.max_tokens} tokens: raise --max-tokens"}
    return {"file": str(path), "receipt": json.loads(answer.message.content or ""), "error": ""}


def main() -> int:
    args = arguments()
    client = openai.OpenAI(base_url=args.server, api_key=os.environ.get("MLX_VLM_SERVER_API_KEY") or "none")
    names = ("model", "prompt", "schema", "mode")
    rows = Rows(args.output, {name: getattr(args, name) for name in names})
    finished = {row["file"] for row in rows.rows}
    waiting = [path for path in dict.fromkeys(args.images) if str(path) not in finished]
    print(f"{len(args.images)} receipts, {len(args.images) - len(waiting)} of them done before")
    # Several at a time, since the server answers them in one batch.
    with ThreadPoolExecutor(8) as pool, tqdm(total=len(waiting), unit="receipt") as bar:
        try:
            for row in pool.map(lambda path: ask(client, path, args), waiting):
                rows.add([row])
                bar.update()
        except openai.APIConnectionError:
            print(f"no server answers at {args.server}: start one with bash examples/serve.sh MODEL", file=sys.stderr)
            return 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            write_whole(args.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.rows))
    failed = [row for row in rows.rows if row["error"]]
    print(f"{args.output}: {len(rows.rows)} rows, {len(failed)} with an error")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
