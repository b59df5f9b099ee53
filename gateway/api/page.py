"""The page at /docs: the OpenAPI document to read, one file of HTML with its style in it and no script at all."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

Json = Mapping[str, Any]
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
WHO = {
    "apiKey": "API key",
    "apiKeyHeader": "",
    "appToken": "token of the app",
    "adminToken": "admin token",
}


class PageWriter:
    """Writes the page. `headers` are the answer's: nothing but the style in the page itself may be loaded or run."""

    def __init__(self) -> None:
        template = files("gateway.api").joinpath("page.html").read_text("utf-8")
        match = _STYLE.search(template)
        assert match is not None
        style = b64encode(hashlib.sha256(match[1].encode("utf-8")).digest()).decode("ascii")
        policy = f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
        self._template = Template(template)
        self.headers = (
            (b"content-security-policy", f"{policy}; frame-ancestors 'none'".encode("ascii")),
            (b"referrer-policy", b"no-referrer"),
            (b"x-frame-options", b"DENY"),
        )

    def write(self, document: Json) -> str:
        """The page for that OpenAPI document."""
        info = document["info"]
        content = _Content(document)
        return self._template.substitute(
            title=escape(f"{info['title']} {info['version']}"),
            about="".join(f"<p>{_text(part)}</p>" for part in info["description"].split("\n\n")),
            contents="".join(content.contents()),
            operations="".join(content.operations()),
        )


class _Content:
    """The parts of the page."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._by_tag: dict[str, list[tuple[str, str, Json]]] = {tag["name"]: [] for tag in document["tags"]}
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                self._by_tag[operation["tags"][0]].append((method.upper(), path, operation))

    def contents(self) -> Iterator[str]:
        for tag, operations in self._by_tag.items():
            yield f"<h2>{escape(tag)}</h2><ul>"
            for method, path, operation in operations:
                name = escape(operation["operationId"])
                yield f'<li><a href="#{name}">{_call(method, path)} {_text(operation["summary"])}</a></li>'
            yield "</ul>"

    def operations(self) -> Iterator[str]:
        for tag, operations in self._by_tag.items():
            yield f"<h2>{escape(tag)}</h2>"
            for method, path, operation in operations:
                yield f'<section id="{escape(operation["operationId"])}"><h3>{_call(method, path)}</h3>'
                yield f'<p class="summary">{_text(operation["summary"])}</p>'
                yield from self._operation(operation)
                yield "</section>"

    def _operation(self, operation: Json) -> Iterator[str]:
        if "description" in operation:
            yield f"<p>{_text(operation['description'])}</p>"
        yield f'<p class="who">Who: {escape(_who(operation["security"]))}</p>'
        if operation.get("parameters"):
            rows = (
                (parameter["name"], parameter["in"], parameter["schema"], parameter["description"])
                for parameter in operation["parameters"]
            )
            yield _table("Parameters", ("name", "in", "type", "meaning"), (self._row(*row) for row in rows))
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        if body is not None:
            yield from self._fields("Body", body)
        yield from self._answers(operation["responses"])

    def _answers(self, responses: Json) -> Iterator[str]:
        problems: list[str] = []
        for status, response in responses.items():
            content = response.get("content", {})
            if "application/problem+json" in content:
                problems.append(f"<tr><td>{escape(status)}</td><td>{_text(response['description'])}</td></tr>")
                continue
            yield f"<h4>{escape(status)} {_text(response['description'])}</h4>"
            for media in content.values():
                yield from self._fields("", media["schema"])
        if problems:
            table = _table("", ("status", "problem"), problems)
            yield f"<details><summary>Problems</summary>{table}</details>"

    def _fields(self, title: str, schema: Json) -> Iterator[str]:
        schema = self._resolve(schema)
        needed = schema.get("required", ())
        rows = [
            self._row(name, "needed" if name in needed else "", field, field.get("description", ""))
            for name, field in schema.get("properties", {}).items()
        ]
        if rows:
            yield _table(title, ("field", "", "type", "meaning"), rows)
        for field in schema.get("properties", {}).values():
            inner = field.get("items", {})
            if "$ref" in inner:
                yield from self._fields(f"Each {inner['$ref'].rpartition('/')[2]}", inner)

    def _row(self, name: str, place: str, schema: Json, meaning: str) -> str:
        cells = (f"<code>{escape(name)}</code>", escape(place), escape(self._type(schema)), _text(meaning))
        return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

    def _type(self, schema: Json) -> str:
        if "anyOf" in schema:
            return " or ".join(self._type(branch) for branch in schema["anyOf"])
        if "$ref" in schema:
            return str(schema["$ref"]).rpartition("/")[2]
        if "enum" in schema:
            return " or ".join(map(str, schema["enum"]))
        if schema.get("type") == "array":
            return f"list of {self._type(schema['items'])}"
        bounds = [str(schema[bound]) for bound in ("minimum", "maximum") if bound in schema]
        return str(schema.get("type", schema.get("const", ""))) + (f", {' to '.join(bounds)}" if bounds else "")

    def _resolve(self, schema: Json) -> Json:
        if "$ref" not in schema:
            return schema
        found: Json = self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found


def _who(security: list[Json]) -> str:
    words = [WHO[scheme] for entry in security for scheme in entry]
    return ", ".join(filter(None, words)) or "anyone"


def _call(method: str, path: str) -> str:
    return f'<span class="{method.lower()}">{escape(method)}</span> <code>{escape(path)}</code>'


def _table(title: str, head: tuple[str, ...], rows: Any) -> str:
    heading = f"<h4>{escape(title)}</h4>" if title else ""
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f"{heading}<table><tr>{cells}</tr>{''.join(rows)}</table>"


def _text(text: str) -> str:
    """Prose with `code` in it."""
    return _CODE.sub(r"<code>\1</code>", escape(text))
