"""A suite's tables as Markdown and as one self-contained page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asyndgan.errors import RunError
from asyndgan.judging.figures import plot_amounts, plot_differences
from asyndgan.judging.table import site_of
from asyndgan.reports.evidence_tables import Row, by_label, by_set, tables_of
from asyndgan.reports.found import MOST_RESULTS
from asyndgan.reports.gallery import data_uri
from asyndgan.reports.page import COLOURS, write_page
from asyndgan.reports.usefulness import figure, label_table
from asyndgan.reports.words import counted
from asyndgan.texts import bounded_text, parsed_json, replace_text


def write_evidence(out: Path, *, examples: bool = False) -> tuple[Path, Path]:
    """Writes `suite.md` and `suite.html` beside a suite's `suite.json`.

    Args:
        out: the suite's output folder.
        examples: include predictions and completions of real patients in the page.

    Returns:
        Paths of both files.

    Raises:
        RunError: there is no readable `suite.json`.
    """
    try:
        result = parsed_json(bounded_text(out / "suite.json", MOST_RESULTS))
    except (OSError, ValueError) as error:
        raise RunError(f"{out} holds no suite.json; make it with 'asyndgan benchmark'.") from error
    markdown = out / "suite.md"
    replace_text(markdown, to_markdown(result))
    tables = {
        name: [label_table(own[0]["label"], own) for own in by_label(rows).values()]
        for name, rows in by_set(result["rows"]).items()
    }
    sites = [name for row in result["rows"] if (name := site_of(row["model"]))]
    page = {
        "result": result,
        "tables": tables,
        "numbers": {name: number for number, name in enumerate(dict.fromkeys(sites))},
        "colours": COLOURS,
        "markdown": tables_of(result),
        "amounts": {
            name: data_uri(plot_amounts(rows), "image/svg+xml")
            for name, rows in by_set(_by_number_only(result["paintings"])).items()
        },
        "differences": {
            name: data_uri(plot_differences(rows), "image/svg+xml")
            for name, rows in by_set(result["differences"]).items()
        },
        "pictures": {name: figure(out / file) for name, file in result["pictures"].items()},
        "plots": {
            name: [
                picture
                for file in ("dice.svg", *(["examples.png", "completion.png"] if examples else []))
                if (picture := figure(out / folder / file))
            ]
            for name, folder in result["evaluations"].items()
        },
    }
    return markdown, write_page("evidence.html.jinja", page, out / "suite.html")


def find_block(document: str, suite: str) -> tuple[int, int]:
    """Start and end of a suite's tables in a document: after the first mark, before the second.

    Raises:
        RunError: the document lacks `<!-- suite: NAME -->` or, after it,
            `<!-- end of suite: NAME -->`.
    """
    begin, end = f"<!-- suite: {suite} -->", f"<!-- end of suite: {suite} -->"
    start = document.find(begin) + len(begin)
    stop = document.find(end, start)
    if begin not in document or stop < 0:
        raise RunError(f"the document has no place for this suite: write {begin} and {end} in it.")
    return start, stop


def replace_block(document: str, suite: str, block: str) -> str:
    """The document with the text between a suite's two marks replaced; see `find_block`.

    Raises:
        RunError: as `find_block`.
    """
    start, stop = find_block(document, suite)
    return f"{document[:start]}\n\n{block}\n{document[stop:]}"


def to_markdown(result: Row) -> str:
    """All tables of a suite as Markdown, for a document."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    several = result["seeds"] > 1
    also = ", or over generators, networks and patients (with trainings)" if several else ""
    folds = result.get("folds", 1)  # a result may be older
    crossed = f" in {folds} folds, each by networks without its patients" if folds > 1 else ""
    generators = counted(result["seeds"], "seed")
    networks = counted(result["segmentation_seeds"], "segmentation network")
    lines = [
        f"Judged on {result['judged_on']} patients{crossed}; {generators} of every generator, "
        f"{networks} of each training set; intervals of 95 % from a BCa bootstrap over "
        f"patients{also}. Suite `{result['suite']}` ({result['digest'][:12]}); {versions}.",
    ]
    for title, table in tables_of(result).items():
        lines += ["", f"**{title}**", "", *markdown_table(table)]
    return "\n".join(lines) + "\n"


def _by_number_only(rows: Sequence[Row]) -> list[Row]:
    """The paintings that differ from their recipe's first one only in the number of images."""
    defaults: dict[tuple[str, str], list[Any]] = {}
    chosen = []
    for row in rows:
        how = [row.get(key) for key in ("faded", "contrasts")]
        if defaults.setdefault((row["set"], row["recipe"]), how) == how:
            chosen.append(row)
    return chosen


def markdown_table(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table in Markdown; the first row is the heading."""
    heading, *lines = table
    yield "| " + " | ".join(heading) + " |"
    yield "|" + "---|" * len(heading)
    for line in lines:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
