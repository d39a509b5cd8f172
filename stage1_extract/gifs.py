"""Animated GIF, through Pillow: FFmpeg shows one frame of those that state no delays."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from stage1_extract.sources import FrameIndex, VideoError

_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, IndexError, TypeError, struct.error)
"""What Pillow raises on damaged files; the file is readable by itself, or `open` had failed."""
_SHORTEST_DELAY_MS, _DEFAULT_DELAY_MS = 20, 100
"""Browsers and FFmpeg show frames that state a shorter delay, or none, for a tenth of a second."""


class GifFrames:
    """The frames of a GIF, each as it is seen: drawn over what the ones before left.

    Attributes:
        index: Times from the file's delays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        delays = np.array([_delay_ms(image) for image in _images(path)])
        times = (np.cumsum(delays) - delays) / 1000
        self.index = FrameIndex(times, len(times), float(1000 / delays.mean()))

    def frames(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield the (H, W, 3) uint8 BGR frames of the rising numbers; see-through parts are black.

        Raises:
            VideoError: The file is damaged.
        """
        wanted = set(numbers.tolist())
        for number, image in enumerate(_images(self._path)):
            if number in wanted:
                yield _over_black(image)


@contextmanager
def open_gif(path: Path) -> Iterator[GifFrames]:
    """Open a GIF.

    Raises:
        VideoError: It is cut short or damaged.
        OSError: It cannot be read.
    """
    if _lacks_end(path):
        raise VideoError(f"{path} is a GIF without its end: it is cut short; repair it")
    yield GifFrames(path)


def _images(path: Path) -> Iterator[ImageFile.ImageFile]:
    with path.open("rb") as file:
        number = 0
        try:
            with Image.open(file, formats=["GIF"]) as image:
                while True:
                    image.load()
                    yield image
                    number += 1
                    try:
                        image.seek(number)
                    except EOFError:  # there are no more
                        return
        except (*_DAMAGE, Image.DecompressionBombError) as error:
            raise VideoError(f"{path}: frame {number} of the GIF is damaged: {error}") from error


def _delay_ms(image: ImageFile.ImageFile) -> float:
    delay = float(image.info.get("duration", 0))
    return delay if delay >= _SHORTEST_DELAY_MS else _DEFAULT_DELAY_MS


def _over_black(image: ImageFile.ImageFile) -> NDArray[np.uint8]:
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    seen = Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return np.asarray(cv2.cvtColor(np.asarray(seen), cv2.COLOR_RGB2BGR), np.uint8)


def _lacks_end(path: Path) -> bool:
    """Return whether the last byte, which ends every GIF, is missing; padding may follow it."""
    with path.open("rb") as file:
        file.seek(-min(1024, path.stat().st_size), os.SEEK_END)
        content_end = file.read()
    return not content_end.rstrip(b"\0").endswith(b";")
