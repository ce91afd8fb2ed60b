"""How the tests of the Python calls ask a recorded request: its prompt, its media, its greedy answer."""

from typing import Any

from mlx_vlm import generate
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import prepare_inputs

from support.cases import BY_NAME, Case
from support.pictures import media_of


def rendered(model: Any, processor: Any, case: Case) -> str:
    """The prompt of a case, with counts of its media as mlx-vlm's callers give them."""
    return apply_chat_template(
        processor,
        model.config,
        case.messages,
        num_images=len(case.pictures),
        **({"video": [f"clip {i}" for i, _ in enumerate(case.clips)]} if case.clips else {}),
        **({"enable_thinking": True} if case.enable_thinking else {}),
    )


def media(case: Case) -> dict[str, Any]:
    """Images, videos and options of a case as keywords of `generate`."""
    names = {"images": "image", "videos": "video"}
    media = media_of(case.pictures, case.clips)
    return {**case.options.kwargs(), **{names.get(name, name): value for name, value in media.items()}}


def prepared(processor: Any, prompt: Any, **keywords: Any) -> dict[str, Any]:
    """What mlx-vlm's `prepare_inputs` makes of `generate`'s keywords."""
    names = {"image": "images", "video": "videos"}
    return prepare_inputs(processor, prompts=prompt, **{names.get(k, k): v for k, v in keywords.items()})


def greedy(model: Any, processor: Any, prompt: str, max_tokens: int, **keywords: Any) -> Any:
    return generate(model, processor, prompt, max_tokens=max_tokens, temperature=0.0, **keywords)


def answer(loaded: Any, name: str, **keywords: Any) -> Any:
    """Greedy result of a recorded case; `keywords` win over the case's own."""
    case = BY_NAME[name]
    model, processor = loaded(case.variant)
    prompt = rendered(model, processor, case)
    return greedy(model, processor, prompt, case.new_tokens, **{**media(case), **keywords})
