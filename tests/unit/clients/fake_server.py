"""A stand-in server on loopback: the HTTP contract's shapes, without a store or a model.

It answers a query with the first document whose text shares a word with it. Documents whose text
holds POISON are refused.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

POISON = "refuse me"
FINGERPRINT = "fake-1"


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.documents: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.ready = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running_fake_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, _ = self.opened()
        if path == "/version":
            engine = {
                "model": "fake",
                "fingerprint": FINGERPRINT,
                "slots": 4,
                "z_dim": 8,
                "dtype": "float32",
                "device": "cpu",
                "selections": ["router"],
            }
            self.answer(200, {"version": "9.9", "engine": engine})
        elif path == "/readyz":
            checks = {"engine": {"ok": self.server.ready}}
            self.answer(
                200 if self.server.ready else 503, {"ready": self.server.ready, "checks": checks}
            )
        elif path == "/metrics":
            gauges = 'paramem_store_bytes{kind="shards"} 192\n'
            self.answer_text(200, f"# TYPE paramem_store_bytes gauge\n{gauges}", "text/plain")
        elif path == "/jobs":
            self.answer(200, {"items": list(self.server.jobs.values()), "next_cursor": None})
        elif path.endswith("/events"):
            job = self.server.jobs[path.split("/")[2]]
            running = {**job, "status": "running", "progress": 0.5}
            self.stream([("job", running), ("job", job)])
        elif path.startswith("/jobs/"):
            self.answer_or_404(self.server.jobs.get(path.split("/")[2]))
        elif path == "/memories":
            self.answer(200, {"items": list(self.server.documents.values()), "next_cursor": None})
        elif path.endswith("/reconstruction"):
            document = self.server.documents[unquote(path).split("/")[2]]
            passages = [{"passage": 0, "text": document["text"][:10], "num_tokens": 3}]
            self.answer(200, {"document_id": document["document_id"], "passages": passages})
        else:
            name = unquote(path.removeprefix("/memories/"))
            self.answer_or_404(self.server.documents.get(name))

    def do_PUT(self) -> None:
        path, _ = self.opened()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = path.removeprefix("/collections/")
        made = {"slots": 4, "code_format": "bf16"} | json.loads(body)
        self.answer(200, {"name": name, "fingerprint": FINGERPRINT, **made})

    def do_DELETE(self) -> None:
        path, _ = self.opened()
        if path.startswith("/memories/"):
            self.server.documents.pop(unquote(path.removeprefix("/memories/")))
            self.send_response(204)
            self.end_headers()
        else:
            self.answer_or_404(self.server.jobs.get(path.split("/")[2]))

    def do_POST(self) -> None:
        path, _ = self.opened()
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if path == "/write":
            self.answer(202, self.write(json.loads(body)))
        elif path == "/write/batch":
            lines = [
                json.dumps(self.write_line(number, json.loads(line)))
                for number, line in enumerate(body.split("\n"), 1)
            ]
            self.answer_text(202, "\n".join(lines) + "\n", "application/x-ndjson")
        elif path == "/query":
            self.query(json.loads(body))
        else:
            self.answer_or_404(self.server.jobs.get(path.split("/")[2]))

    def write_line(self, number: int, document: dict[str, Any]) -> dict[str, Any]:
        if POISON in document["text"]:
            error = {"type": "invalid_request_error", "code": "poison", "message": "not this one"}
            return {"line": number, "error": error}
        return self.write(document)

    def write(self, document: dict[str, Any]) -> dict[str, Any]:
        document_id = document["id"]
        fit = document["mode"] == "fit"
        passage = {
            "passage": 0,
            "tier": "fit" if fit else "fast",
            "fingerprint": FINGERPRINT,
            "num_tokens": len(document["text"].split()),
            "bytes": 64,
            "text_start": 0,
            "text_end": len(document["text"]),
            "stats": {"nats_per_token": 1.0, "nats_per_token_without_memory": 4.0},
        }
        self.server.documents[document_id] = {
            "document_id": document_id,
            "collection": document["collection"],
            "title": document.get("title"),
            "text": document["text"],
            "has_text": True,
            "num_chars": len(document["text"]),
            "bytes": 64,
            "passages": [passage],
        }
        job = {
            "job_id": f"job-{len(self.server.jobs)}",
            "document_id": document_id,
            "collection": document["collection"],
            "mode": document["mode"],
            "status": "succeeded",
            "progress": 1.0,
            "result": {"passages": 1, "nats_per_token": 1.0},
        }
        self.server.jobs[job["job_id"]] = job
        return job

    def query(self, body: dict[str, Any]) -> None:
        words = set(body["query"].lower().rstrip("?").split())
        found = [
            document
            for document in self.server.documents.values()
            if body.get("context") != "none" and words & set(document["text"].lower().split())
        ]
        memories = [
            {
                "document_id": document["document_id"],
                "passage": 0,
                "score": 0.5,
                "title": document["title"],
                "metadata": {},
            }
            for document in found[:1]
        ]
        answer = {
            "answer": found[0]["text"] if found else "I do not know.",
            "memories": memories,
            "usage": {"prompt_tokens": 9, "memory_slots": 4, "completion_tokens": 2},
            "timings_ms": {"select": 1.0, "ttft": 2.0, "total": 3.0},
            "finish_reason": "stop",
        }
        if not body["stream"]:
            self.answer(200, answer)
            return
        half = len(str(answer["answer"])) // 2
        pieces = str(answer["answer"])[:half], str(answer["answer"])[half:]
        deltas = [("delta", {"text": piece}) for piece in pieces]
        self.stream([("memories", {"memories": memories}), *deltas, ("done", answer)])

    def opened(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        self.server.requests.append((self.command, parts.path))
        return parts.path, parse_qs(parts.query)

    def answer_or_404(self, value: dict[str, Any] | None) -> None:
        if value is not None:
            self.answer(200, value)
            return
        error = {"type": "not_found_error", "code": "not_found", "message": "there is none"}
        self.answer(404, {"error": error})

    def answer(self, status: int, body: Any) -> None:
        self.answer_text(status, json.dumps(body), "application/json")

    def answer_text(self, status: int, text: str, content_type: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, events: list[tuple[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        for name, data in events:
            self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
