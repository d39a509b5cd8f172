"""Which balancing the settings ask for: what an epoch draws, what clips weigh, what comes of it."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_temporal import balance
from stage2_temporal.balance import Distribution, Draw, Floats, Indices
from stage2_temporal.config import TrainSettings
from stage2_temporal.targets import Target

_SUITS = {
    "binary": ("oversample", "undersample", "weights"),
    "multiclass": ("oversample", "undersample", "weights"),
    "multilabel": ("oversample", "weights"),
    "regression": ("uniformize", "weights"),
}
_KINDS = {
    "binary": "classes",
    "multiclass": "classes",
    "multilabel": "labels",
    "regression": "bins",
}
_SHARED = ("oversample", "undersample")
_NUM_SHOWN = 8
_LARGE_WEIGHT = 100
_MISSING = "(missing)"


@dataclass(frozen=True)
class BalancePlan:
    """How the training clips are balanced.

    Attributes:
        draw: Draws an epoch's clips, as indices into the training clips; None for each clip once.
        weights: By the balanced target's name, (N,) weights of the training clips in its loss, of
            mean 1 over the clips that have the target, and 0 for the others; None without any.
        distributions: Training clips before, and draws of the first epoch (or sums of weights,
            rounded) after balancing: of the balanced targets, of their joint bins if they are two,
            and of the other targets, which change along.
        notices: Remarks for the report.
        description: What is done, in words; blank where nothing is.
        balanced: The targets of all clips that are balanced by.
    """

    draw: Draw | None
    weights: dict[str, Floats] | None
    distributions: tuple[Distribution, ...]
    notices: tuple[str, ...]
    description: str
    balanced: tuple[Target, ...]


@dataclass(frozen=True)
class _Cells:
    """What is balanced: a distribution of classes, labels or bins (`kind`)."""

    found: Distribution
    kind: str
    has_missing: bool

    @property
    def labels(self) -> list[str]:
        """The names, without the one of the clips that lack the target."""
        return self.found.labels[: len(self.found.labels) - self.has_missing]

    @property
    def before(self) -> Indices:
        return np.array(self.found.before[: len(self.labels)], np.intp)

    @property
    def after(self) -> Indices:
        return np.array(self.found.after[: len(self.labels)], np.intp)


def plan_balance(
    targets: Sequence[Target], train: NDArray[np.intp], settings: TrainSettings
) -> BalancePlan:
    """Plan the balancing of the training clips; no other clip is looked at.

    A clip without the balanced target (or one of the two) is drawn once an epoch.

    Args:
        targets: The targets of all clips; the first is balanced by unless the settings name others.
        train: The training clips.
        settings: Of them `balance` and what belongs to it.

    Raises:
        ValueError: The balancing does not suit the target, a class share is impossible, or no
            training clip has the target.
    """
    of_all = _balanced_targets(targets, settings)
    balanced = [target.at(train) for target in of_all]
    others = [t.at(train) for t in targets if t.name not in {b.name for b in balanced}]
    shares = _class_shares(balanced[0], settings)
    present = np.logical_and.reduce([target.present for target in balanced])
    if settings.balance != "none":
        _check_some_present(balanced, present)
    draw = _plan_draw(balanced, present, shares, settings)
    weights = _plan_weights(balanced[0], settings)
    each = _clip_counts(draw, len(train), settings)
    found = [_distribution([t], each if weights is None else weights, settings) for t in balanced]
    if len(balanced) > 1:
        found.append(_distribution(balanced, each, settings))
    found += [_distribution([target], each, settings) for target in others]
    main = _Cells(
        found[2 if len(balanced) > 1 else 0],
        _KINDS[balanced[0].task],
        has_missing=not present.all(),
    )
    return BalancePlan(
        draw,
        None if weights is None else {balanced[0].name: weights},
        tuple(found),
        tuple(_notices(main, weights, shares, settings)),
        _describe(main, each, weights, settings),
        tuple(of_all),
    )


def _balanced_targets(targets: Sequence[Target], settings: TrainSettings) -> list[Target]:
    by_name = {target.name: target for target in targets}
    names = list(settings.balance_target) or [targets[0].name]
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(
            f"balance_target {unknown[0]!r} is not among the targets {list(by_name)}; name one of "
            "them, or leave --balance-target out for the first"
        )
    if settings.balance == "none":
        _refuse_idle(settings)
    for name in names if settings.balance != "none" else ():
        task = by_name[name].task
        if settings.balance not in _SUITS[task]:
            raise ValueError(
                f"balance {settings.balance} does not suit the {task} target {name!r}; use "
                f"{', '.join(_SUITS[task])} or none, or name another --balance-target"
            )
    most = 2 if settings.balance == "uniformize" else 1
    if len(names) > most or len(set(names)) < len(names):
        raise ValueError(
            f"balance_target is {names}; expected one, or two different ones of task regression "
            "for --balance uniformize"
        )
    return [by_name[name] for name in names]


def _refuse_idle(settings: TrainSettings) -> None:
    for name in ("balance_target", "class_share"):
        if getattr(settings, name):
            raise ValueError(
                f"{name} is {list(getattr(settings, name))}, but nothing is balanced; choose "
                f"--balance, or leave --{name.replace('_', '-')} out"
            )


def _class_shares(target: Target, settings: TrainSettings) -> dict[int, float]:
    """Return the wanted share by class number, of the classes that the settings name."""
    if settings.class_share and (settings.balance not in _SHARED or target.task == "multilabel"):
        raise ValueError(
            f"class_share is {list(settings.class_share)}, but --balance {settings.balance} of the "
            f"{target.task} target {target.name!r} knows no shares; leave it out, or oversample "
            "or undersample a binary or multiclass target"
        )
    number_of = {name: number for number, name in enumerate(target.classes)}
    shares: dict[int, float] = {}
    for text in settings.class_share:
        name, _, share = (part.strip() for part in text.rpartition("="))
        if name not in number_of:
            raise ValueError(
                f"class_share {text!r} names the class {name!r}, which {target.name!r} does not "
                f"have; expected CLASS=SHARE with a class of {_known(target.classes, name)}"
            )
        if number_of[name] in shares:
            raise ValueError(f"class_share names {name!r} twice; give each class one share")
        shares[number_of[name]] = _share(text, share)
    _check_sum(shares, target)
    return shares


def _share(text: str, share: str) -> float:
    try:
        value = float(share)
    except ValueError:
        value = np.nan
    if not 0 < value < 1:
        raise ValueError(f"class_share is {text!r}; expected a share between 0 and 1, as in a=0.3")
    return value


def _check_sum(shares: Mapping[int, float], target: Target) -> None:
    total = sum(shares.values())
    all_named = len(shares) == len(target.classes)
    is_one = abs(total - 1) < balance.SHARE_TOLERANCE
    fits = is_one if all_named else total < 1 and not is_one
    if shares and not fits:
        wish = "1, as all classes are named" if all_named else "less than 1: others share the rest"
        raise ValueError(f"the class shares of {target.name!r} sum to {total:g}; expected {wish}")


def _check_some_present(balanced: Sequence[Target], present: NDArray[np.bool_]) -> None:
    if not present.any():
        names = " and ".join(target.name for target in balanced)
        raise ValueError(
            f"none of the {len(present)} training clips has {names}, so nothing can be balanced by "
            "it; name another --balance-target, or use --balance none"
        )


def _plan_draw(
    balanced: Sequence[Target],
    present: NDArray[np.bool_],
    shares: Mapping[int, float],
    settings: TrainSettings,
) -> Draw | None:
    numbers = [target.numbers[present] for target in balanced]
    if settings.balance in ("none", "weights"):
        return None
    if settings.balance == "undersample":
        draw: Draw = partial(balance.undersample, numbers[0], shares=shares)
    elif settings.balance == "uniformize":
        values = numbers[0] if len(numbers) == 1 else np.stack(numbers, axis=1)
        options: dict[str, Any] = {"num_bins": settings.bins, "bin_kind": settings.bin_kind}
        draw = partial(balance.uniformize, values, max_repeats=settings.max_repeats, **options)
    elif balanced[0].task == "multilabel":
        draw = partial(balance.oversample_multilabel, numbers[0], max_repeats=settings.max_repeats)
    else:
        draw = partial(
            balance.oversample, numbers[0], shares=shares, max_repeats=settings.max_repeats
        )
    if present.all():
        return draw
    return partial(_draw_among, draw, np.flatnonzero(present), np.flatnonzero(~present))


def _draw_among(
    draw: Draw, present: Indices, missing: Indices, rng: np.random.Generator
) -> Indices:
    """Draw among the clips that have the target, and each of the others once."""
    return rng.permutation(np.concatenate([present[draw(rng)], missing]))


def _plan_weights(target: Target, settings: TrainSettings) -> Floats | None:
    if settings.balance != "weights":
        return None
    present = target.present
    numbers = target.numbers[present]
    weights = np.zeros(len(present))
    if target.task == "regression":
        weights[present] = balance.density_weights(
            numbers,
            num_bins=settings.bins,
            smoothing_bins=settings.smoothing_bins,
            bin_kind=settings.bin_kind,
        )
    elif target.task == "multilabel":
        weights[present] = balance.multilabel_weights(numbers)
    else:
        weights[present] = balance.class_weights(numbers)
    return weights


def _clip_counts(draw: Draw | None, num_clips: int, settings: TrainSettings) -> NDArray[Any]:
    """Return how often an epoch draws each training clip, for an example of the run's seed."""
    if draw is None:
        return np.ones(num_clips, np.intp)
    return np.bincount(draw(np.random.default_rng([settings.seed, 0])), minlength=num_clips)


