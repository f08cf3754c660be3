"""The model card of a synthetic data set."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from asyndgan.recipe import PrivacySection, Recipe
from asyndgan.runs import RunFacts
from asyndgan.runs.trial import NO_RESULT
from asyndgan.texts import printable


def model_card(facts: RunFacts, provenance: dict[str, Any], count: int, recipe: Recipe) -> str:
    """A synthetic set's model card, in Markdown."""
    sites = "\n".join(
        f"| {plain(site)} | {about['cases']} | {about['share']:.3f} "
        f"| {plainly(about['modalities'])} |"
        for site, about in facts.teachers.items()
    )
    how = (
        "Its weights were trained on the real images at the sites and averaged (FedGAN)."
        if facts.engine == "fedgan"
        else "It saw no real image: each site's discriminator sent it gradients only."
    )
    return f"""# Model card: synthetic data set

**Every image in this folder is synthetic.** None was acquired from a patient.

{_trial_line(provenance)}- Cases: {count}; modalities: {plainly(facts.modalities)};
  labels: {plainly(f"{number} {name}" for number, name in facts.labels.items())}.
- Painted by a generator that was trained for {facts.steps} steps with
  asyndgan {plain(facts.version)} (recipe {plain(provenance["recipe"])}). {how}
- Masks: {plain(provenance["masks"])}.{_faded_line(facts, provenance)}

| site | cases that it declared | share | modalities |
|---|---|---|---|
{sites}

## Intended use

Training segmentation models, and research. Not for diagnosis, and not a stand-in for a clinical
validation on real patients.

## Limits

- What the sites' patients have in common, the images have too: rare findings may be missing.
- {privacy_line(recipe.privacy)}
- {_audit_line(provenance)}
- Measure before you rely on it: `asyndgan evaluate` compares models trained on this set with models
  trained on real data.
{"" if recipe.condition.kind == "none" else _folds_line(provenance)}
## Provenance

```json
{json.dumps(provenance, indent=2)}
```

Method: Q. Chang et al., "Synthetic Learning: Learn From Distributed Asynchronized Discriminator GAN
Without Sharing Medical Image Data", CVPR 2020.
"""


def plain(text: object) -> str:
    """A text as Markdown shows it to the letter, on one line: it may be another party's."""
    line = printable(str(text)).replace("\n", " ")
    return re.sub(r"[\\`*_\[\]<>|&~]|:(?=//)", r"\\\g<0>", line)


def plainly(texts: Iterable[object], between: str = ", ") -> str:
    """Several texts, each as of `plain`."""
    return between.join(map(plain, texts))


def _trial_line(provenance: Mapping[str, Any]) -> str:
    trial = provenance["trial"]
    return f"**{plain(trial)}.** {NO_RESULT}\n\n" if trial else ""


def privacy_line(privacy: PrivacySection, what: str = "an image") -> str:
    """A sentence of a model card on differential privacy; `what` is painted."""
    if privacy.kind == "none":
        return f"No differential privacy was applied: {what} may resemble one of a site's."
    return (
        f"The recipe asked for differential privacy (`{privacy.kind}`) with a noise multiplier of "
        f"{privacy.noise:g} and a clip of {privacy.clip:g}. That alone is no guarantee: the "
        "epsilon that a site spent stands in its own ledger (`asyndgan ledger show`). It was "
        "not verified for this card."
    )


def _folds_line(provenance: Mapping[str, Any]) -> str:
    if provenance.get("folds") == "patient":
        kept = "All images of one patient's masks are in one fold."
    else:
        kept = (
            "All images of one mask are in one fold. Which masks are of one patient is not known\n"
            "  here, so a patient's masks may be split between folds."
        )
    return f"- {kept}\n  nnU-Net's planner takes `splits_final.json` from this folder.\n"


def _audit_line(provenance: Mapping[str, Any]) -> str:
    found = plain(provenance.get("audited") or "")
    return f"Audited before its release: {found}." if found else "Not audited for membership."


def _faded_line(facts: RunFacts, provenance: Mapping[str, Any]) -> str:
    if not provenance.get("faded"):
        return ""
    names = plainly((facts.scope.labels[one] for one in provenance["faded"]), " and ")
    low, high = provenance["contrasts"]
    return (
        f"\n- Faded, {names}: at {low:g} to {high:g} of the contrast that the generator paints, "
        "drawn for each image."
    )
