"""Token counts and frames that are told beforehand are those that the processor then makes."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.drawn_text import drawn, drawn_large
from support.pictures import MEDIA, Clip, pattern
from support.refusals import refuse

import minicpmv46
from minicpmv46.processing import Processor
from minicpmv46.sampling import SamplingOptions, VideoMetadata, sample_units
from minicpmv46.show.counts import TokenCounts
from minicpmv46.siblings import DOWNSAMPLE_MODES, DownsampleMode

Processors = Callable[[str], Processor]

# (height, width): small, odd, strips, several grids; more than ten, so that numbers of images have two digits.
SIZES = (
    *((2, 1), (20, 30), (56, 55), (57, 57), (113, 112), (90, 200), (200, 91), (5, 260), (261, 6), (170, 171)),
    *((224, 224), (300, 131), (130, 340), (337, 336)),
)
# Small units keep the pictures small.
SMALL: dict[str, Any] = {"scale_resolution": 112}


def made(processor: Processor, kinds: str, mode: DownsampleMode, **arguments: Any) -> tuple[int, int]:
    """Visual tokens and all tokens of the prompt in which the processor put the media: "i" an image, "v" a video."""
    ours = {"i": processor.image_token, "v": processor.video_token}
    ids = processor("".join(ours[kind] for kind in kinds), downsample_mode=mode, **arguments)["input_ids"][0]
    visual = np.isin(ids, (processor.image_token_id, processor.video_token_id))
    return int(visual.sum()), len(ids)


def told(counts: TokenCounts, mode: DownsampleMode) -> tuple[int, int]:
    return sum(m.visual[mode] for m in counts.media), sum(m.prompt[mode] for m in counts.media)


@pytest.mark.parametrize("variant", ["base", "ocr"])
@pytest.mark.parametrize("options", [{}, {"use_image_id": False, "max_slice_nums": 4}, {"slice_mode": False}])
def test_images(processor: Processors, variant: str, options: dict[str, Any]) -> None:
    images = [pattern("noise", *size, seed=i) for i, size in enumerate(SIZES)]
    ours = processor(variant)
    counts = minicpmv46.count_tokens(*images, processor=ours, **SMALL, **options)
    for mode in DOWNSAMPLE_MODES:
        assert told(counts, mode) == made(ours, "i" * len(images), mode, images=images, **SMALL, **options)
    assert counts.mode == ours.options.images.slicing.downsample_mode
    assert (counts.visual, counts.prompt) == told(counts, counts.mode)
    assert [medium.size for medium in counts.media] == list(SIZES)
    assert counts.share == counts.prompt / ours.options.limits.context


def test_each_image(processor: Processors) -> None:
    """Not only the sum: each image alone, units and their sizes too."""
    ours = processor("base")
    for size in SIZES:
        image = pattern("waves", *size)
        (medium,) = minicpmv46.count_tokens(image, processor=ours, **SMALL).media
        found = ours(ours.image_token, images=[image], **SMALL)
        units = found["image_units"]
        assert [tuple(grid) for grid in units[:, :2].tolist()] == medium.pictures[0].plan.patch_grids
        assert medium.pictures[0].plan.token_counts == units[:, 2].tolist()
        assert medium.prompt["16x"] == found["input_ids"].size
        assert medium.slices == len(units) - 1


def test_adaptive(processor: Processors) -> None:
    """What is in an image decides, in both modes."""
    images = [*(drawn(seed) for seed in range(12)), *(drawn_large(seed, 112) for seed in range(6))]
    options = {"small_image_upsize": "adaptive", **SMALL}
    ours = processor("ocr")
    counts = minicpmv46.count_tokens(*images, processor=ours, **options)
    for mode in DOWNSAMPLE_MODES:
        assert told(counts, mode) == made(ours, "i" * len(images), mode, images=images, **options)
    assert any(any(medium.pictures[0].plan.own_sizes) for medium in counts.media)
    always = minicpmv46.count_tokens(*images, processor=ours, **SMALL)
    assert always.visual > counts.visual


@pytest.mark.parametrize("variant", ["base", "ocr"])
@pytest.mark.parametrize("stack", [1, 2, 3, 5])
def test_clips(processor: Processors, variant: str, stack: int) -> None:
    """A file and decoded frames, beside images, with composed pictures."""
    clip = Clip("noise", 23, 5.0, (60, 100))
    file = str(MEDIA / "pan_short.mp4")
    image = pattern("noise", 120, 130)
    options = {**SMALL, "stack_frames": stack, "fps": 2, "max_slice_nums": 2}
    ours = processor(variant)
    frames, metadata = clip.load(), [clip.metadata, None]
    counts = minicpmv46.count_tokens(frames, image, file, processor=ours, video_metadata=metadata, **options)
    assert [medium.kind for medium in counts.media] == ["video", "image", "video"]
    for mode in DOWNSAMPLE_MODES:
        arguments = {"images": [image], "videos": [frames, file], "video_metadata": metadata, **options}
        assert told(counts, mode) == made(ours, "viv", mode, **arguments)
    units = sample_units(VideoMetadata(23, 5.0, 4.6), SamplingOptions(stack_frames=stack, fps=2))
    pictures = counts.media[0].pictures
    assert [picture.frames for picture in pictures] == units
    assert [picture.seconds for picture in pictures] == [tuple(i / 5 for i in unit) for unit in units]
    assert any(len(picture.frames) > 1 for picture in pictures) == (stack > 2)


def test_options_of_the_processor(processor: Processors) -> None:
    """Those of the loaded one hold, which plain `plan_slices` does not know; those of the call win."""
    image = pattern("noise", 300, 300)
    other = processor("ocr").with_defaults(max_slice_nums=1, scale_resolution=112)
    counts = minicpmv46.count_tokens(image, processor=other)
    assert (counts.model, counts.mode, counts.media[0].slices) == ("MiniCPM-OCR 1.0", "4x", 0)
    assert minicpmv46.count_tokens(image, processor=other, max_slice_nums=9).media[0].slices == 9
    official = minicpmv46.count_tokens(image)
    assert (official.model, official.mode, official.context) == ("MiniCPM-V 4.6", "16x", 262_144)


def test_frames_without_a_rate(processor: Processors) -> None:
    """Their times are not known, and all are used; files among them are turned upright as their EXIF tag says."""
    frames = pattern("noise", 4 * 30, 40).reshape(4, 30, 40, 3)
    pictures = minicpmv46.count_tokens(frames).media[0].pictures
    assert [(picture.frames, picture.seconds) for picture in pictures] == [((i,), ()) for i in range(4)]
    turned = _turned(40, 30)
    mixed = [turned, Image.fromarray(frames[0])]
    counts = minicpmv46.count_tokens(mixed, processor=processor("base"))
    assert [picture.plan.size for picture in counts.media[0].pictures] == [(40, 30), (30, 40)]
    assert told(counts, "16x") == made(processor("base"), "v", "16x", videos=[mixed])


def _turned(height: int, width: int) -> BytesIO:
    """A JPEG that is stored lying on its side; `height` and `width` are those of the upright image."""
    content, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (height, width)).save(content, "JPEG", exif=exif)
    content.seek(0)
    return content


def test_turned_by_exif(processor: Processors) -> None:
    counts = minicpmv46.count_tokens(_turned(300, 90), processor=processor("base"))
    assert counts.media[0].size == (300, 90)
    assert told(counts, "16x") == made(processor("base"), "i", "16x", images=[_turned(300, 90)])


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:], duration=500)
    frames[0].save(tmp_path / "still.gif")
    frames[0].save(tmp_path / "picture.avif")  # its container is that of MP4
    (tmp_path / "clip.png").write_bytes((MEDIA / "pan_short.mp4").read_bytes())
    frames[0].save(tmp_path / "picture.mp4", "PNG")
    names = ["moves.gif", "still.gif", "picture.avif", "clip.png", "picture.mp4"]
    counts = minicpmv46.count_tokens(*(tmp_path / name for name in names))
    assert [(medium.name, medium.kind) for medium in counts.media] == list(
        zip(names, ("video", "image", "image", "video", "image"), strict=True)
    )


def test_table() -> None:
    counts = minicpmv46.count_tokens(MEDIA / "page.png", np.zeros((28, 28, 3), np.uint8))
    head, page, array, both, note, _ = repr(counts).splitlines()
    assert head.split() == [
        "pixels",
        "slices",
        "visual",
        "16x",
        "prompt",
        "16x",
        "visual",
        "4x",
        "prompt",
        "4x",
        "of",
        "context",
    ]
    assert page.split() == ["page.png", "620x877", "2", "(1x2)", "210", "220", "741", "751", "0.1%"]
    assert array.split()[:3] == ["image", "1", "28x28"] and both.split()[:2] == ["together", "274"]
    assert note.startswith("MiniCPM-V 4.6, 16x in use, context 262,144 tokens")
    assert len({len(line) for line in (head, page, array, both)}) == 1
    assert counts._repr_html_().count("<tr>") == 4 and "<td style" in counts._repr_html_()


def test_more_than_the_context(processor: Processors) -> None:
    """Is told, with the numbers."""
    counts = minicpmv46.count_tokens(pattern("noise", 300, 300), processor=processor("base").with_limits(context=50))
    assert counts.share > 1 and "more than the context" in repr(counts)
    refuse(lambda: made(processor("base").with_limits(context=50), "i", "16x", images=[pattern("noise", 300, 300)]))


def test_refused(processor: Processors, tmp_path: Path) -> None:
    image = pattern("noise", 20, 20)
    (tmp_path / "text.png").write_text("not a picture")
    count = minicpmv46.count_tokens
    refuse(lambda: count(image, max_slices=3), "count_tokens", "'max_slices'", "max_slice_nums", kind=TypeError)
    refuse(lambda: count(image, max_slice_nums=0), "max_slice_nums", "0")
    refuse(lambda: count(image, processor="folder"), "processor", "'folder'", "mlx_vlm.load", kind=TypeError)
    refuse(lambda: count(image, small_image_upsize="never"), "small_image_upsize", "leave it out", kind=TypeError)
    refuse(lambda: count(image, tmp_path / "text.png"), "image 1", "text.png", "format")
    refuse(lambda: count(tmp_path / "missing.mp4"), "image 0", "missing.mp4", "No such file")
    refuse(lambda: count([MEDIA / "pan_short.mp4", MEDIA / "pan_long.mp4"]), "a list is one video")
    refuse(lambda: count(image, processor=processor("base").with_limits(pixels=300)), "image 0", "pixels", "300")
    refuse(lambda: minicpmv46.show_slices(image, fps=2), "show_slices", "'fps'", kind=TypeError)
    refuse(lambda: minicpmv46.show_frames(MEDIA / "pan_short.mp4", small_image_upsize="never"), kind=TypeError)
