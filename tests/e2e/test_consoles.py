"""The pages on which a steward decides, and on which a coordinator sees how runs stand."""

import base64
import http.client
import json
import math
import re
import shutil
import subprocess
import sys
import webbrowser
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread
from urllib.parse import urlencode, urlsplit

import pytest

from accessible import barriers
from asyndgan.cli.serving import serve_page
from asyndgan.cli.site import first_policy
from asyndgan.engines.flare.kits import Federation
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.requests import Request, keep
from asyndgan.engines.flare.service import example
from asyndgan.errors import RunError
from asyndgan.privacy import Policy
from asyndgan.privacy.ledger import Ledger
from asyndgan.reports.coordinator import CoordinatorPage
from asyndgan.reports.playing import Playground
from asyndgan.reports.steward import StewardPage
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.order import Order
from asyndgan.runs.shipped import run_of
from asyndgan.runs.train import train
from asyndgan.texts import replace_text, sha256_of
from commands import PUBLISHER, asyndgan
from waiting import until

WIDE = load_recipe("default", ["discriminator.width=96"])
WHO = "coordinator@asyndgan.local"
COMMAND = str(Path(sys.executable).with_name("asyndgan"))


def ask(kit, run, recipe):
    """As if the coordinator asked for a run."""
    keep(kit, Request(run=run, recipe=recipe and recipe.to_toml(), submitter=WHO, refused=""))


@pytest.fixture(scope="module")
def made(phantoms, tmp_path_factory):
    """Folders of a federation and of its sites: to make keys takes seconds."""
    folder = tmp_path_factory.mktemp("made")
    federation_here(folder / "f", folder / "north", folder / "south")
    (folder / "north" / "site.toml").write_text(example(phantoms["north"]))
    policy = first_policy("north", "measured").to_toml()
    policy = policy.replace("fewest_patients = 5", "fewest_patients = 1")
    (folder / "north" / "policy.toml").write_text(policy)
    ask(folder / "north", "wide", WIDE)
    return folder


@pytest.fixture
def kit(made, tmp_path):
    return Path(shutil.copytree(made / "north", tmp_path / "north"))


@pytest.fixture
def empty(made, tmp_path):
    """A federation without a run."""
    return Federation.of(Path(shutil.copytree(made / "f", tmp_path / "f")))


@contextmanager
def at_work(page):
    with page:
        Thread(target=page.serve_forever, daemon=True).start()
        yield page
        page.shutdown()


@pytest.fixture
def page(kit):
    with at_work(StewardPage(kit)) as server:
        yield server


def policy_of(kit):
    return Policy.from_file(kit / "policy.toml")


def refused_by(kit, recipe=WIDE):
    return [key for key, _ in policy_of(kit).refused_by(recipe)]


def form(kit, action="approve", run="wide", recipe=WIDE, **changes):
    """What the page sends for a decision."""
    said = {"action": action, "run": run, "digest": recipe.digest()}
    return urlencode(said | {"policy": policy_of(kit).digest()} | changes)


def sent(url, body=None, path=None, **headers):
    """Status and content of a request to a page; without a body it is looked at."""
    place = urlsplit(url)
    line = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    line.request("POST" if body else "GET", path or place.path, body, headers)
    answer = line.getresponse()
    return answer.status, answer.read().decode()


def test_a_steward_reads_who_asks_what_it_costs_what_could_be_learned_and_what_is_refused(
    kit, page
):
    for run in ("audit", "evaluation", "seen"):
        ask(kit, run, "")
    for run, recipe in (("plain", load_recipe("default")), ("paper", load_recipe("paper"))):
        ask(kit, run, recipe)
    ask(kit, "torn", WIDE)
    file = kit / "requests" / "torn.json"
    file.write_text(file.read_text()[:99])
    _, text = sent(page.url)
    for words in (
        WHO, WIDE.digest(), "answers a patient (3 take part)", "666.7", "loss.paired_l1 is 100",
        "<code>discriminator.width</code> is 96", "Approve wide", "Revoke plain",
        "The recipe differs from 'default' in one key", f"{file} cannot be read",
        "leaves.fingerprint",
    ):  # fmt: skip
        assert words in text, words
    for other in ("Approve plain", "Approve paper", "Approve audit", "Revoke wide", "Run torn"):
        assert other not in text, other
    for question, key in (("audit", "leaves.audits"), ("evaluation", "leaves.evaluations")):
        told = text.split(f"Run {question}", 1)[1].split("</article>")[0]
        assert f"<code>{key}</code>" in told and f"({key})" in told
    policy = (kit / "policy.toml").read_text()
    (kit / "policy.toml").write_text(policy.replace("submitters = []", 'submitters = ["boss@x"]'))
    _, text = sent(page.url)
    assert text.count(f"{WHO} may not begin runs here (allows.submitters)") >= 2
    assert "No run was asked for that the policy allows" in text


