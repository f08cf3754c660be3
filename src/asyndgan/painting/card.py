"""Model cards of synthetic sets, in Markdown."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts
from asyndgan.runs.trial import NO_RESULT
from asyndgan.texts import printable


def model_card(
    facts: RunFacts, provenance: dict[str, Any], count: int, recipe: Recipe, **more: object
) -> str:
    """A synthetic set's model card, in Markdown.

    Args:
        facts: facts of the run that painted the set.
        provenance: what the set says of itself.
        count: number of its cases or records.
        recipe: recipe of the run.
        more: of records: `audited`, findings of audits that permit a release, and `ends`, what is
            known of extreme values.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),  # not of Markdown, in which `plain` makes texts inert
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "plainly": plainly}
    kind = "records" if recipe.table else "images"
    return environment.get_template(f"{kind}.md.jinja").render(
        facts=facts, provenance={"audited": "", "faded": [], "folds": ""} | provenance,
        count=count, recipe=recipe, no_result=NO_RESULT,
        provenance_text=json.dumps(provenance, indent=2), **more,
    )  # fmt: skip


def plain(text: object) -> str:
    """A text as Markdown shows it to the letter, on one line: it may be another party's."""
    line = printable(str(text)).replace("\n", " ")
    return re.sub(r"[\\`*_\[\]<>|&~]|:(?=//)", r"\\\g<0>", line)


def plainly(texts: Iterable[object], between: str = ", ") -> str:
    """Several texts, each as of `plain`."""
    return between.join(map(plain, texts))
