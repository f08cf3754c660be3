"""Runs as people start, stop, lose and resume them."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from asyndgan.engines import InProcess
from asyndgan.errors import (
    DataError,
    PolicyError,
    ProtocolError,
    QuorumError,
    RunError,
)
from asyndgan.intake.description import describe
from asyndgan.painting.synthesise import released_masks, synthesise
from asyndgan.protocol import Exchange
from asyndgan.runs import Interrupted, Progress, RunFolder, load_recipe
from asyndgan.runs.checks import check_late_sites
from asyndgan.runs.train import train
from asyndgan.training import Coordinator, Site
from asyndgan.training.checkpoint import place_of, read
from asyndgan.training.steps import step_file, stored_steps
from asyndgan.wire.messages import ANSWERS, Judge, Judgement, pack, unpack
from commands import asyndgan, command
from small import declare, named
from waiting import halt

Sites = dict[str, Path]
STEPS = 16


@pytest.fixture(scope="module")
def recipe(tiny):
    return tiny(
        "image.size=32", f"training.steps={STEPS}", "training.checkpoint_every=4",
        "training.sample_every=2", "generator.style=2", "discriminator.kind=patch_segmentation",
        "loss.segmentation=1", "loss.as_real=true", "loss.mismatch=1",
        "timeline=[{site='south', first=2, last=5}, {site='south', first=9}]",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(recipe, phantoms, tmp_path_factory):
    """A run in one process that nothing disturbed."""
    return train(recipe, phantoms, tmp_path_factory.mktemp("whole") / "run")


def stop_after(step: int) -> Callable[[Progress], None]:
    """A polite kill, as a batch system sends it."""

    def watch(progress: Progress) -> None:
        if progress.step == step:
            signal.raise_signal(signal.SIGTERM)

    return watch


def same_run(ours: RunFolder, theirs: RunFolder) -> None:
    """Everything that was learned, bit for bit, and every step's record once."""
    for file in ("generator_file", "coordinator", "north", "south"):
        first, second = (learned(run, file) for run in (ours, theirs))
        assert list(first) == list(second)
        assert all(torch.equal(first[name], second[name]) for name in first), file
    records = [
        [(r["step"], r["shares"], r["losses"], r["updated"]) for r in run.metrics()]
        for run in (ours, theirs)
    ]
    assert [record[0] for record in records[0]] == list(range(1, STEPS + 1))
    assert records[0] == records[1]
    lines = ours.metrics_file.read_text().splitlines()
    assert len(lines) == STEPS
    for line in lines:  # all numbers are finite
        assert json.loads(line, parse_constant=pytest.fail)["sent"] > 0


def learned(run: RunFolder, party: str) -> dict[str, torch.Tensor]:
    if party == "generator_file":
        return read(run.generator_file)[0]
    at_site = place_of(run.site_state(party), run.facts().run)
    folder = run.checkpoints if party == "coordinator" else at_site
    return read(step_file(folder, STEPS))[0]


def masks_of(run: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run.masks / "labelsTr").glob("*.png")}


# Nothing goes wrong


def test_sites_in_processes_of_their_own_train_the_same_generator_bit_for_bit(
    recipe, phantoms, whole, tmp_path
):
    run = train(recipe, phantoms, tmp_path / "run", engine="processes")
    same_run(run, whole)
    assert masks_of(run) == masks_of(whole)
    ours, theirs = run.facts(), whole.facts()
    assert (ours.engine, theirs.engine) == ("processes", "inprocess")
    assert ours.sites == theirs.sites
    assert {s: k["judge"] for s, k in ours.came_to_sites.items()} == {
        s: k["judge"] for s, k in theirs.came_to_sites.items()
    }
    assert not site_processes(run.path)


