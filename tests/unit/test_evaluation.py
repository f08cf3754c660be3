import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from asyndgan.errors import DataError, NotFiniteError
from asyndgan.judging import bench, compare
from asyndgan.judging.bench import Bench, Judged
from asyndgan.judging.table import SYNTHETIC, Evaluation
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.store.prepare import blanked
from asyndgan.store.prepared import Case
from asyndgan.training.segmentation import SegmentationTraining, augment, predict, train_segmenter
from lab.levelling import levelled_off

BUDGET = SegmentationBudget(steps=3, batch=2, width=4)
LABELS = {"background": 0, "head": 1, "lesion": 2}


def phantom(patient, seed):
    """A grey disc with a bright spot in it."""
    generator = torch.Generator().manual_seed(seed)
    row, column = (torch.rand(2, generator=generator) * 6 + 13).tolist()
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    distance = (rows - row) ** 2 + (columns - column) ** 2
    mask = (distance < 100).long() + (distance < 16).long()
    image = torch.tensor([-1.0, -0.2, 0.7])[mask][None]
    image = (image + 0.05 * torch.randn(1, 32, 32, generator=generator)).clamp(-1, 1)
    return replace(Case.drawn(f"{patient}_{seed}", image, mask, ("T1",)), patient=patient)


def phantoms(count, first=0):
    return [phantom(f"p{seed // 2}", seed) for seed in range(first, first + count)]


def everything():
    return {
        "sites": {"north": phantoms(8), "south": phantoms(6, 20)}, "test": phantoms(6, 40),
        "synthetic": phantoms(8, 60), "labels": LABELS, "budget": BUDGET,
    }  # fmt: skip


@pytest.fixture
def data():
    return everything()


def evaluate(
    *, sites, synthetic, test, labels, out, targets=None, budget, seeds=(0,), baselines=False, **how
):
    judged = Judged(test, labels, targets)
    painted = {} if synthetic is None else {SYNTHETIC: [synthetic] * len(seeds)}
    models = compare.contenders(sites, painted, seeds=len(seeds), augmented=baselines)
    return compare.compare(models, judged, Bench(out, budget, seeds, **how), about={})


@pytest.fixture
def unplotted(monkeypatch):
    """Leaves the figures out, which take longer than these trainings."""
    monkeypatch.setattr(compare, "plot_examples", lambda *_: None)


@pytest.fixture
def trainings(monkeypatch, unplotted):
    """Counts trainings, without changing them."""
    calls = []

    def counting(cases, **rest):
        calls.append(len(cases))
        return train_segmenter(cases, **rest)

    monkeypatch.setattr(bench, "train_segmenter", counting)
    return calls


def test_a_short_training_finds_the_parts_of_a_phantom():
    budget = SegmentationBudget(steps=40, batch=4, width=6, rate=1e-2)
    network = train_segmenter(phantoms(12), classes=3, budget=budget, seed=0)
    unseen = phantoms(4, 40)
    found = predict(network, torch.stack([case.image for case in unseen]))
    assert (found == torch.stack([case.mask for case in unseen])).float().mean() > 0.95


@pytest.mark.parametrize("network", ["segresnet", "unetr"])
def test_every_network_learns_and_predicts_masks(network):
    budget = replace(BUDGET, network=network, width=12, steps=1)
    trained = train_segmenter(phantoms(4), classes=3, budget=budget, seed=0)
    assert predict(trained, torch.stack([case.image for case in phantoms(2)])).shape == (2, 32, 32)


