"""One table of source forms for images and videos, and what of them is never read."""

import base64
import io
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm import generate, load
from mlx_vlm.utils import prepare_inputs
from PIL import Image
from support.pictures import MEDIA
from support.refusals import IMAGE, VIDEO, refuse

from minicpmv46.processing import Processor

PICTURE, CLIP = MEDIA / "roof.png", MEDIA / "pan_short.mp4"
SMALL: Any = {"max_slice_nums": 1, "max_num_frames": 2}


@pytest.fixture(scope="module")
def ours(processor: Callable[[str], Processor]) -> Processor:
    return processor("base")


def made(ours: Processor, kind: str, source: Any) -> np.ndarray:
    media = {"images": [source]} if kind == "image" else {"videos": [source]}
    pixels: np.ndarray = ours(IMAGE if kind == "image" else VIDEO, **media, **SMALL)["pixel_values"]
    return pixels


FORMS: dict[str, Callable[[Path], Any]] = {
    "path": str,
    "Path": lambda path: path,
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "file:": lambda path: path.absolute().as_uri(),
    "file: localhost": lambda path: f"file://localhost{quote(str(path.absolute()))}",
    "file: unquoted": lambda path: f"file://{path.absolute()}",
    "data:": lambda path: f"data:{'image/png' if path.suffix == '.png' else 'video/mp4'};base64,{encoded(path)}",
}


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "path"), [("image", PICTURE), ("video", CLIP)], ids=["image", "video"])
def test_forms(ours: Processor, form: str, kind: str, path: Path, tmp_path: Path) -> None:
    """Every form of both kinds gives the same pixels; also with spaces, % and # in the name."""
    expected = made(ours, kind, str(path))
    for name in (path.name, f"a b 50%20 #1{path.suffix}", f"ä+&=?{path.suffix}"):
        copy = tmp_path / name
        copy.write_bytes(path.read_bytes())
        np.testing.assert_array_equal(made(ours, kind, FORMS[form](copy)), expected)


def test_messages_with_base64(ours: Processor) -> None:
    for kind, path in (("image", PICTURE), ("video", CLIP)):
        message = {"role": "user", "content": [{"type": kind, "base64": encoded(path)}, {"type": "text", "text": "?"}]}
        inputs = ours.apply_chat_template([message], tokenize=True, return_dict=True, processor_kwargs=SMALL)
        np.testing.assert_array_equal(inputs["pixel_values"], made(ours, kind, path))


