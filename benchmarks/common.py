"""What the scripts beside this share: trainings that are not done twice, tables into documents."""

import argparse
import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from asyndgan.evaluation.bench import write_whole
from asyndgan.evaluation.trainings import Training
from asyndgan.privacy.accounting import Mechanism, epsilon_of
from asyndgan.recipe import Recipe
from asyndgan.reports.evidence import markdown_table, replace_block
from asyndgan.runs import RunFolder

DELTA = 1e-5
"""Of every epsilon."""

SITES = {
    "lgg_mri": ("site_1", "site_2", "site_3", "site_4"),
    "dsb2018_fluo": ("site_1", "site_2", "site_3", "site_4"),
    "phantoms": ("north", "south", "east", "west"),
}


def arguments(about: str, *, data: bool = True) -> argparse.ArgumentParser:
    """The options that all of them have; some need no data."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if data:
        parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="what is here is not done again")
    parser.add_argument("--document", type=Path, help="Markdown file whose block to write anew")
    return parser


def emptied(out: Path) -> Path:
    """A folder, resolved, without what an earlier measurement left in it."""
    out = out.resolve()
    if out.exists():
        shutil.rmtree(out)
    return out


def sites_of(data: Path, name: str) -> dict[str, Path]:
    """Folders of a set's sites."""
    return {site: data / name / site for site in SITES[name]}


def noise_for(epsilon: float, rate: float, uses: int) -> float:
    """The least noise (to a hundredth) with which so many uses spend no more than epsilon."""
    low, high = 0.3, 3000.0
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        spent = epsilon_of({Mechanism(middle, rate): uses}, DELTA)
        low, high = (low, middle) if spent <= epsilon else (middle, high)
    return high


def trained(recipe: Recipe, sites: dict[str, Path], out: Path) -> RunFolder:
    """A finished run: found, resumed or begun; as a suite does it."""
    training = Training(recipe, sites, out, fedgan=False, keep_generators=False)
    if not training.finished():
        training.run()
    return training.folder


def remembered(path: Path, name: str, make: Callable[[], object]) -> object:
    """The entry of a JSON file, made and written if it is not there."""
    known = json.loads(path.read_text()) if path.exists() else {}
    if name not in known:
        known[name] = make()
        write_whole(path, json.dumps(known, indent=1).encode())
        print(name, known[name] if not isinstance(known[name], dict) else "")
    return known[name]


def markdown(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    return "\n".join(markdown_table([heading, *(list(map(str, row)) for row in rows)]))


def publish(block: str, name: str, document: Path | None) -> None:
    """Prints a table and writes it into a document's block."""
    print(block)
    if document:
        text = replace_block(document.read_text("utf-8"), name, block)
        document.write_text(text, "utf-8")
