"""Search space: what may be searched, in which words, and what is refused before training."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from stage2_temporal.augment import AugmentSettings
from stage2_temporal.config import TrainSettings
from stage2_temporal.search_space import SearchSpace, apply_parameters, parameters_key


def base(**settings: Any) -> TrainSettings:
    return TrainSettings(target=["label"], **settings)


def parse(*texts: str, **settings: Any) -> SearchSpace:
    return SearchSpace.parse(texts, base(**settings))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("units = [16, 32]", [16, 32]),
        ("units=[16,32,]", [16, 32]),
        ('head = ["gru", "lstm"]', ["gru", "lstm"]),
        ("dropout = [0, 0.5]", [0.0, 0.5]),
        ("skip = [true, false]", [True, False]),
        ("weight-decay = [0.1]", [0.1]),
        (
            "learning_rate = {low = 1e-4, high = 1, log = true}",
            {"low": 1e-4, "high": 1.0, "log": True},
        ),
        ("units = {low = 8, high = 64, step = 8}", {"low": 8, "high": 64, "step": 8}),
        ("layers = {low = 1, high = 3}", {"low": 1, "high": 3}),
        ("noise = {low = 0, high = 0.3, step = 0.1}", {"low": 0.0, "high": 0.3, "step": 0.1}),
        ("loss_weight = [[1], [2]]", [[1.0], [2.0]]),
        ('class_share = [["a=0.5"], []]', [["a=0.5"], []]),
        ("stored_views = [true, false]", [True, False]),
    ],
)
def test_choices_and_ranges_are_read(text: str, shown: Any) -> None:
    (found,) = parse(text).shown.values()
    assert found == shown
    assert repr(found) == repr(shown)  # 1 and 1.0 are equal, and not the same


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("units", "is no NAME = VALUES"),
        ("= [1]", "is no NAME = VALUES"),
        ("units = [16, ", "the values are not valid TOML"),
        ("units = 16", r"units is 16; expected a list .* is given as --units"),
        ("units = [16]\nlayers = [1]", "units .* was given as two lines|not valid TOML"),
        ("units = []", "units is an empty list"),
        ("units = [16, 16]", "units lists 16 twice"),
        ("units = [16.0]", "units holds 16.0; expected whole numbers"),
        ("units = [true]", "units holds true; expected whole numbers"),
        ("dropout = ['a']", 'dropout holds "a"; expected numbers'),
        ("dropout = [0.5, 0.50]", "dropout lists 0.5 twice"),
        ("head = [1]", "head holds 1; expected texts"),
        ("skip = ['yes']", 'skip holds "yes"; expected true or false'),
        ("loss_weight = [1, 2]", "loss_weight holds 1; expected lists of values"),
        ("units = {low = 8}", "expected low and high"),
        ("units = {low = 8, high = 9, steps = 1}", "expected low and high, and if wanted log or"),
        ("units = {low = 9, high = 8}", "is empty: low is above high"),
        ("units = {low = 8.5, high = 9}", "units holds 8.5; expected whole numbers"),
        ("units = {low = 8, high = 64, log = 2}", "log is 2; expected true or false"),
        ("dropout = {low = 0, high = 0.5, log = true}", "low must be above 0"),
        ("noise = {low = 0, high = inf}", "has no end"),
        ("noise = {low = nan, high = 1}", "has no end"),
        ("noise = {low = 0, high = 1, step = 2}", "step larger than the range"),
        ("noise = {low = 0, high = 1, step = 0}", "step of 0"),
        ("noise = {low = 0, high = 1, step = 0.3}", "no step meets high"),
        ("noise = {low = 0.1, high = 1, step = 0.1, log = true}", "both log and step"),
        ("head = {low = 1, high = 2}", "is a range, but the setting is no number"),
        ("skip = {low = 0, high = 1}", "is a range, but the setting is no number"),
    ],
)
def test_wrong_values_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unit", "unknown setting 'unit'; did you mean 'units'"),
        ("learning_rte", "did you mean 'learning_rate'"),
        ("nois", "did you mean 'noise'"),
        ("xyzzy", "unknown setting 'xyzzy'; known: .*units"),
        ("augmentation", "unknown setting 'augmentation'"),
        ("target", "target cannot be searched: it defines what is predicted"),
        ("group", "group cannot be searched: it defines which clips"),
        ("validation_fraction", "validation_fraction cannot be searched: it defines which clips"),
        ("threshold", "threshold cannot be searched: it changes how predictions are scored"),
        ("seed", "seed cannot be searched: all trials share it"),
        ("workers", "workers cannot be searched: it does not change what is learned"),
        ("backend", "backend cannot be searched: a process has one"),
        ("store", "store cannot be searched: stores compete by --other-store"),
        ("trials", r"trials cannot be searched: .* stands above \[search\]"),
    ],
)
def test_names_that_cannot_be_searched_are_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(f"{name} = [1, 2]")


def test_every_other_setting_may_be_searched() -> None:
    """Settings are added now and then: each is searchable, or told why not."""
    fixed = {
        *("target", "task", "positive", "label_separator", "group", "blank_group", "unmatched"),
        *("blank_target", "validation", "split_column", "fold_column", "folds", "fold_repeats"),
        *("inner_folds", "test_fraction", "validation_fraction", "duplicate_cosine", "threshold"),
        *("resamples", "seed", "workers", "backend", "tensorboard", "overwrite", "repeats"),
        *("resident", "devices", "augmentation", "strips"),
    }
    own = {field.name for field in dataclasses.fields(TrainSettings)}
    nested = {field.name for field in dataclasses.fields(AugmentSettings)}
    for name in own | nested:
        message = "cannot be searched|unknown" if name in fixed else "is an empty list"
        with pytest.raises(ValueError, match=message):
            parse(f"{name} = []")


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("units = [16, 0]", {}, "units holds 0, which is refused: units is 0; expected 1 or more"),
        ("units = {low = 0, high = 8}", {}, "units holds 0, which is refused"),
        ("dropout = {low = 0, high = 1}", {}, "dropout holds 1.0, which is refused"),
        ('head = ["gru", "rnn"]', {}, 'head holds "rnn", which is refused: .*expected one of'),
        ("crop = [0.0]", {}, "crop holds 0.0, which is refused"),
        ("bidirectional = [false, true]", {"head": "transformer"}, "holds true, which is refused"),
        ('feature = [["a"], ["b"]]', {}, "without a feature_table"),
        ("loss_weight = [[1, 2]]", {}, "give it once for each"),
        ("units = [16]", {"units": 64}, "units is 64 for all trials, and searched as well"),
        ("noise = [0.1]", {"augmentation": AugmentSettings(noise=0.2)}, "noise is 0.2 for all"),
    ],
)
def test_values_that_never_work_are_refused_before_training(
    text: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text, **settings)


def test_values_that_work_with_others_are_accepted() -> None:
    parse('head = ["gru", "transformer"]', "bidirectional = [false, true]")
    parse('feature = [["a"], ["b"]]', 'feature_table = ["a.h5"]')


def test_nothing_and_names_given_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing is searched"):
        parse()
    with pytest.raises(ValueError, match="units was given 2 times"):
        parse("units = [1]", "units = [2]")


def test_a_store_alone_may_be_searched() -> None:
    space = SearchSpace.parse((), base(), stores=["a", "b/c"])
    assert list(space.grid()) == [{"store": "a"}, {"store": "b/c"}]


@pytest.mark.parametrize(
    ("texts", "size"),
    [
        (["units = [8, 16]", "layers = {low = 1, high = 3}"], 6),
        (["noise = {low = 0.1, high = 0.7, step = 0.1}"], 7),
        (["units = {low = 8, high = 64, step = 28}"], 3),
        (["units = {low = 8, high = 8}", "noise = {low = 0.5, high = 0.5}"], 1),
        (["noise = {low = 0, high = 1}", "units = [8, 16]"], None),
        (["units = {low = 8, high = 16, log = true}"], None),
    ],
)
def test_the_size_is_known_where_there_is_one(texts: list[str], size: int | None) -> None:
    space = parse(*texts)
    assert space.size == size
    if size is None:
        with pytest.raises(ValueError, match="which a grid needs: give choices, or a step"):
            space.grid()
    else:
        assert len({parameters_key(point) for point in space.grid()}) == size


def test_a_grid_holds_the_numbers_that_were_meant() -> None:
    points = [point["noise"] for point in parse("noise = {low = 0, high = 0.3, step = 0.1}").grid()]
    assert points == [0.0, 0.1, 0.2, 0.3]  # and not 0.30000000000000004


def test_parameters_become_settings() -> None:
    start = base(feature_table=Path("old.h5"), augmentation=AugmentSettings(crop=0.5))
    found = apply_parameters(
        start,
        {"units": 8, "noise": 0.25, "feature": ["a", "b"], "feature_table": "new.h5", "store": "s"},
    )
    expected = dataclasses.replace(
        start,
        units=8,
        feature=("a", "b"),
        feature_table=Path("new.h5").absolute(),
        augmentation=AugmentSettings(crop=0.5, noise=0.25),
    )
    assert found == expected
    assert apply_parameters(start, {"feature_table": ""}).feature_table is None
    assert apply_parameters(start, {}) == start