def test_files_of_frames_are_one_video(ours: Processor, tmp_path: Path) -> None:
    """In a list, as Path or as text, in a call and in a message."""
    frames = np.random.RandomState(3).randint(0, 256, (3, 40, 60, 3)).astype(np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, frame in zip(files, frames, strict=True):
        Image.fromarray(frame).save(file)
    expected = ours(VIDEO, videos=[frames])["pixel_values"]
    for videos in ([files], [list(map(str, files))], files, list(map(str, files))):
        np.testing.assert_array_equal(ours(VIDEO, videos=videos)["pixel_values"], expected)
        inputs = prepare_inputs(ours, prompts=VIDEO, videos=videos)
        np.testing.assert_array_equal(np.array(inputs["pixel_values"])[:, :588], expected)
    message = {"role": "user", "content": [{"type": "video", "path": list(map(str, files))}]}
    inputs = ours.apply_chat_template([message], tokenize=True, return_dict=True)
    np.testing.assert_array_equal(inputs["pixel_values"], expected)


@pytest.mark.parametrize(("kind", "ending"), [("image", "png"), ("video", "mp4")])
def test_other_schemes_are_refused(ours: Processor, kind: str, ending: str) -> None:
    """Before anything listens, connects or reads: FFmpeg knows dozens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for scheme in ("tcp", "udp", "rtp", "rtsp", "ftp", "gopher", "unix", "TCP", "ffrtmphttp"):
        refuse(
            lambda s=scheme: made(ours, kind, f"{s}://127.0.0.1:{port}/a.{ending}?listen"), f"{kind} 0", scheme.lower()
        )
    for source in (
        f"cache:file://{PICTURE}",
        f"concat:{CLIP}|{CLIP}",
        f"subfile,,start,0,end,0,,:{CLIP}",
        f"crypto:{CLIP}",
        f"file://other.host{CLIP}",
        f"pipe:0#{ending}",
    ):
        refuse(lambda source=source: made(ours, kind, source), f"{kind} 0")


@pytest.mark.parametrize("ending", ["mp4", "m3u8", "avi", "txt"])
def test_playlists_are_no_videos(ours: Processor, ending: str, tmp_path: Path) -> None:
    """Whatever their name is: FFmpeg reads and fetches what they list."""
    texts = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{CLIP.absolute()}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{CLIP.absolute()}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.{ending}"
        path.write_text(text)
        for source in (str(path), io.BytesIO(text.encode()), f"data:video/mp4;base64,{encoded(path)}"):
            refuse(lambda source=source: made(ours, "video", source), "video 0", "first bytes")


@pytest.mark.parametrize("kind", ["image", "video"])
def test_pipes_and_devices_are_not_read(ours: Processor, kind: str, tmp_path: Path) -> None:
    """Reading a pipe would wait for ever, a device would never end."""
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for source in (str(pipe), pipe, "/dev/zero", Path("/dev/zero"), pipe.as_uri()):
        refuse(lambda source=source: made(ours, kind, source), f"{kind} 0", "pipe or a device")


@pytest.mark.parametrize("kind", ["image", "video"])
def test_errors_are_short(ours: Processor, kind: str) -> None:
    """However long the source is; `refuse` bounds the text."""
    long = "a" * 300_000
    for source in (
        long,
        f"/{long}",
        f"http://127.0.0.1:1/{long}",
        f"data:{kind}/png;base64,{long}",
        f"x{long}://a",
        Path(long),
    ):
        message = refuse(lambda source=source: made(ours, kind, source), f"{kind} 0")
        assert "0x" not in message, message


# What one object gives to several readers


def unloaded(kind: str) -> Image.Image:
    picture = Image.open(PICTURE).convert("P" if kind in ("GIF", "PNG") else "RGB").resize((300, 200))
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    buffer.seek(0)
    return Image.open(buffer)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "GIF"])
def test_one_unloaded_image_many_times(ours: Processor, kind: str) -> None:
    """In one call and in many at once, each as alone; the caller's object stays what it is."""
    expected = ours(IMAGE, images=[unloaded(kind)])["pixel_values"]
    for _ in range(4):
        image = unloaded(kind)
        mode, size, info = image.mode, image.size, dict(image.info)
        twice = ours(IMAGE * 3, images=[image] * 3)["pixel_values"]
        np.testing.assert_array_equal(twice, np.concatenate([expected] * 3))
        assert (image.mode, image.size) == (mode, size) and info.items() <= image.info.items()
    wrong: list[str] = []

    def reader(image: Image.Image, barrier: threading.Barrier) -> None:
        barrier.wait()
        try:
            if not np.array_equal(ours(IMAGE, images=[image])["pixel_values"], expected):
                wrong.append("other pixels")
        except Exception as error:
            wrong.append(repr(error))

    for _ in range(5):
        image, barrier = unloaded(kind), threading.Barrier(8)
        threads = [threading.Thread(target=reader, args=(image, barrier)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]


def test_errors_of_decoders_name_the_image(ours: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged AVIF raises RuntimeError, a large image MemoryError, which stays the server's fault."""
    for error, kind in ((RuntimeError("bad"), ValueError), (MemoryError(), MemoryError), (EOFError(), ValueError)):

        def load(self: Any, error: BaseException = error) -> Any:
            raise error

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
        refuse(lambda: ours(IMAGE, images=[str(PICTURE)]), "image 0", kind=kind)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_one_array_in_generate(checkpoint: Callable[[str], Path], kind: str) -> None:
    """As `image=` and `video=`, where mlx-vlm asks whether it is true."""
    loaded = load(str(checkpoint("base")))
    array = (
        np.random.RandomState(1).randint(0, 256, (30, 40, 3) if kind == "image" else (3, 30, 40, 3)).astype(np.uint8)
    )
    prompt = f"{IMAGE if kind == 'image' else VIDEO} ?"
    answers = [
        generate(*loaded, prompt, max_tokens=3, temperature=0.0, **{kind: media}).token_ids
        for media in (array, [array], mx.array(array))
    ]
    assert answers[0] == answers[1] == answers[2]
