"""The page of figures: each a ratio to a ceiling or to a peer that is measured in the same run."""

from collections.abc import Iterator

from benchmarks.options import Options
from benchmarks.page import appends, at_rest, readers, replicated, tokens
from benchmarks.page.figure import page
from benchmarks.report import Report

GROUPS = {
    "Durable appends, SQLite": appends.figures,
    "Agents over HTTP": tokens.figures,
    "Readers": readers.figures,
    "At rest": at_rest.figures,
    "Replicas": replicated.figures,
}


def run(options: Options) -> Iterator[Report]:
    for title, figures in GROUPS.items():
        if found := list(figures(options)):
            yield page(title, found)
