"""Figures in prose are those of the tables that `python -m lab` writes into the documents."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from asyndgan.cli.following import DECIDES

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- suite: (\S+) -->(.*?)<!-- end of suite: \1 -->", re.DOTALL)
NUMBER = r"[+-]?\d\.\d{3}"
WITH_INTERVAL = re.compile(rf"({NUMBER})(?: \(|,\s+)({NUMBER})\s+to\s+({NUMBER})[,;)]")
ROWS = {
    "phantoms, four scanners": ("demo", "phantoms: lesion", "demo"),
    "nuclei, four groups of pictures": ("learned-64", "dsb2018_fluo: nucleus", "learned"),
    "nuclei at 128 pixels": ("nuclei-128", "dsb2018_fluo: nucleus", "default"),
    "nuclei at 256 pixels": ("nuclei-256", "dsb2018_fluo_256: nucleus", "default"),
    "chest radiographs, four sources": ("learned-64", "chest_xray: lung", "learned"),
    "chest radiographs at 128 pixels": ("chest-128", "chest_xray: lung", "default"),
    "gliomas, four hospitals": ("learned-64", "lgg_mri: lesion", "learned"),
    "hippocampi, anterior part": ("search-length", "hippocampus_3d: Anterior", "planned"),
}
"""Suite, table and recipe of each row of README's table, by its beginning."""
SITES_OF = {"dsb2018_fluo": "nuclei-64", "chest_xray": "chest-64"}
"""Suite with the single sites of a set, where the suite of README's row has none."""
RECIPES = {
    "demo": "demo", "search-length": "planned", "misaligned": "aligned", "learned-64": "learned"
}  # fmt: skip
"""Recipe of a suite's row in the summary, where it is not `default`."""
NOT_MEASURED = "-"
LEAST_GAIN = 0.005
"""Below it, networks of all real images count as converged."""

Figure = tuple[float, ...]
"""A figure and the ends of its interval."""
Table = dict[str, dict[str, str]]
"""Cells by the first cell of their row and their column; of columns of one name the last."""


def blocks() -> dict[str, str]:
    """What commands wrote, by the name of the suite."""
    return dict(
        block
        for document in (ROOT / "docs").rglob("*.md")
        for block in BLOCK.findall(document.read_text("utf-8"))
    )


def table(block: str, heading: str) -> Table:
    """The table below the first heading that begins so."""
    text = block[block.index(f"**{heading}") :].split("\n\n")[1]
    columns, _, *rows = (
        [c.strip(" *") for c in line.split("|")[1:-1]] for line in text.split("\n")
    )
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}


def gain_of_longer(block: str, data_set: str, label: str) -> str:
    """What half as many steps again add to the all-real Dice."""
    heading = f"{data_set}: was the budget long enough?"
    return table(block, heading)[label]["difference"] if heading in block else NOT_MEASURED


def written() -> set[Figure]:
    """Each figure with the ends of its interval, from every table that a command writes."""
    found = set()
    for block in blocks().values():
        found |= {tuple(map(float, figure)) for figure in WITH_INTERVAL.findall(block)}
        for line in block.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            for figure, interval in pairwise(cells):
                ends = re.fullmatch(rf"({NUMBER}) to ({NUMBER})", interval)
                if ends and re.fullmatch(NUMBER, figure):
                    found.add(tuple(map(float, (figure, *ends.groups()))))
    return found


@pytest.mark.parametrize(
    "documents", ["README.md", "docs/evidence*.md", "docs/experiments*.md", "docs/results/*.md"]
)
def test_every_figure_with_an_interval_stands_in_a_table_that_a_command_wrote(documents):
    known = written()
    known |= {(-figure, -high, -low) for figure, low, high in known}  # differences turned round
    prose = "".join(BLOCK.sub("", path.read_text("utf-8")) for path in ROOT.glob(documents))
    claimed = WITH_INTERVAL.findall(prose)
    unknown = [claim for claim in claimed if tuple(map(float, claim)) not in known]
    assert not unknown
    assert claimed or "results" in documents


