"""Files of safetensors with other headers, for tests of what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the header of a file in place."""
    payload = path.read_bytes()
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + payload[8 + length :])
    return path