def test_the_address_of_a_page_is_in_no_argument_of_the_browser(monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)

    class Served:
        url, readers = "http://127.0.0.1:1/key/", ""

        def serve_forever(self):
            file = Path(urlsplit(opened[0]).path)
            assert self.url in file.read_text() and file.parent.stat().st_mode & 0o77 == 0

    serve_page(Served(), browser=True)
    assert "key" not in opened[0] and not Path(urlsplit(opened[0]).path).exists()


def test_a_steward_sees_what_has_left_and_is_alarmed_by_books_that_were_changed(kit, page):
    ledger = Ledger(kit / "records" / "ledger.jsonl", policy_of(kit).digest())
    for step in range(7):
        ledger.append(
            run="ab", kind="judgement", step=step, payload=bytes(step), repeated=step // 6
        )
    ledger.close()
    _, text = sent(page.url)
    assert "7 answers, of 20000" in text and f"7:{ledger.last}" in text
    assert "1 image came again in another step" in text
    lines = (kit / "records" / "ledger.jsonl").read_text()
    (kit / "records" / "ledger.jsonl").write_text(lines.replace('"step":3', '"step":4'))
    assert "line 4 was changed" in sent(page.url)[1]
    (kit / "policy.toml").write_text("no policy")
    assert "Until it is corrected nothing leaves" in sent(page.url)[1]


def test_a_steward_approves_such_runs_on_the_page_or_by_command_and_revokes_it(kit, page):
    like = load_recipe("default", ["discriminator.width=96", "training.seed=7"])
    ask(kit, "like", like)
    assert sent(page.url, form(kit, "such"))[0] == 303
    _, text = sent(page.url)
    assert "and so are further ones like it" in text and "Revoke like" in text
    assert "Further runs like one run that you approved" in text
    assert sent(page.url, form(kit, "each"))[0] == 303
    assert refused_by(kit) == refused_by(kit, like) == ["allows.approved"]
    for action, refused in (("ask", ["allows.approved"]), ("unasked", [])):  # of measured recipes
        assert sent(page.url, form(kit, action))[0] == 303
        assert refused_by(kit, load_recipe("default")) == refused
    said = asyndgan("site", "approve", kit, "like", "--such", answer="n\n")
    assert like.digest() in said and "discriminator.width is 96" in said
    assert refused_by(kit, like) == ["allows.approved"]
    assert "further ones" in asyndgan("site", "approve", kit, "like", "--such", answer="y\n")
    assert refused_by(kit) == refused_by(kit, like) == []
    asyndgan("site", "refuse", kit, "wide", answer="y\n")
    assert refused_by(kit) and refused_by(kit, like) == ["allows.approved"]
    asyndgan("site", "approve", kit, "like", answer="y\n")
    assert refused_by(kit, like) == []
    with pytest.raises(RunError, match=r"no run none has asked.*Asked for: .*wide"):
        asyndgan("site", "approve", kit, "none")


def test_a_steward_lets_audits_leave_one_by_one(kit, page):
    ask(kit, "audit", "")

    def card():
        return sent(page.url)[1].split("Run audit", 1)[1].split("</article>")[0]

    def told():
        text = card()
        return "0 of 1" in text, "Let one audit leave" in text, "Let no further audit leave" in text

    def decided(action):
        (shown,) = re.findall(r'name="digest" value="(\w{64})"', card())
        assert sent(page.url, form(kit, action, "audit", digest=shown))[0] == 303
        return policy_of(kit).leaves.audits

    before, file = policy_of(kit).leaves, kit / "policy.toml"
    file.write_text(f"# mine\n{file.read_text()}")
    assert told() == (False, True, False)
    assert decided("more") == 1 and told() == (True, False, True)
    with closing(Ledger(kit / "records" / "ledger.jsonl", policy_of(kit).digest())) as ledger:
        ledger.append(run="ab", kind="audited", step=None, payload=b"1")
    assert told() == (False, True, False)
    assert decided("more") == 2 and decided("none") == 1
    assert policy_of(kit).leaves == before.model_copy(update={"audits": 1})
    assert file.read_text().startswith("# mine\n")
    assert sent(page.url, form(kit, "more", "plans"))[0] == 409
    assert sent(page.url, form(kit, "more", "audit"))[0] == 409  # another request's


