"""What the report cites: small JSON files in results/."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def update(name: str, values: dict[str, Any]) -> None:
    """Sets values in results/NAME.json and leaves its other ones; the file is never half written."""
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(known | values, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
