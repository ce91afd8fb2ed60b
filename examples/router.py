"""The folder recipe over several servers, through LiteLLM's router.

    bash examples/serve.sh openbmb/MiniCPM-V-4.6 8081     # on each machine, or twice on one
    python examples/router.py "my scans" -o table.csv --server http://127.0.0.1:8081/v1 --server http://127.0.0.1:8082/v1

Requests go to the server that has the fewest running. One that does not answer is left alone for a while, and its
requests go to the others. Needs LiteLLM (pip install litellm), and folder_to_table.py beside this file. Started again,
the same command reads what is new, and what had an error.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else LiteLLM fetches a list of prices when imported

import litellm
import openai
from folder_to_table import Item, arguments, items_of, picture_of, row_of, settings, write_table
from resumable import Rows, run
from tqdm import tqdm

litellm.suppress_debug_info = True
AT_A_TIME = 8  # requests to each server; it answers them in one batch


def router_of(servers: list[str], model: str) -> litellm.Router:
    """One name, "reader", for all servers. `openai/` says which protocol they speak."""
    key = os.environ.get("MLX_VLM_SERVER_API_KEY") or "none"
    deployments = [
        {"model_name": "reader", "litellm_params": {"model": f"openai/{model}", "api_base": server, "api_key": key}}
        for server in servers
    ]
    return litellm.Router(
        model_list=deployments,
        routing_strategy="least-busy",
        num_retries=3 * len(servers),  # a request that fails is sent again, to a server that is not resting
        allowed_fails=0,
        cooldown_time=30,  # seconds that a server rests after a failure
        timeout=600,
    )


def ask(router: litellm.Router, item: Item, args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The server that answered, and the row of an item. What is wrong with the request is the row's error."""
    picture = picture_of(item, args)
    if isinstance(picture, str):
        data = Path(picture).read_bytes()
    else:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        data = buffer.getvalue()
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": args.prompt}]
    options = {"downsample_mode": args.mode, "max_slice_nums": args.max_slice_nums}
    try:
        answer = router.completion(
            model="reader",
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=args.max_tokens,
            extra_body={name: value for name, value in options.items() if value is not None},
        )
    except openai.BadRequestError as error:  # LiteLLM's errors are OpenAI's
        detail = error.body.get("detail", error.body) if isinstance(error.body, dict) else error
        return "refused", row_of(item, "", str(detail))
    choice, server = answer.choices[0], answer._hidden_params["api_base"]
    cut = f"cut at {args.max_tokens} tokens: raise --max-tokens" if choice.finish_reason == "length" else ""
    return server, row_of(item, choice.message.content or "", cut)


def main() -> int:
    description, example = (__doc__ or "").split("\n\n", 1)
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=example, formatter_class=style)
    parser.add_argument("--server", action="append", required=True, help="address of a server; once for each")
    args = arguments(parser)
    items = list(items_of(args.folder))
    rows = Rows(args.output, settings(args))
    finished = {(row["file"], row["page"]) for row in rows.rows}
    waiting = [item for item in items if item not in finished]
    print(f"{len(items)} pictures and pages, {len(items) - len(waiting)} of them read before")
    router, answered = router_of(args.server, args.model), Counter[str]()
    with ThreadPoolExecutor(AT_A_TIME * len(args.server)) as pool:
        jobs = [pool.submit(ask, router, item, args) for item in waiting]
        try:
            for job in tqdm(as_completed(jobs), total=len(jobs), unit="picture"):
                server, row = job.result()
                answered[server] += 1
                rows.add([row])
        except (openai.APIError, ValueError) as error:  # ValueError: all servers rest
            print(f"No server answers as it should: {error}", file=sys.stderr)
            return 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            write_table(args.output, rows.rows)
            failed = [row for row in rows.rows if row["error"]]
            print(", ".join(f"{server}: {count}" for server, count in sorted(answered.items())))
            print(f"{args.output}: {len(rows.rows)} rows, {len(failed)} with an error")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
