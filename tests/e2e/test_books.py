"""Ledgers and accounts outlive a run, where a policy counts over all runs."""

import json
from pathlib import Path

import pytest

from asyndgan.errors import PolicyError
from asyndgan.privacy.ledger import read
from asyndgan.runs.train import train


@pytest.fixture
def private(tiny):
    return tiny(
        "image.size=32", "masks.release=false", "privacy.kind=discriminator", "privacy.noise=3",
        "privacy.conditions=unprotected", "privacy.patients=2", "training.steps=3",
    )  # fmt: skip


def policies(phantoms: dict[str, Path], folder: Path, text: str) -> dict[str, Path]:
    file = folder / "policy.toml"
    file.write_text(text)
    return dict.fromkeys(phantoms, file)


SENT = '[leaves]\nmasks = "transient"'


def test_a_limit_over_all_runs_wants_books_that_stay(private, phantoms, tmp_path):
    for text in (
        "[privacy]\nepsilon = 9.0\nunprotected_masks = true\n" + SENT,
        "[allows]\nmost_answers = 9\nunmeasured = true\nfewest_patients = 1\n" + SENT,
    ):
        with pytest.raises(PolicyError, match="--records FOLDER"):
            train(private, phantoms, tmp_path / "run", policies=policies(phantoms, tmp_path, text))
    assert not (tmp_path / "run").exists()


def test_what_one_run_spent_is_not_there_for_the_next(private, phantoms, tmp_path):
    seven = "[allows]\nmost_answers = 7\nunmeasured = true\nfewest_patients = 1\n" + SENT
    limit = policies(phantoms, tmp_path, seven)
    books = tmp_path / "books"
    train(private, phantoms, tmp_path / "first", policies=limit, records=books)
    assert not list((tmp_path / "first").rglob("ledger.jsonl"))
    second = train(private, phantoms, tmp_path / "second", policies=limit, records=books)
    lines = second.metrics_file.read_text().splitlines()
    assert [json.loads(line)["updated"] for line in lines] == [True, True, False]
    for site in phantoms:
        entries = list(read(books / site / "ledger.jsonl"))
        assert sum(entry.kind == "judgement" for entry in entries) == 5
        assert len({entry.run for entry in entries}) == 2
        spent = [entry.epsilon for entry in entries if entry.epsilon]
        assert spent == sorted(spent)
