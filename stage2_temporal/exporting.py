"""A trained run as one file, or folder, that other programs compute without this package."""

import dataclasses
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stage1_extract.backbones import Embedder
from stage1_extract.keras_setup import chosen_backend
from stage1_extract.local import load_embedder
from stage2_temporal.bundle import Bundle, Member, extract_settings
from stage2_temporal.export_check import Difference, Function, check_close, compare
from stage2_temporal.export_metadata import describe, name_outputs
from stage2_temporal.export_settings import ExportSettings
from stage2_temporal.joined_model import JoinedModel, computes_in, inference_copy
from stage2_temporal.onnx_export import check_onnx, read_onnx, write_onnx
from stage2_temporal.run_facts import RunFacts
from stage2_temporal.run_folder import replace_folder
from stage2_temporal.saved_model_export import read_saved_model, write_saved_model

_FRAMES_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What was exported.

    Attributes:
        path: The file, or the SavedModel's folder.
        num_models: Models whose mean it predicts.
        inputs: Names and shapes of the inputs; None stands for any length.
        differences: By output, how far it is from Keras on clips made by chance.
        notices: Remarks worth reading.
    """

    path: Path
    num_models: int
    inputs: dict[str, tuple[int | None, ...]]
    differences: dict[str, Difference]
    notices: tuple[str, ...]

    @property
    def max_difference(self) -> float:
        """The greatest of the differences, each in its output's units."""
        return max(difference.found for difference in self.differences.values())


@dataclasses.dataclass(frozen=True)
class _Format:
    """How a format is written and read, and by what."""

    write: Callable[[JoinedModel, Path, str], None]
    read: Callable[[Path], Function]
    reader: str


_FORMATS = {
    "onnx": _Format(write_onnx, read_onnx, "ONNX Runtime"),
    "savedmodel": _Format(write_saved_model, read_saved_model, "TensorFlow"),
}


def export(
    run: Path | str, out: Path | str, settings: ExportSettings | None = None
) -> ExportResult:
    """Write the models of a run as one, and compare what was written with Keras.

    Args:
        run: Run folder.
        out: File, or folder of a SavedModel, to make.
        settings: Which part, and as what; None for the defaults.

    Returns:
        Where it is, and how far from Keras it computes.

    Raises:
        FileNotFoundError: The run, or the backbone's weights file, is not there.
        FileExistsError: `out` exists and may not be replaced.
        WeightsError: The backbone's weights cannot be had, or are others than the store's.
        ExportError: What was written does not compute what Keras does; it is removed.
        ValueError: A run that is damaged, Keras on another backend, or a missing package.
    """
    settings, path = settings or ExportSettings(), Path(out)
    _check_possible(path, settings)
    # Keras on a GPU is compared with others: TF32 would be less precise than they are.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    facts = RunFacts.read(run)
    embedder = None if settings.part == "head" else _load_backbone(facts, settings.weights)
    bundle = Bundle.open(facts)
    plain = _in_float32(bundle)
    lower = computes_in(bundle.models) - {"float32"}
    joined = _join(plain, embedder, settings.part)
    written = _FORMATS[settings.format]
    with _new_path(path, overwrite=settings.overwrite) as partial:
        written.write(joined, partial, describe(bundle, joined, settings.part))
        reference = plain if lower else bundle
        differences = compare(written.read(partial), joined, reference, embedder)
        check_close(differences, f"{path}, as {written.reader} reads it,")
    return ExportResult(
        path=path,
        num_models=len(joined.models),
        inputs={name: tuple(spec.shape) for name, spec in joined.inputs.items()},
        differences=differences,
        notices=tuple(_notices(facts, settings.part, lower)),
    )


def _check_possible(path: Path, settings: ExportSettings) -> None:
    """Refuse what cannot work, before anything is loaded."""
    backend = chosen_backend()
    if backend != "tensorflow":
        raise ValueError(
            f"export takes the model from Keras on TensorFlow, but Keras runs on {backend}; set "
            "KERAS_BACKEND=tensorflow (models trained on any backend can be exported there)"
        )
    if (settings.format == "onnx") != (path.suffix == ".onnx"):
        raise ValueError(
            f"{path} was asked for as {settings.format}; a file with --format onnx ends in .onnx, "
            "and a folder with --format savedmodel does not"
        )
    if settings.format == "onnx":
        check_onnx()
    _check_free(path, settings.overwrite)


def _load_backbone(facts: RunFacts, weights: Path | None) -> Embedder:
    """Return the backbone that made the store, in float32 on TensorFlow.

    Raises:
        WeightsError: Its weights cannot be had, or are others.
    """
    stored = extract_settings(facts, weights)
    embedder = load_embedder(
        dataclasses.replace(
            stored,
            engine="keras",
            backend="tensorflow",
            precision="float32",
            batch_size=_FRAMES_AT_ONCE,
        )
    )
    facts.check_weights(embedder.weights_sha256, stored.weights)
    return embedder


def _in_float32(bundle: Bundle) -> Bundle:
    members = [Member(inference_copy(m.model), m.scaler) for m in bundle.members]
    return dataclasses.replace(bundle, members=tuple(members))


def _join(bundle: Bundle, embedder: Embedder | None, part: str) -> JoinedModel:
    facts = bundle.facts
    members = () if part == "backbone" else bundle.members
    return JoinedModel(
        models=[member.model for member in members],
        scalers=[member.scaler for member in members],
        outputs=name_outputs(facts.targets, len(members)) if members else [],
        embedding_dim=facts.embedding_dim,
        dtype=facts.dtype,
        backbone=None if embedder is None else embedder.model,
    )


def _notices(facts: RunFacts, part: str, lower: set[str]) -> Iterator[str]:
    stored = facts.store_settings
    if lower and part != "backbone":
        yield f"trained in {', '.join(lower)}; the export computes in float32"
    if part != "head" and (stored["engine"], stored["precision"]) != (
        "keras-tensorflow",
        "float32",
    ):
        yield (
            f"the store was made by {stored['engine']} in {stored['precision']}; the export "
            "computes what Keras on TensorFlow does in float32"
        )


@contextmanager
def _new_path(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a hidden path that takes the name once the block ends well, and is removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        _check_free(path, overwrite)
        if path.is_dir():
            replace_folder(partial, path)
        else:
            partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse a path that exists, unless it may be replaced and is what was exported before."""
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists; choose another name, or give --overwrite")
    is_file = path.suffix == ".onnx" and path.is_file()
    if not (is_file or (path / "saved_model.pb").is_file()):
        raise FileExistsError(f"{path} was not exported before and is not replaced; choose another")
