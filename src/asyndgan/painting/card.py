"""Model cards of synthetic sets and of generators, in Markdown."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asyndgan.intake.dataset import SLICED
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.runs.shipped import is_shipped, licence_of
from asyndgan.runs.trial import NO_RESULT, trial_of
from asyndgan.templates import templates
from asyndgan.texts import printable


def model_card(
    facts: RunFacts,
    provenance: dict[str, Any],
    count: int,
    recipe: Recipe,
    findings: Mapping[str, str] | None = None,
) -> str:
    """A synthetic set's model card, in Markdown.

    `findings` are of audits (`audited`) and of evaluations at sites (`evaluated`), empty: none.
    """
    provenance = provenance | {key: text for key, text in (findings or {}).items() if text}
    none = dict.fromkeys(("audited", "evaluated", "folds", "grid"), "")
    return _rendered(
        f"{recipe.kind.case}s", facts=facts, count=count, recipe=recipe, sliced=SLICED,
        provenance={**none, "faded": [], **provenance},
        provenance_text=json.dumps(provenance, indent=2),
    )  # fmt: skip


def generator_card(run: RunFolder, form: str) -> str:
    """Card of a generator that is exported as `onnx` or as a `bundle`, in Markdown."""
    facts, recipe = run.facts(), run.recipe()
    return _rendered(
        "generator", facts=facts, recipe=recipe, form=form, trial=trial_of(facts, recipe),
        licence=licence_of(run.path), shipped=is_shipped(run.path),
    )  # fmt: skip


def _rendered(template: str, **content: object) -> str:
    # Not escaped: `plain` makes texts inert in Markdown.
    found = templates(Path(__file__).parent, plain, plainly)
    return found.get_template(f"{template}.md.jinja").render(no_result=NO_RESULT, **content)


def plain(text: object) -> str:
    """A text as Markdown shows it to the letter, on one line: it may be another party's."""
    line = printable(str(text)).replace("\n", " ")
    return re.sub(r"[\\`*_\[\]<>|&~]|:(?=//)", r"\\\g<0>", line)


def plainly(texts: Iterable[object], between: str = ", ") -> str:
    """Several texts, each as of `plain`."""
    return between.join(map(plain, texts))
