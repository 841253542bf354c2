"""What a Chromium makes of the page of pfqc inspect: inspect_browser.py PAGE.html [time: only say how long it takes to open]"""
import base64
import os
import sys

import browser

URL = "file://" + os.path.abspath(sys.argv[1])
# Of every chart: its marks, and texts that lie outside or on each other, in its own coordinates.
CHARTS = """[...document.querySelectorAll('svg')].map(svg => {
    const box = svg.viewBox.baseVal, inside = b => b.x >= -1 && b.y >= -1 && b.x + b.width <= box.width + 1 && b.y + b.height <= box.height + 1;
    const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBBox()]);
    const meet = (a, b) => a.x < b.x + b.width - 1 && b.x < a.x + a.width - 1 && a.y < b.y + b.height - 3 && b.y < a.y + a.height - 3;
    const seen = svg.getBoundingClientRect();
    return {name: svg.getAttribute('aria-label'), width: seen.width, height: seen.height,
            least: Math.min(...[...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect().height)),
            marks: svg.querySelectorAll('rect, circle').length, untitled: svg.querySelectorAll('rect:not(:has(title))').length,
            out: [...svg.querySelectorAll('rect, circle, path, text')].filter(e => !inside(e.getBBox())).map(e => e.outerHTML),
            over: texts.flatMap(([s, a], i) => texts.slice(i + 1).filter(([, b]) => meet(a, b)).map(([t]) => [s, t]))};
})"""
# Contrast of text to ground, as WCAG has it.
CONTRAST = """(() => {
    const light = c => c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                        .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
    const ground = light(getComputedStyle(document.body).backgroundColor);
    return [...document.querySelectorAll('p, td, th, dt, a:not(svg a), .barrier, svg text, .pass, .pass span, del, ins')].map(e => {
        const s = getComputedStyle(e), ink = light(e.ownerSVGElement ? s.fill : s.color);
        return [(Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05), e.outerHTML.slice(0, 80)];
    }).sort((a, b) => a[0] - b[0])[0];
})()"""

if len(sys.argv) > 2:
    for _ in range(5):
        with browser.Browser(width=1000, height=800) as b:
            b.go(URL)
            b.js("new Promise(done => requestAnimationFrame(() => setTimeout(done, 200)))")
            loaded, painted = b.js("[performance.getEntriesByType('navigation')[0].loadEventEnd, performance.getEntriesByType('paint')[0]?.startTime]")
            print(f"{os.path.getsize(sys.argv[1]) / 1e3:.0f} kB: loaded after {loaded:.0f} ms, first paint after {painted or 0:.0f} ms")
    sys.exit()

grounds = set()
for look in [dict(width=1000, height=800), dict(width=390, height=800, phone=True), dict(width=1000, height=800, dark=True)]:
    with browser.Browser(**look) as b:
        b.go(URL)
        charts = b.js(CHARTS)
        assert len(charts) == 13, [c["name"] for c in charts]
        for c in charts:
            assert c["name"] and c["marks"] and not c["untitled"] and not c["out"] and not c["over"], (look, c)
            assert c["width"] >= 300 and c["height"] >= 90 and c["least"] >= 9, (look, c)
        bars = b.js("[...document.querySelectorAll('.bar span')].map(e => [e.getBoundingClientRect().width, e.getBoundingClientRect().height])")
        assert bars and max(w for w, _ in bars) > 50 and all(h >= 8 for _, h in bars), (look, "bars of bytes")
        least = b.js(CONTRAST)
        assert least[0] >= 4.5, (look, least)
        b.js("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert b.js("document.documentElement.scrollWidth <= innerWidth"), (look, "the page is wider than the screen")
        grounds.add(b.js("getComputedStyle(document.body).backgroundColor"))
        assert b.problems == [] and b.requests == [URL], (b.problems, b.requests)
assert len(grounds) == 2, grounds

# On paper, by a reader whose screen is dark: dark ink, nothing cut off or scrolled, bars and boxes with their colours.
with browser.Browser(width=688, height=1000, dark=True) as b:  # A4 less its margins
    b.go(URL)
    b.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    ink = b.js("getComputedStyle(document.body).color")
    assert sum(map(int, ink[4:-1].split(", "))) < 150, ink
    cut = b.js("[...document.querySelectorAll('.wide, section, table, svg')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))")
    assert not cut and b.js("document.documentElement.scrollWidth <= innerWidth"), cut
    assert b.js("[...document.querySelectorAll('.bar span, .ops i, .legend i')].every(e => getComputedStyle(e).printColorAdjust == 'exact')")
    paper = base64.b64decode(b.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert paper.startswith(b"%PDF-") and 2 <= paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") <= 20, len(paper)
