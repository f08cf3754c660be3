"""Generators that come with the package."""

import numpy as np
import pytest

import asyndgan
from asyndgan.errors import RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.runs import RunFolder
from asyndgan.runs.shipped import run_of, shipped_names


@pytest.mark.parametrize("name", shipped_names())
def test_a_generator_that_comes_with_us_paints_by_its_name_and_has_a_card(name):
    run = asyndgan.Run(name)
    assert run.state == "finished"
    masks = DataSet(run.folder.masks).masks(run.recipe.image)
    images = run.paint(np.stack([mask.numpy() for _, mask in masks[:2]]))
    assert images.shape == (2, len(run.modalities), *run.size) and images.std() > 0.01
    card = (run.path / "MODEL_CARD.md").read_text()
    assert "Licence of the weights" in card and "Limits" in card


def test_a_folder_comes_before_a_generator_of_the_same_name(tmp_path, monkeypatch):
    name = shipped_names()[0]
    monkeypatch.chdir(tmp_path)
    assert RunFolder(run_of(name)).generator_file.exists()
    (tmp_path / name).mkdir()
    assert str(run_of(name)) == name


def test_no_page_is_written_into_the_package():
    with pytest.raises(RunError, match="comes with the package"):
        asyndgan.report(shipped_names()[0])
    assert not (run_of(shipped_names()[0]) / "report.html").exists()
