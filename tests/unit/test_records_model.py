"""The models that judge records."""

import numpy as np
import pandas as pd

from asyndgan.judging.metrics import area_under_curve
from asyndgan.judging.records import predicted
from asyndgan.tables.schema import Schema


def test_a_model_gains_nothing_from_records_that_are_given_twice():
    """Synthetic records are more than real ones, which alone must be no advantage."""
    random = np.random.default_rng(0)
    names = [f"c{number}" for number in range(12)]
    columns = {name: {"kind": "numeric"} for name in names}
    target = {"kind": "categorical", "categories": ["no", "yes"]}
    schema = Schema.model_validate(
        {"target": "late", "positive": "yes", "columns": {**columns, "late": target}}
    )

    def drawn(count):
        values = random.normal(size=(count, len(names)))
        late = random.random(count) < 1 / (1 + np.exp(3.5 - values[:, 0]))
        records = pd.DataFrame(values, columns=names).astype("Float64")
        return records.assign(late=np.where(late, "yes", "no"))

    records, judged = drawn(5200), drawn(4000)
    truth = (judged["late"] == "yes").to_numpy()
    once, twice = (
        predicted("boosting", own, judged, schema)
        for own in (records, pd.concat([records, records]))
    )
    gained = area_under_curve(twice[truth], twice[~truth]) - area_under_curve(
        once[truth], once[~truth]
    )
    assert gained < 0.01
