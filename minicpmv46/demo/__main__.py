"""`python -m minicpmv46.demo` prints the folder of the demo checkpoint; with a name, the path of that sample."""

import argparse
import sys

import minicpmv46
from minicpmv46.demo import path, sample

parser = argparse.ArgumentParser(prog="python -m minicpmv46.demo", description=__doc__)
parser.add_argument("sample", nargs="?", help="print the path of this sample picture or clip instead, e.g. read.png")
name = parser.parse_args().sample
if not minicpmv46.read_by_site:
    print(
        "minicpmv46: this Python does not read minicpmv46-hook.pth (PYTHONPATH, --target or -S), so mlx-vlm's commands "
        "do not use this package; install it into the environment, or import minicpmv46 in a program of yours",
        file=sys.stderr,
    )
try:
    print(path() if name is None else sample(name))
except FileNotFoundError as error:
    parser.error(str(error))