def test_what_was_not_shown_is_not_decided(kit, page, caplog):
    before, shown = (kit / "policy.toml").read_bytes(), form(kit)
    for changes, why in (
        ({"digest": 64 * "0"}, "changed after it was shown"),
        ({"run": "another"}, "changed after it was shown"),
        ({"policy": 64 * "0"}, "policy changed after it was shown"),
        ({"action": "delete"}, "no form of the page"),
        ({"action": "ask", "policy": ""}, "no form of the page"),
    ):
        status, text = sent(page.url, form(kit, **changes))
        assert status == 409 and why in text and "Not done." in text
    assert "a decision is refused" in caplog.text
    other = load_recipe("default", ["discriminator.width=512"])
    ask(kit, "wide", other)
    status, text = sent(page.url, shown)
    assert status == 409 and other.digest() in text  # what is asked for now is shown
    status, text = sent(page.url, form(kit, padding=3000 * "a"))
    assert status == 413 and "reads no form of 2,000 bytes or more" in text
    assert sent(page.url, "a=" + 2**19 * "a")[0] == 413  # its sender is not cut off
    assert (kit / "policy.toml").read_bytes() == before


def told_of_roles():
    """Each cell of the table in the documentation: who, does what where, and whether they may."""
    found = []
    page = Path(__file__).parents[2] / "docs" / "hostile-input.md"
    lines = page.read_text().split("### Local pages")[1].split("\n| who |")[1].split("\n\n")[0]
    head, _, *rows = (line.strip("|").split("|") for line in lines.splitlines())
    for who, *cells in rows:
        for column, (deed, cell) in enumerate(zip(head, cells, strict=True)):
            name = ("coordinator", "steward", "player")[column // 2]
            assert cell.strip() in ("yes", "no")
            acts, may = bool(column % 2), cell.strip() == "yes"
            found.append(pytest.param(who.strip(), name, acts, may, id=f"{who} {deed}"))
    return found


@pytest.fixture(scope="module")
def served(made, tmp_path_factory):
    """Each page with the folder that it may change, and keys of consoles that have ended."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("served") / "here"))
    federation = Federation.of(folder / "f")
    with CoordinatorPage(federation) as before, StewardPage(folder / "north") as earlier:
        ended = {"coordinator": before.token, "steward": earlier.token, "player": earlier.token}
    with (
        at_work(CoordinatorPage(federation)) as coordinator,
        at_work(StewardPage(folder / "north")) as steward,
        at_work(Playground(RunFolder(run_of("nuclei")))) as player,
    ):
        yield folder, {"coordinator": coordinator, "steward": steward, "player": player}, ended


@pytest.mark.parametrize(("who", "name", "acts", "may"), told_of_roles())
def test_a_role_does_on_a_page_what_the_table_says_and_nothing_else(
    served, caplog, who, name, acts, may
):
    folder, pages, ended = served
    page = pages[name]
    keys = {
        "administrator": pages["coordinator"].token, "partner": pages["coordinator"].readers,
        "steward": pages["steward"].token, "user": pages["player"].token, "stranger": "",
        "holder of the keys": ended[name],
    }  # fmt: skip
    key = next((key for begins, key in keys.items() if who.startswith(begins)), page.token)
    headers = {
        "page of another": {"Origin": "http://evil.example"},
        "request by another": {"Host": f"localhost:{page.server_port}"},
    }.get(" ".join(who.split()[:3]), {})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run = {"action": "submit", "recipe": "default", "run": f"run-{len(before)}"}
    orders = {
        "coordinator": lambda: urlencode(run | {"keys": "masks.source=own"}),
        "steward": lambda: form(folder / "north"),
        "player": lambda: json.dumps({"mask": drawn(page), "look": None, "seed": 0, "draws": 1}),
    }
    path = f"/{key}/" if key else "/"
    status, text = sent(page.url, orders[name]() if acts else None, path, **headers)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    if may:
        assert status == (303 if acts and name != "player" else 200)
        assert (before != after) is (acts and name != "player")
    else:
        assert (status, text) == (403 if acts and key == page.readers else 404, "")
        assert before == after and "is refused" in caplog.text
    if who.startswith("partner") and may:
        assert "<form" not in text and "Federation f" in text


def drawn(player):
    """An empty mask, as the page sends it."""
    return base64.b64encode(bytes(2 * math.prod(player.scope.space))).decode()


def test_a_steward_decides_by_keyboard_without_scripts(browser, kit, page):
    ask(kit, "a-run-with-a-name-of-no-less-than-sixty-four-characters-in-all-x", WIDE)
    phone = {"viewport": {"width": 390, "height": 900}, "color_scheme": "dark"}
    context = browser.new_context(java_script_enabled=False, **phone)
    tab, said, asked_for = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: asked_for.append(request.url))
    tab.goto(page.url)
    tab.get_by_role("button", name="Approve wide").focus()
    tab.keyboard.press("Enter")
    tab.get_by_role("status").wait_for()
    assert "run wide is approved" in tab.get_by_role("status").text_content()
    assert refused_by(kit) == []
    tab.get_by_role("button", name="Revoke wide").focus()
    tab.keyboard.press("Space")
    tab.get_by_role("button", name="Approve wide").wait_for()
    assert "allows.refused" in refused_by(kit)
    tab.get_by_role("link", name="Look again").press("Enter")
    tab.get_by_role("button", name="Approve wide").wait_for()
    assert tab.locator("body").bounding_box()["width"] <= 390
    for box in (each.bounding_box() for each in tab.locator("button").all()):
        assert box["height"] >= 44 and box["x"] + box["width"] <= 390
    assert not said and {url for url in asked_for if url[:5] != "data:"} == {page.url}
    context.close()
    with browser.new_page(**phone) as scripted:  # axe is a script
        scripted.goto(page.url)
        assert barriers(scripted) == []


def test_a_console_that_is_killed_loses_no_approval_and_grants_none(kit):
    allowed = {"approve": [], "refuse": ["allows.approved", "allows.refused"]}
    console = subprocess.Popen(
        [COMMAND, "site", "console", str(kit), "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    url = re.search(r"http://\S+", console.stdout.readline())[0]
    known = []  # what was asked for, and after it what was said to be done

    def decide():
        with suppress(OSError, http.client.HTTPException):
            while True:
                for action in allowed:
                    known.append((action, False))
                    assert sent(url, form(kit, action))[0] == 303
                    known.append((action, True))

    deciding = Thread(target=decide)
    deciding.start()
    until(lambda: len(known) > 8)
    console.kill()
    console.communicate()
    deciding.join(60)
    done, begun = [action for action, said in known if said][-1], known[-1][0]
    assert refused_by(kit) in (allowed[done], allowed[begun])
    with StewardPage(kit) as page:  # the next one starts from what was written
        assert ("Revoke wide" in page.page()) is (refused_by(kit) == [])


@pytest.fixture(scope="module")
def runs(phantoms, tiny, made, tmp_path_factory):
    """One run that was trained, one that nobody allows, and one that waits for its people."""
    folder = Path(shutil.copytree(made / "f", tmp_path_factory.mktemp("runs") / "fed"))
    recipe = tiny("masks.release=true", "training.steps=4", "training.sample_every=2")
    done, failed, waiting = (
        Order.submit(Federation.of(folder), name, recipe, ())
        for name in ("done", "failed", "waiting")
    )
    train(recipe, phantoms, folder.with_name("run"))
    shutil.copytree(folder.with_name("run"), done.folder.path, dirs_exist_ok=True)
    failed.say(
        "failed", "every site refuses the run. site north: its policy refuses (allows.paired_l1)."
    )
    replace_text(waiting.folder.path / "proposal", "paints 'T1', <b>16 x 16</b> pixels")
    return folder


@pytest.fixture
def federation(runs, tmp_path):
    return Federation.of(Path(shutil.copytree(runs, tmp_path / "fed")))


def test_a_coordinator_sees_runs_and_the_keys_that_refused_and_confirms_what_was_shown(federation):
    with at_work(CoordinatorPage(federation)) as page:
        status, text = sent(page.url)
        assert status == 200
        for words in (
            "Run done", "Step 4 of 4", "allows.paired_l1", "Waits for your confirmation",
            "&lt;b&gt;16 x 16", "data:image/png", "<svg",
        ):  # fmt: skip
            assert words in text, words
        waiting, faults = Order.named(federation, "waiting"), {}
        for words in (
            {"action": "confirm", "run": "waiting", "digest": sha256_of("paints nothing")},
            {"action": "confirm", "run": "waiting"},
            {"action": "stop", "run": "done"},
            {"action": "submit", "run": "Not a name", "recipe": "default"},
            {"action": "submit", "run": "new", "recipe": "none"},
            {"action": "submit", "run": "new", "recipe": f"/{300 * 'a'}"},
            {"action": "submit", "run": "new", "recipe": "demo", "masks": f"/{300 * 'a'}"},
            {"action": "add", "request": f"/{300 * 'a'}", "number": "1"},
            {"action": "add", "request": "none", "number": "1"},
            {"action": "delete", "run": "done"},
        ):
            status, text = sent(page.url, urlencode(words))
            assert status == 409 and "Not done." in text, words
            faults[words["action"]] = text
        assert "nothing to stop" in faults["stop"] and "no form of the page" in faults["delete"]
        assert "none cannot be read" in faults["add"]
        status, text = sent(page.url, f"action=submit&keys={2**14 * 'a'}")
        assert status == 413 and "reads no form of 16,384 bytes or more" in text
        assert not waiting.said("confirmed")
        digest = sha256_of(waiting.said("proposal"))
        shown = {"action": "confirm", "run": "waiting", "digest": digest}
        assert sent(page.url, urlencode(shown))[0] == 303
        assert waiting.said("confirmed") and "Run waiting begins." in sent(page.url)[1]
        release = {"action": "release", "run": "done"}
        assert sent(page.url, urlencode(release))[0] == 409  # it says not by whom
        assert sent(page.url, urlencode(release | PUBLISHER))[0] == 303
        status, text = sent(page.url, urlencode(release | PUBLISHER))
        assert status == 409 and "A command is at work on run done" in text
        until(lambda: "done may not be released: no audit covers" in sent(page.url)[1])
        until(lambda: "Release a set of done" in sent(page.url)[1])


@pytest.fixture
def ordered(tiny, empty):
    """The page of a federation with a run that has not begun."""
    Order.submit(empty, "first", tiny(), ())
    with at_work(CoordinatorPage(empty)) as page:
        yield page


def test_a_run_whose_order_is_damaged_stays_on_the_page_with_its_fault(ordered):
    order = Order.named(ordered.federation, "first")
    file = order.folder.path / "order.json"
    whole = file.read_text()
    for damaged in (whole[: len(whole) // 2], "", "[]", "{}", '{"ordered": 1, "sites": 2}'):
        file.write_text(damaged)
        status, text = sent(ordered.url)
        assert status == 200 and f"{file} is damaged" in text and "No run is ordered" not in text
        assert order.state() == "unreadable" and not order.goes_on()
    status, text = sent(ordered.url, "action=stop&run=first")
    assert status == 409 and "Run first is unreadable" in text
    file.write_text(whole)
    assert sent(ordered.url, "action=stop&run=first")[0] == 303


def test_a_refused_form_keeps_what_was_typed(ordered):
    submit = {
        "action": "submit", "recipe": "demo", "run": "no-<b>", "masks": "/no/folder",
        "keys": "training.steps=3\ntraining.hold_out=0.3",
    }  # fmt: skip
    status, text = sent(ordered.url, urlencode(submit))
    assert status == 409 and 'name="run" value="no-&lt;b&gt;"' in text
    assert 'name="recipe" value="demo"' in text and 'name="masks" value="/no/folder"' in text
    assert ">\ntraining.steps=3\ntraining.hold_out=0.3</textarea>" in text
    _, text = sent(ordered.url, "action=add&request=no.csr&number=12+34")
    assert 'name="request" value="no.csr"' in text and 'name="number" value="12 34"' in text
    assert 'name="recipe" value="default"' in text
    _, text = sent(ordered.url, "action=confirm&run=first&digest=0")
    assert 'name="run" value=""' in text  # of the form that submits another
    assert "no.csr" not in sent(ordered.url)[1]
    blank = {"keys": "\n\ntraining.steps=3\n \nmasks.source=own\n", "run": "second", "masks": ""}
    assert sent(ordered.url, urlencode(submit | blank))[0] == 303  # blank lines are passed over
    assert Order.named(ordered.federation, "second").folder.recipe().training.steps == 3


def test_of_two_consoles_one_begins_a_command_and_the_other_keeps_its_log(ordered):
    audit = "action=audit&run=first"
    log = ordered.federation.path / "released" / "first.log"
    with at_work(CoordinatorPage(ordered.federation)) as other:
        assert sent(ordered.url, audit)[0] == 303
        log.write_text("asks the sites")
        status, text = sent(other.url, audit)
        assert status == 409 and "A command is at work on run first" in text
        assert log.read_text() == "asks the sites"
        assert "said, which is at work" in sent(other.url)[1]
        until(lambda: "said, which is at work" not in sent(other.url)[1])
        assert sent(other.url, audit)[0] == 303
        until(lambda: "said, which is at work" not in sent(ordered.url)[1])


def test_the_coordinators_page_is_readable_in_the_dark(browser, federation):
    """On a phone, by day: test_by_pages.py."""
    with at_work(CoordinatorPage(federation)) as page:
        tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.goto(page.url)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
        tab.get_by_role("link", name="Look again").click()
        assert tab.get_by_role("img", name="Synthetic images of run done").is_visible()
        assert not said
        assert barriers(tab) == []
        tab.close()
