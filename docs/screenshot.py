"""Take the README's picture of a report: `python docs/screenshot.py runs/<study>/report.html docs/report.png`.

Needs playwright (the extra `dev`) and a Chrome or Chromium of the system; the network stays cut.
"""

import argparse
import sys
from pathlib import Path

from analysis.exporting.render_images import find_browser


def main() -> int:
    """Open the page, set a limit, pin the best model within it, and save what is on the screen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1120)
    parser.add_argument("--limit", type=int, default=30, help="position of the first slider, 0 to 100")
    parser.add_argument("--dark", action="store_true")
    asked = parser.parse_args()
    browser = find_browser()
    if browser is None or not asked.page.is_file():
        print(f"error: {'no browser found' if browser is None else f'no page at {asked.page}'}", file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        made = started.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = made.new_context(
            viewport={"width": asked.width, "height": asked.height},
            color_scheme="dark" if asked.dark else "light",
            offline=True,
        ).new_page()
        page.goto(asked.page.resolve().as_uri())
        page.wait_for_selector("#explorer .main-svg")
        page.locator("#limits input[type=range]").first.fill(str(10 * asked.limit))
        page.click("#limit-answer button")
        page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
        page.wait_for_timeout(500)
        page.screenshot(path=asked.picture)
        made.close()
    print(asked.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
