"""What a file is, told by the model of Google's Magika: a handler class that runs it with onnxruntime, in batches.

A request's body is the file; the answer is ``{"label", "mime_type", "score", "batch"}``, the last being how many files
the model saw at once. The package ``magika`` ships the model, its configuration and a table of content types; this
module reads those and does the rest itself, as "Magika: AI-Powered Content-Type Detection" (arXiv 2409.13768) and the
package describe it. Its answers are those of ``magika.Magika().identify_bytes``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Any

import numpy
import onnxruntime
from flask import Request

import servekit

EMPTY, TEXT, UNKNOWN = "empty", "txt", "unknown"


class Model:
    """The model, its configuration and the content types, out of the package ``magika``."""

    def __init__(self, threads: int) -> None:
        """``threads``: how many compute one batch, the calling one included."""
        package = files("magika")
        (folder,) = (package / "models").iterdir()
        config = json.loads((folder / "config.min.json").read_text())
        self.content_types = json.loads((package / "config" / "content_types_kb.min.json").read_text())
        self.labels: list[str] = config["target_labels_space"]
        self._beg, self._end = config["beg_size"], config["end_size"]
        self._block, self._padding = config["block_size"], config["padding_token"]
        self._least = config["min_file_size_for_dl"]
        self._thresholds, self._threshold = config["thresholds"], config["medium_confidence_threshold"]
        self._overwrite = config["overwrite_map"]
        # onnxruntime takes a thread for each core, in each replica, and has them spin while they wait. With one it has
        # no pool at all: the replica uses one core, and more cores are used by more replicas.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with as_file(folder / "model.onnx") as path:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def identify(self, contents: Sequence[bytes]) -> list[tuple[str, float]]:
        """Label and score of each; the model sees, at once, those that are more than a few bytes."""
        answers = [self._without_model(content) for content in contents]
        asked = [number for number, answer in enumerate(answers) if answer is None]
        if asked:
            tokens = numpy.stack([self.tokens(contents[number]) for number in asked])
            (scores,) = self._session.run(["target_label"], {"bytes": tokens})
            for number, row in zip(asked, scores, strict=True):
                answers[number] = self._verdict(self.labels[row.argmax()], float(row.max()))
        return [answer for answer in answers if answer is not None]

    def tokens(self, content: bytes) -> Any:
        """What the model sees of a file: its first and its last bytes, without the white space around them."""
        row = numpy.full(self._beg + self._end, self._padding, numpy.int32)
        head = content[: self._block].lstrip()[: self._beg]
        tail = content[-self._block :].rstrip()[-self._end :]
        row[: len(head)] = numpy.frombuffer(head, numpy.uint8)
        row[len(row) - len(tail) :] = numpy.frombuffer(tail, numpy.uint8)
        return row

    def _without_model(self, content: bytes) -> tuple[str, float] | None:
        """The answer where there is too little for the model to see."""
        if not content:
            return EMPTY, 1.0
        block = content[: self._block]
        if len(block.lstrip()) >= self._least:
            return None
        try:
            block.decode()
        except UnicodeDecodeError:
            return UNKNOWN, 1.0
        return TEXT, 1.0

    def _verdict(self, label: str, score: float) -> tuple[str, float]:
        """What is said of the model's best label: a score below the label's threshold tells text from the rest only."""
        said = self._overwrite.get(label, label)
        if score < self._thresholds.get(label, self._threshold):
            said = TEXT if self.content_types[said]["is_text"] else UNKNOWN
        return said, score


class FileTypes:
    """The handler: as many files at a time as the backend's ``max_batch_size`` lets come together."""

    def __init__(self, threads: int = 1) -> None:
        self.model = Model(threads)
        self.model.identify([b"the first run allocates: " * 8])

    @servekit.accept_batch
    def __call__(self, flask_requests: list[Request]) -> list[Any]:
        answers = self.model.identify([request.get_data() for request in flask_requests])
        return [self._told(label, score, len(answers)) for label, score in answers]

    def _told(self, label: str, score: float, batch: int) -> dict[str, Any]:
        known = self.model.content_types[label]
        mime_type = known["mime_type"] or ("text/plain" if known["is_text"] else "application/octet-stream")
        return {"label": label, "mime_type": mime_type, "score": round(score, 3), "batch": batch}
