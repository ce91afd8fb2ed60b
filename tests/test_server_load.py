"""mlx-vlm's server under load: eight clients at once, every answer equal to the answer alone.

Texts of many lengths, pictures of many sizes, clips, chats, both token modes and several slice settings meet in one
running batch in a seeded random order; half of the answers stream.
"""

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cases import MEDIA, Picture
from mlx_vlm import load
from serving import Answer, Server, direct, image, serve, text, user

CLIENTS, SMALL = 8, {"scale_resolution": 112}
PICTURES = [Picture("waves", size) for size in ((60, 200), (113, 41), (28, 28), (150, 149), (300, 70))]
ROOF = Picture("roof.png")
FILE = str(MEDIA / "pan_short.mp4")
CLIP = {"type": "video_url", "video_url": {"url": FILE}}


@dataclass(frozen=True)
class Request:
    messages: list[dict[str, Any]]
    max_tokens: int
    options: dict[str, Any] = field(default_factory=dict)
    media: dict[str, list[Any]] = field(default_factory=dict)
    thinking: bool = False

    def alone(self, loaded: tuple[Any, Any]) -> Answer:
        media = {k: [m.load() if isinstance(m, Picture) else m for m in v] for k, v in self.media.items()}
        return direct(loaded, self.messages, self.max_tokens, self.thinking, **media, **self.options)


def pool() -> list[Request]:
    words = [f"Line {i} of the page is about river {i * 7 % 13}." for i in range(12)]
    texts = [
        Request([user(" ".join(words[:n]) or "Hi")], 3 + n % 5 * 4, thinking=n % 4 == 1) for n in (0, 1, 2, 5, 9, 12)
    ]
    pictures = [
        Request(
            [user(image(picture), text(f"What is in picture {i}?"))],
            4 + 3 * i,
            SMALL | {"downsample_mode": mode, "max_slice_nums": slices},
            {"image": [picture]},
        )
        for i, picture in enumerate(PICTURES)
        for mode, slices in (("16x", 4), ("4x", 1 + i % 3))
    ]
    return [
        *texts,
        *pictures,
        Request(
            [user(image(PICTURES[0]), image(ROOF), text("Which?"))], 9, SMALL, {"image": [PICTURES[0], ROOF]}
        ),
        Request([user(CLIP, text("What moves?"))], 5, SMALL | {"max_num_frames": 2}, {"video": [FILE]}),
        Request(
            [
                {"role": "system", "content": "Be brief."},
                user(image(ROOF), text("What is it?")),
                {"role": "assistant", "content": "A roof."},
                user(CLIP, image(PICTURES[1]), text("And these?")),
            ],
            7,
            SMALL | {"downsample_mode": "4x", "max_slice_nums": 1, "max_num_frames": 1},
            {"image": [ROOF, PICTURES[1]], "video": [FILE]},
        ),
    ]


def ask(server: Server, request: Request, stream: bool) -> dict[str, Any]:
    """Body of the answer; a streamed one is put together."""
    body = {"messages": request.messages, "max_tokens": request.max_tokens, **request.options}
    if request.thinking:
        body["enable_thinking"] = True
    if not stream:
        return server.ask(**body)
    with server.stream(**body, stream_options={"include_usage": True}) as lines:
        chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    content = [entry for c in choices if c.get("logprobs") for entry in c["logprobs"]["content"]]
    (reason,) = {c["finish_reason"] for c in choices if c.get("finish_reason")}
    (usage,) = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return {"choices": [{"logprobs": {"content": content}, "finish_reason": reason}], "usage": usage}


@pytest.fixture(scope="module")
def requests_and_answers(checkpoint: Callable[[str], Path]) -> list[tuple[Request, Answer]]:
    loaded = load(str(checkpoint("base")))
    found = [(request, request.alone(loaded)) for request in pool()]
    assert len({tuple(answer.tokens) for _, answer in found}) > 15, "the answers hardly differ"
    return found


@pytest.mark.parametrize(
    ("count", "flags", "variables"),
    [
        (200, (), {}),
        (60, ("--max-num-seqs", "3", "--prefill-step-size", "32"), {"APC_ENABLED": "1"}),
    ],
    ids=["200 requests", "prefix cache, small steps and batches"],
)
def test_every_answer_is_the_answer_alone(
    checkpoint: Callable[[str], Path],
    requests_and_answers: list[tuple[Request, Answer]],
    tmp_path: Path,
    count: int,
    flags: tuple[str, ...],
    variables: dict[str, str],
) -> None:
    chosen = random.Random(46)
    numbers = [n % len(requests_and_answers) for n in range(count)]
    chosen.shuffle(numbers)
    with serve(checkpoint("base"), tmp_path, *flags, **variables) as server, ThreadPoolExecutor(CLIENTS) as clients:
        with server.stream(messages=[user("Why?")], max_tokens=200) as running:
            next(running)
            answers = [
                clients.submit(ask, server, requests_and_answers[n][0], stream=bool(i % 2))
                for i, n in enumerate(numbers)
            ]
            for _ in running:
                pass
        for i, (n, answer) in enumerate(zip(numbers, answers, strict=True)):
            requests_and_answers[n][1].check(answer.result(), f"request {i}, number {n} of the pool")
