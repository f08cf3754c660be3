"""Helpers shared by the experiments: cached trainings and results, tables in documents."""

import argparse
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from asyndgan.judging.bench import write_whole
from asyndgan.painting.synthesise import PAINTING_VERSION
from asyndgan.privacy.accounting import Mechanism, epsilon_of
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.training import GENERATOR_VERSION
from asyndgan.training.segmentation import TRAINING_VERSION
from lab.digests import digest_of_files
from lab.evidence import markdown_table, replace_block
from lab.trainings import Training

DELTA = 1e-5
"""Delta of every epsilon."""

SITES = {
    "lgg_mri": ("site_1", "site_2", "site_3", "site_4"),
    "dsb2018_fluo": ("site_1", "site_2", "site_3", "site_4"),
    "phantoms": ("north", "south", "east", "west"),
}


REUSED = "what is here is not done again"
MADE_ANEW = "folder of what is measured, in OUT/anew, which is deleted first"


def arguments(about: str, *, data: bool = True, out: str = REUSED) -> argparse.ArgumentParser:
    """A parser with the options that all scripts share; `data` adds the folder of the data sets."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if data:
        parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--document", type=Path, help="Markdown file whose block to write anew")
    return parser


def emptied(out: Path) -> Path:
    """Deletes what an earlier measurement left in `out`; returns the resolved path to fill."""
    anew = out.resolve() / "anew"
    if anew.exists():
        shutil.rmtree(anew)
    return anew


@cache
def digest_of(folder: Path) -> str:
    """Digest of a data set's files."""
    return digest_of_files(folder)


def sites_of(data: Path, name: str) -> dict[str, Path]:
    """Folder of each site of a set, by the site's name."""
    return {site: data / name / site for site in SITES[name]}


def noise_for(epsilon: float, rate: float, uses: int) -> float:
    """The least noise (within 1 %) with which `uses` uses spend at most this epsilon."""
    low, high = 0.3, 3000.0
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        spent = epsilon_of({Mechanism(middle, rate): uses}, DELTA)
        low, high = (low, middle) if spent <= epsilon else (middle, high)
    return high


def trained(
    recipe: Recipe, sites: dict[str, Path], out: Path, *, fedgan: bool = False
) -> RunFolder:
    """A finished run: reused, resumed or trained anew, as in a suite."""
    training = Training(recipe, sites, out, fedgan=fedgan)
    if not training.finished():
        training.run()
    return training.folder


def remembered(path: Path, name: str, make: Callable[[], Any], *, of: object) -> Any:
    """An entry of a JSON file; if it is missing, it is computed by `make` and stored.

    Args:
        path: of the file.
        name: of the entry.
        make: computes it.
        of: everything that it depends on, as JSON: recipes, digests of data, budgets. Entries that
            were computed of something else, or by another version, are not taken.
    """
    versions = [GENERATOR_VERSION, PAINTING_VERSION, TRAINING_VERSION]
    digest = hashlib.sha256(json.dumps([of, versions], sort_keys=True).encode()).hexdigest()
    name = f"{name} ({digest[:12]})"

    def entries() -> dict[str, Any]:
        return json.loads(path.read_text()) if path.exists() else {}

    known = entries()
    if name not in known:
        made = make()  # takes long; another process may write other entries meanwhile
        known = entries() | {name: made}
        write_whole(path, json.dumps(known, indent=1).encode())
        print(name, known[name] if not isinstance(known[name], dict) else "")
    return known[name]


def markdown(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join(markdown_table([heading, *(list(map(str, row)) for row in rows)]))


def publish(block: str, name: str, document: Path | None) -> None:
    """Prints a table and, if a document is given, writes it into the document's block."""
    print(block)
    if document:
        text = replace_block(document.read_text("utf-8"), name, block)
        document.write_text(text, "utf-8")
