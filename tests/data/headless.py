"""A headless Chromium for tests, driven over its debugging pipe: no driver, no port, no network."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # containers have none to offer; the pages opened are the tests' own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
SECONDS = 60


class Browser:
    """One tab of one browser."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes, self._buffer, self._last, self._session = reads, writes, b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the Chrome DevTools Protocol; events that come before its answer go to `events`."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            received = self._receive()
            if received.get("id") == self._last:
                assert "error" not in received, (method, received["error"])
                return received["result"]
            self.events.append(received)

    def open(self, page: pathlib.Path, fragment: str = "") -> None:
        """Loads a file anew and waits until its scripts have run."""
        self.visit(page.resolve().as_uri() + fragment)

    def visit(self, address: str) -> None:
        """Loads an address anew and waits until its scripts have run."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.protocol !== 'about:'")

    def wait(self, condition: str) -> None:
        """Waits until an expression is true: events such as `toggle` come after what causes them."""
        deadline = time.monotonic() + SECONDS
        while not self.js(condition):
            assert time.monotonic() < deadline, f"never came true: {condition}"
            time.sleep(0.01)

    def js(self, expression: str) -> Any:
        """Returns the JSON value of an expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def keys(self, text: str) -> None:
        """Types characters, as a keyboard would; `\\t` and `\\n` are the keys Tab and Enter."""
        named = {"\t": ("Tab", 9, ""), "\n": ("Enter", 13, "\r")}
        for character in text:
            key, code, typed = named.get(character, (character, 0, character))
            pressed = {"key": key, "windowsVirtualKeyCode": code, "text": typed}
            self.call("Input.dispatchKeyEvent", type="keyDown", **pressed)
            self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def screen(self, width: int, height: int, *, dark: bool = False) -> None:
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: pathlib.Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """What the console and the script engine said since the page was opened."""
        self.js("0")
        told = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening")
        return [json.dumps(event) for event in self.events if event.get("method") in told]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        self.js("0")
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._reads], [], [], SECONDS)[0], "Chromium does not answer"
            read = os.read(self._reads, 1 << 20)
            assert read, "Chromium has stopped"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def browser(profile: pathlib.Path) -> Iterator[Browser]:
    """Starts Chromium with a profile folder of its own; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on PATH: install Debian's package `chromium` to test the page in a real browser")
    its_reads, our_writes = os.pipe()
    our_reads, its_writes = os.pipe()
    # Chromium reads descriptor 3 and writes 4; bash puts ours there (sh knows no descriptor above 9).
    command = [found, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", f'exec 3<&{its_reads} 4>&{its_writes} "$@"', "bash", *command],
        pass_fds=(its_reads, its_writes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(its_reads)
    os.close(its_writes)
    try:
        yield Browser(our_reads, our_writes)
    finally:
        os.close(our_writes)  # its pipe closed, Chromium ends by itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(our_reads)
