"""The public names of the TensorRT that is importable here -> added to tests/support/tensorrt_names.json.

    pip install --no-deps tensorrt-cu12-bindings==10.3.0   (in an environment of its own; cu13 for newer ones)
    python tests/support/make_tensorrt_names.py [tensorrt_rtx]

Run once per version. The bindings name their whole interface without a GPU; where TensorRT's libraries are
not installed, empty ones that define the few symbols the bindings link to are enough to import them.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "tensorrt_names.json"


def public_names(trt: Any) -> dict[str, str]:
    """Module -> {"Class": "member member", "Outer.Inner": "member", "function": ""}."""
    found = {}

    def add(name: str, value: Any) -> None:
        members = [member for member in dir(value) if not member.startswith("_")]
        found[name] = " ".join(members) if isinstance(value, type) else ""
        for member in members if isinstance(value, type) else []:
            if isinstance(getattr(value, member, None), type):
                add(f"{name}.{member}", getattr(value, member))

    for name in dir(trt):
        # Layers are the ONNX parser's business; leaving them out keeps the table small.
        if not name.startswith("_") and not name.endswith("Layer"):
            add(name, getattr(trt, name))
    return found


def main() -> None:
    # tensorrt_bindings: what a bindings wheel alone brings. Versions tell: TensorRT for RTX is 1.x.
    for module in sys.argv[1:] or ("tensorrt", "tensorrt_bindings", "tensorrt_rtx"):
        try:
            trt = importlib.import_module(module)
        except ImportError:
            continue
        table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        table[str(trt.__version__)] = public_names(trt)
        TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
        return
    raise SystemExit("TensorRT cannot be imported here.")


if __name__ == "__main__":
    main()
