"""Conversations, and jinja2 set up as transformers sets it up: what the template tests and make_templates.py share."""
import copy
import datetime
import json
import warnings

NOW = 1700000000
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a <city> & \"more\"",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "The city's name"},
            "days": {"type": "integer", "enum": [1, 2, 3]},
            "unit": {"type": ["string", "null"], "default": None},
            "where": {"type": "array", "items": {"type": "object", "properties": {"lat": {"type": "number"}}}}},
            "required": ["city"]},
        "return": {"type": "string"}}},
    {"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}},
]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def call(arguments, content=None):
    return {"role": "assistant", "content": content, "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}]}


RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": "{\"t\": 21.5}"}
CONVERSATIONS = {
    "user": [user("Hi")],
    "system": [system("Be brief."), user("Hi  \n")],
    "turns": [system("s"), user("a"), assistant("  b\n"), user("\u00fc\n\nx")],
    "no system": [user("a"), assistant("b"), user("c")],
    "tool call": [system("s"), user("w?"), call({"city": "Z\u00fcrich", "days": 2}), RESULT, assistant("21"), user("thx")],
    "tool result": [user("w?"), call({"city": "Z\u00fcrich"}), RESULT],
    "call as text": [user("w?"), call("{\"city\": \"Bern\"}", ""), RESULT],
    "thoughts": [user("a"), assistant("<think>\nhmm\n</think>\n\nyes"), user("b")],
    "thoughts apart": [user("a"), {"role": "assistant", "reasoning_content": "r", "content": "c"}],
    "wrong order": [user("a"), user("b")],
    "assistant first": [assistant("first")],
    "parts": [user([{"type": "text", "text": "part"}])],
    "empty": [],
}


def contexts():
    """(name, context) of every conversation, with and without tools, prompt and thinking."""
    for name, messages in CONVERSATIONS.items():
        for tools in (None, TOOLS):
            for more in ({"add_generation_prompt": False}, {"add_generation_prompt": True},
                         {"add_generation_prompt": True, "enable_thinking": False}):
                label = name + (", tools" if tools else "") + "".join(f", {k}={v}" for k, v in more.items())
                yield label, {"messages": messages, "tools": tools, "documents": None, "bos_token": "<s>", "eos_token": "</s>",
                              "unk_token": "<unk>", "pad_token": "<pad>", **more}


def environment():
    """jinja2 as transformers makes it (utils/chat_template_utils.py), the clock standing at NOW."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

        def _inside(self, caller):
            return caller()

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW).strftime(form)
    return env


class Reference:
    """What jinja2 makes of a template: ("text", prompt) or ("error", sentence)."""

    def __init__(self):
        self.env = environment()
        self.last = (None, None)

    def render(self, source, context):
        try:
            if self.last[0] != source:
                self.last = (source, None)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Python's, about the code that jinja2 makes
                    self.last = (source, self.env.from_string(source))
            return "text", self.last[1].render(**copy.deepcopy(context))
        except Exception as error:  # Python's own too: TypeError, OverflowError
            return "error", f"{type(error).__name__}: {error}"