def test_each_row_of_the_summary_says_what_its_suite_found():
    text = (ROOT / "docs/evidence.md").read_text("utf-8")
    lines = re.findall(r"^\| (.*) \| \[(\S+)\]\(results/\2\.md\) \|$", text, re.MULTILINE)
    shown = []
    for line, suite in lines:
        name, label, patients, seeds, real, synthetic, ratio, single, gain = line.split(" | ")
        name, block = name.split(",")[0], blocks()[suite]
        assert f"{('one seed', 'two seeds', 'three seeds')[int(seeds) - 1]} of every" in block
        found = table(block, f"{name}: {label}, {patients} patients")
        recipe = RECIPES.get(suite, "default")
        row = found[f"synthetic images alone ({recipe})"]
        assert ("Judged on validation patients" in block) == ("validation" in line)
        assert (real, synthetic) == (found["all real images"]["Dice"], row["Dice"])
        assert ratio == f"{row['of all-real']} ({row['interval']})"
        sites = [row for model, row in found.items() if re.fullmatch(r"real images of \w+", model)]
        assert single == max((row["of all-real"] for row in sites), default=NOT_MEASURED)
        assert gain == gain_of_longer(block, name, label).lstrip("+").replace("-0.000", "0.000")
        shown.append((suite, label))
    assert len(shown) == len(set(shown)) == 18


@pytest.mark.parametrize("start", ROWS)
def test_each_row_of_the_readme_says_what_its_suite_found(start):
    suite, heading, recipe = ROWS[start]
    block = blocks()[suite]
    found = table(block, heading)
    synthetic, real = found[f"synthetic images alone ({recipe})"], found["all real images"]
    text = (ROOT / "README.md").read_text("utf-8")
    (line,) = (ln for ln in text.splitlines() if ln.startswith(f"| {start}"))
    _, *figures, held_out = (cell.strip() for cell in line.split("|")[1:-1])
    assert "One training of the generator each, hippocampi three." in text
    assert f"{'three seeds' if 'hippocampi' in start else 'one seed'} of every" in block
    patients = int(re.search(rf"\*\*{heading}, (\d+) patients", block)[1])
    enough = "yes" if patients >= DECIDES else "no"
    other = ", from other masks" if ", own masks, " in line else ""
    assert held_out == f"{patients}: {enough}{other}"
    # A table has two columns "interval"; the last one is that of the ratio.
    ratio = f"{synthetic['of all-real']} ({synthetic['interval']})"
    assert figures == [real["Dice"], synthetic["Dice"], ratio]
    assert ("Judged on validation patients" in block) == (", validation |" in line)
    assert "On nuclei and lesions of phantoms, synthetic-only training beat" in text
    ahead = "nuclei" in start or start.startswith("phantoms")
    other = SITES_OF.get(heading.split(":")[0], suite)
    singles = [float(row["of all-real"]) for name, row in table(blocks()[other], heading).items()
               if name.startswith("real images of") and "+" not in name]  # fmt: skip
    assert not singles or (float(synthetic["of all-real"]) > max(singles)) == ahead
    gain = gain_of_longer(blocks()[other], *heading.split(": "))
    assert "On phantoms, gliomas and hippocampi the all-real baseline had not converged" in text
    converged = start.split(",")[0] not in ("phantoms", "gliomas", "hippocampi")
    assert gain == NOT_MEASURED or (float(gain) < LEAST_GAIN) == converged


@pytest.mark.parametrize("place", ["README.md", "docs/evidence.md", "docs/privacy.md"])
def test_the_worst_recipe_that_the_policy_admits_is_the_one_that_documents_tell_of(place):
    """Of several seeds: one alone says little, and the worst of many single ones is chance."""
    lines = blocks()["worst_recipe"].strip().split("\n\n")[1].splitlines()
    columns, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    outside = ("refused now", "masks, unshifted", "masks, one network")
    admitted = [row for row in found if row["recipe"] not in outside and int(row["seeds"]) > 1]
    worst = max(admitted, key=lambda row: float(row["AUC"]))
    prose = " ".join(BLOCK.sub("", (ROOT / place).read_text("utf-8")).split())
    told = (
        worst["AUC"] if place == "docs/privacy.md" else f"{worst['AUC']} ({worst['95 % interval']})"
    )
    assert told in prose
    assert {row["set"] for row in admitted} == {row["set"] for row in found}
    refused = [float(row["AUC"]) for row in found if row["recipe"] == "refused now"]
    assert refused and min(refused) > float(worst["AUC"])  # the attacks work
