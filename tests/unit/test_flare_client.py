"""What whoever runs FLARE's server can ask of a site's FLARE process, without leave."""

import io
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_context import FLContext
from nvflare.private.admin_defs import Message, error_reply
from nvflare.private.defs import (
    InfoCollectorTopic,
    RequestHeader,
    SysCommandTopic,
    TrainingTopic,
    new_cell_message,
)
from nvflare.private.fed.client.admin import FedAdminAgent, RequestProcessor
from nvflare.private.fed.client.client_engine import ClientEngine
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

from asyndgan.relay.client import FAILED, Gate, close_doors, only_configuration

BOOKS = "ledger.jsonl"
JOB = "0123abcd-0123-4567-89ab-0123456789ab"


class Engine(ClientEngine):
    """FLARE's own, of which only the workspace is made."""

    def __init__(self, workspace: Path) -> None:
        self.args = types.SimpleNamespace(workspace=str(workspace))
        self.client_name = "north"

    @contextmanager
    def new_context(self) -> Iterator[FLContext]:
        yield FLContext()

    def get_engine_status(self) -> dict[str, str]:
        return {"status": "at work"}

    def abort_app(self, job_id: str) -> str:
        raise OSError("/home/hospital/north cannot be read")


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("startup", "local", "records", JOB):
        (tmp_path / name).mkdir()
    (tmp_path / "records" / BOOKS).write_text("what left")
    monkeypatch.chdir(tmp_path)
    own = list(ClientRequestProcessors.request_processors)
    monkeypatch.setattr(ClientRequestProcessors, "request_processors", own)
    return tmp_path


def asked(kit: Path, topic: str, body: Any = "", **headers: object) -> str:
    """FLARE's own answer to a request of a server that asks for no authorisation."""
    agent = object.__new__(FedAdminAgent)
    agent.auditor, agent.app_ctx, agent.processors = None, Engine(kit), {}
    for processor in ClientRequestProcessors.request_processors:
        agent.register_processor(processor)
    request = Message(topic, body)
    for name, value in headers.items():
        request.set_header(name, value)
    return str(agent._dispatch_request(new_cell_message({}, request)).payload.body)


def test_a_server_that_was_taken_over_reads_no_file_and_removes_no_books(kit: Path) -> None:
    cat = f"cat records/{BOOKS}"
    assert "what left" in asked(kit, SysCommandTopic.SHELL, cat)  # as FLARE comes
    close_doors()
    for topic in (
        SysCommandTopic.SHELL, SysCommandTopic.SYS_INFO, SysCommandTopic.REPORT_ENV,
        SysCommandTopic.CONFIGURE_SITE_LOG, TrainingTopic.DELETE_RUN, TrainingTopic.RESTART,
        TrainingTopic.SHUTDOWN, TrainingTopic.CONFIGURE_JOB_LOG, InfoCollectorTopic.SHOW_ERRORS,
    ):  # fmt: skip
        assert asked(kit, topic, cat, **{RequestHeader.JOB_ID: "records"}) == "invalid_request"
    assert "at work" in asked(kit, TrainingTopic.CHECK_STATUS)


@pytest.mark.parametrize("job", ["records", "runs", "local", "..", f"{JOB}/../records", "", 7])
def test_no_job_has_the_name_of_another_folder_of_the_kit(kit: Path, job: object) -> None:
    """Before it unpacks a job, FLARE removes the folder of the job's name."""
    close_doors()
    headers = {RequestHeader.JOB_ID: job, RequestHeader.JOB_META: {"a": "b"}}
    for topic in (TrainingTopic.DEPLOY, TrainingTopic.START_JOB, TrainingTopic.ABORT):
        assert asked(kit, topic, b"", **headers) == "no job has this name"
    assert (kit / "records" / BOOKS).read_text() == "what left"
    headers[RequestHeader.JOB_ID] = JOB
    failed = asked(kit, TrainingTopic.ABORT, b"", **headers)
    assert failed == FAILED


class Talkative(RequestProcessor):
    """Like FLARE's, which catch some exceptions and send their texts."""

    def get_topics(self) -> list[str]:
        return ["said"]

    def process(self, req: Message, app_ctx: Any) -> Message:
        text = "NVFLARE_ERROR: OSError: /home/hospital/north cannot be read"
        return Message("reply", text) if req.body else error_reply(text)


def test_no_text_of_an_exception_leaves() -> None:
    for body in ("", "more"):
        said = Gate(Talkative()).process(Message("said", body), None)
        assert said.body == f"NVFLARE_ERROR: {FAILED}"


def packed(*names: str, size: int = 9) -> bytes:
    """A packed job that holds files of these names."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"0" * size)
    return written.getvalue()


def test_a_job_is_configuration_alone_before_anything_of_it_is_unpacked(kit: Path) -> None:
    close_doors()
    headers = {RequestHeader.JOB_ID: JOB, RequestHeader.JOB_META: {"a": "b"}}
    ours = ("config/", "config/config_fed_client.json", ".__nvfl_sig.json", ".__nvfl_submitter.crt")
    assert only_configuration(packed(*ours))
    for content in (
        packed(*ours, "custom/sitecustomize.py"), packed(*ours, "../config/config_fed_client.json"),
        packed(*ours, "config/evil.py"), packed(*ours, size=2**23), b"no archive", "text",
    ):  # fmt: skip
        said = asked(kit, TrainingTopic.DEPLOY, content, **headers)
        assert said == "a job brings its configuration and nothing else"
    assert not list((kit / JOB).iterdir())
