"""The requests on which the port is compared with the official implementation, stage by stage."""

from collections.abc import Iterator

from support.case import Case, Options, Turn, ask
from support.ocr_cases import ocr_cases
from support.pictures import Clip, Picture


def _text_cases() -> Iterator[Case]:
    yield Case("text_hello", (Turn("user", "Hello!"),), new_tokens=16)
    yield Case("text_parts", ask("What is this?", "Answer in one word."))
    yield Case("text_thinking", (Turn("user", "Why is the sky blue?"),), enable_thinking=True)
    chat = (
        Turn("system", "You are a helpful assistant."),
        Turn("user", "Write the numbers from 1 to 10."),
        Turn("assistant", "<think>\nEasy.\n</think>\n\n1 2 3 4 5 6 7 8 9 10"),
        Turn("user", "And now back?"),
    )
    yield Case("text_chat_system", chat)
    yield Case("text_chat_thinking", chat[1:], enable_thinking=True, variant="value_heads")
    tags = "What does <image> mean beside <slice>, </image> and (<image>./</image>)? <image_id>3</image_id>"
    yield Case("text_literal_tags", (Turn("user", tags),))
    yield Case("text_literal_tokens", (Turn("user", "<tool_call>{}</tool_call> <|im_end|> <|vision_start|> <unk>"),))
    marks = "e\u0301t\u00e9 \u0928\u092e\u0938\u094d\u0924\u0947 \u56fe\u7247\u91cc\u6709\u4ec0\u4e48\uff1f "
    marks += "\U0001f600\r\n\t x  12345 don't"
    yield Case("text_unicode", (Turn("user", marks),))
    long = " ".join(f"Line {i} of the page is about river {i * 7 % 13}." for i in range(20))
    yield Case("text_long", (Turn("user", long),), variant="untied")
    yield Case("text_empty", (Turn("user", ""),), variant="value_heads")
    yield Case("text_bf16", (Turn("user", "What color is the flower?"),), variant="bf16")
    yield Case("text_chat_untied", chat, variant="untied")


_DESCRIBE = "Describe this image"


