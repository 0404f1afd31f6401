"""The report inside the MLflow UI, on loopback: its sandbox draws it, and nothing is asked of any other host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis import report
from analysis.exporting.render_images import find_browser
from analysis.table import save

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `dev` has it)")
pytestmark = [
    pytest.mark.skipif(find_browser() is None, reason="no Chrome or Chromium found to open the page with"),
    pytest.mark.slow,
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(make: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """Serve a parent run with two children and the report as an artifact; yields root, experiment and run."""
    folder = tmp_path_factory.mktemp("mlflow")
    save(folder / "study", *make(trials=10))
    page = report.write(folder / "study", images=False).html
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    filled = subprocess.run(
        [sys.executable, "-c", _FILL, uri, (folder / "artifacts").as_uri(), str(page)],
        env=quiet, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    experiment, run = filled.stdout.split()[-2:]
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"], env=quiet, cwd=folder, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    root = f"http://127.0.0.1:{port}"
    try:
        _wait(root, process)
        yield root, experiment, run
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


_FILL = """
import sys
from mlflow import MlflowClient
uri, place, page = sys.argv[1:]
client = MlflowClient(uri)
experiment = client.create_experiment("demo", artifact_location=place)
parent = client.create_run(experiment, run_name="the study").info.run_id
client.log_artifact(parent, page, "report")
for number in range(2):
    tags = {"mlflow.parentRunId": parent}
    child = client.create_run(experiment, run_name=f"trial {number}", tags=tags).info.run_id
    client.log_metric(child, "accuracy", 0.9)
    client.set_terminated(child)
client.set_terminated(parent)
print(experiment, parent)
"""


def _wait(root: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, "the MLflow server ended"
        try:
            with urllib.request.urlopen(f"{root}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the MLflow server did not answer within two minutes")


def test_the_report_is_drawn_in_the_artifact_viewer(server: tuple[str, str, str]) -> None:
    root, experiment, run = server
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        elsewhere: list[str] = []
        local = (root, "data:", "blob:", "about:")
        page.on("request", lambda asked: None if asked.url.startswith(local) else elsewhere.append(asked.url))
        page.goto(f"{root}/#/experiments/{experiment}/runs/{run}/artifacts/report/report.html")
        frame = _frame(page)
        frame.wait_for_selector("#explorer .main-svg", timeout=60_000, state="attached")
        assert frame.text_content("h1") == "digits-demo"
        frame.evaluate("kmr.pin(3)")
        assert frame.is_visible("#card h3")
        page.goto(f"{root}/#/experiments/{experiment}/runs?workflowType=machine_learning")
        page.wait_for_selector("text=the study", timeout=60_000)
        browser.close()
    assert elsewhere == []


def _frame(page: Any) -> Any:
    """Return the viewer's frame that holds the report, once it has loaded."""
    for _ in range(120):
        for frame in page.frames[1:]:
            if frame.query_selector("h1") is not None:
                return frame
        page.wait_for_timeout(500)
    pytest.fail("the artifact viewer shows no report")


def test_the_default_view_reaches_the_file(server: tuple[str, str, str], tmp_path: Path) -> None:
    root, _, run = server
    with urllib.request.urlopen(f"{root}/get-artifact?path=report/report.html&run_uuid={run}", timeout=30) as answer:
        text = answer.read().decode()
    assert "digits-demo" in text
    assert "study-data" in text
