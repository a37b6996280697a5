"""The OpenAPI document as a page for people: one piece of HTML without script, and nothing from any other address."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --back: #fbfbfa; --text: #1d1f23; --soft: #5d636e; --line: #dfe1e6; --card: #fff;
  --get: #1a6f3c; --post: #1d4f9c; --code: #f0f1f4; }
@media (prefers-color-scheme: dark) { :root { --back: #14161a; --text: #e8e9ec; --soft: #a3a9b5; --line: #30343c;
  --card: #1b1e24; --get: #74d69b; --post: #8db8ff; --code: #262a32; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; margin: 0; } h1 small { font-size: 1rem; font-weight: 400; color: var(--soft); }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p { margin: .5rem 0; } a { color: var(--post); } .soft { color: var(--soft); }
details { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: .5rem 0; }
summary { cursor: pointer; padding: .65rem .9rem; display: flex; flex-wrap: wrap; gap: .25rem .75rem;
  align-items: baseline; }
summary:focus-visible { outline: 2px solid var(--post); outline-offset: 2px; border-radius: .6rem; }
details > div { padding: 0 .9rem .9rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1rem 0 .25rem; }
b { font: 700 .8rem/1.4 ui-monospace, monospace; min-width: 2.6rem; } .get { color: var(--get); }
.post { color: var(--post); }
code, pre { font: .86rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { background: var(--code); border-radius: .4rem; padding: .6rem .8rem; margin: .4rem 0; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; } td { padding: .3rem .8rem .3rem 0; vertical-align: top;
  border-top: 1px solid var(--line); } td:first-child { white-space: nowrap; width: 1%; }
""".strip()
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def html(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{escape(info["title"])} over HTTP</title>'
        f"<style>{STYLE}</style></head>"
    )
    about = (
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1><p>{escape(info['description'])}</p>"
        '<p class="soft">For machines: <a href="/openapi.json">/openapi.json</a>, OpenAPI '
        f"{escape(document['openapi'])}.</p>"
    )
    return f"{head}<body><main>{about}{''.join(_groups(document))}{_refusals(document)}</main></body></html>"


def _groups(document: dict[str, Any]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(verb, path, operation))
    for group, operations in groups.items():
        yield f"<h2>{escape(group)}</h2>{''.join(operations)}"


def _operation(verb: str, path: str, operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    parameters = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td><td class=soft>{each['in']}</td>"
        f"<td>{escape(each['description'])}</td></tr>"
        for each in operation["parameters"]
    )
    return (
        f"<details><summary><b class={verb}>{verb.upper()}</b><code>{escape(path)}</code>"
        f'<span class="soft">{escape(operation["summary"])}</span></summary><div><p>{escape(operation["description"])}'
        f"</p>{_titled('Parameters', f'<table>{parameters}</table>' if parameters else '')}"
        f"{_titled('Takes', ''.join(_taken(kind, each['schema']) for kind, each in content.items()))}"
        f"{_titled('Answers', f'<pre>{escape(_shown(answer))}</pre>')}</div></details>"
    )


def _titled(title: str, content: str) -> str:
    return f"<h3>{title}</h3>{content}" if content else ""


def _taken(kind: str, schema: dict[str, Any]) -> str:
    return f"<p><code>{escape(kind)}</code></p><pre>{escape(_shown(schema))}</pre>"


def _shown(schema: dict[str, Any], indent: str = "") -> str:
    """A schema in the form of what it describes; `?` stands behind what may be missing."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    if "oneOf" in schema:
        return " or ".join(_shown(each, indent) for each in schema["oneOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"[{_shown(schema.get('items', {}), indent)}, …]"
    if "properties" in schema:
        required, inner = schema.get("required", []), indent + "  "
        lines = [
            f"{inner}{name}{'' if name in required else '?'}: {_shown(each, inner)}"
            for name, each in schema["properties"].items()
        ]
        return "{\n" + "\n".join(lines) + f"\n{indent}}}"
    kinds = schema.get("type", "anything")
    what = " | ".join(kinds) if isinstance(kinds, list) else str(kinds)
    return what + ("" if "contentEncoding" not in schema else f" ({schema['contentEncoding']})")


def _refusals(document: dict[str, Any]) -> str:
    schemas = "".join(
        f"<details><summary><code>{escape(name)}</code></summary><div><pre>{escape(_shown(schema))}</pre></div></details>"
        for name, schema in document["components"]["schemas"].items()
    )
    rows = "".join(
        f"<tr><td><code>{status}</code></td><td>{escape(each['description'])}</td></tr>"
        for status, each in document["components"]["responses"].items()
    )
    return (
        f"<h2>Shapes</h2>{schemas}<h2>When it is refused</h2><p>The body is <code>{{&quot;error&quot;: &quot;…&quot;}}"
        f"</code>.</p><table>{rows}</table>"
    )
