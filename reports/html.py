"""What every page of the reports shares: its assets, its security policy, writing it whole."""

import base64
import hashlib
import os
import tempfile
from importlib.resources import files
from pathlib import Path

from device.errors import RunError


def asset(name: str) -> str:
    """Text of a template, style or script that lies beside this module."""
    return files("reports").joinpath(name).read_text(encoding="utf-8")


def content_policy(css: str, script: str) -> str:
    """Content-Security-Policy: nothing from anywhere but this style, this script and embedded pictures."""
    style, code = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script))
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{code}'; "
        "base-uri 'none'; form-action 'none'"
    )


def data_uri(svg: str) -> str:
    """An SVG drawing as the source of an <img>."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def write_whole(target: Path, text: str) -> Path:
    """Writes `text` to `target`, whole or not at all; RunError when it cannot."""
    scratch = ""
    try:
        handle, scratch = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(scratch).chmod(0o644)
        Path(scratch).replace(target)
    except OSError as error:
        if scratch:
            Path(scratch).unlink(missing_ok=True)
        reason = error.strerror or error
        raise RunError(
            f"{target}: the page could not be written ({reason}); free space or name another file"
        ) from error
    return target
