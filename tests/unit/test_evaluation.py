import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import DataError, NotFiniteError
from asyndgan.judging import bench, compare
from asyndgan.judging.bench import Bench, Judged
from asyndgan.judging.table import Evaluation
from asyndgan.models.segmentation_budget import SegmentationBudget
from asyndgan.store.case import Preparation
from asyndgan.store.prepare import blanked
from asyndgan.store.prepared import Case
from asyndgan.training.segmentation import SegmentationTraining, augment, predict, train_segmenter
from lab.levelling import levelled_off

BUDGET = SegmentationBudget(steps=3, batch=2, width=4)
LABELS = {"background": 0, "head": 1, "lesion": 2}
STORED = Preparation((32, 32), (1.0, 1.0), (32, 32), (0, 0), (1.0,), (0.0,))


def phantom(patient, seed):
    """A grey disc with a bright spot in it."""
    generator = torch.Generator().manual_seed(seed)
    row, column = (torch.rand(2, generator=generator) * 6 + 13).tolist()
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    distance = (rows - row) ** 2 + (columns - column) ** 2
    mask = (distance < 100).long() + (distance < 16).long()
    image = torch.tensor([-1.0, -0.2, 0.7])[mask][None]
    image = (image + 0.05 * torch.randn(1, 32, 32, generator=generator)).clamp(-1, 1)
    return Case(f"{patient}_{seed}", patient, image, mask, ("T1",), STORED)


def phantoms(count, first=0):
    return [phantom(f"p{seed // 2}", seed) for seed in range(first, first + count)]


@pytest.fixture
def data():
    return {
        "sites": {"north": phantoms(8), "south": phantoms(6, 20)}, "test": phantoms(6, 40),
        "synthetic": phantoms(8, 60), "labels": LABELS, "budget": BUDGET,
    }  # fmt: skip


def evaluate(*, sites, synthetic, test, labels, out, targets=None, budget, seeds=(0,), **more):
    how = {name: more.pop(name) for name in ("workers", "on_progress") if name in more}
    judged = Judged(test, labels, targets)
    return compare.evaluate(sites, synthetic, judged, Bench(out, budget, seeds, **how), **more)


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
    budget = SegmentationBudget(steps=80, batch=4, width=6, rate=5e-3)
    losses = []
    network = train_segmenter(
        phantoms(12), classes=3, budget=budget, seed=0, on_progress=lambda _, x: losses.append(x)
    )
    unseen = phantoms(4, 40)
    found = predict(network, torch.stack([case.image for case in unseen]))
    right = found == torch.stack([case.mask for case in unseen])
    assert len(losses) == 80
    assert right.float().mean() > 0.95


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


def test_a_loss_that_is_not_finite_stops_the_training():
    broken = replace(phantom("p", 0), image=torch.full((1, 32, 32), math.nan))
    with pytest.raises(NotFiniteError, match="step 1 of 3"):
        train_segmenter([broken], classes=3, budget=BUDGET, seed=0)


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([], "no cases"),
        ([phantom("p", 0), replace(phantom("q", 1), modalities=("T2",))], "modalities"),
        ([replace(phantom("p", 0), mask=torch.full((32, 32), 3))], "label 3"),
        (
            [
                replace(
                    phantom("p", 0), image=torch.zeros(1, 20, 32), mask=torch.zeros(20, 32).long()
                )
            ],
            "multiples of 16",
        ),
        (
            [
                replace(
                    phantom("p", 0), image=torch.zeros(1, 16, 16), mask=torch.zeros(16, 16).long()
                )
            ],
            "multiples of 16 from 32",
        ),
    ],
)
def test_cases_that_do_not_fit_are_refused_by_name(cases, message):
    with pytest.raises(DataError, match=message):
        train_segmenter(cases, classes=3, budget=BUDGET, seed=0)


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


def test_every_model_has_a_row_a_label_with_the_promised_keys(data, tmp_path):
    evaluation = evaluate(**data, out=tmp_path, seeds=(0, 1))
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    models = ["real-all", "synthetic", "real:north", "real:south"]
    assert [(row["model"], row["label"]) for row in stored["rows"]] == [
        (model, label) for label in ("head", "lesion") for model in models
    ]
    keys = "model label seeds patients cases dice_mean dice_low dice_high hd95_mean assd_mean"
    for row in stored["rows"]:
        assert {*keys.split(), "ratio", "ratio_low", "ratio_high"} <= set(row)
        assert row["seeds"] == 2
        assert row["patients"] <= 3
    assert [row["cases"] for row in stored["rows"]][:4] == [14, 8, 8, 6]
    assert evaluation.row("real-all", "head").ratio == 1
    assert len(stored["per_patient"]["synthetic"]["lesion"]["dice"][1]) == 3
    assert stored["headline"].count("of the all-real Dice") == 2
    assert stored["judged_on"] == "test"
    assert (tmp_path / "examples.png").stat().st_size > 1000
    read = Evaluation.read(tmp_path)
    assert (read.rows, read.budget, read.gains) == (evaluation.rows, BUDGET, evaluation.gains)
    dice = [found.dice("synthetic", "head") for found in (read, evaluation)]
    assert np.allclose(*dice, equal_nan=True)