def test_nothing_is_painted_in_the_look_of_a_site_that_came_and_never_judged(
    tiny, phantoms, tmp_path, monkeypatch
):
    check_fits = Site._check_fits

    def refuses(site, request):
        if site.name == "south" and isinstance(request, Judge):
            raise PolicyError("this site says no more.")
        check_fits(site, request)

    monkeypatch.setattr(Site, "_check_fits", refuses)
    recipe = tiny(
        "image.size=32", "training.steps=4", "generator.style=2", "quorum.least=0.5",
        "masks.release=true",
    )  # fmt: skip
    run = train(recipe, phantoms, tmp_path / "run")
    facts = run.facts()
    assert (set(facts.sites), facts.taught) == ({"north", "south"}, {"north": 4})
    assert facts.looks() == {"north": ["north"]}
    assert set(facts.drawn_sites(50, torch.Generator())) == {"north"}


def test_a_run_that_goes_on_after_a_site_has_left_for_good_still_tells_of_it(
    tiny, phantoms, tmp_path
):
    """Whose look is painted, and by what share, is read out of it."""
    recipe = tiny("image.size=32", "training.steps=4", "timeline=[{site='south', last=1}]")
    with pytest.raises(Interrupted):
        train(recipe, phantoms, tmp_path / "run", watch=stop_after(3))
    facts = train(recipe, phantoms, tmp_path / "run", resume=True).facts()
    assert {*facts.sites} == {*phantoms} and facts.taught == {"north": 4, "south": 2}


# Interrupted and resumed


def test_a_run_that_was_stopped_also_while_a_site_was_away_equals_one_that_was_not(
    recipe, phantoms, whole, tmp_path
):
    there = [r["step"] for r in whole.metrics() if "south" in r["shares"]]
    assert there == [*range(3, 7), *range(10, STEPS + 1)]
    assert whole.metrics()[2]["news"] == ["south comes, as the timeline says"]
    out = tmp_path / "run"
    for number, stop in enumerate([1, 7, 15]):
        with pytest.raises(Interrupted, match=f"stopped after step {stop}; .*--resume"):
            train(recipe, phantoms, out, resume=number > 0, watch=stop_after(stop))
        facts = RunFolder(out).facts()
        assert (facts.state, facts.steps) == ("interrupted", stop)
    run = train(recipe, phantoms, out, resume=True)
    same_run(run, whole)
    assert masks_of(run) == masks_of(whole)
    first, *others = sorted(whole.samples.iterdir())
    heights = [Image.open(first).height, *(Image.open(file).height for file in others)]
    assert heights == [heights[0]] + [2 * heights[0]] * len(others)  # south is shown, too
    for file in (first, *others):
        assert (run.samples / file.name).read_bytes() == file.read_bytes()
    ours, theirs = run.facts(), whole.facts()
    assert ours.taught == theirs.taught == {"north": STEPS, "south": len(there)}
    assert ours.left_sites["north"]["judgement"] == pytest.approx(
        theirs.left_sites["north"]["judgement"], rel=0.01
    )


def test_a_run_that_crashed_goes_on_from_its_newest_whole_checkpoint(
    recipe, phantoms, whole, tmp_path
):
    out = tmp_path / "run"

    def crash(progress):
        if progress.step == 11:
            raise MemoryError("this machine is too small")

    with pytest.raises(MemoryError):
        train(recipe, phantoms, out, watch=crash)
    folder = RunFolder(out)
    assert stored_steps(folder.checkpoints) == [6, 8]
    assert len(folder.metrics()) == 11
    with folder.metrics_file.open("a") as metrics:
        metrics.write('{"step": 11, "sec')  # the machine went off in the middle of a line
    before, newest = (step_file(folder.checkpoints, step) for step in (6, 8))
    newest.write_bytes(newest.read_bytes()[:100])
    whole_one = before.read_bytes()
    before.write_bytes(b"")
    with pytest.raises(RunError, match="not a whole checkpoint"):
        train(recipe, phantoms, out, resume=True)  # it does not begin anew without a word
    before.write_bytes(whole_one)
    same_run(train(recipe, phantoms, out, resume=True), whole)


