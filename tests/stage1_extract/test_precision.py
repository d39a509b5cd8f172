"""Distance between embeddings: against figures worked out by hand, and at its edges."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.precision import (
    PrecisionError,
    PrecisionReport,
    check_precision,
    measure_precision,
)


def report_of(reference: list[list[float]], other: list[list[float]]) -> PrecisionReport:
    """Compare embeddings that are given; the frames do not matter."""
    frames = np.zeros((len(reference), 2, 2, 3), np.uint8)
    return measure_precision(
        lambda _: np.array(reference, np.float32), lambda _: np.array(other, np.float32), frames
    )


def test_figures_equal_those_worked_out_by_hand() -> None:
    # Lengths 5 and 1; differences 0.5 and 1; cosines 1 and cos(90 degrees).
    report = report_of([[3, 4], [1, 0]], [[3.3, 4.4], [1, 1]])
    assert report.num_frames == 2
    assert report.relative_l2_mean == pytest.approx((0.5 / 5 + 1) / 2)
    assert report.relative_l2_max == pytest.approx(1)
    assert report.cosine_mean == pytest.approx((1 + np.sqrt(0.5)) / 2)
    assert report.cosine_min == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize(
    ("reference", "other", "distance", "cosine"),
    [
        ([0, 0], [0, 0], 0, 1),
        ([0, 0], [1, 0], np.inf, 0),
        ([1, 0], [0, 0], 1, 0),
        ([1, 0], [np.nan, 0], np.inf, 0),
        ([1, 0], [np.inf, 0], np.inf, 0),
        ([1e-20, 0], [2e-20, 0], 1, 1),  # squares of such values vanish in float32
    ],
)
def test_frames_without_a_direction_still_have_a_distance(
    reference: list[float], other: list[float], distance: float, cosine: float
) -> None:
    report = report_of([reference], [other])
    assert report.relative_l2_max == pytest.approx(distance)
    assert report.cosine_min == pytest.approx(cosine)


def test_the_limit_is_on_the_worst_frame() -> None:
    good, bad = [1.0, 0.0], [1.1, 0.0]
    reference = [good] * 100
    report = report_of(reference, [good] * 99 + [bad])
    assert report.relative_l2_mean == pytest.approx(0.001)
    check_precision(report, 0.11)
    with pytest.raises(PrecisionError, match=r"by up to 10\.00%.*--max-precision-error 0\.10?1?"):
        check_precision(report, 0.02)


def test_what_the_error_suggests_is_accepted() -> None:
    report = report_of([[1.0, 0.0]], [[1.23456, 0.0]])
    with pytest.raises(PrecisionError) as raised:
        check_precision(report)
    check_precision(report, float(str(raised.value).split()[-1]))


def test_values_that_are_not_finite_never_pass() -> None:
    with pytest.raises(PrecisionError, match="not finite"):
        check_precision(report_of([[1.0]], [[np.nan]]), 1e9)


def test_the_report_is_plain_numbers_for_provenance() -> None:
    figures = report_of([[3, 4]], [[3, 4]]).as_dict()
    assert figures == {
        "num_frames": 1,
        "relative_l2_mean": 0,
        "relative_l2_max": 0,
        "cosine_mean": 1,
        "cosine_min": 1,
    }


def test_no_frames_are_refused() -> None:
    def embed(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.zeros((len(frames), 2), np.float32)

    with pytest.raises(ValueError, match="0 frames"):
        measure_precision(embed, embed, np.zeros((0, 2, 2, 3), np.uint8))