def test_the_frame_has_a_row_for_each_model_label_seed_and_patient(data, tmp_path, unplotted):
    evaluation = evaluate(**data, out=tmp_path, seeds=(3, 5))
    frame = evaluation.frame
    assert {*frame["seed"]} == {3, 5}
    pd.testing.assert_frame_equal(Evaluation.read(tmp_path).frame, frame)
    assert list(frame)[:5] == ["model", "label", "cases", "seed", "patient"]
    assert len(frame) == 4 * 2 * 2 * 3
    own = frame[(frame["model"] == "synthetic") & (frame["label"] == "head")]
    means = own.groupby("patient")["dice"].mean()
    assert np.allclose(means, evaluation.dice("synthetic", "head"), equal_nan=True)


def test_a_label_that_no_network_finds_has_no_ratio(data, tmp_path, monkeypatch, unplotted):
    monkeypatch.setattr(bench, "predict", lambda _, images: torch.zeros(len(images), 32, 32).long())
    found = evaluate(**data, out=tmp_path, targets=["lesion"])
    assert "finds none of it, so there is nothing to compare with" in found.headline
    assert "nan" not in found.headline


def test_no_patient_is_named_in_what_an_evaluation_writes(data, tmp_path):
    data["test"] = [replace(case, patient="Doe^Jane", name="Doe^Jane") for case in data["test"]]
    evaluate(**data, out=tmp_path, targets=["lesion"])
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 6
    assert not any(b"Doe" in path.read_bytes() for path in written)


def test_a_repeated_evaluation_trains_nothing_and_says_the_same(data, tmp_path, trainings):
    first = evaluate(**data, out=tmp_path, targets=["lesion"])
    assert trainings == [14, 8, 8, 6]
    assert evaluate(**data, out=tmp_path, targets=["lesion"]).to_tables() == first.to_tables()
    evaluate(**data, out=tmp_path, targets=["head", "lesion"])
    assert len(trainings) == 4


def test_an_evaluation_trains_only_what_is_missing(data, tmp_path, trainings):
    evaluate(**data | {"synthetic": None}, out=tmp_path, targets=["lesion"])
    evaluate(**data, out=tmp_path, targets=["lesion"])
    assert trainings == [14, 8, 6, 8]
    evaluate(**data, out=tmp_path, targets=["lesion"], seeds=(0, 1))
    assert len(trainings) == 8


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


def test_the_budget_is_compared_with_half_as_many_steps_again(data, tmp_path, trainings):
    judged, bench = Judged([], LABELS, ["lesion"]), Bench(tmp_path, BUDGET)
    (result,) = levelled_off(data["sites"], judged, bench)
    assert (result.steps, result.longer_steps) == (3, 5)
    assert result.difference == pytest.approx(result.longer_dice - result.dice)
    assert levelled_off(data["sites"], judged, bench) == (result,)
    assert len(trainings) == 2


