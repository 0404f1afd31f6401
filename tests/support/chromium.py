"""A headless Chromium that visits pages, for tests of what a user sees."""

import asyncio
import base64
import json
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

BROWSER = os.environ.get("BROWSER_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
"""Where the browser is, if there is one."""


class Page:
    """One open page."""

    def __init__(self, tab: Any) -> None:
        self._tab = tab
        self.requests: list[str] = []
        self.errors: list[str] = []

    async def run(self, script: str) -> Any:
        """Return what a JavaScript expression gives."""
        told = await self._tab.send_command(
            "Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True}
        )
        return told["result"]["result"].get("value")

    async def open(self, url: str) -> None:
        """Go to a page, anew even where only what follows the # is another."""
        await self._tab.send_command("Page.navigate", {"url": "about:blank"})
        await self._tab.send_command("Page.navigate", {"url": url})

    async def until(self, script: str, seconds: float = 60.0) -> Any:
        """Wait until an expression is true; return its value, or fail with what the page says."""
        for _ in range(int(seconds / 0.25)):
            if found := await self.run(script):
                return found
            await asyncio.sleep(0.25)
        text = await self.run("document.body ? document.body.innerText.slice(0, 2000) : ''")
        raise AssertionError(f"not within {seconds:g} s: {script}\n{text}")

    async def screenshot(self, path: Path, width: int = 1400, height: int = 900) -> None:
        """Write what is seen as a PNG."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._tab.send_command("Emulation.setDeviceMetricsOverride", size)
        told = await self._tab.send_command("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(told["result"]["data"]))


def visit(body: Callable[[Page], Coroutine[Any, Any, None]]) -> Page:
    """Run a coroutine function on a fresh page of a fresh browser; return the page with what it asked for."""

    async def session() -> Page:
        from choreographer import Browser

        async with Browser(path=BROWSER, headless=True, enable_sandbox=False) as browser:
            tab = await browser.create_tab("about:blank")
            page = Page(tab)
            tab.subscribe("Network.requestWillBeSent", _into(page.requests, lambda told: told["request"]["url"]))
            tab.subscribe("Runtime.exceptionThrown", _into(page.errors, json.dumps))
            for domain in ("Page", "Runtime", "Network"):
                await tab.send_command(f"{domain}.enable")
            await body(page)
            return page

    return asyncio.run(session())


def _into(found: list[str], text: Callable[[Any], str]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    async def note(event: Any) -> None:
        found.append(text(event["params"]))

    return note