def test_a_seed_decides_the_network_whatever_was_drawn_before():
    def weights(seed):
        network = train_segmenter(phantoms(5), classes=3, budget=BUDGET, seed=seed)
        return torch.cat([weight.flatten() for weight in network.parameters()])

    first = weights(1)
    torch.rand(3)
    before = torch.get_rng_state()
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_network_is_judged_without_what_none_of_its_cases_had(
    data, tmp_path, monkeypatch, unplotted
):
    def both(cases):
        """A second modality that says all there is to say."""
        return [
            replace(
                case,
                image=torch.cat([case.image, case.mask[None].float() - 1]),
                modalities=("T1", "T2"),
            )
            for case in cases
        ]

    seen = {}
    monkeypatch.setattr(
        bench, "predict", lambda network, images: seen.setdefault(len(seen), images)[:, 0].long()
    )
    sites = {
        "north": [blanked(case, ["T2"]) for case in both(data["sites"]["north"])],
        "south": both(data["sites"]["south"]),
    }
    test = both(data["test"])
    evaluate(**data | {"sites": sites, "test": test, "synthetic": None}, out=tmp_path)
    black = [bool((images[:, 1] == -1).all()) for images in seen.values()]
    assert black == [False, True, False]  # all real, north, south
    assert all(torch.equal(images[:, 0], seen[0][:, 0]) for images in seen.values())


