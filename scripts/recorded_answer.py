"""Print what the official implementation answered to one of the recorded cases: `recorded_answer.py CASE`."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import cases  # noqa: E402
import golden_data  # noqa: E402

from minicpmv46 import MiniCPMV46Processor  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=sorted(cases.BY_NAME), metavar="CASE")
    case = cases.BY_NAME[parser.parse_args().case]
    processor = MiniCPMV46Processor.from_pretrained(ROOT / "tests" / "data" / "checkpoint")
    answer = processor.decode(golden_data.load(case.name)["greedy"])
    print(f"The official implementation's answer, recorded with {golden_data.manifest()['versions']}:\n{answer}")


if __name__ == "__main__":
    main()
