"""The threat model speaks of every field of every message, and of no other.

After a change of messages or of their exposure: `python tests/unit/test_threat_model.py`.
"""

from pathlib import Path

from asyndgan.privacy.exposure import COMING, LEAVING, fields, table
from asyndgan.wire import ANSWERS, REQUESTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "threat-model.md"
BEGIN, END = "<!-- fields -->", "<!-- end of fields -->"


def with_tables(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n".join(table()) + f"\n{END}{after}"


def test_every_field_that_crosses_the_wire_is_in_the_threat_model() -> None:
    assert list(LEAVING) == fields(dict(ANSWERS))
    assert list(COMING) == fields(dict(REQUESTS))


def test_the_document_is_what_the_messages_are() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert text == with_tables(text)


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text("utf-8")), "utf-8")
