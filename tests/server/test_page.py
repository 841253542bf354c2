"""The chat page in a browser: test_page.py NET_TOY FAKE_CHAT. Skipped (77) without a Chromium."""
import json
import os
import signal
import subprocess
import sys
import unittest
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import browser

if not browser.find():
    print("no Chromium is installed (Debian: chromium-headless-shell)")
    sys.exit(77)
TOY, FAKE_CHAT = [os.path.abspath(sys.argv.pop(1)) for _ in range(2)]

COUNT = "document.querySelectorAll('article').length"
LAST = "document.querySelector('article:last-child')"
TEXT = LAST + ".querySelector('.text').innerText"
BUSY = "document.querySelector('.busy') !== null"


def button(name, where="document"):
    return "[...%s.querySelectorAll('button')].find(b => b.textContent === '%s')" % (where, name)


class Page(unittest.TestCase):
    program, options = TOY, []

    def setUp(self):
        self.toy = subprocess.Popen([self.program, *self.options], stdout=subprocess.PIPE, text=True)
        self.url = self.toy.stdout.readline().split()[-1]

    def tearDown(self):
        self.toy.send_signal(signal.SIGTERM)
        self.toy.stdout.read()
        self.toy.stdout.close()
        self.assertEqual(self.toy.wait(30), 0)

    def open(self, **kw):
        b = browser.Browser(**kw)
        self.addCleanup(b.__exit__)
        b.go(self.url)
        b.until("document.activeElement.id === 'input'")  # one can begin to write
        return b

    def asked(self):
        with urllib.request.urlopen(self.url + "/last") as r:
            return json.load(r)

    def say(self, b, text):
        b.type(text)
        b.key("Enter")

    def fine(self, b):
        self.assertEqual(b.problems, [])
        self.assertTrue(all(u.startswith((self.url, "data:")) for u in b.requests), b.requests)

    def test_conversation(self):
        b = self.open()
        b.until("document.title === 'toy'")
        b.type("one")
        b.key("Enter", shift=True)  # a line, not yet sent
        self.assertEqual(b.js(COUNT), 0)
        self.say(b, "two SHORT")
        b.until(COUNT + " === 2 && !(%s)" % BUSY)
        self.assertEqual(self.asked()["messages"], [{"role": "user", "content": "one\ntwo SHORT"}])
        self.assertTrue(self.asked()["stream"])
        text = b.js(TEXT)
        self.assertTrue(text.startswith("Here is bold code, <b>no HTML</b>:"), text)  # Markdown's, never HTML's
        self.assertEqual(b.js("[...%s.querySelectorAll('pre, code, b')].map(e => e.textContent)" % LAST), ["bold", "code", "int x;"])
        self.assertTrue(text.rstrip().endswith("w19"))
        self.assertIn("20 tokens", b.js(LAST + ".innerText"))
        self.assertIn("cut at the limit", b.js(LAST + ".innerText"))
        self.say(b, "three SHORT")
        b.until(COUNT + " === 4 && !(%s)" % BUSY)
        self.assertEqual([m["role"] for m in self.asked()["messages"]], ["user", "assistant", "user"])
        b.click(button("Regenerate"))
        b.until(BUSY + " || true")
        b.until("!(%s)" % BUSY)
        self.assertEqual((b.js(COUNT), len(self.asked()["messages"])), (4, 3))
        b.click(button("Edit", "document.querySelectorAll('article')[2]"))
        self.assertEqual(b.js("[%s, document.querySelector('#input').value]" % COUNT), [2, "three SHORT"])
        self.say(b, " more")
        b.until(COUNT + " === 4 && !(%s)" % BUSY)
        self.assertEqual(self.asked()["messages"][2]["content"], "three SHORT more")
        self.fine(b)

    def test_streams_stops_and_reloads(self):
        b = self.open()
        self.say(b, "hello")
        b.until("/w5 /.test(%s)" % TEXT)
        self.assertTrue(b.js(BUSY))
        self.assertEqual(b.js("document.querySelector('#go').getAttribute('aria-label')"), "Stop")
        b.key("Escape")
        b.until("!(%s)" % BUSY)
        shown = b.js(TEXT)
        self.assertIn("w5", shown)
        self.assertNotIn("w2999", shown)
        self.assertIn("stopped", b.js(LAST + ".innerText"))
        b.click(button("Regenerate"))
        b.until("/w5 /.test(%s) && %s" % (TEXT, BUSY))
        b.click("document.querySelector('#go')")  # the button stops too
        b.until("!(%s)" % BUSY)
        shown = b.js(TEXT)
        b.reload()
        self.assertEqual(b.js(COUNT), 2)
        self.assertEqual(b.js(TEXT), shown)
        self.say(b, "again")  # the input has the focus
        b.until("/w5 /.test(%s)" % TEXT)
        b.reload()  # in the middle of an answer
        self.assertIn("interrupted", b.js(LAST + ".innerText"))
        self.assertIn("w5", b.js(TEXT))
        b.click("document.querySelector('#new')")
        self.assertEqual(b.js(COUNT), 0)
        b.reload()
        self.assertEqual(b.js(COUNT), 0)
        self.fine(b)

    def test_settings(self):
        b = self.open()
        b.click("document.querySelector('#open-settings')")
        for name, value in [("system", "Be kind."), ("temperature", "0.7"), ("top_p", "0.9"), ("max_tokens", "64"), ("seed", "5")]:
            b.js("document.querySelector('[name=%s]').focus()" % name)
            b.type(value)
        b.click(button("Done"))
        b.until("(localStorage['pfqc-chat'] || '').includes('Be kind.')")
        b.reload()
        self.say(b, "SHORT")
        b.until(COUNT + " === 2 && !(%s)" % BUSY)
        q = self.asked()
        self.assertEqual(q["messages"][0], {"role": "system", "content": "Be kind."})
        self.assertEqual([q[k] for k in ["temperature", "top_p", "max_tokens", "seed"]], [0.7, 0.9, 64, 5])
        self.fine(b)

    def test_errors_are_shown(self):
        b = self.open()
        self.say(b, "FAIL")
        b.until(COUNT + " === 2 && !(%s)" % BUSY)
        self.assertIn("the <i>message</i> says so", b.js(LAST + ".innerText"))
        self.assertEqual(b.js("document.querySelectorAll('i').length"), 0)

    def test_what_answers_are_made_of(self):
        """Headings, lists, tables and code are shown as such; anything else, tags too, is text."""
        b = self.open()
        for text, html in [
            ("a\nb", "<p>a\nb</p>"),
            ("# *H* <b>\ntext", '<p class="head"><i>H</i> &lt;b&gt;</p><p>text</p>'),
            ("- a\n  - `<i>`\n\n7. c", '<ul><li style="margin-left: 0em;">a</li><li style="margin-left: 1.2em;"><code>&lt;i&gt;</code></li></ul>'
                                        '<ol><li value="7" style="margin-left: 0em;">c</li></ol>'),
            ("|a|<img src=x>|\n|:-|-|\n|1|**2**|", '<div class="wide"><table><tr><th>a</th><th>&lt;img src=x&gt;</th></tr><tr><td>1</td><td><b>2</b></td></tr></table></div>'),
            ("|a|", '<div class="wide"><table><tr><td>a</td></tr></table></div>'),
            ("x\n```html\n<script>\n- 1\n```\ny", "<p>x</p><pre>&lt;script&gt;\n- 1</pre><p>y</p>"),
            ("```\nnot yet", "<pre>not yet</pre>"),
            ("2 * 3 * 4 and **open, 3.5 - x|y", "<p>2 * 3 * 4 and **open, 3.5 - x|y</p>"),
            ("", "<p></p>"), ("\n\n", "<p></p>"), ("-", "<p>-</p>"), ("|", "<p>|</p>"),
        ]:
            got = b.js("(() => { const d = document.createElement('div'); show(%s, d); return d.innerHTML; })()" % json.dumps(text))
            self.assertEqual(got.replace("<tbody>", "").replace("</tbody>", ""), html, text)
        self.fine(b)

    def test_phone(self):
        b = self.open(width=360, height=640, phone=True, dark=True)
        self.say(b, "SHORT " + "x" * 400)
        b.until(COUNT + " === 2 && !(%s)" % BUSY)
        self.assertEqual(b.js("document.documentElement.scrollWidth"), 360)  # nothing sticks out
        self.assertEqual(b.js("[...document.querySelectorAll('header, #ask')].map(e => { const r = e.getBoundingClientRect();"
                              "return r.top >= 0 && r.bottom <= innerHeight; })"), [True, True])
        self.assertEqual(b.js("getComputedStyle(document.body).backgroundColor"), "rgb(21, 24, 23)")
        self.fine(b)


