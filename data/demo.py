"""Make the demo data: clips in which only the motion of a ball with a digit carries the label.

The size of the ball, which has a handwritten digit on it, follows a periodic course. Every clip
shows whole cycles, so all classes and all speeds show the same sizes equally often: neither one
frame nor the average over frames tells them apart, only the order of the frames does. (Size, since
global average pooling keeps how large an object is and loses where it is.)

Run it as ``python data/demo.py OUT_FOLDER [--num-clips 320] [--seed 0]``.
"""

import argparse
import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from stage1_extract.quiet import silenced_stderr

FRAME_SIZE = 96  # pixels, width and height
FPS = 12.0
NUM_FRAMES_RANGE = (20, 28)
BALL_SIZE_RANGE = (12.0, 88.0)  # pixels
MAX_OFFSET = 0.5  # pixels from the centre
BLUR = 2.0  # pixels
CLIPS_PER_IMAGE = 4
CLASS_SHARES = {"approach": 0.60, "recede": 0.28, "pulse": 0.12}
CYCLES_SHARES = {1: 0.45, 2: 0.30, 3: 0.15, 4: 0.10}  # at most 4 in 20 frames: 2.4 Hz, Nyquist is 6

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A row of the manifest; ``speed`` is in cycles per second, ``digit_image`` names the group."""

    path: str
    motion: str
    speed: float
    digit_image: int
    digit: int
    num_frames: int


def write_demo(folder: Path, *, num_clips: int = 320, seed: int = 0) -> Path:
    """Write ``folder/videos/*.mp4`` and, after the last of them, ``folder/manifest.csv``.

    The manifest marks a finished folder: where it says already what it should and all its videos
    are there, nothing is written.

    Args:
        folder: made if it is missing.
        num_clips: four clips share one digit image.
        seed: the same seed gives the same frames and the same manifest.

    Returns:
        The path of the manifest.

    Raises:
        ValueError: if ``num_clips`` is not positive, or needs more digit images than there are.
        OSError: if a video cannot be written.
    """
    clips = plan_clips(num_clips, seed=seed)
    manifest, text = folder / "manifest.csv", manifest_text(clips)
    if _is_finished(manifest, text, clips):
        return manifest
    manifest.unlink(missing_ok=True)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    images = load_digits().images
    for index, clip in enumerate(clips):
        frames = render_clip(
            clip, images[clip.digit_image], np.random.default_rng([seed, 1, index])
        )
        write_video(folder / clip.path, frames)
    partial = manifest.with_name("manifest.csv.partial")
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(manifest)
    return manifest


def plan_clips(num_clips: int, *, seed: int) -> list[Clip]:
    """Draw motion, speed and digit of every clip; each image is used with different motions."""
    digits = load_digits().target
    num_images = -(-num_clips // CLIPS_PER_IMAGE)
    if not 1 <= num_images <= len(digits):
        limit = CLIPS_PER_IMAGE * len(digits)
        raise ValueError(f"num_clips must be between 1 and {limit}, got {num_clips}")
    rng = np.random.default_rng([seed, 0])
    images = rng.permutation(len(digits))[:num_images]
    num_frames = rng.integers(*NUM_FRAMES_RANGE, size=num_clips, endpoint=True)
    cycles = rng.choice(list(CYCLES_SHARES), p=list(CYCLES_SHARES.values()), size=num_clips)
    # Motions lie in blocks here and images are dealt in turn, so no image keeps to one motion.
    motions = np.repeat(list(CLASS_SHARES), class_counts(num_clips))
    order = rng.permutation(num_clips)
    return [
        Clip(
            path=f"videos/clip_{index:04d}.mp4",
            motion=str(motions[dealt]),
            speed=round(float(cycles[index] * FPS / num_frames[index]), 6),
            digit_image=int(images[dealt % num_images]),
            digit=int(digits[images[dealt % num_images]]),
            num_frames=int(num_frames[index]),
        )
        for index, dealt in enumerate(order)
    ]


def class_counts(num_clips: int) -> list[int]:
    """Clips of each class in ``CLASS_SHARES``; they sum to ``num_clips``."""
    bounds = np.round(np.cumsum(list(CLASS_SHARES.values())) * num_clips).astype(int)
    return [int(count) for count in np.diff(bounds, prepend=0)]


def manifest_text(clips: list[Clip]) -> str:
    """The manifest as CSV; paths are relative to it."""
    columns = ["path", "motion", "speed", "digit_image", "digit"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(clip) for clip in clips)
    return buffer.getvalue()


def size_course(motion: str, phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative size in [0, 1] at each phase (in cycles); uniform over a whole cycle.

    Raises:
        ValueError: if ``motion`` is none of ``CLASS_SHARES``.
    """
    position = phase % 1.0
    courses = {"approach": position, "recede": 1 - position, "pulse": 1 - np.abs(2 * position - 1)}
    if motion not in courses:
        raise ValueError(f"motion must be one of {sorted(courses)}, got {motion!r}")
    return courses[motion]


def render_clip(clip: Clip, image: NDArray[np.float64], rng: np.random.Generator) -> list[Image]:
    """Draw the frames of one clip, each (96, 96, 3) uint8 BGR.

    Args:
        clip: motion, speed and length.
        image: (8, 8) ink of the digit, 0 to 16.
        rng: gives phase, place and background, constant within the clip.
    """
    phase = rng.random() + np.arange(clip.num_frames, dtype=np.float64) * clip.speed / FPS
    low, high = BALL_SIZE_RANGE
    sizes = low + (high - low) * size_course(clip.motion, phase)
    centre = FRAME_SIZE / 2 + rng.uniform(-MAX_OFFSET, MAX_OFFSET, size=2)
    background = _noise_texture(rng)
    ball = 220 * (1 - 0.3 * np.pad(image, 2) / 16)
    return [_draw_ball(background, ball, size, centre) for size in sizes]


def _noise_texture(rng: np.random.Generator) -> NDArray[np.float64]:
    noise = cv2.GaussianBlur(rng.normal(size=(FRAME_SIZE, FRAME_SIZE)), (0, 0), 2.0)
    return np.asarray(40 + noise / noise.std(), dtype=np.float64)


def _draw_ball(
    background: NDArray[np.float64],
    ball: NDArray[np.float64],
    size: float,
    centre: NDArray[np.float64],
) -> Image:
    """A slightly blurred disc of a diameter of ``size``; subpixel, so that growing is smooth."""
    scale = size / len(ball)
    shift = centre - size / 2 + (scale - 1) / 2
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    face = cv2.warpAffine(ball, matrix, background.shape, borderMode=cv2.BORDER_REPLICATE)
    rows, columns = np.indices(background.shape)
    cover = size / 2 - np.hypot(columns - centre[0], rows - centre[1]) + 0.5
    gray = background + cover.clip(0, 1) * (face - background)
    gray = np.rint(cv2.GaussianBlur(gray, (0, 0), BLUR)).clip(0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def write_video(path: Path, frames: list[Image]) -> None:
    """Encode frames as Motion JPEG in an MP4 file at ``FPS``, under a temporary name first.

    A codec that predicts frames from earlier ones, such as MPEG-4, would give the label away: what
    is left of the last frame shows, in a single frame, where the motion came from.

    Raises:
        OSError: if the place cannot be written.
    """
    partial = path.with_name(f"{path.stem}.partial.mp4")
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    frame_size = (FRAME_SIZE, FRAME_SIZE)
    with silenced_stderr():  # OpenCV remarks that it has to choose the stream's tag itself
        writer = cv2.VideoWriter(str(partial), cv2.CAP_FFMPEG, fourcc, FPS, frame_size)
    if not writer.isOpened():
        raise OSError(f"OpenCV could not write a Motion JPEG video to {partial}")
    for frame in frames:
        writer.write(frame)
    writer.release()
    partial.replace(path)


def _is_finished(manifest: Path, text: str, clips: list[Clip]) -> bool:
    if not manifest.is_file() or manifest.read_text(encoding="utf-8") != text:
        return False
    return all((manifest.parent / clip.path).is_file() for clip in clips)


def main() -> None:
    """Read the command line and write the demo."""
    parser = argparse.ArgumentParser(description="Make the demo videos and their manifest.")
    parser.add_argument("folder", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--num-clips", type=int, default=320, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    manifest = write_demo(arguments.folder, num_clips=arguments.num_clips, seed=arguments.seed)
    print(manifest)


if __name__ == "__main__":
    main()