def _image_cases() -> Iterator[Case]:
    temple, flower, officer = Picture("temple.png"), Picture("flower.png"), Picture("officer.png")
    page, receipt, slide, roof = (
        Picture("page.png"),
        Picture("receipt_l.png"),
        Picture("slide.png"),
        Picture("roof.png"),
    )

    # Photographs and pages in both token modes
    yield Case("photo_sliced", ask(temple, _DESCRIBE))
    yield Case("photo_sliced_4x", ask(temple, _DESCRIBE), Options("4x"))
    yield Case("photo_portrait", ask(flower, _DESCRIBE), variant="value_heads")
    yield Case("photo_portrait_4x", ask(flower, _DESCRIBE), Options("4x"), variant="untied")
    yield Case("photo_upscaled", ask(roof, _DESCRIBE), variant="untied")
    yield Case("photo_bf16", ask(roof, _DESCRIBE), variant="bf16")
    yield Case("photo_bf16_4x_sliced", ask(officer, _DESCRIBE), Options("4x", max_slice_nums=2), variant="bf16")
    yield Case("photo_crop_odd", ask(Picture("temple.png", crop=(13, 7, 350, 308)), "What is this?"))
    yield Case("photo_text_first", ask("What color is the sky?", officer), enable_thinking=True)
    yield Case("photo_literal_tags", ask(flower, "Is <image> or </slice> written on it? (<image>./</image>)"))
    yield Case("photo_system", (Turn("system", "Answer in one word."), *ask(roof, "Where is it?")))
    yield Case("photo_no_text", ask(roof))
    yield Case("page_sliced", ask(page, "What is the text on the page?"))
    yield Case("page_one_slice", ask(page, "What is the title?"), Options(max_slice_nums=1))
    yield Case("page_two_slices", ask(page, "What is the title?"), Options(max_slice_nums=2), variant="untied")
    yield Case("page_five_slices_4x", ask(page, "Read figure 1."), Options("4x", max_slice_nums=5))
    yield Case("receipt_l", ask(receipt, "How much is item 7?"), variant="value_heads")
    yield Case("receipt_l_4x", ask(receipt, "How much is item 7?"), Options("4x"))
    yield Case("slide_36_slices", ask(slide, "Read the table."), Options(max_slice_nums=36))
    yield Case("slide_no_slices", ask(slide, "Read the table."), Options(slice_mode=False))
    yield Case("slide_no_slices_4x", ask(slide, "Read the table."), Options("4x", slice_mode=False))

    # Pillow modes: transparency goes on white, palettes and grey levels become RGB
    yield Case("mode_rgba", ask(Picture("gift_rgba.png"), "What is it?"))
    yield Case("mode_rgba_wide", ask(Picture("logo_rgba.png"), "What does it say?"), variant="value_heads")
    yield Case("mode_la", ask(Picture("logo_la.png"), "What does it say?"))
    yield Case("mode_l", ask(Picture("flower_l.png"), _DESCRIBE), Options("4x"))
    yield Case("mode_p_transparent", ask(Picture("flower_p.png"), _DESCRIBE))
    yield Case("mode_bilevel", ask(Picture("roof.png", mode="1"), _DESCRIBE))
    yield Case("mode_cmyk", ask(Picture("roof.png", mode="CMYK"), _DESCRIBE), variant="untied")

    # Sizes and shapes; every side is (height, width)
    yield Case("tiny_1x1", ask(Picture("noise", (1, 1), 5), _DESCRIBE))
    yield Case("tiny_3x5", ask(Picture("noise", (3, 5), 6), _DESCRIBE))
    yield Case("tiny_3x5_4x", ask(Picture("noise", (3, 5), 6), _DESCRIBE), Options("4x"), variant="value_heads")
    yield Case("tiny_17x23", ask(Picture("waves", (17, 23)), _DESCRIBE))
    yield Case("tiny_2x1", ask(Picture("noise", (2, 1), 7), _DESCRIBE), variant="untied")
    yield Case("strip_40x900", ask(Picture("waves", (40, 900)), _DESCRIBE))
    yield Case("strip_40x900_4x", ask(Picture("waves", (40, 900)), _DESCRIBE), Options("4x"))
    yield Case("strip_12x1100", ask(Picture("tiles", (12, 1100)), _DESCRIBE), variant="value_heads")
    yield Case("strip_line_1x300", ask(Picture("gradient", (1, 300)), _DESCRIBE))
    yield Case("strip_sliced_300x1500", ask(Picture("waves", (300, 1500), 2), _DESCRIBE))
    yield Case("column_900x40", ask(Picture("waves", (900, 40)), _DESCRIBE))
    yield Case("column_sliced_1400x210_4x", ask(Picture("tiles", (1400, 210)), _DESCRIBE), Options("4x"))
    yield Case("odd_449x447", ask(Picture("gradient", (449, 447)), _DESCRIBE))
    yield Case("odd_449x449", ask(Picture("tiles", (449, 449), 1), _DESCRIBE))
    yield Case("odd_448x448", ask(Picture("waves", (448, 448)), _DESCRIBE), variant="untied")
    yield Case("odd_451x767", ask(Picture("gradient", (451, 767), 3), _DESCRIBE), variant="value_heads")
    yield Case("odd_613x331_4x", ask(Picture("waves", (613, 331), 1), _DESCRIBE), Options("4x"))
    yield Case("odd_997x701_five", ask(Picture("tiles", (997, 701)), _DESCRIBE), Options(max_slice_nums=5))
    yield Case("large_1344x1344", ask(Picture("gradient", (1344, 1344), 1), _DESCRIBE))
    yield Case("large_1500x1100_36", ask(Picture("waves", (1500, 1100)), "Read it."), Options(max_slice_nums=36))
    yield Case("large_2100x1500_36", ask(Picture("tiles", (2100, 1500)), "Read it."), Options(max_slice_nums=36))
    yield Case(
        "large_900x1300_4x",
        ask(Picture("gradient", (900, 1300), 2), "Read it."),
        Options("4x", max_slice_nums=6),
    )
    yield Case("large_no_ids", ask(Picture("gradient", (700, 1300)), "Read it."), Options(use_image_id=False))

    # Several pictures and several turns
    compare = "Compare the two images"
    yield Case("two_photos", ask(roof, flower, compare))
    yield Case("two_photos_between", ask("The first:", roof, "The second:", temple, compare), variant="untied")
    yield Case("two_photos_4x", ask(roof, Picture("tiles", (300, 900)), compare), Options("4x", max_slice_nums=3))
    yield Case("two_photos_no_ids", ask(flower, roof, compare), Options(use_image_id=False))
    eleven = tuple(Picture("waves", (30 + 7 * i, 60 - 4 * i), i) for i in range(11))
    yield Case("eleven_small", ask(*eleven, "How many images?"), new_tokens=4)
    chat = (
        Turn("user", (roof, "What is this?")),
        Turn("assistant", "It is a temple."),
        Turn("user", (Picture("tiles", (60, 200)), "And this?")),
        Turn("assistant", ("A pattern.",)),
        Turn("user", "What did the first image show?"),
    )
    yield Case("chat_two_pictures", chat, variant="value_heads")
    yield Case("chat_two_pictures_thinking", chat, enable_thinking=True)