class Key(Page):
    options = ["token=sesame"]

    def test_conversation(self):
        b = self.open()
        b.until("/key/.test(document.querySelector('#input').placeholder)")
        b.click("document.querySelector('#open-settings')")
        b.js("document.querySelector('[name=key]').focus()")
        b.type("sesame")
        b.click(button("Done"))
        b.until("document.title === 'toy'")
        self.say(b, "SHORT")
        b.until(COUNT + " === 2 && !(%s)" % BUSY)
        self.assertIn("20 tokens", b.js(LAST + ".innerText"))

    test_streams_stops_and_reloads = test_settings = test_errors_are_shown = test_phone = test_what_answers_are_made_of = None


class Loading(Key):
    options = ["loading=1"]

    def test_conversation(self):
        """The page says so, and goes on by itself."""
        b = self.open()
        b.until("document.querySelector('#input').placeholder === 'The model is being loaded'")
        urllib.request.urlopen(self.url + "/ready", b"").close()
        b.until("document.querySelector('#input').placeholder === 'Write a message'")


class Base(Key):
    options = ["base=1"]

    def test_conversation(self):
        """A model without a chat template continues the text."""
        b = self.open()
        b.until("document.querySelector('#input').placeholder === 'Begin a text'")
        self.say(b, "SHORT")
        b.until(COUNT + " === 2 && !(%s)" % BUSY)
        self.assertEqual((self.asked()["prompt"], self.asked()["model"]), ("SHORT", "toy"))
        self.assertTrue(b.js(TEXT).rstrip().endswith("w19"))
        self.fine(b)


class Served(Key):
    """The whole server around the toy model of tests/runtime."""
    program, options = FAKE_CHAT, ["serve", "--port", "0"]

    def test_conversation(self):
        b = self.open()
        b.until("document.title === 'fake_model'")
        b.js("kept.settings = {temperature: 0, max_tokens: 40}; 0")
        messages = []
        for text in ["Hi", "what else?"]:
            messages.append({"role": "user", "content": text})
            ask = json.dumps({"messages": messages, "temperature": 0, "max_tokens": 40}).encode()
            with urllib.request.urlopen(self.url + "/v1/chat/completions", ask) as r:
                messages.append(json.load(r)["choices"][0]["message"])
            self.say(b, text)
            b.until("%s === %d && !(%s)" % (COUNT, len(messages), BUSY))
            self.assertEqual(b.js("kept.messages[kept.messages.length - 1].content"), messages[-1]["content"])
            self.assertRegex(b.js(LAST + ".innerText"), "[0-9]+ tokens")
        self.fine(b)


if __name__ == "__main__":
    unittest.main(verbosity=2)
