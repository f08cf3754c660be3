"""Figures in prose are those of the tables that `asyndgan benchmark` writes into the documents."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- suite: (\S+) -->(.*?)<!-- end of suite: \1 -->", re.DOTALL)
NUMBER = r"[+-]?\d\.\d{3}"
WITH_INTERVAL = re.compile(rf"({NUMBER}) \(({NUMBER})\s+to\s+({NUMBER})[,;)]")

Figure = tuple[float, ...]
"""A figure and the ends of its interval."""


def written() -> set[Figure]:
    """Each figure with the ends of its interval, from every table that a command writes."""
    found = set()
    for document in (ROOT / "docs").glob("*.md"):
        for _, block in BLOCK.findall(document.read_text("utf-8")):
            for line in block.splitlines():
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                for figure, interval in pairwise(cells):
                    ends = re.fullmatch(rf"({NUMBER}) to ({NUMBER})", interval)
                    if ends and re.fullmatch(NUMBER, figure):
                        found.add(tuple(map(float, (figure, *ends.groups()))))
    return found


@pytest.mark.parametrize("document", ["README.md", "docs/evidence.md", "docs/experiments.md"])
def test_every_figure_with_an_interval_stands_in_a_table_that_a_command_wrote(
    document: str,
) -> None:
    known = written()
    known |= {(-figure, -high, -low) for figure, low, high in known}  # differences turned round
    prose = BLOCK.sub("", (ROOT / document).read_text("utf-8"))
    claimed = WITH_INTERVAL.findall(prose)
    unknown = [claim for claim in claimed if tuple(map(float, claim)) not in known]
    assert not unknown
    assert claimed or document == "docs/experiments.md"
