"""The script of all pages, made once for all tests: each time it takes more than a second."""

import hashlib
import os
from pathlib import Path

import vl_convert


def keep_bundle() -> None:
    """Lets `vl_convert.javascript_bundle` return what it returned before to any test's process."""
    make, folder = vl_convert.javascript_bundle, Path(os.environ["XDG_CACHE_HOME"])

    def kept(snippet: str) -> str:
        path = folder / f"bundle-{hashlib.sha256(snippet.encode()).hexdigest()}.js"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(make(snippet), encoding="utf-8")
            partial.replace(path)
        return path.read_text(encoding="utf-8")

    vl_convert.javascript_bundle = kept
