import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asyndgan.cli.options import parsed_sites
from asyndgan.errors import DataError, RecipeError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder, load_recipe, recipe_names
from asyndgan.runs.kept_masks import MaskBank
from asyndgan.runs.train import train
from asyndgan.tables.schema import check_own_data


def lines(*steps: int, seconds: float = 1.0) -> str:
    """Metrics of these steps."""
    rest = {"seconds": seconds, "shares": {}, "losses": {}, "sent": 0, "received": 0}
    return "".join(json.dumps({"step": step, **rest}) + "\n" for step in steps)


def test_of_two_trainings_that_begin_at_once_the_one_that_trains_has_its_own_recipe(tmp_path):
    ours, theirs = Recipe(), Recipe.from_toml('name = "another"')
    folder = RunFolder.create(tmp_path, ours)
    RunFolder.create(tmp_path, theirs)  # before the first one has taken the lock to train
    with folder.held():
        folder.claim(ours)
        with pytest.raises(RunError, match="another training"):
            RunFolder.create(tmp_path, theirs)
    assert folder.recipe() == ours
    folder.write_facts(RunFacts("ab", "0", ours.digest(), "inprocess"))
    with folder.held(), pytest.raises(RunError, match="holds a run already"):
        RunFolder(tmp_path).claim(theirs)


def test_a_run_is_resumed_with_its_own_sites_only(tmp_path):
    folder = RunFolder.create(tmp_path, Recipe())
    about = {"cases": 3, "share": 0.5, "modalities": ["T1"]}
    facts = RunFacts("ab", "0", "0", "inprocess", sites={"north": about, "south": about})
    folder.write_facts(facts)
    other = {"north": tmp_path / "north", "east": tmp_path / "east"}
    with pytest.raises(RunError, match="not with east, north"):
        train(Recipe(), other, tmp_path, resume=True)


def test_a_tables_folder_and_its_file_are_one_data_set(tmp_path):
    for name in ("schema.json", "records.csv"):
        (tmp_path / name).touch()
    with pytest.raises(RunError, match="north and south have one data set"):
        check_own_data({"north": tmp_path, "south": tmp_path / "records.csv"})


def test_a_run_is_not_written_into_a_folder_of_something_else(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(RunError, match="holds something that is no run"):
        RunFolder.create(tmp_path, Recipe())
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_masks_with_other_labels_than_the_runs_are_refused(tmp_path):
    table = {"channel_names": {"0": "T1"}, "labels": {"lesion": 1}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    DataSet(tmp_path).check_labels({"0": "background", "1": "lesion"})
    for other in ({"1": "head"}, {"2": "lesion"}):
        with pytest.raises(DataError, match="label 1 is 'lesion' here; the run has"):
            DataSet(tmp_path).check_labels(other)


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path):
    for read in (RunFolder(tmp_path).facts, RunFolder(tmp_path).recipe):
        with pytest.raises(RunError, match="asyndgan train"):
            read()
    with pytest.raises(RunError, match="is no run folder"):
        RunFolder(tmp_path / "none").facts()


def test_metrics_of_steps_that_will_be_done_again_are_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text(lines(1, 2, 3) + '{"st')
    assert [record["step"] for record in folder.metrics()] == [1, 2, 3]
    folder.forget_metrics_after(2)
    assert folder.metrics_file.read_text() == lines(1, 2)


def test_a_released_mask_is_kept_once_and_known_again_after_a_restart(tmp_path):
    masks = torch.stack([torch.zeros(16, 16), torch.ones(16, 16)]).long()
    MaskBank(tmp_path).keep("north", masks)
    again = MaskBank(tmp_path)
    again.keep("north", torch.cat([masks, 2 * masks[1:]]))
    again.keep("south", masks[:1])
    names = sorted(path.name for path in (tmp_path / "labelsTr").iterdir())
    assert names == ["north-m00001.png", "north-m00002.png", "north-m00003.png", "south-m00001.png"]


def test_sites_are_name_and_folder_each_name_once():
    assert parsed_sites(["a=x", "b=y=z"]) == {"a": Path("x"), "b": Path("y=z")}
    for wrong in (["a"], ["=x"], ["a="], ["a=x", "a=y"], ["../a=x"]):
        with pytest.raises(RecipeError, match="site"):
            parsed_sites(wrong)


def test_a_run_whose_recipe_has_keys_of_another_version_is_refused_in_one_sentence(tmp_path, tiny):
    run = RunFolder.create(tmp_path, tiny())
    run.recipe_file.write_text(tiny().to_toml().replace("[loss]", "[loss]\nstand_in_l1 = 0.0"))
    with pytest.raises(RunError, match="that another version of asyndgan began"):
        run.recipe()


def test_every_recipe_of_the_package_is_valid_and_only_paper_has_a_paired_term():
    recipes = {name: load_recipe(name) for name in recipe_names()}
    assert set(recipes) == {"default", "demo", "masks", "paper"}
    assert [name for name, recipe in recipes.items() if recipe.loss.paired_l1] == ["paper"]
    with pytest.raises(RecipeError, match=r"generator\.kind: .*Did you mean resnet\?"):
        load_recipe("default", ["generator.kind=resnett"])


def test_a_service_that_many_signals_interrupt_anywhere_still_learns_that_it_is_to_end():
    code = """
import os, signal, threading
from asyndgan.runs.signals import told_to_end
told = told_to_end()
def send():
    for _ in range(20000):
        os.kill(os.getpid(), signal.SIGTERM)
sender = threading.Thread(target=send)
sender.start()
while sender.is_alive() or not told():
    pass
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_run_with_a_folder_that_cannot_be_read_is_refused_as_it_could_hold_a_link(
    tmp_path, tiny, monkeypatch
):
    run = RunFolder.create(tmp_path / "run", tiny())
    monkeypatch.chdir(run.path)
    for _ in range(20):  # its path is longer than a system opens, even for an administrator
        Path("d" * 250).mkdir()
        os.chdir("d" * 250)
    Path("link").symlink_to("/")
    with pytest.raises(RunError, match=r"cannot be read .* and could hold a link"):
        RunFolder(run.path).check_links()