def _distribution(
    targets: Sequence[Target], each: NDArray[Any], settings: TrainSettings
) -> Distribution:
    """Count clips before, and `each` (repeats or weights of clips) after, of one target or two."""
    name = " and ".join(target.name for target in targets)
    present = np.logical_and.reduce([target.present for target in targets])
    if targets[0].task == "multilabel":
        numbers = targets[0].numbers
        before = np.einsum("nl->l", numbers[present])
        after = np.einsum("nl,n->l", numbers[present], each[present])
        labels = list(targets[0].classes)
    else:
        cells, labels = _cells(targets, present, settings)
        before = np.bincount(cells, minlength=len(labels))
        after = np.bincount(cells, weights=each[present], minlength=len(labels))
    if not present.all():
        labels = [*labels, _MISSING]
        before = np.append(before, np.count_nonzero(~present))
        after = np.append(after, each[~present].sum())
    return Distribution(labels, before.tolist(), np.rint(after).astype(int).tolist(), name)


def _cells(
    targets: Sequence[Target], present: NDArray[np.bool_], settings: TrainSettings
) -> tuple[Indices, list[str]]:
    """Return the class or bin of each clip that has the targets, and the names of all of them."""
    numbers = [target.numbers[present] for target in targets]
    if targets[0].task != "regression":
        return numbers[0], list(targets[0].classes)
    if not present.any():
        return np.empty(0, np.intp), []
    values = numbers[0] if len(numbers) == 1 else np.stack(numbers, axis=1)
    cells, edges = balance.joint_bins(values, settings.bins, settings.bin_kind)
    ranges = [[f"{low:.4g} to {high:.4g}" for low, high in pairwise(at)] for at in edges]
    return cells, [" and ".join(names) for names in product(*ranges)]


