"""Cases of MiniCPM-OCR: its defaults, its resize, and what `small_image_upsize` does to each kind of picture."""

from collections.abc import Iterator
from dataclasses import replace

from support.case import Case, OcrOptions, Turn, ask
from support.pictures import Clip, Negative, Picture, Scan

READ = "Read all text."
# The checkpoint that other tests ask too, and one in which float32 loses less, for most cases.
ASKED, VARIANT = "ocr", "ocr_recorded"

# (left, top, right, bottom) of parts of committed pictures, and what is small or dense in them
CROPS: dict[str, Picture] = {
    "dense": Picture("page.png", crop=(55, 560, 355, 700)),  # small letters close together
    "dense_light": Negative("page.png", crop=(55, 640, 300, 760)),
    "dense_scan": Scan("page.png", crop=(60, 100, 360, 240), seed=4),
    "sparse": Picture("page.png", crop=(50, 40, 430, 80)),  # one large line
    "sparse_light": Picture("slide.png", crop=(0, 0, 300, 60)),
    "line": Picture("page.png", crop=(58, 561, 200, 576)),  # below 6,272 pixels
    "item": Picture("receipt_l.png", crop=(8, 70, 120, 92)),
    "price": Negative("receipt_l.png", crop=(170, 70, 230, 180)),
    "icon": Picture("gift_rgba.png", crop=(30, 30, 90, 100)),  # below 6,272 pixels, no text
    "cell": Picture("slide.png", crop=(21, 81, 170, 124)),
    "photo": Picture("roof.png"),
    "gradient": Picture("gradient", (70, 80)),
    "dot": Picture("noise", (1, 1), 5),
}
UPSIZES = ("always", "never", "adaptive")


def ocr_cases() -> Iterator[Case]:
    yield Case("ocr_text", (Turn("user", "Hello!"),), variant=ASKED, new_tokens=16)
    yield Case("ocr_text_thinking", (Turn("user", "What is OCR?"),), variant=ASKED, enable_thinking=True)

    # Each value and both modes on crops of every kind
    for name, crop in CROPS.items():
        yield Case(
            f"ocr_crop_{name}", ask(crop, READ), OcrOptions(small_image_upsize="adaptive"), VARIANT, new_tokens=4
        )
    for upsize in ("always", "never"):
        for name in ("dense", "sparse_light", "line", "icon"):
            options = OcrOptions(small_image_upsize=upsize)
            yield Case(f"ocr_crop_{name}_{upsize}", ask(CROPS[name], READ), options, VARIANT, new_tokens=4)
    for upsize in UPSIZES:
        for name in ("dense_light", "item"):
            options = OcrOptions("16x", small_image_upsize=upsize)
            yield Case(f"ocr_crop_{name}_{upsize}_16x", ask(CROPS[name], READ), options, VARIANT, new_tokens=4)

    # Pictures that are sliced; with "adaptive" their slices differ in size
    page, slide, temple = Picture("page.png"), Picture("slide.png"), Picture("temple.png")
    adaptive = OcrOptions(small_image_upsize="adaptive")
    small = OcrOptions(scale_resolution=224)  # a quarter of the work
    small_adaptive, small_never = (replace(small, small_image_upsize=upsize) for upsize in ("adaptive", "never"))
    yield Case("ocr_photo", ask(temple, "Describe this image"), OcrOptions(), ASKED)
    yield Case("ocr_photo_16x", ask(temple, "Describe this image"), replace(small, downsample_mode="16x"), VARIANT)
    yield Case("ocr_photo_adaptive", ask(temple, "Describe this image"), small_adaptive, ASKED)
    yield Case("ocr_photo_scan_never", ask(Scan("officer.png"), READ), small_never, VARIANT)
    yield Case("ocr_page", ask(page, READ), small, VARIANT)
    yield Case("ocr_page_adaptive", ask(page, READ), adaptive, VARIANT)
    six = replace(small_adaptive, downsample_mode="16x", max_slice_nums=6)
    yield Case("ocr_page_scan_adaptive_16x", ask(Scan("page.png"), READ), six, VARIANT)
    yield Case("ocr_slide_adaptive", ask(slide, READ), adaptive, ASKED)
    yield Case("ocr_slide_light_adaptive", ask(Negative("slide.png"), READ), small_adaptive, VARIANT)
    yield Case("ocr_receipt_adaptive", ask(Picture("receipt_l.png"), READ), small_adaptive, VARIANT)
    whole = OcrOptions(slice_mode=False, small_image_upsize="adaptive")
    yield Case("ocr_page_adaptive_no_slices", ask(page, READ), whole, VARIANT)
    yield Case("ocr_page_never_one_slice", ask(page, READ), OcrOptions("16x", 1, small_image_upsize="never"), VARIANT)
    yield Case("ocr_nine_slices", ask(Picture("waves", (600, 500)), READ), small, VARIANT, new_tokens=4)
    # Units of 112 pixels a side, so that a small page has as many slices.
    many = OcrOptions(max_slice_nums=36, small_image_upsize="adaptive", scale_resolution=112)
    yield Case("ocr_36_slices_adaptive", ask(page, READ), many, VARIANT, new_tokens=4)
    yield Case("ocr_36_slices_scan", ask(Scan("page.png"), READ), replace(many, small_image_upsize="always"), VARIANT)

    # Pillow modes, several pictures, turns, a clip
    yield Case("ocr_mode_rgba", ask(Picture("logo_rgba.png"), READ), adaptive, VARIANT, new_tokens=4)
    yield Case("ocr_mode_p", ask(Picture("flower_p.png"), READ), OcrOptions(), VARIANT, new_tokens=4)
    yield Case(
        "ocr_mode_bilevel", ask(Picture("page.png", crop=(55, 560, 355, 700), mode="1"), READ), adaptive, VARIANT
    )
    several = (CROPS["dense"], CROPS["icon"], CROPS["sparse"], slide, CROPS["item"])
    yield Case("ocr_several_adaptive", ask(*several, READ), small_adaptive, VARIANT)
    yield Case("ocr_several_no_ids", ask(*several[:3], READ), OcrOptions("16x", use_image_id=False), VARIANT)
    chat = (
        Turn("user", (CROPS["dense"], READ)),
        Turn("assistant", "The that summer"),
        Turn("user", (CROPS["price"], "And this?")),
    )
    yield Case("ocr_chat_adaptive", chat, adaptive, VARIANT)
    clip = Clip("page.png", 21, 10, (64, 112))
    yield Case("ocr_clip", ask(clip, "Describe the video"), OcrOptions(max_slice_nums=1, use_image_id=False), VARIANT)
    stacked = OcrOptions("16x", 1, use_image_id=False, stack_frames=3, max_num_frames=4, scale_resolution=224)
    yield Case("ocr_clip_stack_3", ask(Clip("temple.png", 24, 10, (64, 112)), "Describe the video"), stacked, VARIANT)
    both = replace(small_adaptive, max_slice_nums=2)
    yield Case("ocr_image_and_clip", ask(CROPS["cell"], clip, "Is it in the video?"), both, VARIANT)
