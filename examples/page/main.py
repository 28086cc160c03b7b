"""Render a page from a template that is part of the bundle."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)


def handler(title: str, rows: list[dict]) -> str:
    """Return an HTML table of the rows."""
    heads = list(rows[0]) if rows else []
    return TEMPLATES.get_template("table.html").render(title=title, heads=heads, rows=rows)
