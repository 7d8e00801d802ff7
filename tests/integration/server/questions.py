"""Two texts to remember, and how they are asked about."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

FERRY = "The ferry to Skye leaves Mallaig at seven."
ORCHARD = "Anna planted forty apple trees behind the mill."


def ask(client: TestClient, query: str = "When does the ferry leave?", **fields: Any) -> Any:
    answer = client.post("/query", json={"query": query, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()
