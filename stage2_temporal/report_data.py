"""What the report shows of the data: folds, look-alikes, distributions, classes."""

from stage2_temporal import figures
from stage2_temporal.picture import embed
from stage2_temporal.report_grid import MAX_ROWS, Grid, Plate
from stage2_temporal.report_lengths import length_plates
from stage2_temporal.report_words import count
from stage2_temporal.run_files import Run
from stage2_temporal.run_shapes import SIDES, Json

MAX_FOLD_ROWS = 20
MAX_OPEN_ROWS = 12


def fold_grid(data: Json) -> Grid:
    """Return clips and groups of each side of each fold; of many folds the extremes."""
    folds = data["folds"]
    caption = "Clips of each side" + (f" (groups, by {data['group']})" if data["group"] else "")
    if any(fold["members"] > 1 for fold in folds):
        caption += "; of the first model"
    if len(folds) <= MAX_FOLD_ROWS:
        rows = [[fold["name"], *_sides(fold, data["group"])] for fold in folds]
        return Grid(f"{caption}.", ["fold" if len(folds) > 1 else "split", *SIDES], rows)
    by_test = sorted(folds, key=lambda fold: fold["test"]["clips"])
    chosen = {
        "fewest test clips": by_test[0],
        "median": by_test[len(folds) // 2],
        "most test clips": by_test[-1],
        "fewest training clips": min(folds, key=lambda fold: fold["train"]["clips"]),
    }
    rows = [[part, fold["name"], *_sides(fold, data["group"])] for part, fold in chosen.items()]
    return Grid(f"{caption}, of {count(len(folds), 'fold')}.", ["", "fold", *SIDES], rows)


def _sides(fold: Json, group: str | None) -> list[object]:
    if not group:
        return [fold[side]["clips"] for side in SIDES]
    return [f"{fold[side]['clips']:,} ({fold[side]['groups']:,})" for side in SIDES]


def look_alikes(run: Run) -> tuple[str, Grid | None]:
    """Say what was checked for leaks, and list clips on two sides that look alike."""
    pairs, least = run.data["near_duplicates"], run.settings["settings"].get("duplicate_cosine")
    group = f"no {run.data['group']} and " if run.data["group"] else ""
    checked = (
        f"Checked on every split: {group}no equal content is on two sides, and no two sides show "
        "the same part of one file."
    )
    cosine = f"mean embeddings with a cosine of {least} or more"
    if not pairs:
        return f"{checked} No two clips of different groups and sides have {cosine}.", None
    rows = [
        [
            *(pair[key] for key in ("first", "first_side", "second", "second_side")),
            f"{pair['cosine']:.4f}",
        ]
        for pair in pairs[:MAX_ROWS]
    ]
    caption = f"Clips on two sides that look alike: {cosine}."
    text = (
        f"{checked} {count(len(pairs), 'pair')} of clips on two sides look alike: if they show the "
        "same thing, give the clips a common group and train again."
    )
    title = f"The {count(len(rows), 'pair')}" if len(rows) > MAX_OPEN_ROWS else ""
    return text, Grid(caption, ["clip", "side", "other clip", "side", "cosine"], rows, title)


def distribution_plates(run: Run) -> list[Plate]:
    """Draw training clips per label or bin, before and after balancing, and the clips' lengths."""
    balance = run.data["balance"]
    none = balance["kind"] == "none"
    after_is = "sum of weights" if balance["kind"] == "weights" else "draws an epoch"
    plates = []
    for found in balance["distributions"]:
        if not found["labels"]:
            continue
        after = None if none else found["after"]
        figure = figures.distribution_figure(
            found["labels"], found["before"], after, after_is=after_is
        )
        caption = _training_clips(run.data, found["name"])
        caption += "; nothing was balanced." if none else f", before and after: {after_is}."
        plates.append((embed(figure, f"{caption} The numbers are in the table below."), caption))
    return [*plates, *length_plates(run)]


def distribution_grids(run: Run) -> list[Grid]:
    """Return the numbers of the distributions."""
    columns = ["before"] if run.data["balance"]["kind"] == "none" else ["before", "after"]
    return [
        Grid(
            f"{_training_clips(run.data, found['name'])}.{_cut(len(found['labels']))}",
            [_kind(run.data, found["name"]), *columns],
            list(zip(found["labels"], *(found[key] for key in columns), strict=True))[:MAX_ROWS],
            f"Numbers of the distribution of {found['name']}",
        )
        for found in run.data["balance"]["distributions"]
    ]


def class_grids(run: Run) -> list[Grid]:
    """Return the clips of each class or label on each side, for each target that has any."""
    grids = []
    for target in run.data["targets"]:
        if target["class_counts"] is None:
            continue
        counts = [target["class_counts"][side] for side in SIDES]
        rows = [[name, *(side.get(name, 0) for side in counts)] for name in target["classes"]]
        kind = _kind(run.data, target["name"])
        caption = f"Clips{_first_fold(run.data)} per {kind} of {target['name']}.{_cut(len(rows))}"
        title = f"Clips per {kind} of {target['name']}" if len(rows) > MAX_OPEN_ROWS else ""
        grids.append(Grid(caption, [kind, *SIDES], rows[:MAX_ROWS], title))
    return grids


def _training_clips(data: Json, name: str) -> str:
    return f"Training clips{_first_fold(data)} per {_kind(data, name)} of {name}"


def _kind(data: Json, name: str) -> str:
    """Return what a distribution counts by; that of two targets together has bins."""
    tasks = {target["name"]: target["task"] for target in data["targets"]}
    kinds = {"regression": "bin", "multilabel": "label"}
    return kinds.get(tasks.get(name, "regression"), "class")


def _first_fold(data: Json) -> str:
    if len(data["folds"]) > 1:
        return " of the first fold"
    return " of the first model" if data["folds"][0]["members"] > 1 else ""


def _cut(num_rows: int) -> str:
    if num_rows <= MAX_ROWS:
        return ""
    return f" The first {MAX_ROWS} of {num_rows:,}; all are in data.json."
