"""Tables of facts in the sweep's report: what was asked for, and where it comes from."""

from typing import Any

from stage2_temporal.report_words import count
from stage2_temporal.sweep_report_data import SweepView
from stage2_temporal.sweep_report_words import metric_text

_SAMPLERS = {
    "tpe": "tpe: learns from earlier trials",
    "random": "random: drawn evenly",
    "grid": "grid: every combination",
}
_PRUNERS = {
    "none": "none: every trial goes on to its end",
    "median": "median: gives up what is worse than half of the others after as many folds",
    "hyperband": "hyperband: gives many trials little time, and few much",
}


def asked_facts(view: SweepView) -> dict[str, Any]:
    """Return what was asked for: target, group, folds, sampler, pruner, stores."""
    document, base = view.document, view.document.base
    folds = document.validation_folds
    facts = {
        "target": base.get("target"),
        "group": base.get("group"),
        "optimised": metric_text(view),
        "scored on": f"{count(folds, 'fold')} of the development clips"
        if folds > 1
        else "one validation split of the development clips",
        "sampler": _SAMPLERS.get(document.sampler, document.sampler),
        "pruner": _PRUNERS.get(document.pruner, document.pruner),
        "stores": document.stores,
        "manifest": document.manifest,
    }
    for side, counts in document.sides.items():
        groups = f" of {count(counts.get('groups', 0), 'group')}" if base.get("group") else ""
        facts[f"{side} clips"] = f"{counts.get('clips', 0):,}{groups}"
    return facts


def provenance_facts(view: SweepView) -> dict[str, Any]:
    """Return what else the trials follow from, flat."""
    request = {name: v for name, v in view.document.request.items() if name not in _TOLD}
    return {"created": view.document.created, **request}


_TOLD = ("settings", "search", "sampler", "pruner", "validation_folds", "metric")
"""Parts of the request that other tables show."""
