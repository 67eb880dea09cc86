"""What a reader waits for: weight of a chapter's first view, and times on a slow connection.

Pages of ``make book`` are served with gzip to the system's Chromium, which is slowed down to its
own profile of a fast 3G connection (1.44 Mbit/s, 562 ms), with an empty cache each time.
"""

import gzip
import http.server
import os
import shutil
import statistics
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
FAST_3G = {
    "offline": False,
    "downloadThroughput": 1.6e6 / 8 * 0.9,
    "uploadThroughput": 750e3 / 8 * 0.9,
    "latency": 562.5,
}
PACKED = {".html", ".css", ".js", ".svg", ".json"}
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# Formulas stand in the page; all are whole when the last font has arrived and is painted.
FONTS = """window.whole = [];
document.fonts.addEventListener("loadingdone",
    () => requestAnimationFrame(() => setTimeout(() => window.whole.push(performance.now()))))"""
READ = "performance.getEntriesByType('navigation')[0].responseEnd"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
SLIDE = """slider => {
    const times = [];
    for (let k = 0; k < 40; k++) {
        slider.value = k % 2 ? slider.min : slider.max;
        const begin = performance.now();
        slider.dispatchEvent(new Event('input'));
        slider.closest('figure').querySelector('svg').getBoundingClientRect();
        times.push(performance.now() - begin);
    }
    return times;
}"""


class Server(http.server.SimpleHTTPRequestHandler):
    """A file server that packs text, as those of deployments do, and counts what it sends."""

    protocol_version = "HTTP/1.1"
    sent = 0

    def do_GET(self):
        path = HTML / urlsplit(self.path).path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        self.send_response(200)
        if path.suffix in PACKED:
            body = gzip.compress(body, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        Server.sent += len(body)
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def measure(browser, address, page):
    """Weight in kB, seconds to text and to formulas, milliseconds of a slider's move."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    tab = context.new_page()
    session = context.new_cdp_session(tab)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", FAST_3G)
    tab.add_init_script(FONTS)
    Server.sent = 0
    tab.goto(f"{address}/{page}", wait_until="load", timeout=120_000)
    tab.wait_for_timeout(3000)
    read, paint, fonts = tab.evaluate(READ), tab.evaluate(PAINT), tab.evaluate("window.whole")
    whole = max(paint, read, *fonts)
    weight = Server.sent
    moves = [0.0]
    for slider in tab.locator("figure.dmf-explorer input[type=range]").all():
        moves += slider.evaluate(SLIDE)
    context.close()
    return weight / 1e3, paint / 1e3, whole / 1e3, statistics.median(moves), max(moves)


def main():
    name = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if name is None or not HTML.exists():
        sys.exit("bench_pages: needs Chromium and the built book (make book)")
    pages = [
        "index.html",
        *(f"chapters/{p.name}" for p in sorted((HTML / "chapters").glob("*.html"))),
    ]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        print("| page | kB, packed | text, s | mathematics, s | slider, ms: median, worst |")
        print("|---|---|---|---|---|")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=name, args=ARGUMENTS)
            for page in pages:
                row = measure(browser, address, page)
                print("| {} | {:.0f} | {:.1f} | {:.1f} | {:.1f}, {:.1f} |".format(page, *row))
            browser.close()
        server.shutdown()


if __name__ == "__main__":
    main()
