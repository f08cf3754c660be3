"""What a synthetic set says of itself is believed only if a painting of its run could say it."""

import json
import math

import pytest

from asyndgan import generate, train
from asyndgan.errors import AsyndganError
from asyndgan.intake.dataset import DataSet
from asyndgan.painting.sets import check_provenance
from asyndgan.runs import RunFolder


def test_a_provenance_that_no_painting_writes_is_refused(phantoms, tiny, tmp_path):
    train(tiny("image.size=32", "training.steps=1"), phantoms, tmp_path / "run")
    generate(tmp_path / "run", tmp_path / "painted", draws=1)
    run, file = RunFolder(tmp_path / "run"), tmp_path / "painted" / "dataset.json"
    check_provenance(run, DataSet(tmp_path / "painted"))
    about = json.loads(file.read_text())
    for changed, reason in (
        ({"masks": "fine\n\n# Certified"}, "that no painting writes"),
        ({"masks": None}, "that no painting writes"),
        ({"trial": {}}, "that no painting writes"),
        ({"shares": math.nan}, "that no painting writes"),
        ({"faded": [3], "contrasts": 1}, "that no painting writes"),
        ({"faded": [99], "contrasts": [1, 1]}, "was not painted by the generator"),
        ({"masks_sha256": "x"}, "that no painting writes"),
    ):
        file.write_text(json.dumps(about | {"provenance": about["provenance"] | changed}))
        with pytest.raises(AsyndganError, match=reason):
            check_provenance(run, DataSet(tmp_path / "painted"))
