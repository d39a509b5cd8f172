"""Say which weights the demo can have: `imagenet` if Keras holds or can download them, or `random`.

Prints one word on stdout, and in the second case one line on stderr that says what it means.
"""

import signal
import sys

from stage1_extract.backbones import Embedder, WeightsError
from stage1_extract.keras_setup import load_keras

PATIENCE_SECONDS = 10
RANDOM_NOTICE = (
    "demo: no ImageNet weights (no download within 10 s), so it goes on with seeded random "
    "weights: fine for these simple shapes, useless for real videos. WEIGHTS=FILE names a file."
)


def available_weights() -> str:
    """Return `imagenet` or `random`, after 10 seconds at most."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no answer within {PATIENCE_SECONDS} s")

    load_keras()
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)
    try:
        Embedder("MobileNetV2", weights="imagenet", alpha=0.35, input_size=96)
    except WeightsError:
        return "random"
    finally:
        signal.alarm(0)
    return "imagenet"


def main() -> None:
    """Print the weights' name."""
    weights = available_weights()
    if weights == "random":
        print(RANDOM_NOTICE, file=sys.stderr)
    print(weights)


if __name__ == "__main__":
    main()
