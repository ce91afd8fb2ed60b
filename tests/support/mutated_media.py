"""Run by `test_mutated_media`: pictures and clips with bytes flipped, cut out and cut off, in a process with limits.

Prints how many were answered and how many refused; ends with another status where one does neither.
"""

import io
import resource
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from minicpmv46.processing import Processor

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
FORMATS = {
    "PNG": {},
    "JPEG": {"quality": 80, "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    "WEBP": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {},
    "JPEG2000": {},
    "PPM": {},
}


def mutated(content: bytes, random: np.random.RandomState) -> bytes:
    """Content with one to twenty bytes changed, most of them near its beginning; a third is cut or repeated too."""
    data = bytearray(content)
    for _ in range(random.randint(1, 21)):
        end = len(data) if random.rand() < 0.4 else min(len(data), 200)
        data[random.randint(end)] = random.randint(256)
    kind, place = random.randint(6), random.randint(1, len(data))
    if kind == 0:
        return bytes(data[:place])
    return bytes(data[:place] + data[max(0, place - 100) :]) if kind == 1 else bytes(data)


def main(checkpoint: str, media: str, images: int, clips: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    processor = Processor.from_pretrained(checkpoint).with_limits(pixels=4_000_000)
    random = np.random.RandomState(46)
    picture = Image.open(Path(media) / "roof.png").convert("RGB").resize((96, 64))
    files = []
    for kind, options in FORMATS.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    counts = {"answered": 0, "refused": 0}

    def attempt(name: str, **given: object) -> None:
        try:
            processor(max_slice_nums=1, **given)  # type: ignore[arg-type]
            counts["answered"] += 1
        except ValueError as error:
            assert str(error).startswith(name) and len(str(error)) < 600, error
            counts["refused"] += 1

    for i in range(images):
        data = mutated(files[i % len(files)], random)
        attempt("image 0", text=IMAGE, images=[io.BytesIO(data)])
    for path in sorted(Path(media).glob("*.mp4"))[:3]:
        content = path.read_bytes()
        for _ in range(clips):
            attempt("video 0", text=VIDEO, videos=[io.BytesIO(mutated(content, random))], max_num_frames=3)
    print(counts["answered"], counts["refused"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
