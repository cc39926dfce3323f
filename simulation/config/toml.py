"""Writes the resolved configuration as TOML (the standard library only reads it)."""

import json
import math
from collections.abc import Mapping
from typing import Any


def to_toml(tables: Mapping[str, Any]) -> str:
    """TOML text of nested tables, lists of tables and plain values; None is left out."""
    return "\n".join(lines(tables, ())) + "\n"


def lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Plain values first, then tables: TOML's order."""
    plain = [f"{key(k)} = {value(v)}" for k, v in table.items() if not nested(v) and v is not None]
    for k, v in table.items():
        if nested(v):
            heads = (*path, k)
            name = ".".join(key(part) for part in heads)
            for one in v if isinstance(v, list) else [v]:
                plain += ["", f"[[{name}]]" if isinstance(v, list) else f"[{name}]", *lines(one, heads)]
    return plain


def nested(v: Any) -> bool:
    """A table, or a list of tables."""
    return isinstance(v, Mapping) or (isinstance(v, list) and bool(v) and all(isinstance(x, Mapping) for x in v))


def key(name: str) -> str:
    """Bare where TOML allows it."""
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else text(name)


def value(v: Any) -> str:
    """One plain value."""
    if isinstance(v, list | tuple):
        return f"[{', '.join(value(x) for x in v)}]"
    if isinstance(v, float) and not math.isfinite(v):
        return "nan" if math.isnan(v) else "inf" if v > 0 else "-inf"
    if isinstance(v, Mapping):
        return f"{{ {', '.join(f'{key(k)} = {value(x)}' for k, x in v.items() if x is not None)} }}"
    return text(v) if isinstance(v, str) else json.dumps(v)


def text(v: str) -> str:
    """A basic string; JSON escapes what TOML wants escaped, but for DEL."""
    return json.dumps(v, ensure_ascii=False).replace("\x7f", "\\u007f")
