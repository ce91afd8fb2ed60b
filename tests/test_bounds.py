"""What a request costs is known before it is decoded, for any size, and what a server sends is bounded too."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.pictures import MEDIA
from support.refusals import IMAGE, VIDEO, refuse

from minicpmv46.decoding import ImageSource
from minicpmv46.media import OpenMedia
from minicpmv46.options import Options
from minicpmv46.processing import Processor
from minicpmv46.slicing import plan_slices

SIDE = st.integers(1, 200_000)


@given(
    height=SIDE,
    width=SIDE,
    mode=st.sampled_from(["4x", "16x"]),
    slices=st.integers(1, 1024),
    side=st.integers(1, 1792),
    sliced=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_cost_of_any_size(height: int, width: int, mode: str, slices: int, side: int, sliced: bool) -> None:
    """Refused by a limit, or no less than what the picture becomes, upright or turned by EXIF."""
    given_options: Any = {
        "downsample_mode": mode,
        "max_slice_nums": slices,
        "scale_resolution": side,
        "slice_mode": sliced,
    }
    options = Options().updated(**given_options)
    source = ImageSource("image 0", Path("a.png"), (height, width), "'a.png'")
    try:
        [cost], _ = OpenMedia([source], [], options).costs()
    except ValueError as error:
        assert "limit" in str(error) and len(str(error)) < 300
        return
    for size in ((height, width), (width, height)):
        plan = plan_slices(*size, options.images.slicing)
        assert sum(plan.token_counts) <= cost.tokens
        assert sum(rows * cols for rows, cols in plan.patch_grids) <= cost.patches
    assert cost.patches <= options.limits.patches and height * width <= options.limits.pixels


class Site(BaseHTTPRequestHandler):
    """Answers that never end, lead elsewhere, or list other addresses."""

    asked: list[str] = []  # noqa: RUF012  of the whole test

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/endless"):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(1 << 16))
            except OSError:
                return
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", f"file://{(MEDIA / 'roof.png').absolute()}")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"#EXTM3U\n#EXTINF:1,\nhttp://{self.headers['Host']}/listed.mp4\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("path", ["endless.png", "elsewhere.mp4", "list.mp4"])
def test_what_a_server_sends(
    processor: Callable[[str], Processor], site: str, kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a bound, no other scheme that it leads to, and nothing that it lists."""
    monkeypatch.setattr("minicpmv46.sources.DOWNLOAD_BYTES", 1 << 20)
    media: Any = {"images": [f"{site}/{path}"]} if kind == "image" else {"videos": [f"{site}/{path}"]}
    message = refuse(lambda: processor("base")(IMAGE if kind == "image" else VIDEO, **media), f"{kind} 0", path)
    assert "1,048,576 bytes" in message or path != "endless.png"
    assert "/listed.mp4" not in Site.asked


def test_threads_with_shared_images_and_other_options(processor: Callable[[str], Processor]) -> None:
    """Sixteen threads, each with options of its own, and objects that none of them has loaded."""
    ours = processor("base")
    options: list[dict[str, Any]] = [
        {"downsample_mode": mode, "max_slice_nums": slices, "use_image_id": ids}
        for mode in ("4x", "16x")
        for slices in (1, 2, 4, 9)
        for ids in (True, False)
    ]
    paths = [MEDIA / name for name in ("roof.png", "flower.png")]
    expected = [ours(IMAGE * 2, images=list(map(str, paths)), **own) for own in options]
    wrong: list[str] = []

    def work(i: int, images: list[Image.Image], barrier: threading.Barrier) -> None:
        barrier.wait()
        try:
            made = ours(IMAGE * 2, images=images, **options[i])
            if not all(np.array_equal(made[name], expected[i][name]) for name in expected[i]):
                wrong.append(f"{options[i]} differs")
        except Exception as error:
            wrong.append(f"{options[i]}: {error!r}")

    for _ in range(3):
        images, barrier = [Image.open(path) for path in paths], threading.Barrier(len(options))
        threads = [threading.Thread(target=work, args=(i, images, barrier)) for i in range(len(options))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_server_that_is_not_there(processor: Callable[[str], Processor], kind: str) -> None:
    """In a sentence of ours: that of the library repeats the URL and shows addresses of objects."""
    media: Any = {f"{kind}s": ["http://127.0.0.1:1/a.png"]}
    message = refuse(lambda: processor("base")(IMAGE if kind == "image" else VIDEO, **media), "cannot be reached")
    assert "Connection" not in message