def _notices(
    cells: _Cells,
    weights: Floats | None,
    shares: Mapping[int, float],
    settings: TrainSettings,
) -> list[str]:
    if settings.balance == "none":
        return []
    notices = []
    name, whole = cells.found.name, f"of {len(cells.labels)} {cells.kind} of {cells.found.name}"
    empty = cells.found.empty_bins
    if empty:
        notices.append(
            f"{len(empty)} {whole} have no training clip, and balancing cannot fill them: "
            f"{_some(empty)}"
        )
    short = _short_of_wish(cells, shares, settings)
    if short:
        notices.append(
            f"{len(short)} {whole} stay rarer than wanted, because no clip is drawn more than "
            f"max_repeats {settings.max_repeats} times an epoch: {_some(short)}"
        )
    if weights is not None and weights.max() > _LARGE_WEIGHT:
        notices.append(
            f"a clip weighs up to {weights.max():.0f} times the mean in the loss of {name}; "
            "fewer bins, more smoothing or oversampling are steadier"
        )
    if settings.balance == "uniformize" and cells.found.before == cells.found.after:
        notices.append(
            f"the bins of {name} are drawn as they are, alike already or as far as "
            "max_repeats allows (quantile bins are alike by themselves)"
        )
    return notices


def _short_of_wish(
    cells: _Cells, shares: Mapping[int, float], settings: TrainSettings
) -> list[str]:
    """Return the classes, labels or bins that `max_repeats` keeps rarer than wanted."""
    if settings.balance not in ("oversample", "uniformize"):
        return []
    before = cells.before
    if cells.kind == "labels":
        factors = np.sqrt(before.max() / np.maximum(before, 1))
        short = (before > 0) & (factors > settings.max_repeats)
    else:
        wanted = balance.wanted_draws(before, balance.class_shares(before, shares))
        short = cells.after < wanted
    return [cells.labels[i] for i in np.flatnonzero(short)]


def _describe(
    cells: _Cells, each: NDArray[Any], weights: Floats | None, settings: TrainSettings
) -> str:
    if settings.balance == "none":
        return ""
    found = cells.found
    start = f"{settings.balance} {found.name}: "
    if weights is not None:
        low, high = weights[weights > 0].min(), weights.max()
        return f"{start}weights of {low:.3g} to {high:.3g}, mean 1"
    if len(found.labels) <= _NUM_SHOWN:
        rows = zip(found.labels, found.before, found.after, strict=True)
        text = ", ".join(f"{name} {before} -> {after}" for name, before, after in rows)
    else:
        text = (
            f"{len(cells.labels)} {cells.kind} of {cells.before.min()} to {cells.before.max()} "
            f"clips -> {cells.after.min()} to {cells.after.max()}"
        )
    return f"{start}{text}; {len(each)} clips -> {each.sum()} draws an epoch"


def _known(classes: Sequence[str], name: str) -> str:
    """Name the classes; of many the most alike."""
    alike = difflib.get_close_matches(name, classes, _NUM_SHOWN, cutoff=0.4)
    return _some(classes if len(classes) <= _NUM_SHOWN else [*alike, *classes])


def _some(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    rest = len(unique) - _NUM_SHOWN
    return ", ".join(unique[:_NUM_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
