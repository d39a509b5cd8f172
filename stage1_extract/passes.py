"""One pass over the wanted frames of a video, and what it showed of the file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.pyav import has_pyav
from stage1_extract.seeking import sought
from stage1_extract.sources import Beat, FrameIndex
from stage1_extract.videos import ConversionError, open_video


class VideoPass:
    """Yields the wanted frames of a video whenever it is called; afterwards knows what came.

    Args:
        path: The video.
        index: What the scan of its packets promised.
        wanted: (T,) rising frame numbers.
        seeks: Whether to seek instead of decoding from the start.
        to_the_end: Whether to decode beyond the last wanted frame, to learn how many there are.
        beat: Called often while it works.
        with_pyav: Whether to read with PyAV instead of OpenCV.
    """

    def __init__(
        self,
        path: Path,
        index: FrameIndex,
        wanted: NDArray[np.int64],
        *,
        seeks: bool,
        to_the_end: bool,
        beat: Beat,
        with_pyav: bool = False,
    ) -> None:
        self.size = 0, 0
        self._path = path
        self._index = index
        self._wanted = wanted
        self._seeks = seeks
        self._to_the_end = to_the_end
        self._with_pyav = with_pyav
        self._beat = beat
        self._decoded_times: NDArray[np.float64] = np.empty(0)

    def __call__(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame number, (H, W, 3) uint8 BGR frame); may end early, as the video may.

        Raises:
            VideoError: The video cannot be opened.
            ConversionError: OpenCV cannot convert a frame; or it decodes none, and PyAV may.
            SeekError: Seeking was asked for and cannot be trusted.
        """
        with open_video(self._path, self._beat, with_pyav=self._with_pyav) as video:
            if self._seeks:
                yield from sought(video, self._index, self._wanted)
            else:
                yield from video.wanted(self._wanted, to_the_end=self._to_the_end)
            self._decoded_times = np.array(video.decoded_times)
            self.size = video.width, video.height
        if not (len(self._decoded_times) or self._with_pyav) and has_pyav():
            raise ConversionError("OpenCV decodes no frame of the video")

    @property
    def wrong_frames(self) -> bool:
        """Whether a pass that stopped at the last wanted frame met other frames than promised."""
        return self._stopped and self._index.contradicted_by(self._decoded_times)

    def found_index(self) -> FrameIndex:
        """Return the index, corrected where the pass showed that it was wrong."""
        complete = len(self._decoded_times) == self._index.num_frames
        if self._seeks or self._stopped or complete:
            return self._index
        return self._index.corrected(self._decoded_times)

    @property
    def _stopped(self) -> bool:
        """Whether the pass ended at the last wanted frame, and there were frames beyond."""
        count = len(self._decoded_times)
        wanted_all = count > self._wanted[-1]
        on_purpose = not self._seeks and not self._to_the_end and wanted_all
        return bool(on_purpose and count != self._index.num_frames)
