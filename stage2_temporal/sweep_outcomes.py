"""Writing what became of a trial into Optuna's study."""

from typing import Any

from stage2_temporal.sweep_optuna import load_optuna


class Outcomes:
    """Ends trials of a study.

    Args:
        study: Optuna's.
    """

    def __init__(self, study: Any) -> None:
        self._study = study

    def complete(self, trial: Any, result: dict[str, Any]) -> None:
        """End a trial with a `value`; the rest of the result is noted with it."""
        self._note(trial, {name: item for name, item in result.items() if name != "value"})
        self._study.tell(trial, result["value"])

    def prune(self, trial: Any, reason: str) -> None:
        """End a trial early."""
        self._note(trial, {"reason": reason})
        self._study.tell(trial, state=load_optuna().trial.TrialState.PRUNED)

    def fail(self, trial: Any, reason: str, *, words: str = "") -> None:
        """End a trial that failed.

        Args:
            trial: Optuna's.
            reason: Why, for people.
            words: What its process printed last.
        """
        self._note(trial, {"reason": reason, **({"last_words": words} if words else {})})
        self._study.tell(trial, state=load_optuna().trial.TrialState.FAIL)

    def repeat(self, trial: Any, earlier: Any) -> None:
        """End a trial as an earlier one with the same settings ended."""
        reason = f"same settings as trial {earlier.number}, not trained again"
        if earlier.state.name == "FAIL":
            self.fail(trial, f"{reason}: {earlier.user_attrs['reason']}")
            return
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for step, value in earlier.intermediate_values.items():
            if step not in known:
                trial.report(value, step)
        if earlier.state.name == "PRUNED":
            self.prune(trial, reason)
        else:
            kept = {**earlier.user_attrs, "value": earlier.value, "seconds": 0.0, "reason": reason}
            self.complete(trial, kept)

    def _note(self, trial: Any, facts: dict[str, Any]) -> None:
        for name, value in facts.items():
            trial.set_user_attr(name, value)
