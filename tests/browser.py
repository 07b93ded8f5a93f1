"""Headless Chromium, spoken to over a pipe: its DevTools protocol, and no driver."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
SILENT = "no answer from Chromium in {} s to {}"
KEYS = {"ArrowRight": 39, "ArrowUp": 38, "Escape": 27, "Tab": 9}  # Windows' codes


class Browser:
    """One page of a browser, in a profile of its own; a context manager."""

    def __init__(self, profile: Path, timeout: float = 60) -> None:
        self.timeout, self.number, self.rest = timeout, 0, b""
        self.events: list[dict] = []
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}"]
        read, self.write = os.pipe()
        self.read, write = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4.
        command = f'exec "$@" 3<&{read} 4>&{write}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", CHROMIUM, *flags, "about:blank"],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.write)
        os.close(self.read)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, method: str, **params: Any) -> dict:
        """The answer to a command; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (answer := self._next(method)).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _next(self, method: str) -> dict:
        until = time.monotonic() + self.timeout
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.read], [], [], until - time.monotonic())
            assert ready, SILENT.format(self.timeout, method)
            self.rest += os.read(self.read, 1 << 20)
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, address: str = "") -> None:
        """Load a page, and wait until it has drawn."""
        blank = "about:blank"  # between two of one file, where only the hash may change
        for url in (blank, page.resolve().as_uri() + address):
            self.events.clear()
            self.call("Page.navigate", url=url)
            while not any(e["method"] == "Page.loadEventFired" for e in self.events):
                self.events.append(self._next(f"load {url}"))
        self.settle()

    def eval(self, code: str) -> Any:
        """The value of JavaScript, a promise's once it is kept."""
        found = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, code: str) -> None:
        """Until JavaScript is true."""
        until = time.monotonic() + self.timeout
        while not self.eval(code):
            assert time.monotonic() < until, f"never came true: {code}"
            time.sleep(0.02)

    def settle(self) -> None:
        """Until what was queued is drawn."""
        frame = "new Promise(done => requestAnimationFrame(done))"
        self.eval(f"{frame}.then(() => {frame}).then(() => true)")

    def drag(self, *points: tuple[float, float]) -> None:
        """Press at the first point, move over the others, let go."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            self.mouse(kind, x, y)
        self.settle()

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **held, **more)

    def key(self, name: str) -> None:
        code = {"key": name, "code": name, "windowsVirtualKeyCode": KEYS[name]}
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **code)
        self.settle()

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """A window of that size, in the light or the dark scheme."""
        how = {"deviceScaleFactor": 1, "mobile": width < 500}
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, **how
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def requests(self) -> list[str]:
        """Addresses that the page has asked for since it was opened."""
        asked = (e for e in self.events if e["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]

    def complaints(self) -> list[str]:
        """What the page's console has: exceptions, errors, violations of its policy."""
        said = [(e["method"], e.get("params", {})) for e in self.events]
        kinds = "Runtime.exceptionThrown", "Runtime.consoleAPICalled"
        texts = [str(params) for method, params in said if method in kinds]
        logs = [
            params["entry"] for method, params in said if method == "Log.entryAdded"
        ]
        return texts + [entry["text"] for entry in logs if entry["level"] == "error"]
