"""The folder recipe over several machines, with Ray Data: each worker loads the model once and reads batches.

    python examples/folder_on_ray.py "my scans" -o table.csv --workers 2

runs on this machine. For several, start Ray on each, name a GPU on Macs too, and say where the first one is:

    export RAY_AUTH_MODE=token                            # on all; each has the first one's ~/.ray/auth_token
    export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1            # on Macs
    ray get-auth-token --generate                         # on the first machine
    ray start --head --num-gpus 1
    ray start --address FIRST:6379 --num-gpus 1           # on each other one
    python examples/folder_on_ray.py /shared/scans -o table.csv --workers 4 --address auto --gpus 1

Every machine needs this package, the model, and the folder under the same path. A worker that dies is replaced and its
batch is read again. Needs Ray (pip install "ray[data]"), and folder_to_table.py beside this file. Started again, the
same command reads what is new, and what had an error.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import folder_to_table
import ray
import resumable
from folder_to_table import arguments, finish, items_of, load_reader, read, settings
from resumable import Rows, run
from tqdm import tqdm


class Reader:
    """A worker: a process with the model, wherever Ray starts it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.reader = load_reader(args)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        items = [(str(name), int(page)) for name, page in zip(batch["file"], batch["page"], strict=True)]
        rows = read(self.reader, items, self.args)
        return {name: [row[name] for row in rows] for name in ("file", "page", "text", "error")}


def main() -> int:
    description, example = (__doc__ or "").split("\n\n", 1)
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=example, formatter_class=style)
    parser.add_argument("--workers", type=int, default=2, help="processes, each with the model (default: 2)")
    parser.add_argument("--address", help="a running Ray, `auto` for the one of this machine (default: start one here)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs that each worker has for itself (default: 0)")
    args = arguments(parser)
    args.base = args.base.absolute()
    items = list(items_of(args.folder))
    rows = Rows(args.output, settings(args))
    finished = {(row["file"], row["page"]) for row in rows.rows}
    waiting = [{"file": name, "page": page} for name, page in items if (name, page) not in finished]
    print(f"{len(items)} pictures and pages, {len(items) - len(waiting)} of them read before")
    try:
        if waiting:
            # The modules beside this file travel with the workers' code, so the machines need no copy of them.
            for module in (folder_to_table, resumable):
                ray.cloudpickle.register_pickle_by_value(module)
            local = {} if args.address else {"num_cpus": args.workers, "include_dashboard": False}
            ray.init(address=args.address or "local", log_to_driver=False, **local)
            ray.data.DataContext.get_current().enable_progress_bars = False
            read_rows = ray.data.from_items(waiting, override_num_blocks=-(-len(waiting) // args.batch)).map_batches(
                Reader,
                fn_constructor_args=[args],
                batch_size=args.batch,
                compute=ray.data.ActorPoolStrategy(size=args.workers),
                num_gpus=args.gpus or None,
            )
            for row in tqdm(read_rows.iter_rows(), total=len(waiting), unit="picture"):
                rows.add([row])
    except ray.exceptions.RayError as error:
        print(f"Stopped: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return 1
    finally:
        ray.shutdown()
        failed = finish(args.output, rows.rows)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
