"""The MLflow UI in a real browser, on loopback: what a user finds who follows the printed links."""

import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
from chromium import BROWSER, Page, visit
from rich.console import Console

from sweeps.sync import main
from sweeps.views.mlflow.runs import RunPlace
from sweeps.views.run_folder import open_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome"),
]


@pytest.fixture
def served(copied: Path) -> Iterator[tuple[str, Path]]:
    """Write the study to MLflow and serve it as the printed command does, on a free port."""
    assert main([str(copied), "--no-models", "--images"], Console(file=io.StringIO())) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "ui", "--port", port, "--workers", "1"]
    with (copied.parent / "ui.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--backend-store-uri", f"sqlite:///{copied / 'mlflow.db'}"],
            cwd=copied.parent, stdout=log, stderr=log, env={**os.environ, **settings}, start_new_session=True,
        )  # fmt: skip
        try:
            _wait(f"http://127.0.0.1:{port}/health", server)
            yield port, copied
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not start in two minutes")


TEXT = "document.body.innerText"


def test_the_study_its_trials_its_report_and_its_figures_are_there(served, tmp_path) -> None:
    port, folder = served
    opened = open_run(folder)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    run = _parent(uri)
    place = RunPlace(uri, *run)
    here = {link: link.replace(":5000", f":{port}") for link in (place.link, place.study_link)}
    best, last = f"{opened.front.hypervolume:.4f}", opened.state.records[-1].number
    artifact = here[place.study_link].replace("?", "/artifacts/report/{}?")

    async def look(page: Page) -> None:
        await page.open(here[place.link])
        await page.until(f"{TEXT}.includes('5 matching runs')")
        assert await page.run(f"!{TEXT}.includes('Evaluation runs')"), "the layout is the one for training runs"
        await page.open(here[place.study_link])
        await page.until(f"{TEXT}.includes('hypervolume {best}')")
        for text in ("Child runs", "Finished", "small", "digits training", f"{last}:"):
            assert await page.run(f"{TEXT}.includes({text!r})"), text
        await page.screenshot(tmp_path / "study.png")
        await page.open(here[place.study_link].replace("?", "/model-metrics?"))
        await page.until("document.querySelectorAll('.js-plotly-plot').length > 2")
        await page.open(artifact.format("report.html"))
        await page.until("document.querySelector('iframe') !== null")
        await page.until("document.querySelector('iframe').getBoundingClientRect().height > 100")
        await page.screenshot(tmp_path / "report.png")
        await page.open(artifact.format("pareto.png"))
        await page.until("[...document.images].some(image => image.naturalWidth > 900)")

    page = visit(look)
    outside = {urlparse(url).hostname for url in page.requests if url.startswith("http")} - {"127.0.0.1"}
    assert outside == set(), "nothing is asked of the network"
    assert (tmp_path / "report.png").stat().st_size > 10_000


def _parent(uri: str) -> tuple[str, str]:
    from sweeps.views.mlflow.runs import connect

    client = connect(uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment])
    return experiment, next(run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags)
