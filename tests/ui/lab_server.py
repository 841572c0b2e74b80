"""A JupyterLab server of a test's own, and a notebook in it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

Screenshot = Callable[[str, Any], Path]

FACTORS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/apputils-extension:sessionDialogs": {"skipKernelRestartDialog": True},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
WIDGET = "window.jupyterapp.shell.currentWidget"
IDLE = f"""() => {{
  const session = window.jupyterapp?.shell?.currentWidget?.sessionContext;
  return !!session && session.isReady && {WIDGET}.context.isReady
    && session.session?.kernel?.status === 'idle' }}"""
# An exception in a widget's callback is in no cell's output.
LISTEN = f"""() => {{ window.callbackErrors = []; {WIDGET}.sessionContext.iopubMessage.connect((_, m) => {{
  if (m.header.msg_type === 'error' && m.parent_header.msg_type === 'comm_msg')
    window.callbackErrors.push(`${{m.content.ename}}: ${{m.content.evalue}}`) }}) }}"""
START = """name => { window.finished = null; window.jupyterapp.commands.execute(name).then(
  value => { window.finished = {ok: value !== false} },
  error => { window.finished = {ok: false, error: String(error)} }) }"""


class Lab:
    """A JupyterLab server with settings, results and a folder of notebooks below `base`."""

    def __init__(self, base: Path) -> None:
        self.base, self.root, self.log = base, base / "root", base / "server.log"
        self.results, self.token = base / "results", secrets.token_hex(16)
        self.headers = {"Authorization": f"token {self.token}"}
        for name in ("root", "app", "user", "config", "ipython"):
            (base / name).mkdir()
        (base / "app/overrides.json").write_text(json.dumps(FACTORS))
        (base / "config/jupyter_lab_config.json").write_text(json.dumps(self.config()))
        folders = {f"JUPYTER_{name.upper()}_DIR": str(base / name) for name in ("config", "data", "runtime")}
        folders |= {"IPYTHONDIR": str(base / "ipython"), "CLRKIT_RESULTS": str(self.results)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--allow-root"],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={"OMP_NUM_THREADS": "1"} | os.environ | folders,
            )

    def config(self) -> dict[str, Any]:
        lab = {
            "expose_app_in_browser": True,  # window.jupyterapp
            "news_url": None,
            "extension_manager": "readonly",
            "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "app_settings_dir": str(self.base / "app"),
            "user_settings_dir": str(self.base / "user"),
            "workspaces_dir": str(self.base / "workspaces"),
        }
        server = {"ip": "127.0.0.1", "port": 0, "open_browser": False, "root_dir": str(self.root)}
        return {"LabApp": lab, "ServerApp": server, "IdentityProvider": {"token": self.token}}

    def wait(self, seconds: float = 90) -> None:
        """Until the server answers; sets `url`."""
        info, end = self.base / f"runtime/jpserver-{self.process.pid}.json", time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.url = json.loads(info.read_text())["url"].rstrip("/")
                request = urllib.request.Request(f"{self.url}/api/status", headers=self.headers)
                urllib.request.urlopen(request, timeout=5).close()
                return
            except (OSError, ValueError):
                time.sleep(0.1)
        status = self.process.poll()
        raise RuntimeError(f"JupyterLab is not ready, status {status}\n{self.log.read_text()[-4000:]}")

    def close(self) -> None:
        self.process.terminate()  # ends the kernels too
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def records(self, stage: str) -> list[Path]:
        return sorted(self.results.glob(f"*/runs/{stage}-*/record.json"))


class Notebook:
    """A notebook that is open in JupyterLab, its kernel idle."""

    def __init__(self, page: Any, lab: Lab, name: str) -> None:
        self.page = page
        page.goto(f"{lab.url}/doc/tree/{name}?token={lab.token}")
        page.wait_for_function(IDLE, timeout=90_000)
        page.evaluate(LISTEN)

    def command(self, name: str, seconds: float = 120) -> dict[str, Any]:
        """Run a JupyterLab command to its end (evaluate() would have no time limit)."""
        self.page.evaluate(START, name)
        found = self.page.wait_for_function("() => window.finished", timeout=seconds * 1000)
        return dict(found.json_value())

    def cells(self) -> list[dict[str, Any]]:
        """The live document's cells, with outputs, as in a file."""
        return list(self.page.evaluate(f"() => {WIDGET}.content.model.toJSON().cells"))

    def run_all(self, restart: bool = False) -> list[dict[str, Any]]:
        """Run every cell, after a restart of the kernel if asked; returns the outputs."""
        result = self.command("notebook:restart-run-all" if restart else "notebook:run-all-cells")
        cells = [cell for cell in self.cells() if cell["cell_type"] == "code"]
        outputs = [output for cell in cells for output in cell["outputs"]]
        errors = [output for output in outputs if output["output_type"] == "error"]
        assert result["ok"], (result, [f"{error['ename']}: {error['evalue']}" for error in errors])
        assert not errors
        assert all(cell["execution_count"] for cell in cells)
        return outputs
