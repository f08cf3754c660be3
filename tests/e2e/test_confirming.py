"""Over real FLARE: a run paints what a person has confirmed, and no site adds to it."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines import SiteSetup
from asyndgan.engines.flare.keeper import keep_client
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.service import SiteService
from asyndgan.errors import Interrupted, RunError
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.federated import serve
from asyndgan.runs.order import Order
from waiting import until

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="FLARE's engine needs it")


def asyndgan(*words: object, answer: str = "") -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], input=answer)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def begin_to_lie(folder: Path, **labels: int) -> None:
    """Has a data set claim labels that no case has."""
    about = json.loads((folder / "dataset.json").read_text())
    about["labels"] |= labels
    (folder / "dataset.json").write_text(json.dumps(about))


def test_a_lying_site_is_shown_and_left_out_and_a_run_begins_when_somebody_has_confirmed_it(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    sites = DEFAULT_SITES[:3]
    honest, liar = [site.name for site in sites[:2]], sites[2].name
    write_phantoms(tmp_path / "data", size=32, sites=sites, patients_scale=0.12)
    begin_to_lie(tmp_path / "data" / liar, evil=63)
    federation = federation_here(tmp_path / "f", *(tmp_path / name for name in (*honest, liar)))
    file = tmp_path / "recipe.toml"
    recipe = tiny("image.size=32", "masks.release=false", "quorum.patience_s=60")
    file.write_text(recipe.to_toml())
    submit = ("federation", "submit", federation.path, file, "--run", "one")
    confirm = ("federation", "confirm", federation.path, "--run", "one")
    done = threading.Event()
    with ExitStack() as ends:
        for name in (*honest, liar):

            def setup(run: str, name: str = name) -> SiteSetup:
                return SiteSetup(name, tmp_path / "data" / name, tmp_path / name / "runs" / run)

            ends.callback(SiteService(tmp_path / name, setup).close)
            ends.callback(keep_client(tmp_path / name).close)
        serving = threading.Thread(target=serve, args=(federation,), kwargs={"stop": done.is_set})
        serving.start()
        ends.callback(serving.join)
        ends.callback(done.set)

        # Nobody is there to answer, so how to do it later is said, and nothing is trained.
        assert "It begins when you have confirmed" in asyndgan(*submit)
        order = Order.named(federation, "one")
        until(order.proposal)
        said = " ".join(asyndgan("federation", "status", federation.path).split())
        assert "waiting for you to confirm what it paints: 'asyndgan federation confirm" in said
        assert not order.folder.facts_file.exists()

        # The administrator sees who lies, says no, and names the sites that are to take part.
        said = asyndgan(*confirm, answer="n\n")
        assert f"{liar} alone brings label 63 'evil'; without it the generator would have" in said
        assert "up to a share of 75%" in said
        assert order.state() == "stopped"
        until(lambda: not order.folder.busy())
        assert not order.folder.facts_file.exists()
        with pytest.raises(RunError, match="run one is stopped, so there is nothing to confirm"):
            asyndgan(*confirm)
        asyndgan(*submit, "--site", honest[0], "--site", honest[1])
        said = asyndgan(*confirm, answer="y\n")
        assert "evil" not in said and "Run one begins." in said
        until(lambda: order.state() in ("finished", "failed"), 400)
        assert order.state() == "finished", order.failure()
        news = [line for record in order.folder.metrics() for line in record["news"]]
        away = [line for line in news if line.startswith(f"{liar} is not there: ")]
        assert away and "label 63 'evil', which this run does not paint" in away[0], news
        assert "evil" not in order.folder.facts().labels.values()
        assert set(order.folder.facts().sites) == set(honest)
        with pytest.raises(RunError, match="run one is finished, so there is nothing to confirm"):
            asyndgan(*confirm)

        # To confirm in advance is to take what comes, within bounds.
        begin_to_lie(tmp_path / "data" / liar, worse=200)
        asyndgan(*submit[:-1], "two", "--yes")
        two = Order.named(federation, "two")
        until(lambda: two.state() in ("finished", "failed"), 180)
        assert f"{liar} has label 200 'worse'" in two.failure()
    asyndgan("federation", "fetch", federation.path, "--out", tmp_path / "fetched", "--run", "one")
    assert RunFolder(tmp_path / "fetched").generator_file.exists()
    assert not {"proposal", "confirmed"} & {p.name for p in (tmp_path / "fetched").iterdir()}


def test_somebody_is_asked_again_only_if_what_the_cards_say_has_changed(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    order = Order.submit(federation, "one", tiny(), ())
    order.confirm("paints T1")
    order.await_confirmation("paints T1")  # as after a crash before the first checkpoint
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(order.await_confirmation, "paints T1, T2")
        try:
            until(lambda: order.proposal() == "paints T1, T2" and order.waiting())
            order.confirm("paints T2")  # what somebody saw who was too late
            assert not waits.done() and order.waiting()
        finally:
            order.stop()
        with pytest.raises(Interrupted, match="was stopped before it was confirmed"):
            waits.result(60)
    assert not order.proposal() and not order.waiting()
    Order.submit(federation, "one", tiny(), (), yes=True)
    order.await_confirmation("paints whatever")
