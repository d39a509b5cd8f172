"""Settings of `stage2-temporal export`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

FORMATS = ("onnx", "savedmodel")
PARTS = ("both", "head", "backbone")


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """What is exported, and as what."""

    CHOICES: ClassVar = {"format": FORMATS, "part": PARTS}
    format: str = "onnx"
    """onnx (a file), or savedmodel (a folder for TensorFlow)."""
    part: str = "both"
    """both (frames in, predictions out), head (embeddings in, predictions out), or backbone (frames
    in, embeddings out)."""
    weights: Path | None = None
    """The backbone's weights file, if it is not where it was when the store was made."""
    overwrite: bool = False
    """Replace the file or folder if it exists."""

    def __post_init__(self) -> None:
        for name, choices in (("format", FORMATS), ("part", PARTS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
        if self.part == "head" and self.weights is not None:
            raise ValueError(
                f"weights {self.weights} were given, but part head has no backbone; leave them out"
            )
