"""Record the official implementation's answers to `tests/support/cases.py` for tests that run without torch.

Needs torch, torchvision and transformers. Run it again whenever a case or a small checkpoint changes:

    python scripts/record_golden.py --out tests/golden
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support import cases, drawn_text, golden_data, oracle, sizes, tiny  # noqa: E402

ROWS = {"pixel": 32, "vision": 64, "hidden": 48}  # rows kept of each array
GEOMETRIES, SAMPLINGS, UNITS, UPSIZES, SLICES = 600, 300, 500, 240, 100
VERSIONS = {
    "transformers": transformers.__version__,
    "torch": torch.__version__,
    "torchvision": torchvision.__version__,
    "numpy": np.__version__,
    "pillow": PIL.__version__,
}


def spread(count: int, at_most: int) -> np.ndarray:
    """Up to `at_most` indices below `count`, first and last included."""
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).round().astype(np.int32))


def to_levels(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The uint8 grey levels of official pixel values; raises where a value is not exactly in the table."""
    levels = np.rint((pixels * 0.5 + 0.5) * 255).astype(np.uint8)
    if not np.array_equal(table[levels], pixels):
        raise ValueError("a pixel value is not the official value of any grey level")
    return levels


def record(case: cases.Case, official: oracle.Oracle) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays for a case's npz file, and its entry in the manifest."""
    stages, tables = official.run(case), golden_data.level_tables()
    image_patches = int(stages["image_patches"])
    levels = np.concatenate(
        [
            to_levels(stages["pixel_values"][:image_patches], tables[golden_data.image_table(case)]),
            to_levels(stages["pixel_values"][image_patches:], tables["videos"]),
        ]
    )
    rows = {
        "pixel": spread(len(levels), ROWS["pixel"]),
        "vision": spread(len(stages["vision_features"]), ROWS["vision"]),
        "hidden": spread(len(stages["hidden_states"]), ROWS["hidden"]),
    }
    whole = ("input_ids", "attention_mask", "target_sizes", "tokens", "logits", "greedy", "greedy_margin")
    arrays = {name: stages[name] for name in whole}
    arrays |= {f"{name}_rows": indices for name, indices in rows.items()}
    arrays["pixel_levels"] = levels[rows["pixel"]]
    arrays["vision_features"] = stages["vision_features"][rows["vision"]]
    arrays["hidden_states"] = stages["hidden_states"][rows["hidden"]]
    arrays["unit_crc"] = golden_data.unit_crc(stages["pixel_values"], stages["target_sizes"])
    entry = {
        "inputs": case.digest(),
        "image_patches": image_patches,
        "pixel_sha256": golden_data.sha256(stages["pixel_values"]),
        "pixel_shape": stages["pixel_values"].shape,
        "vision_shape": stages["vision_features"].shape,
        "hidden_shape": stages["hidden_states"].shape,
    }
    return arrays, entry


def record_geometry() -> list[list[Any]]:
    """Rows of geometry.json; the image and the video processor have to agree."""
    rows = []
    for arguments in sizes.geometry_inputs(GEOMETRIES):
        given = golden_data.GeometryInput(*arguments)
        got = oracle.official_geometry(given)
        if got != oracle.official_geometry(given, videos=True):
            raise ValueError(f"image and video sizing differ for {given}")
        rows.append([arguments, got.overview, got.grid, got.refined, got.unit_tokens])
    return rows


def record_units() -> list[list[Any]]:
    """Rows of geometry_ocr.json."""
    rows = []
    for arguments in sizes.units_inputs(UNITS):
        got = oracle.official_units(golden_data.UnitsInput(*arguments))
        rows.append([arguments, got.grid, got.overview, got.slice_size, got.tokens])
    return rows


def record_upsizes() -> list[list[Any]]:
    """Rows of adaptive.json."""
    pictures: dict[int | str, np.ndarray] = {seed: drawn_text.drawn(seed) for seed in range(UPSIZES)}
    pictures |= drawn_text.edges()
    return [[name, oracle.official_upsize(picture, 448)] for name, picture in pictures.items()]


def record_adaptive_slices() -> list[list[Any]]:
    """Rows of adaptive_slices.json."""
    rows = []
    for arguments in sizes.slices_inputs(SLICES):
        options = asdict(golden_data.SlicesInput(*arguments))
        picture = drawn_text.drawn_large(options.pop("seed"), options["scale_resolution"])
        rows.append([arguments, oracle.official_target_sizes(picture, small_image_upsize="adaptive", **options)])
    return rows


def record_sampling() -> list[list[Any]]:
    """Rows of sampling.json."""
    return [
        [arguments, oracle.official_frame_indices(golden_data.SamplingInput(*arguments))]
        for arguments in sizes.sampling_inputs(SAMPLINGS)
    ]


def write_rows(path: Path, rows: list[list[Any]]) -> None:
    """A JSON file with the versions and one row a line."""
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    path.write_text(f'{{"versions": {json.dumps(VERSIONS)},\n"rows": [\n{lines}\n]}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "golden", help="folder to write")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for stale in [*out.glob("*.npz"), *out.glob("*.json")]:
        stale.unlink()
    golden_data.GOLDEN = out
    start = time.perf_counter()

    tables = {kind: oracle.level_table(kind) for kind in ("images", "videos", "ocr_images")}
    np.savez_compressed(out / "level_tables.npz", **tables)
    write_rows(out / "geometry.json", record_geometry())
    write_rows(out / "geometry_ocr.json", record_units())
    write_rows(out / "adaptive.json", record_upsizes())
    write_rows(out / "adaptive_slices.json", record_adaptive_slices())
    write_rows(out / "sampling.json", record_sampling())

    entries = {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in tiny.VARIANTS:
            official = oracle.Oracle(tiny.make_checkpoint(Path(folder) / variant, variant))
            for case in cases.CASES:
                if case.variant == variant:
                    arrays, entries[case.name] = record(case, official)
                    np.savez_compressed(out / f"{case.name}.npz", **arrays)
    manifest = {
        "versions": VERSIONS,
        "checkpoints": {variant: golden_data.checkpoint_digest(variant) for variant in tiny.VARIANTS},
        "cases": dict(sorted(entries.items())),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{len(entries)} cases, {size / 1e6:.1f} MB, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
