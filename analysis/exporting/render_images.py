"""Drawing of figures with a browser, in a process of its own, so that a browser that hangs can be ended from outside.

Run as a script with the path of a JSON file `{"images": [{"figure": {...}, "path": str, "width": int, "height": int,
"scale": float}]}`. Exit code 3 means that no browser was found. The script imports nothing from this package.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

NO_BROWSER = 3


def find_browser() -> str | None:
    """Return the browser that kaleido uses: `BROWSER_PATH`, the one it installed, or one of the system."""
    from choreographer.browsers.chromium import Chromium

    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if Path(named).is_file() else None
    return Chromium.find_browser(skip_local=False)


def main(path: str) -> int:
    """Draw all images of the file with one browser; return the exit code."""
    import kaleido

    browser = find_browser()
    if browser is None:
        return NO_BROWSER
    images = json.loads(Path(path).read_text(encoding="utf-8"))["images"]
    # Chromium does not start its sandbox as root or in most containers. The page is our own and needs no network, so
    # the sandbox is off. MathJax is off because it would be fetched.
    kaleido.start_sync_server(n=1, path=browser, mathjax=False, enable_sandbox=False, timeout=60)
    try:
        for image in images:
            options = {key: image[key] for key in ("width", "height", "scale")}
            kaleido.write_fig_sync(image["figure"], path=image["path"], opts=options)
    finally:
        kaleido.stop_sync_server()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
