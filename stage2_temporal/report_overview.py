"""The head of the report: its title, what was asked in short, and its contents."""

import dataclasses

from stage2_temporal.augment import AugmentSettings
from stage2_temporal.picture import shorten
from stage2_temporal.report_words import count, scheme, shown
from stage2_temporal.run_files import Run
from stage2_temporal.run_shapes import SIDES, Json

_MAX_CLASSES = 8
_SHOWN_DIGITS = 16
_NAME_LENGTH = 60


def heading(run: Run) -> str:
    """Return the title of the page."""
    names = [shorten(target["name"], _NAME_LENGTH) for target in run.data["targets"]]
    what = (
        " and ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more targets"
    )
    group = f", grouped by {shorten(run.data['group'], _NAME_LENGTH)}" if run.data["group"] else ""
    return f"{what} from {_num_clips(run):,} clips{group}"


def _num_clips(run: Run) -> int:
    first = run.data["folds"][0]
    return sum(int(first[side]["clips"]) for side in SIDES)


def overview(run: Run) -> dict[str, str]:
    """Return what was asked, in short: name and text of each fact."""
    settings, store = run.settings["settings"], run.settings["store"]
    fingerprint = store["fingerprint"]
    facts = {
        "predicted": "; ".join(_target(target) for target in run.data["targets"][:5]),
        "clips": _clips(run),
        "split": scheme(run),
        "model": _model(settings),
        "training clips": _changes(run.data, settings),
        "embeddings": _embeddings(run),
        "store": f"{store['path']}, fingerprint {fingerprint[:_SHOWN_DIGITS]}"
        + ("…" if len(fingerprint) > _SHOWN_DIGITS else ""),
        "seed": shown(settings["seed"]) if "seed" in settings else "",
    }
    return {name: text for name, text in facts.items() if text}


def _target(target: Json) -> str:
    name, classes = shorten(target["name"], _NAME_LENGTH), target["classes"]
    if classes is None:
        return f"{name} ({target['task']})"
    listed = ", ".join(shorten(one, 30) for one in classes[:_MAX_CLASSES])
    more = f" and {len(classes) - _MAX_CLASSES:,} more" if len(classes) > _MAX_CLASSES else ""
    return f"{name} ({target['task']}: {listed}{more})"


def _clips(run: Run) -> str:
    data, lengths = run.data, run.data["lengths"]
    text = count(_num_clips(run), "clip")
    if data["group"]:
        groups = sum(data["folds"][0][side]["groups"] for side in SIDES)
        text += f" of {count(groups, 'group')} ({shorten(data['group'], _NAME_LENGTH)})"
    shortest, median, longest = (lengths[name] for name in ("min", "median", "max"))
    return f"{text}, {shortest:g} to {longest:g} frames each, median {median:g}"


def _model(settings: Json) -> str:
    """Return the settings that make the model, as far as the run names them."""
    if "head" not in settings:
        return ""
    parts = [str(settings["head"])]
    parts += ["read in both directions"] if settings.get("bidirectional") else []
    parts += [count(settings["layers"], "layer")] if "layers" in settings else []
    names = {"units": "{} units", "pooling": "pooling {}"}
    names |= {"epochs": "up to {} epochs", "learning_rate": "learning rate {}"}
    parts += [text.format(settings[name]) for name, text in names.items() if name in settings]
    parts += ["starts from the mean-pool baseline"] if settings.get("skip") else []
    return shorten(", ".join(parts), 300)


def _changes(data: Json, settings: Json) -> str:
    """Return how training clips were balanced and augmented."""
    changes = settings.get("augmentation")
    usual = dataclasses.asdict(AugmentSettings())
    augmented = ", ".join(
        f"{name} {shown(value)}"
        for name, value in (changes.items() if isinstance(changes, dict) else ())
        if value != usual.get(name)
    )
    balance = "not balanced" if data["balance"]["kind"] == "none" else data["balance"]["kind"]
    return f"{shorten(balance, 80)}; {shorten(augmented, 200) or 'not augmented'}"


def _embeddings(run: Run) -> str:
    store = run.settings["store"]
    made = store["settings"]
    names = {"backbone": "{}", "sampling": "frames {}", "fit": "fit {}", "precision": "{}"}
    parts = [text.format(shown(made[name])) for name, text in names.items() if name in made]
    parts.append(f"{store['embedding_dim']} values of {store['dtype']} a frame")
    return shorten(", ".join(parts), 300)


def contents(run: Run) -> list[tuple[str, str]]:
    """Return anchor and title of each section."""
    names = [target["name"] for target in run.data["targets"]]
    if len(names) == 1:
        first = [("scores", "Scores"), ("test-clips", "Test clips")]
        first += [("wrong-clips", "Most wrong clips"), ("all-clips", "Every test clip")]
    else:
        first = [(f"target-{n}", shorten(name, 30)) for n, name in enumerate(names)]
    rest = {"map": "Map of the clips", "validation": "Validation", "training": "Training"}
    rest |= {"data": "Data", "settings": "Settings and provenance"}
    return [*first, *rest.items()]
