"""`python -m minicpmv46.demo` prints the folder of the demo checkpoint; with a name, the path of that sample."""

import argparse

from minicpmv46.demo import path, sample

parser = argparse.ArgumentParser(prog="python -m minicpmv46.demo", description=__doc__)
parser.add_argument("sample", nargs="?", help="print the path of this sample picture or clip instead, e.g. read.png")
name = parser.parse_args().sample
try:
    print(path() if name is None else sample(name))
except FileNotFoundError as error:
    parser.error(str(error))