def test_a_budget_is_judged_on_patients_that_train_none_of_its_networks(
    data, tmp_path, monkeypatch, unplotted
):
    trained, judged = [], []

    def learning(cases, **rest):
        trained.append({case.patient for case in cases})
        return train_segmenter(cases, **rest)

    def finding(network, images):
        judged.append(images)
        return predict(network, images)

    monkeypatch.setattr(bench, "train_segmenter", learning)
    monkeypatch.setattr(bench, "predict", finding)
    levelled_off(data["sites"], Judged([], LABELS, ["lesion"]), Bench(tmp_path, BUDGET))
    assert len(trained) == len(judged) == 2
    for patients, images in zip(trained, judged, strict=True):
        for own in data["sites"].values():
            seen = {c.patient for c in own if any(torch.equal(one, c.image) for one in images)}
            assert seen and seen.isdisjoint(patients)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ["tumour"]}, "tumour; the data set has background, head, lesion"),
        ({"test": []}, "test cases"),
        ({"synthetic": []}, "training cases of every model"),
        ({"test": [replace(phantom("p", 0), modalities=("T2",))]}, "one recipe"),
    ],
)
def test_what_cannot_be_compared_is_said(data, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        evaluate(**data | change, out=tmp_path)


def test_baselines_add_every_site_with_synthetic_cases(data, tmp_path, trainings):
    evaluation = evaluate(**data, out=tmp_path, targets=["lesion"], baselines=True)
    assert [row.model for row in evaluation.rows] == [
        "real-all", "synthetic", "real:north", "real:south",
        "real:north+synthetic", "real:south+synthetic",
    ]  # fmt: skip
    assert evaluation.row("real:north+synthetic", "lesion").cases == 8 + 8
    assert len(trainings) == 6


def test_a_sites_gain_is_paired_by_patient_and_counts_those_with_the_label(
    data, tmp_path, unplotted
):
    data["budget"] = replace(BUDGET, steps=30)  # so that both networks find some of the heads
    healthy = [replace(case, mask=case.mask * 0) for case in data["test"][:2]]  # one of 3 patients
    data["test"] = [*healthy, *data["test"][2:]]
    evaluation = evaluate(**data, out=tmp_path, targets=["head"], baselines=True)
    assert [gain.over for gain in evaluation.gains] == ["real:north", "real:south"]
    for gain in evaluation.gains:
        both = [evaluation.row(name, "head").dice_mean for name in (gain.model, gain.over)]
        assert gain.patients == 2
        assert gain.difference == pytest.approx(both[0] - both[1]) != 0
        assert gain.low < gain.difference == pytest.approx((gain.low + gain.high) / 2)  # of two


def test_single_sites_are_averaged_without_their_augmented_models(data, tmp_path, unplotted):
    plain = evaluate(**data, out=tmp_path, targets=["lesion"])
    more = evaluate(**data, out=tmp_path, targets=["lesion"], baselines=True)
    assert plain.headline == more.headline


def test_lesions_seen_in_healthy_patients_are_told_apart_from_dice(data, tmp_path, monkeypatch):
    """Every network predicts a lesion everywhere; two of three test patients have none."""
    monkeypatch.setattr(compare, "plot_examples", lambda *_: None)
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


@pytest.mark.parametrize("network", ["unet", "segresnet", "unetr"])
def test_every_network_learns_and_predicts_masks(network):
    budget = replace(BUDGET, network=network, width=12)
    trained = train_segmenter(phantoms(4), classes=3, budget=budget, seed=0)
    assert predict(trained, torch.stack([case.image for case in phantoms(2)])).shape == (2, 32, 32)


def test_a_network_that_does_not_exist_is_named():
    with pytest.raises(DataError, match="'vgg'; choose one of unet, segresnet, unetr"):
        SegmentationBudget(network="vgg")


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_the_steps_of_all_workers(data, tmp_path, unplotted, workers):
    told = []
    evaluate(
        **data, out=tmp_path, workers=workers, seeds=(0, 1),
        on_progress=lambda text, done, total: told.append((done, total)),
    )  # fmt: skip
    assert told[-1] == (24, 24)  # four models, two seeds, three steps
    assert max(done for done, _ in told) == 24
    if workers == 1:
        assert {done for done, _ in told} >= set(range(1, 25))


def test_without_a_terminal_each_training_is_told_once_though_several_take_turns():
    out = io.StringIO()
    display = EvaluationDisplay(Terminal(file=out, width=80), "paint cases")
    for done in range(0, 100, 10):
        display.show(f"synthetic, seed {done // 10 % 2}", done, 100)
    assert out.getvalue().split("\n")[:-1] == [
        "  0 %  synthetic, seed 0",
        " 10 %  synthetic, seed 1",
    ]


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


def test_several_labels_are_summed_up_by_their_mean_iou(data, tmp_path, unplotted):
    found = evaluate(**data, out=tmp_path)
    of_model = {one.model: one for one in found.overall}
    assert set(of_model) == {"real-all", "synthetic", "real:north", "real:south"}
    dice = np.array([found.dice("synthetic", label) for label in ("head", "lesion")])
    assert of_model["synthetic"].dice == pytest.approx(dice.mean())
    assert of_model["synthetic"].iou == pytest.approx((dice / (2 - dice)).mean())
    assert of_model["real-all"].ratio == 1
    line = found.headline.splitlines()[-1]
    assert line.startswith("all labels: mean IoU") and "best single site" in line
    one = evaluate(**data | {"targets": ["head"]}, out=tmp_path)
    assert one.overall == () and "IoU" not in one.headline
