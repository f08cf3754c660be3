"""What a steward reads of a run that asks, and what their decisions write."""

from types import SimpleNamespace

import pytest

from asyndgan.cli.site import first_policy
from asyndgan.privacy import Policy
from asyndgan.privacy.deciding import write_policy
from asyndgan.privacy.measured_recipes import ALIKE, FAMILY
from asyndgan.privacy.policy import ASKED
from asyndgan.reports.asked import leaving
from asyndgan.runs import load_recipe
from commands import asyndgan

WIDE = ("discriminator.width=96", "training.steps=9000")


def test_what_leaves_follows_from_recipe_and_policy():
    strict = list(leaving(load_recipe("default"), first_policy("north", "measured")))
    assert "In each step the gradient on synthetic images, as int4." in strict
    assert not any("losses" in line or "Label maps" in line for line in strict)
    lax = Policy.from_toml("[leaves]\nmasks = 'transient'\ndiscriminator_losses = true")
    told = " ".join(leaving(load_recipe("paper"), lax))
    assert "losses of the generator and discriminators" in told
    assert "label maps or classes of patients, which it promises not to keep" in told


def test_an_approval_names_one_recipe_and_a_refusal_outdoes_everything(tmp_path):
    file, recipe = tmp_path / "policy.toml", load_recipe("default", WIDE)
    first = first_policy("north", "measured").to_toml()
    file.write_text("# decided on 3 May\n" + first)
    other, plain = load_recipe("default", ["discriminator.width=95"]), load_recipe("default")

    def keys(recipe=recipe):
        return [key for key, _ in Policy.from_file(file).refused_by(recipe, "north")]

    def decide(approve, recipe=recipe):
        write_policy(file, Policy.from_file(file).decided(recipe, approve=approve))

    assert keys() == ["allows.approved"]
    decide(True)
    assert keys() == [] and keys(other) == ["allows.approved"]
    decide(False)
    assert keys() == ["allows.approved", "allows.refused"] and not {*keys()} <= {*ASKED}
    decide(True)
    assert keys() == []
    assert file.read_text().startswith("# decided on 3 May\n")
    assert file.read_text().count("\n# ") == first.count("\n# ")
    assert keys(plain) == []
    decide(False, plain)
    assert keys(plain) == ["allows.refused"]


def test_an_approval_of_such_runs_covers_what_no_answer_depends_on_and_nothing_else(tmp_path):
    file, recipe = tmp_path / "policy.toml", load_recipe("default", WIDE)
    file.write_text(first_policy("north", "ask").to_toml())
    write_policy(file, Policy.from_file(file).decided(recipe, approve=True, such=True))
    found = Policy.from_file(file)
    alike = ("name=again", "training.steps=8999", "training.seed=7", "generator.width=8",
             "optimiser.generator_rate=0.0001", "quorum.least=1")  # fmt: skip
    assert not found.refused_by(recipe) + found.refused_by(load_recipe("default", [*WIDE, *alike]))
    assert found.refused_by(recipe.computed_in("bfloat16")) == []  # as a site checks it anew
    assert not [row.key for row in FAMILY if row.key.startswith(ALIKE)]
    for other in (
        "training.steps=9001", "discriminator.width=95", "loss.mismatch=0.5", "wire.feedback=int8",
        "training.hold_out_seed=5", "image.size=48", "training.flip=false",
        "image.modalities=T1", "optimiser.discriminator_rate=0.0001", "optimiser.decay_from=0.9",
    ):  # fmt: skip
        assert found.refused_by(load_recipe("default", [*WIDE, other])), other
    revoked = found.decided(load_recipe("default", [*WIDE, *alike]), approve=False)
    assert not revoked.allows.such and revoked.refused_by(recipe)


@pytest.mark.parametrize(
    ("choice", "waits", "with_masks"),
    [("ask", "allows.approved", "leaves.masks"), ("measured", "", "leaves.masks"),
     ("masks", "", "")],
)  # fmt: skip
def test_a_new_site_asks_first_unless_its_steward_chooses_otherwise(
    phantoms, tmp_path, monkeypatch, choice, waits, with_masks
):
    def begun(name, *words, **options):
        asyndgan("site", "init", tmp_path / name, "--data", phantoms["north"], *words, **options)
        return Policy.from_file(tmp_path / name / "policy.toml")

    found = begun("named", "--policy", choice)
    assert waits == " ".join(key for key, _ in found.refused_by(load_recipe("default")))
    own = load_recipe("default", ["masks.source=own", "masks.release=false"])
    assert ("leaves.masks" in (key for key, _ in found.refused_by(own))) is bool(with_masks)
    assert not begun("unasked").allows.unasked
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("asyndgan.cli.site.sys", terminal)
    asked = begun("asked", answer=f"all of it\n{choice}\n")
    assert (asked.allows, asked.leaves) == (found.allows, found.leaves)


@pytest.mark.parametrize(
    "text", ["", "allows.approved = []", "[allows]\napproved = [  # [such]\n]"]
)
def test_a_policy_that_is_written_by_hand_takes_a_decision_whole(tmp_path, text):
    file, recipe = tmp_path / "policy.toml", load_recipe("default", WIDE)
    file.write_text(text)
    wanted = Policy.from_file(file).decided(recipe, approve=True)
    write_policy(file, wanted)
    assert Policy.from_file(file) == wanted
