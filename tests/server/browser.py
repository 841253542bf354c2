"""A headless Chromium, driven over its debugging pipe (Chrome DevTools Protocol); the standard library is enough."""
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]


def find():
    return next((p for p in map(shutil.which, NAMES) if p), None)


class Browser:
    """One page. `problems` collects errors of scripts and of the console; `requests` the URLs that were asked for."""

    def __init__(self, width=900, height=700, dark=False, phone=False):
        self.home = tempfile.TemporaryDirectory(prefix="pfqc-browser-")
        to_read, self.to = os.pipe()
        self.back, to_write = os.pipe()
        os.set_inheritable(to_read, True)
        os.set_inheritable(to_write, True)
        self.p = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3<&%d 4>&%d' % (to_read, to_write), "sh", find(), "--headless", "--no-sandbox", "--disable-gpu",
             "--disable-dev-shm-usage", "--remote-debugging-pipe", "--user-data-dir=" + self.home.name, "about:blank"],
            pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.buffer, self.n, self.session = b"", 0, None
        self.problems, self.requests = [], []
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(domain + ".enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            self.session = None
            self.call("Browser.close")
        except OSError:
            pass
        try:
            self.p.wait(10)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        os.close(self.to)
        os.close(self.back)
        self.home.cleanup()

    def receive(self, timeout):
        end = time.time() + timeout
        while b"\0" not in self.buffer:
            if not select.select([self.back], [], [], max(0, end - time.time()))[0]:
                raise TimeoutError("the browser is silent")
            more = os.read(self.back, 1 << 20)
            if not more:
                raise OSError("the browser has ended")
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(line)

    def note(self, m):
        what, p = m.get("method"), m.get("params")
        if what == "Runtime.exceptionThrown":
            self.problems.append(p["exceptionDetails"].get("exception", {}).get("description") or p["exceptionDetails"]["text"])
        elif what == "Log.entryAdded" and p["entry"]["level"] == "error":
            self.problems.append(p["entry"]["text"])
        elif what == "Network.requestWillBeSent":
            self.requests.append(p["request"]["url"])

    def call(self, method, **params):
        self.n += 1
        m = {"id": self.n, "method": method, "params": params}
        if self.session:
            m["sessionId"] = self.session
        os.write(self.to, json.dumps(m).encode() + b"\0")
        while True:
            m = self.receive(60)
            if m.get("id") == self.n:
                if "error" in m:
                    raise OSError("%s: %s" % (method, m["error"]))
                return m["result"]
            self.note(m)

    def js(self, text):
        r = self.call("Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in r:
            raise AssertionError(text + ": " + json.dumps(r["exceptionDetails"]))
        return r["result"].get("value")

    def until(self, text, seconds=20):
        """Waits until the expression is true; its value."""
        end = time.time() + seconds
        while not (v := self.js(text)):
            if time.time() > end:
                raise AssertionError("never true: %s\n%s" % (text, self.js("document.body.innerText")))
            time.sleep(0.02)
        return v

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self):
        self.js("window.old = true")
        self.call("Page.reload")
        for _ in range(500):
            try:
                if self.js("!window.old && document.readyState === 'complete'"):
                    return
            except (AssertionError, OSError):
                pass
            time.sleep(0.02)
        raise AssertionError("the page did not load again")

    def type(self, text):
        self.call("Input.insertText", text=text)

    def key(self, key, shift=False):
        code = {"Enter": 13, "Escape": 27}[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r" if key == "Enter" else "", **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector):
        """The element's middle, with a real mouse: it must be visible and on top."""
        x, y = self.js("(e => { e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect();"
                       "return [r.x + r.width / 2, r.y + r.height / 2]; })(%s)" % selector)
        for what in ["mouseMoved", "mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=what, x=x, y=y, button="none" if what == "mouseMoved" else "left", clickCount=1)

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))
