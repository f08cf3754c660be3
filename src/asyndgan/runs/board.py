"""TensorBoard's file of one attempt at a run."""

import io
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from asyndgan.texts import append, storing


@final
class Board:
    """Writes events in this thread: TensorBoard's own writer fails in a thread that nobody watches.

    Args:
        folder: folder of the run's events.
        step: the next step; what TensorBoard has of it and later ones is forgotten.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.file = folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        forgets = SessionLog(status=SessionLog.START)
        self._write([{"file_version": "brain.Event:2"}, {"step": step, "session_log": forgets}])

    def add(self, step: int, shown: Sequence[Summary]) -> None:
        """Adds curves' values and images of a step; raises `StorageError`."""
        self._write([{"step": step, "summary": each} for each in shown])

    def _write(self, events: Sequence[dict[str, Any]]) -> None:
        now, records = time.time(), io.BytesIO()
        for event in events:
            RecordWriter(records).write(Event(wall_time=now, **event).SerializeToString())
        append(self.file, records.getvalue())
