"""Which frames: against plain definitions, on regular, irregular and random times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage1_extract.sampling import Sampling, at_rate, choose_frames, parse_sampling, spread_evenly

RISING_TIMES = st.lists(st.integers(0, 10**6), min_size=1, max_size=60, unique=True).map(
    lambda stamps: np.array(sorted(stamps), np.float64) / 1000
)
RULES = st.sampled_from(["all", "uniform:1", "uniform:7", "stride:3", "fps:0.5", "fps:25"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", Sampling("all", 1)),
        ("uniform:32", Sampling("uniform", 32)),
        ("stride:1", Sampling("stride", 1)),
        ("fps:12.5", Sampling("fps", 12.5)),
        ("fps:5", Sampling("fps", 5)),
    ],
)
def test_rules_are_parsed(text: str, expected: Sampling) -> None:
    assert parse_sampling(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all:",
        "all:2",
        "uniform",
        "uniform:",
        "uniform:0",
        "uniform:-3",
        "uniform:2.5",
        "uniform:nan",
        "stride:0",
        "stride:x",
        "fps",
        "fps:0",
        "fps:-1",
        "fps:nan",
        "fps:inf",
        "fps:1e400",
        "Uniform:3",
        "random:5",
        "uniform:3:4",
        "16",
    ],
)
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=f"sampling {text!r} is not understood.*uniform:32"):
        parse_sampling(text)


@pytest.mark.parametrize(
    ("num_frames", "num_wanted", "expected"),
    [
        (10, 1, [5]),
        (10, 2, [2, 7]),
        (9, 3, [1, 4, 7]),
        (10, 10, list(range(10))),
        (3, 32, [0, 1, 2]),
        (1, 1, [0]),
    ],
)
def test_uniform_takes_the_middles_of_equal_parts(
    num_frames: int, num_wanted: int, expected: list[int]
) -> None:
    assert spread_evenly(num_frames, num_wanted).tolist() == expected


@given(st.integers(1, 5000), st.integers(1, 300))
def test_uniform_has_equal_gaps_and_is_centred(num_frames: int, num_wanted: int) -> None:
    chosen = spread_evenly(num_frames, num_wanted)
    assert len(chosen) == min(num_frames, num_wanted)
    gaps = np.diff(chosen)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    assert abs(chosen[0] - (num_frames - 1 - chosen[-1])) <= 1


@given(RISING_TIMES, st.floats(0.1, 60))
def test_rate_takes_the_frame_on_screen_at_each_moment(
    times: NDArray[np.float64], fps: float
) -> None:
    chosen = set(at_rate(times, fps).tolist())
    moments = times[0] + np.arange(0, (times[-1] - times[0]) * fps) / fps
    on_screen = {max(k for k, t in enumerate(times) if t <= m + 0.51e-3) for m in moments[:500]}
    assert on_screen <= chosen
    assert len(chosen) <= len(moments) + 1


@pytest.mark.parametrize(
    ("stated", "asked", "every"), [(30, 10, 3), (30, 30, 1), (25, 5, 5), (60, 20, 3), (30, 90, 1)]
)
@pytest.mark.parametrize("ticks", [1000, 90_000])  # milliseconds, and MPEG's clock
def test_rate_of_a_regular_video_is_a_stride(
    stated: int, asked: float, every: int, ticks: int
) -> None:
    times = np.round(np.arange(600) / stated * ticks) / ticks
    assert at_rate(times, asked).tolist() == list(range(0, 600, every))


def test_rate_of_a_video_with_a_gap_shows_the_still_frame_once() -> None:
    times = np.array([0, 0.1, 0.2, 5.0, 5.1])
    assert at_rate(times, 10).tolist() == [0, 1, 2, 3, 4]
    assert at_rate(times, 1).tolist() == [0, 2, 3]


@given(RISING_TIMES, RULES, st.floats(0, 1000), st.floats(0, 1000))
def test_choice_is_rising_unique_and_inside_the_clip(
    times: NDArray[np.float64], rule: str, start: float, end: float
) -> None:
    chosen = choose_frames(parse_sampling(rule), times, start_seconds=start, end_seconds=end)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert ((times[chosen] >= start - 1e-3) & (times[chosen] < end + 1e-3)).all()
    inside = (times >= start + 1e-3) & (times < end - 1e-3)
    assert len(chosen) or not inside.any()


@given(RISING_TIMES, st.floats(0, 1000))
def test_neighbouring_clips_share_no_frame_and_lose_none(
    times: NDArray[np.float64], cut: float
) -> None:
    everything = parse_sampling("all")
    before = choose_frames(everything, times, end_seconds=cut)
    after = choose_frames(everything, times, start_seconds=cut)
    assert [*before, *after] == list(range(len(times)))


@pytest.mark.parametrize("fps", [7, 24, 25, 29.97, 30, 60])
def test_clip_bounds_on_a_frame_mean_that_frame_in_spite_of_rounding(fps: float) -> None:
    times = np.arange(200) * (1000 / fps) / 1000  # rounded otherwise than k / fps
    for k in range(0, 180, 7):
        chosen = choose_frames(
            parse_sampling("all"), times, start_seconds=k / fps, end_seconds=(k + 5) / fps
        )
        assert chosen.tolist() == list(range(k, k + 5))


def test_clip_is_sampled_within_its_bounds() -> None:
    times = np.arange(100) / 10
    bounds = {"start_seconds": 2.0, "end_seconds": 4.0}
    assert choose_frames(parse_sampling("uniform:2"), times, **bounds).tolist() == [25, 35]
    assert choose_frames(parse_sampling("stride:8"), times, **bounds).tolist() == [20, 28, 36]
    assert choose_frames(parse_sampling("fps:2"), times, **bounds).tolist() == [20, 25, 30, 35]


@pytest.mark.parametrize("rule", ["all", "uniform:4", "stride:2"])
def test_rules_by_number_need_no_times(rule: str) -> None:
    sampling = parse_sampling(rule)
    assert not sampling.needs_times
    unknown, known = np.full(20, np.nan), np.arange(20) / 10
    np.testing.assert_array_equal(choose_frames(sampling, unknown), choose_frames(sampling, known))


@pytest.mark.parametrize("num_frames", [0, 1])
def test_shortest_videos(num_frames: int) -> None:
    for rule in ("all", "uniform:4", "stride:2", "fps:3"):
        chosen = choose_frames(parse_sampling(rule), np.zeros(num_frames))
        assert chosen.tolist() == list(range(num_frames))
