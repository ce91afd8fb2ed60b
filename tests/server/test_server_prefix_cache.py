"""Short chats on a server with the prefix cache switched on and nothing else: later turns read only what is new."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.endpoints import TOP
from support.pictures import Picture
from support.serving import CHAT, Request, Server, running_server

ROOF = Picture("roof.png")
SMALL = {"scale_resolution": 112}
QUESTION = "Describe the picture, its parts and its colours, in one sentence or two."
TURNS = (
    ("user", (QUESTION,)),
    ("assistant", ("A roof under a sky.",)),
    ("user", ("And what else is there?",)),
    ("assistant", ("A tree.",)),
    ("user", ("Where?",)),
)
SYSTEM = ("system", ("You are a guide.",))
SEEN = (("user", (ROOF, QUESTION)), *TURNS[1:])
CHATS: dict[str, Request] = {
    "text": Request(TURNS),
    "thinking": Request(TURNS, thinking=True),
    "system prompt": Request((SYSTEM, *TURNS)),
    "image in the first turn": Request(SEEN, options=SMALL),
    "image, 4x, thinking": Request(SEEN, options={**SMALL, "downsample_mode": "4x"}, thinking=True),
}


@pytest.fixture(scope="module")
def caching(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as `APC_ENABLED=1` starts it; only its folder on disk is not the user's."""
    home = tmp_path_factory.mktemp("caching")
    flags = ("--top-logprobs-k", str(TOP))
    with running_server(home, folder, *flags, APC_ENABLED="1", MLX_VLM_CACHE_HOME=str(home / "kept")) as server:
        yield server


def stats(server: Server) -> tuple[int, int]:
    """mlx-vlm's own counts: requests that found something, tokens that they did not read."""
    counts = server.get("/v1/cache/stats")
    assert counts["enabled"]
    return counts["exact_hits"], counts["restored_tokens"]


def first_turns(chat: Request, users: int) -> Request:
    """The chat up to its user turn of that number."""
    ends = [i for i, (role, _) in enumerate(chat.turns) if role == "user"]
    return replace(chat, turns=chat.turns[: ends[users - 1] + 1])


def answer(server: Server, request: Request, tenant: str) -> dict[str, Any]:
    """The chat completion for a request of one of the server's tenants."""
    fields = {"model": server.model, "temperature": 0, "logprobs": True, **request.body}
    with server.open(CHAT, fields, **{"X-APC-Tenant": tenant}) as response:
        body: dict[str, Any] = json.load(response)
        return body


def checked(body: dict[str, Any], loaded: tuple[Any, Any], request: Request) -> tuple[int, int]:
    """Tokens of the prompt that were not read, and up to its last turn; the answer must be as without a cache."""
    request.answer(loaded).check(body, str(request))
    opening = "\n<|im_start|>assistant\n<think>\n" + ("" if request.thinking else "\n</think>\n\n")
    opening_tokens = len(loaded[1].tokenizer.encode(opening, add_special_tokens=False))
    usage = body["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"] - opening_tokens


def ask(server: Server, loaded: tuple[Any, Any], request: Request, tenant: str) -> tuple[int, int]:
    """The same for a request that runs alone, so that mlx-vlm's counts must say the same."""
    hits, restored = stats(server)
    cached, end = checked(answer(server, request, tenant), loaded, request)
    now = stats(server)
    assert (now[0] - hits, now[1] - restored) == (int(cached > 0), cached)
    return cached, end


@pytest.mark.parametrize("name", CHATS)
def test_later_turns(caching: Server, loaded: tuple[Any, Any], name: str) -> None:
    """Each turn of a short chat continues where the user's last words ended, in whatever way it is asked."""
    known = 0
    for users in (1, 2, 3):
        cached, end = ask(caching, loaded, first_turns(CHATS[name], users), name)
        assert cached == known
        known = end
    repeated, end = ask(caching, loaded, CHATS[name], name)
    assert repeated == end
    other = replace(CHATS[name], thinking=not CHATS[name].thinking)
    assert ask(caching, loaded, other, name)[0] == end


@pytest.mark.parametrize("name", CHATS)
def test_other_words_and_other_tenants(caching: Server, loaded: tuple[Any, Any], name: str) -> None:
    """A chat whose history was changed continues before the change; another tenant's chat is read whole."""
    chat, tenant = CHATS[name], f"{name}, changed"
    _, first = ask(caching, loaded, first_turns(chat, 1), tenant)
    ask(caching, loaded, first_turns(chat, 2), tenant)
    for place, words in ((-4, "A house."), (-3, "Is there a tree?")):
        changed = list(chat.turns)
        changed[place] = (changed[place][0], (words,))
        assert ask(caching, loaded, replace(chat, turns=tuple(changed)), tenant)[0] == first
    assert ask(caching, loaded, chat, f"{name}, another")[0] == 0


def test_chats_at_the_same_time(caching: Server, loaded: tuple[Any, Any]) -> None:
    """Chats of several users run in one batch, and each continues its own."""
    ends = dict.fromkeys(CHATS, 0)
    with ThreadPoolExecutor(len(CHATS)) as threads:
        for users in (1, 2, 3):
            requests = {name: first_turns(chat, users) for name, chat in CHATS.items()}
            waiting = {name: threads.submit(answer, caching, r, f"{name}, together") for name, r in requests.items()}
            for name, future in waiting.items():
                cached, end = checked(future.result(), loaded, requests[name])
                assert cached == ends[name], name
                ends[name] = end