def _video_cases() -> Iterator[Case]:
    describe = "Describe the video"
    plain = Options(max_slice_nums=1, use_image_id=False)  # what the model card recommends for clips
    pan = Clip("temple.png", 24, 10, (64, 112))
    yield Case("clip_short", ask(pan, describe), plain)
    yield Case("clip_short_4x", ask(pan, describe), Options("4x", max_slice_nums=1, use_image_id=False))
    yield Case("clip_defaults", ask(pan, describe), variant="value_heads")
    yield Case("clip_one_frame", ask(Clip("flower.png", 1, 10, (80, 60)), describe), plain)
    yield Case("clip_portrait", ask(Clip("flower.png", 38, 12.5, (90, 60)), describe), plain, variant="untied")
    yield Case("clip_29_97", ask(Clip("waves", 91, 29.97, (64, 112)), describe), plain)
    yield Case("clip_bf16", ask(Clip("temple.png", 13, 12.5, (64, 112)), describe), plain, variant="bf16")
    four = Options(max_slice_nums=1, use_image_id=False, max_num_frames=4)
    eight = Options(max_slice_nums=1, use_image_id=False, max_num_frames=8)
    yield Case("clip_exactly_max", ask(Clip("temple.png", 40, 10, (64, 112)), describe), four)
    yield Case("clip_just_over_max", ask(Clip("temple.png", 41, 10, (64, 112)), describe), four)
    yield Case("clip_long", ask(Clip("temple.png", 120, 12.5, (64, 112)), describe), four)
    yield Case("clip_long_29_97", ask(Clip("tiles", 300, 29.97, (48, 80)), describe), eight, variant="value_heads")
    yield Case("clip_container_duration", ask(Clip("temple.png", 60, 10, (64, 112), duration=5.6), describe), eight)
    for stack in (2, 3, 4, 5):
        options = Options(max_slice_nums=1, use_image_id=False, stack_frames=stack, max_num_frames=8)
        clip = Clip("temple.png", 24, 10, (64, 112)) if stack != 4 else Clip("flower.png", 27, 12.5, (90, 60))
        yield Case(f"clip_stack_{stack}", ask(clip, describe), options, variant="untied" if stack == 5 else "base")
    stacked = Options("4x", 1, use_image_id=False, stack_frames=3, max_num_frames=4)
    yield Case("clip_stack_3_4x", ask(Clip("temple.png", 20, 10, (64, 112)), describe), stacked)
    long_stack = Options(max_slice_nums=1, use_image_id=False, stack_frames=3, max_num_frames=4)
    yield Case("clip_stack_3_long", ask(Clip("waves", 95, 12.5, (64, 112)), describe), long_stack)
    long_stack = Options(max_slice_nums=1, use_image_id=False, stack_frames=5, max_num_frames=4)
    yield Case("clip_stack_5_long", ask(Clip("temple.png", 210, 29.97, (90, 60)), describe), long_stack)
    square = Options(max_slice_nums=1, use_image_id=False, stack_frames=3)
    yield Case("clip_stack_3_square", ask(Clip("tiles", 15, 10, (56, 56)), describe), square)
    yield Case("clip_stack_2_tall", ask(Clip("tiles", 15, 10, (120, 40)), describe), Options(stack_frames=2))
    yield Case("clip_sliced", ask(Clip("gradient", 20, 10, (240, 1000)), describe), Options(use_image_id=False))
    yield Case("clip_sliced_4x", ask(Clip("waves", 11, 10, (500, 480)), describe), Options("4x", max_slice_nums=2))
    sliced_stack = Options(max_slice_nums=4, stack_frames=3, use_image_id=False)
    yield Case("clip_sliced_stack", ask(Clip("waves", 14, 10, (240, 420)), describe), sliced_stack)
    yield Case("clip_no_slices", ask(Clip("waves", 14, 10, (500, 480)), describe), Options(slice_mode=False))
    two = (pan, Clip("flower.png", 25, 12.5, (90, 60)))
    yield Case("two_clips", ask(*two, "What is different?"), Options(max_slice_nums=1))
    two_stacked = Options(max_slice_nums=1, use_image_id=False, stack_frames=3, max_num_frames=2)
    yield Case("two_clips_stack_long", ask(*two, "What is different?"), two_stacked)
    roof, mixed = Picture("roof.png"), Clip("flower.png", 15, 10, (64, 64))
    yield Case("image_and_clip", ask(roof, mixed, "Is the image in the video?"), plain)
    yield Case("image_and_clip_ids", ask(mixed, roof, "Is the image in the video?"), variant="value_heads")
    yield Case("image_and_clip_4x", ask(mixed, "and", Picture("temple.png"), "?"), Options("4x", max_slice_nums=2))
    chat = (
        Turn("system", "Be brief."),
        Turn("user", (mixed, "What happens?")),
        Turn("assistant", "A flower moves."),
        Turn("user", (roof, "Was this in it?")),
    )
    yield Case("chat_clip_then_picture", chat, plain, enable_thinking=True)


CASES: tuple[Case, ...] = (*_text_cases(), *_image_cases(), *_video_cases(), *ocr_cases())
BY_NAME: dict[str, Case] = {case.name: case for case in CASES}
if len(BY_NAME) != len(CASES):
    raise ValueError("two cases have the same name")
