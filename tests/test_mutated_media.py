"""Hundreds of damaged pictures and clips: each is answered or refused by name, within memory and time."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support import mutated_media
from support.pictures import MEDIA

IMAGES, CLIPS = 900, 60  # of each of three clips
SECONDS = 240


def test_mutated_media(checkpoint: Callable[[str], Path]) -> None:
    command = [sys.executable, mutated_media.__file__, str(checkpoint("base")), str(MEDIA), str(IMAGES), str(CLIPS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    answered, refused = map(int, done.stdout.split()[-2:])
    assert answered + refused == IMAGES + 3 * CLIPS
    assert answered > 50 and refused > 50