def test_a_run_that_starts_from_another_goes_on_without_it_to_the_same_end(
    tiny, phantoms, whole, tmp_path
):
    first = tmp_path / "first"
    shutil.copytree(whole.path, first)
    recipe = tiny("image.size=32", "training.steps=3", "generator.style=2")
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    words = ("train", tmp_path / "recipe.toml", "--from", first, "--out", tmp_path / "whole")
    said = asyndgan(*words, *named(phantoms))
    undisturbed = RunFolder(tmp_path / "whole")
    assert "step 1: took 43 of 43 layers of first" in " ".join(said.split())
    assert undisturbed.facts().start == {
        "run": "first", "generator_sha256": whole.generator_digest(), "steps": STEPS,
        "sites": ["north", "south"], "took": "took 43 of 43 layers of first",
    }  # fmt: skip
    assert str(tmp_path) not in undisturbed.facts_file.read_text()
    asyndgan("report", undisturbed.path)
    page = (undisturbed.path / "report.html").read_text()
    assert f"first, generator {whole.generator_digest()}" in page

    def crash(progress):
        raise MemoryError

    with pytest.raises(MemoryError):
        train(recipe, phantoms, tmp_path / "run", start=first, watch=crash)
    begun = read(step_file(RunFolder(tmp_path / "run").checkpoints, 0))[0]
    for name, tensor in whole.generator().state_dict().items():  # before the first step
        assert torch.equal(begun[f"generator/{name}"], tensor)
        assert torch.equal(begun[f"average/{name}"], tensor)
    shutil.rmtree(first)
    run = train(recipe, phantoms, tmp_path / "run", start=first, resume=True)
    assert run.facts().start == undisturbed.facts().start
    ours, theirs = (read(one.generator_file)[0] for one in (run, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# Sites that go away and come back


def site_processes(run: Path) -> dict[str, int]:
    """Process of each site of a run on this machine, found by the log that it writes."""
    found = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            log = link.readlink()
        except OSError:
            continue
        if log.name == "site.log" and run in log.parents:
            found[log.parent.name] = int(link.parts[2])
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds processes in /proc")
def test_a_site_that_is_killed_is_missed_and_comes_back_with_its_discriminator(
    tiny, phantoms, tmp_path
):
    recipe = tiny("image.size=32", "training.steps=100000", "training.checkpoint_every=4")
    out, killed_after, back_for = tmp_path / "run", 9, 3
    shares: list[dict[str, float]] = []

    def watch(progress):
        shares.append(progress.report.shares)
        if progress.step == killed_after:
            os.kill(site_processes(out)["south"], signal.SIGKILL)
        elif progress.step > killed_after:
            time.sleep(0.1)  # it takes seconds to start
            if ["south" in each for each in shares[killed_after:]].count(True) == back_for:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(recipe, phantoms, out, engine="processes", watch=watch)
    records = RunFolder(out).metrics()
    judged = [record["step"] for record in records if "south" in record["losses"]]
    assert judged[:killed_after] == list(range(1, killed_after + 1))
    missed = records[killed_after]
    assert missed["updated"]
    assert missed["shares"] == {"north": 1.0}
    assert any(line.startswith("missed south: ") for line in missed["news"])
    told = "south is back, with its discriminator of step 8"
    (back,) = [record for record in records if told in record["news"]]
    assert back["shares"] == records[0]["shares"]
    # It was killed after nine updates, saved after eight: eight, and those since its return.
    place = place_of(out / "sites" / "south", RunFolder(out).facts().run)
    tensors, about = read(step_file(place, stored_steps(place)[-1]))
    updates = {int(v) for name, v in tensors.items() if name.endswith("/step")}
    assert updates == {8 + back_for}
    assert about["batch"] == 8 + back_for
    assert about["step"] == judged[-1]


def test_a_site_that_hangs_is_missed_after_the_wait_and_taken_back_later(running):
    engine = running("processes")
    # The sites know the recipe by its digest; only the coordinator's patience is shorter here.
    patient = Exchange(engine.transport, engine.recipe)
    short = engine.recipe.quorum.model_copy(update={"wait_s": 6.0})
    coordinator = Coordinator.begin(engine.recipe, patient, run="abc123")
    both = coordinator.step().shares
    coordinator.roster.exchange = Exchange(
        engine.transport, engine.recipe.model_copy(update={"quorum": short})
    )
    pid = engine.transport.pid("south")
    halt(pid)
    try:
        report = coordinator.step()
        assert report.updated
        assert report.shares == {"north": 1.0}
        assert report.missed == {"south": "site south: there was no answer in time."}
        coordinator.invite()  # in the background: nobody waits for the site that hangs
        assert coordinator.step().shares == {"north": 1.0}
    finally:
        os.kill(pid, signal.SIGCONT)
    while coordinator.invite().get("south") != "":
        time.sleep(0.05)
    assert engine.transport.pid("south") == pid
    # It judged the step that it slept through, late; the answer was dropped.
    assert coordinator.members["south"].batch == 2
    assert coordinator.step().shares == both


# What goes wrong is said


def test_ctrl_c_is_heeded_while_a_run_waits_for_sites_and_the_command_says_how_to_go_on(
    recipe, phantoms, tmp_path, monkeypatch
):
    asked: list[bool] = []

    def nobody(self):
        if self.step_number == 3:
            asked.append(True)
            signal.raise_signal(signal.SIGINT)
            return False
        return True

    monkeypatch.setattr(Coordinator, "has_quorum", nobody)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    words = ("train", tmp_path / "recipe.toml", "--out", tmp_path / "run", *named(phantoms))
    done = command(*words, "--set", "quorum.patience_s=60")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 130 and "Traceback" not in said
    assert "after step 3" in said and "go on with 'asyndgan train ... --resume'" in said
    assert len(asked) == 1
    assert RunFolder(tmp_path / "run").facts().state == "interrupted"


def test_a_run_stops_where_sites_are_there_and_none_of_them_answers(
    tiny, phantoms, tmp_path, monkeypatch
):
    """Else it would go on to its last step, and be called finished."""
    recipe = tiny("image.size=32", "training.steps=10000", "quorum.patience_s=1")
    judged = Site._judge

    def spent(self, request):
        if request.step > 2:
            raise ProtocolError("there is no budget left.")
        return judged(self, request)

    monkeypatch.setattr(Site, "_judge", spent)
    out = tmp_path / "run"
    with pytest.raises(QuorumError, match=r"too few sites (answered )?for 1 s .*is no budget left"):
        train(recipe, phantoms, out)
    updated = [record["updated"] for record in RunFolder(out).metrics()]
    assert updated[:3] == [True] * 3
    assert not any(updated[3:])
    assert RunFolder(out).facts().state == "failed"


def test_a_run_ends_at_once_when_policies_leave_no_quorum(tiny, phantoms, tmp_path, monkeypatch):
    """Of two sites one is enough: the run goes on until the other refuses it as well."""
    judged = Site._judge

    def revoked(self, request):
        if request.step > (2 if self.name == "south" else 5):
            raise PolicyError("revoked.")
        return judged(self, request)

    monkeypatch.setattr(Site, "_judge", revoked)
    recipe = tiny("image.size=32", "training.steps=10000", "quorum.patience_s=600")
    out, said = tmp_path / "run", r"whose policies allow the run\. .*site north refused.*resume"
    with pytest.raises(RunError, match=said):
        train(recipe, phantoms, out)
    updated = [record["updated"] for record in RunFolder(out).metrics()]
    assert updated[:6] == 6 * [True] and len(updated) < 60
    assert RunFolder(out).facts().state == "failed" and stored_steps(RunFolder(out).checkpoints)


def test_a_run_folder_is_never_overwritten(recipe, phantoms, whole):
    before = whole.facts_file.read_bytes()
    with pytest.raises(RunError, match="holds a run already; continue it with --resume"):
        train(recipe, phantoms, whole.path)
    with pytest.raises(RunError, match=r"has finished\. To train longer, start a new run from it"):
        train(recipe, phantoms, whole.path, resume=True)
    assert whole.facts_file.read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_never_began_does_not_block_its_folder(tiny, phantoms, tmp_path, resume):
    recipe, out = tiny("image.size=32"), tmp_path / "run"
    with pytest.raises(DataError):
        train(recipe, phantoms | {"south": tmp_path / "sotuh"}, out)
    with pytest.raises(Interrupted):
        train(recipe, phantoms, out, resume=resume, watch=stop_after(1))


def test_a_site_that_cannot_be_set_up_stops_the_run_before_it_begins(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    sites = {"south": tmp_path / "empty"}
    with pytest.raises(QuorumError, match="the run cannot begin: site south"):
        train(tiny("image.size=32"), sites, tmp_path / "run", engine="processes")
    log = (tmp_path / "run" / "sites" / "south" / "site.log").read_text()
    assert "dataset.json" in log


@pytest.mark.parametrize(
    ("timeline", "lacking", "said"),
    [
        ("{site='south', first=2}", {"north": ["T2"]}, "south comes later and holds T2"),
        ("{site='south', first=2}", {}, "south comes later and holds label 9 'bleeding'"),
        ("{site='north', last=0}, {site='south', first=2}", {}, "no site takes part in step 1"),
    ],
)  # fmt: skip
def test_a_timeline_that_cannot_be_followed_is_refused_before_anything_begins(
    tiny, phantoms, tmp_path, timeline, lacking, said
):
    south = Path(shutil.copytree(phantoms["south"], tmp_path / "south"))
    if "bleeding" in said:
        declare(south, labels=describe(south).labels | {"bleeding": 9})
    recipe = tiny("image.size=32", f"timeline=[{timeline}]")
    with pytest.raises(RunError, match=said):
        train(recipe, phantoms | {"south": south}, tmp_path / "run", without=lacking)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_only_with_its_own_recipe_and_version(tiny, phantoms, tmp_path):
    recipe = tiny("image.size=32", "training.steps=9")
    with pytest.raises(Interrupted):
        train(recipe, phantoms, tmp_path / "run", watch=stop_after(2))
    said = r"training\.steps is 6 and was 9.* Resume it with .*recipe\.to"
    with pytest.raises(RunError, match=said):
        train(tiny("image.size=32"), phantoms, tmp_path / "run", resume=True)
    run = RunFolder(tmp_path / "run")
    run.write_facts(replace(run.facts(), generator_version=5))
    with pytest.raises(RunError, match="was begun by another version of asyndgan"):
        train(recipe, phantoms, run.path, resume=True)


def test_what_nobody_judged_is_not_painted(whole, tmp_path):
    run = RunFolder(shutil.copytree(whole.path, tmp_path / "run"))
    facts = run.facts()
    come = {site: {**about, "modalities": ["T1"]} for site, about in facts.sites.items()}
    run.write_facts(replace(facts, sites=come))  # as if the one that holds the rest never came
    with pytest.raises(RunError, match="no site that took part in this run holds T2"):
        list(synthesise(run, released_masks(run)))
    said = " ".join(asyndgan("report", run.path, "--out", tmp_path / "r.html").split())
    assert "no images on the page: no site that took part" in said
    assert "painted from other masks" not in said  # no other masks would help


def test_modalities_that_take_no_part_do_not_keep_a_late_site_out(phantoms):
    late = load_recipe("masks", ["timeline=[{site='south', first=2}]"])
    check_late_sites(late, phantoms, {"north": ["T2"]})


def test_whatever_losses_a_site_tells_the_run_can_be_read_and_resumed(
    tiny, phantoms, tmp_path, monkeypatch
):
    send = InProcess.send
    lies = {2: 1e300, 3: -1e300, 4: 1e39}

    def sent(self, site, payload, timeout):
        answer = send(self, site, payload, timeout)
        told = unpack(answer, ANSWERS, limit=2**26)
        if site != "south" or not isinstance(told, Judgement) or told.step not in lies:
            return answer
        losses = dict.fromkeys(told.losses, lies[told.step])
        forged = told.model_copy(update={"losses": losses})
        return pack(forged, {"feedback": "float16", "conditions": "label8"})

    monkeypatch.setattr(InProcess, "send", sent)
    recipe = tiny("image.size=32")
    with pytest.raises(Interrupted):
        train(recipe, phantoms, tmp_path / "run", watch=stop_after(5))
    run = train(recipe, phantoms, tmp_path / "run", resume=True)
    records = run.metrics()
    assert [record["step"] for record in records] == [*range(1, 7)]
    assert any("missed south" in line for record in records for line in record.get("news", []))
