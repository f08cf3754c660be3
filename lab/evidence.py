"""A suite's tables as Markdown, and their place in a document."""

from collections.abc import Iterator, Sequence

from asyndgan.errors import RunError
from asyndgan.reports.words import counted
from lab.evidence_tables import Row, tables_of


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


def markdown_table(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table in Markdown; the first row is the heading."""
    heading, *lines = table
    yield "| " + " | ".join(heading) + " |"
    yield "|" + "---|" * len(heading)
    for line in lines:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
