"""Print what the official implementation answered to one of the recorded cases: `recorded_answer.py CASE`."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import cases  # noqa: E402
import golden_data  # noqa: E402
from mlx_vlm.utils import load_processor  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=sorted(cases.BY_NAME), metavar="CASE")
    case = cases.BY_NAME[parser.parse_args().case]
    # Through mlx-vlm's own detokenizer, which leaves out what is no valid text, so that both lines read the same.
    detokenizer = load_processor(ROOT / "tests" / "data" / "checkpoint", True).detokenizer
    for token in golden_data.load(case.name)["greedy"].tolist():
        detokenizer.add_token(token)
    detokenizer.finalize()
    versions = ", ".join(f"{name} {version}" for name, version in golden_data.manifest()["versions"].items())
    print(f"The official implementation's answer, recorded with {versions}:\n{detokenizer.text}")


if __name__ == "__main__":
    main()
