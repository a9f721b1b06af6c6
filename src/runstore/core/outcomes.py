"""How runs ended, and the columns that count them: of projections, reports and views."""

from runstore.core.events import ENDINGS, Outcome

OUTCOME_COLUMNS: dict[str, str] = {"success": "succeeded", "error": "failed", "stopped": "stopped"}
RUN_COUNTS = ("runs", *OUTCOME_COLUMNS.values(), "incomplete")


def outcome_of(event_type: str) -> Outcome:
    """The outcome of a run with this ending; an ending of a newer release counts as an error."""
    ending = ENDINGS.get(event_type)
    return "error" if ending is None else ending.status