def test_augmentation_moves_masks_with_images_and_stays_in_range():
    case = phantom("p", 0)
    images, masks = case.image.repeat(16, 1, 1, 1), case.mask.repeat(16, 1, 1)
    still = replace(BUDGET, gamma=0.0, intensity=0.0, noise=0.0)
    moved, labels = augment(images, masks, still, torch.Generator().manual_seed(0))
    assert not torch.equal(labels[0], labels[1])
    # The bright spot is where the mask says it is, in every image.
    assert moved[:, 0][labels == 2].mean() > 0.55
    assert moved[:, 0][labels == 0].mean() < -0.9
    louder = replace(BUDGET, noise=1.0)
    coloured, _ = augment(images, masks, louder, torch.Generator().manual_seed(0))
    assert coloured.min() >= -1 and coloured.max() <= 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An evaluation with two seeds whose test patients have names, and its folder."""
    out = tmp_path_factory.mktemp("finished")
    parts = everything()
    parts["test"] = [replace(case, patient=f"Doe^{case.patient}") for case in parts["test"]]
    return evaluate(**parts, out=out, seeds=(3, 5)), out


def test_every_model_has_a_row_a_label_with_the_promised_keys(finished):
    evaluation, out = finished
    stored = json.loads((out / "evaluation.json").read_text())
    models = ["real-all", "synthetic", "real:north", "real:south"]
    assert [(row["model"], row["label"]) for row in stored["rows"]] == [
        (model, label) for label in ("head", "lesion") for model in models
    ]
    keys = "model label seeds patients cases dice_mean dice_low dice_high hd95_mean assd_mean"
    for row in stored["rows"]:
        assert {*keys.split(), "ratio", "ratio_low", "ratio_high"} <= set(row)
        assert row["seeds"] == 2 and row["patients"] <= 3
    assert [row["cases"] for row in stored["rows"]][:4] == [14, 8, 8, 6]
    assert evaluation.row("real-all", "head").ratio == 1
    assert stored["judged_on"] == "test"
    assert (out / "examples.png").stat().st_size > 1000
    read = Evaluation.read(out)
    assert (read.rows, read.budget, read.gains) == (evaluation.rows, BUDGET, evaluation.gains)


def test_the_frame_has_a_row_for_each_model_label_seed_and_patient(finished):
    evaluation, out = finished
    frame = evaluation.frame
    assert {*frame["seed"]} == {3, 5}
    pd.testing.assert_frame_equal(Evaluation.read(out).frame, frame)
    assert list(frame)[:5] == ["model", "label", "cases", "seed", "patient"]
    assert len(frame) == 4 * 2 * 2 * 3
    own = frame[(frame["model"] == "synthetic") & (frame["label"] == "head")]
    means = own.groupby("patient")["dice"].mean()
    assert np.allclose(means, evaluation.dice("synthetic", "head"), equal_nan=True)


def test_no_patient_is_named_in_what_an_evaluation_writes(finished):
    written = [path for path in finished[1].rglob("*") if path.is_file()]
    assert len(written) == 10
    assert not any(b"Doe" in path.read_bytes() for path in written)


def test_several_labels_are_summed_up_by_their_mean_iou(finished):
    evaluation, _ = finished
    of_model = {one.model: one for one in evaluation.overall}
    assert set(of_model) == {"real-all", "synthetic", "real:north", "real:south"}
    dice = evaluation.frame.query("model == 'synthetic'")["dice"]
    assert of_model["synthetic"].dice == pytest.approx(dice.mean())
    assert of_model["synthetic"].iou == pytest.approx((dice / (2 - dice)).mean())
    assert of_model["real-all"].ratio == 1
    assert "mean IoU" in evaluation.headline.splitlines()[-1]


def test_a_label_that_no_network_finds_has_no_ratio(data, tmp_path, monkeypatch, unplotted):
    monkeypatch.setattr(bench, "predict", lambda _, images: torch.zeros(len(images), 32, 32).long())
    found = evaluate(**data, out=tmp_path, targets=["lesion"])
    assert "finds none of it, so there is nothing to compare with" in found.headline
    assert "nan" not in found.headline


def test_a_repeated_evaluation_trains_only_what_is_missing_and_says_the_same(
    data, tmp_path, trainings
):
    evaluate(**data | {"synthetic": None}, out=tmp_path, targets=["lesion"])
    first = evaluate(**data, out=tmp_path, targets=["lesion"])
    assert trainings == [14, 8, 6, 8]
    assert evaluate(**data, out=tmp_path, targets=["lesion"]).to_tables() == first.to_tables()
    assert not first.overall and "IoU" not in first.headline
    evaluate(**data, out=tmp_path, targets=["head", "lesion"])
    more = evaluate(**data, out=tmp_path, targets=["lesion"], baselines=True)
    assert trainings[4:] == [8 + 8, 6 + 8]
    assert [row.model for row in more.rows] == [
        "real-all", "synthetic", "real:north", "real:south",
        "real:north+synthetic", "real:south+synthetic",
    ]  # fmt: skip
    assert more.headline == first.headline  # single sites alone are averaged in it
    evaluate(**data, out=tmp_path, targets=["lesion"], seeds=(0, 1))
    assert len(trainings) == 10


def test_an_interrupted_evaluation_goes_on_where_it_stopped(data, tmp_path, trainings):
    def stop(text, done, total):
        assert total == 4 * BUDGET.steps
        if done == 2 * BUDGET.steps + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(**data, out=tmp_path, on_progress=stop)
    assert not (tmp_path / "evaluation.json").exists()
    evaluate(**data, out=tmp_path)
    assert trainings == [14, 8, 8, 8, 6]


def test_progress_counts_the_steps_of_all_workers(data, tmp_path, unplotted):
    told = []
    evaluate(
        **data, out=tmp_path, workers=2,
        on_progress=lambda text, done, total: told.append((done, total)),
    )  # fmt: skip
    assert told[-1] == (12, 12)  # four models, three steps
    assert max(done for done, _ in told) == 12


def test_changed_cases_or_budget_are_trained_anew(data, tmp_path, trainings):
    data |= {"sites": {"north": data["sites"]["north"]}, "synthetic": None}
    evaluate(**data, out=tmp_path)
    assert trainings == [8]  # the only site's cases are all cases: one training serves both rows
    data["sites"]["north"][3] = phantom("p1", 99)
    evaluate(**data, out=tmp_path)
    evaluate(**data | {"budget": replace(BUDGET, steps=2)}, out=tmp_path)
    assert trainings == [8, 8, 8]
    evaluate(**data | {"labels": LABELS | {"none has it": 3}}, out=tmp_path, targets=["lesion"])
    assert trainings == [8, 8, 8, 8]  # a network of another class is another network


def test_a_budget_is_compared_with_half_as_many_steps_again_on_patients_that_train_no_network(
    data, tmp_path, monkeypatch
):
    trained, seen = [], []

    def learning(cases, **rest):
        trained.append({case.patient for case in cases})
        return train_segmenter(cases, **rest)

    def finding(network, images):
        seen.append(images)
        return predict(network, images)

    monkeypatch.setattr(bench, "train_segmenter", learning)
    monkeypatch.setattr(bench, "predict", finding)
    judged, tried = Judged([], LABELS, ["lesion"]), Bench(tmp_path, BUDGET)
    (result,) = levelled_off(data["sites"], judged, tried)
    assert (result.steps, result.longer_steps) == (3, 5)
    assert result.difference == pytest.approx(result.longer_dice - result.dice)
    assert levelled_off(data["sites"], judged, tried) == (result,)
    assert len(trained) == 2
    for patients, images in zip(trained, seen, strict=False):
        for own in data["sites"].values():
            judging = {c.patient for c in own if any(torch.equal(one, c.image) for one in images)}
            assert judging and judging.isdisjoint(patients)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ["tumour"]}, "tumour; the data set has background, head, lesion"),
        ({"synthetic": []}, "training cases of every model"),
        ({"test": [replace(phantom("p", 0), modalities=("T2",))]}, "one recipe"),
    ],
)
def test_what_cannot_be_compared_is_said(data, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        evaluate(**data | change, out=tmp_path)


def test_a_sites_gain_is_paired_by_patient_and_counts_those_with_the_label(
    data, tmp_path, unplotted, monkeypatch
):
    rows = iter(range(9))  # each network finds heads some rows farther down
    found = lambda _, images: (images[:, 0] > -0.6).long().roll(next(rows), 1)  # noqa: E731
    monkeypatch.setattr(bench, "predict", found)
    healthy = [replace(case, mask=case.mask * 0) for case in data["test"][:2]]  # one of 3 patients
    data["test"] = [*healthy, *data["test"][2:]]
    evaluation = evaluate(**data, out=tmp_path, targets=["head"], baselines=True)
    assert [gain.over for gain in evaluation.gains] == ["real:north", "real:south"]
    for gain in evaluation.gains:
        both = [evaluation.row(name, "head").dice_mean for name in (gain.model, gain.over)]
        assert gain.patients == 2
        assert gain.difference == pytest.approx(both[0] - both[1]) != 0
        assert gain.low < gain.difference == pytest.approx((gain.low + gain.high) / 2)  # of two


def test_lesions_seen_in_healthy_patients_are_told_apart_from_dice(
    data, tmp_path, monkeypatch, unplotted
):
    """Every network predicts a lesion everywhere; two of three test patients have none."""
    monkeypatch.setattr(bench, "predict", lambda _, images: torch.full((len(images), 32, 32), 2))
    healthy = [replace(case, mask=case.mask.clamp(max=1)) for case in data["test"]]
    data["test"] = [*healthy[:4], *data["test"][4:]]
    evaluation = evaluate(**data, out=tmp_path, targets=["lesion"])
    row = evaluation.row("synthetic", "lesion")
    assert (row.patients, row.healthy, row.false_alarms) == (1, 2, 1.0)
    assert 0 < row.dice_mean < 0.2
    assert "of 2 patients without it, 100% raise a false alarm" in evaluation.headline


def test_the_reason_why_a_training_failed_is_told_however_many_run(data, tmp_path, unplotted):
    broken = [replace(case, image=case.image * math.nan) for case in data["synthetic"]]
    with pytest.raises(NotFiniteError, match="step 1 of 3"):
        evaluate(**data | {"synthetic": broken}, out=tmp_path, workers=2)


def test_what_nobody_labelled_is_in_no_loss_and_no_score(data, tmp_path, unplotted):
    """Labels of unlabelled pixels, and what a network says of them, change nothing."""
    budget = replace(BUDGET, unlabelled=True, rotation=0, zoom=0, translation=0)
    training = SegmentationTraining(phantoms(2), classes=3, budget=budget, seed=0)
    logits = {}

    def keep(network, inputs, output):
        output.retain_grad()
        logits["of"] = output

    training.model.register_forward_hook(keep)
    training.step()
    gradient = logits["of"].grad.abs().sum(1)
    # Mirroring is all that moves pixels here, and it leaves their number.
    unlabelled = sum(int((case.mask == 0).sum()) for case in training.cases)
    assert int((gradient == 0).sum()) == unlabelled

    truth = torch.stack([case.mask for case in data["test"]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "predict", lambda *_: torch.where(truth == 0, 2, truth))
        known = evaluate(**data | {"budget": budget}, out=tmp_path / "known")
        strict = evaluate(**data, out=tmp_path / "strict")
    assert {row.dice_mean for row in known.rows} == {1.0}
    assert strict.row("real-all", "lesion").dice_mean < 0.5
