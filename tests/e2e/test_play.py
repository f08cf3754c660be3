"""The page on which a person draws a label map and sees it painted."""

import base64
import http.client
import json
import socket
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from accessible import barriers
from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.reports.playing import Playground
from asyndgan.runs.train import train
from waiting import until

MODALITIES = ("T1", "T2", "FLAIR")


@pytest.fixture(scope="module")
def run(phantoms, tiny, tmp_path_factory):
    kept = ("masks.release=true", "generator.style=2", "training.steps=2")
    recipe: Recipe = tiny("image.size=32", *kept)
    return train(recipe, phantoms, tmp_path_factory.mktemp("play") / "run")


@pytest.fixture(scope="module")
def playground(run):
    with Playground(run) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asked(playground, **changes):
    """Status and content of an order; `changes` are of a good one."""
    zeros = np.zeros(playground.scope.space, "<u2")
    order = {"mask": base64.b64encode(zeros.tobytes()).decode(), "look": None, "seed": 0}
    line = http.client.HTTPConnection("127.0.0.1", playground.server_port, timeout=60)
    line.request("POST", f"/{playground.token}/", json.dumps(order | {"draws": 2} | changes))
    answer = line.getresponse()
    return answer.status, answer.read()


def test_a_drawn_mask_is_painted_in_every_modality_and_draw(playground):
    status, content = asked(playground)
    images = json.loads(content)
    assert status == 200 and len(images) == 2
    assert [each["name"] for each in images[0]] == list(playground.scope.modalities)
    assert images[0][0]["image"].startswith("data:image/png;base64,")
    assert json.loads(asked(playground)[1]) == images
    assert json.loads(asked(playground, seed=1)[1]) != images
    for look in playground.looks:
        assert asked(playground, look=look)[0] == 200


def test_what_cannot_be_painted_is_refused_in_words_and_an_order_too_long_not_read(playground):
    unknown = base64.b64encode(np.full((32, 32), 9, "<u2").tobytes()).decode()
    for changes, why in (
        ({"mask": "AAAA"}, "a mask has 32 x 32 pixels"),
        ({"mask": "no base64"}, "a mask has 32 x 32 pixels"), ({"mask": unknown}, "9"),
        ({"look": "nobody"}, "nobody is no site"), ({"draws": 99}, "no order of the page"),
        ({"more": 1}, "no order of the page"),
    ):  # fmt: skip
        status, content = asked(playground, **changes)
        assert status == 400 and why in json.loads(content)
    assert asked(playground, mask="A" * 100_000)[0] == 413


def test_malformed_and_broken_requests_leave_no_traceback(playground, capfd):
    host = f"127.0.0.1:{playground.server_port}".encode()
    order = b"POST /" + playground.token.encode() + b"/ HTTP/1.1\r\nHost: " + host + b"\r\n"
    for sent in (
        b"GET /\xff\xe9/ HTTP/1.1\r\nHost: " + host + b"\r\n\r\n",
        order + b"Content-Length: abc\r\n\r\n", order + b"Content-Length: 9\r\n\r\n",
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", playground.server_port), timeout=60) as line:
            line.sendall(sent)
            line.shutdown(socket.SHUT_WR)
            answer = line.recv(100)
        assert b" 404 " in answer or b" 413 " in answer or b" 400 " in answer
    assert asked(playground)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_without_masks_and_a_port_that_is_taken_are_refused(
    run, playground, tiny, monkeypatch
):
    with pytest.raises(RunError, match=f"port {playground.server_port} cannot be used"):
        Playground(run, port=playground.server_port)
    recipe = tiny("condition.kind=none", "generator.kind=dcgan", "masks.release=false")
    monkeypatch.setattr(run, "recipe", lambda: recipe)
    with pytest.raises(RunError, match="paints without masks"):
        Playground(run)


def test_a_person_draws_by_pointer_and_by_keyboard_and_sees_images(browser, playground, tmp_path):
    page = browser.new_page(viewport={"width": 390, "height": 900})
    said, asked_for = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked_for.append(request.url))
    page.goto(playground.url)
    page.wait_for_selector("#painted img")
    assert barriers(page) == []
    count = "[...mask].filter(value => value == label).length"
    before = page.evaluate(count)
    page.click("#clear")
    page.locator("#map").click(position={"x": 40, "y": 40})
    drawn = page.evaluate(count)
    assert drawn > 0
    page.focus("#map")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "+", "Space"):
        page.keyboard.press(key)
    assert page.evaluate(count) > drawn
    for _ in range(3):
        page.click("#undo")
    assert page.evaluate(count) == before
    Image.fromarray(np.full((32, 32), 1, np.uint8)).save(tmp_path / "ones.png")
    page.set_input_files("#file", tmp_path / "ones.png")
    until(lambda: page.evaluate("mask.every(value => value == 1)"))
    Image.fromarray(np.full((32, 32), 77, np.uint8)).save(tmp_path / "unknown.png")
    page.set_input_files("#file", tmp_path / "unknown.png")
    until(lambda: "77" in page.text_content("#said"))
    page.select_option("#draws", "4")
    images = 4 * len(playground.scope.modalities)
    until(lambda: page.locator("#painted img").count() == images)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not said
    assert {url for url in asked_for if not url.startswith("data:")} == {playground.url}
    page.close()


@pytest.fixture(scope="module")
def volume(volumes, tiny, tmp_path_factory):
    recipe = tiny("image.size=16x32x32", "image.fit=stretch", "training.steps=2")
    trained = train(recipe, volumes, tmp_path_factory.mktemp("whole") / "run")
    with Playground(trained) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_of_a_volume_the_slice_that_is_drawn_on_and_the_planes_across_are_shown(volume):
    status, content = asked(volume, draws=1, level=15)
    names = [f"{name}, {seen}" for seen in ("slice 16", "a row", "a column") for name in MODALITIES]
    assert status == 200 and [each["name"] for each in json.loads(content)[0]] == names
    status, content = asked(volume, level=16)
    assert status == 400 and "16 slices" in json.loads(content)


def test_a_person_draws_on_slices_of_a_volume_and_copies_one_to_all(browser, volume):
    page, said = browser.new_page(viewport={"width": 390, "height": 900}), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(volume.url)
    page.wait_for_selector("#painted img")
    page.click("#clear")
    page.fill("#slice", "3")
    page.locator("#map").click(position={"x": 40, "y": 40})
    filled = "(at) => mask.slice(at * size, (at + 1) * size).some((one) => one)"
    drawn = f"[...Array(slices).keys()].filter({filled})"
    assert page.evaluate(drawn) == [2]
    page.click("#copy")
    assert page.evaluate(drawn) == [*range(16)]
    until(
        lambda: page.locator("#painted figcaption").first.text_content().startswith("T1, slice 3")
    )
    assert not said
    page.close()
