"""Chats that users type: `python -m mlx_vlm.generate --chat …` and `python -m mlx_vlm.chat`.

Images and videos of a chat stand in its last user turn and nowhere else, where mlx-vlm puts what comes beside the
messages. Each reply must be the one of the whole chat, rendered by the checkpoint's template and read from its start.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlx_vlm import generate, load
from mlx_vlm.chat import MLXVisionChat
from mlx_vlm.generate import dispatch
from support.pictures import MEDIA
from support.running import python

ROOF, FLOWER, CLIP = str(MEDIA / "roof.png"), str(MEDIA / "flower.png"), str(MEDIA / "pan_short.mp4")
QUESTIONS = ("What is this?", "And why?", "Where?")
TOKENS = 5
SMALL = {"scale_resolution": 112}

Loaded = tuple[Any, Any]
# What a turn shows: a kind of part, and its path.
Shown = tuple[str, str]


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> Loaded:
    return load(str(checkpoint("base")))


def replies(
    loaded: Loaded,
    shown: Sequence[Sequence[Shown]],
    system: str | None = None,
    variables: dict[str, Any] | None = None,
    **options: Any,
) -> list[str]:
    """Replies to `QUESTIONS`, the media of turn i being `shown[i]`, each chat written out and read anew."""
    model, processor = loaded
    history: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    texts: list[str] = []
    for question, media in zip(QUESTIONS, shown, strict=False):
        parts: list[dict[str, Any]] = [{"type": kind} for kind, _ in media]
        content = [*parts, {"type": "text", "text": question}] if parts else question
        prompt = processor.apply_chat_template(
            [*history, {"role": "user", "content": content}],
            add_generation_prompt=True,
            **{"enable_thinking": False, **(variables or {})},
        )
        assert prompt.count("_pad|>") == len(media)
        sources: dict[str, list[str]] = {}
        for kind, path in media:
            sources.setdefault(kind, []).append(path)
        texts.append(generate(model, processor, prompt, max_tokens=TOKENS, temperature=0.0, **sources, **options).text)
        history += [{"role": "user", "content": question}, {"role": "assistant", "content": texts[-1]}]
    assert len(set(texts)) == len(texts)
    return texts


# Flags; what each turn shows; what the same is in Python.
CHATS: dict[str, tuple[tuple[str, ...], list[Shown], dict[str, Any]]] = {
    "text": ((), [], {}),
    "image": (("--image", ROOF, "--processor-kwargs", '{"scale_resolution": 112}'), [("image", ROOF)], SMALL),
    "two images in 4x, system": (
        (
            *("--image", ROOF, FLOWER, "--system", "Be brief.", "--resize-shape", "200"),
            *("--processor-kwargs", '{"downsample_mode": "4x", "scale_resolution": 112}'),
        ),
        [("image", ROOF), ("image", FLOWER)],
        {"system": "Be brief.", "resize_shape": (200, 200), "downsample_mode": "4x", **SMALL},
    ),
    "video": (
        ("--video", CLIP, "--fps", "2", "--processor-kwargs", '{"scale_resolution": 112}'),
        [("video", CLIP)],
        {"fps": 2.0, **SMALL},
    ),
    "image, video, system, thinking": (
        (
            *("--image", ROOF, "--video", CLIP, "--system", "Be brief.", "--enable-thinking"),
            *("--processor-kwargs", '{"scale_resolution": 112, "max_num_frames": 2}'),
        ),
        [("image", ROOF), ("video", CLIP)],
        {"system": "Be brief.", "variables": {"enable_thinking": True}, "max_num_frames": 2, "fps": 1.0, **SMALL},
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_command(name: str, folder: Path, loaded: Loaded, checkpoint: Callable[[str], Path]) -> None:
    """Every turn sees the media once, in its own question; a system prompt and earlier turns have none."""
    flags, shown, options = CHATS[name]
    done = python(
        *("-m", "mlx_vlm.generate", "--model", str(checkpoint("base")), "--chat", *flags),
        *("--max-tokens", str(TOKENS), "--temperature", "0.0"),
        folder=folder,
        typed="\n".join([*QUESTIONS, "", ""]),
    )
    assert done.returncode == 0, done.stderr.decode()
    texts = replies(loaded, [shown] * len(QUESTIONS), **options)
    assert done.stdout.decode() == "".join(f"User:Assistant:{text}\n" for text in texts) + "User:"


@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_vision_cache_of_the_command(
    loaded: Loaded,
    checkpoint: Callable[[str], Path],
    encodings: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: str,
) -> None:
    """The image of a chat is encoded once, and later turns answer as if it had been encoded again."""
    options = {**SMALL, "downsample_mode": mode}
    texts = replies(loaded, [[("image", ROOF)]] * len(QUESTIONS), **options)
    assert len(encodings) == len(QUESTIONS)
    encodings.clear()
    typed = iter([*QUESTIONS, ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    flags = ("--processor-kwargs", f'{{"scale_resolution": 112, "downsample_mode": "{mode}"}}')
    command = ["generate", "--model", str(checkpoint("base")), "--chat", "--image", ROOF, *flags]
    monkeypatch.setattr(sys, "argv", [*command, "--max-tokens", str(TOKENS), "--temperature", "0.0"])
    dispatch.main()
    assert capsys.readouterr().out == "".join(f"Assistant:{text}\n" for text in texts)
    assert len(encodings) == 1


def test_second_turn_adds_an_image(loaded: Loaded, checkpoint: Callable[[str], Path], encodings: list[int]) -> None:
    """`mlx_vlm.chat` keeps a prompt cache; what `/image` loads later is seen in the turn that follows."""
    talk = MLXVisionChat(str(checkpoint("base")), temperature=0.0, max_tokens=TOKENS)
    spoken: list[str] = []
    # Text alone, then an image, then another.
    loads = [None, ROOF, FLOWER]
    for question, path in zip(QUESTIONS, loads, strict=True):
        if path is not None:
            assert talk.handle_command("/image", path)
        talk.add_to_history("user", question)
        spoken.append(talk.generate_response())
        talk.add_to_history("assistant", spoken[-1])
    assert len(encodings) == 2
    assert spoken == replies(loaded, [[], [("image", ROOF)], [("image", FLOWER)]])
    assert talk.handle_command("/clear", "")
    encodings.clear()
    talk.add_to_history("user", QUESTIONS[0])
    assert talk.generate_response() == replies(loaded, [[("image", FLOWER)]])[0]
    assert len(encodings) == 1  # that of `replies`: the chat's own features were there


def test_chat_command(folder: Path, loaded: Loaded, checkpoint: Callable[[str], Path]) -> None:
    """`python -m mlx_vlm.chat`, with an image between two questions."""
    done = python(
        *("-m", "mlx_vlm.chat", "--model", str(checkpoint("base")), "--max-tokens", str(TOKENS)),
        *("--temperature", "0.0", "--no-verbose"),
        folder=folder,
        typed=f"{QUESTIONS[0]}\n/image {ROOF}\n{QUESTIONS[1]}\n/exit\n",
    )
    output = done.stdout.decode()
    assert done.returncode == 0 and "Error" not in output, output + done.stderr.decode()
    first, _, second = output.partition("Loaded image:")
    for part, text in zip((first, second), replies(loaded, [[], [("image", ROOF)]]), strict=True):
        assert all(word in part for word in text.split()), (part, text)
