"""``python -m server.openapi > openapi.json``: the committed description of the HTTP surface."""

from __future__ import annotations

import json
import sys

from paramem.settings import EngineKind, load_settings
from server.app import create_app


def render_openapi() -> str:
    """The same whatever the settings: nothing is opened or loaded for it."""
    app = create_app(load_settings(engine=EngineKind.DUMMY))
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_openapi())
