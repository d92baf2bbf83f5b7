"""A comparison as one HTML file that needs nothing else: table, pictures, and the command that made it."""

import base64
from datetime import datetime
from html import escape

from molino.comparison.notes import notes
from molino.comparison.rows import Row
from molino.comparison.tables import UNFINISHED, headline, table, unfinished

GENERATOR = '<meta name="generator" content="molino results.py">'  # by which a page is known as ours
WRONG = ("text", "told", "wanted", "by")  # a probability, of scores a difference
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --soft: #666; --line: #ddd; --best: #e7f4e4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #16181b; --soft: #a2a2a2; --line: #3a3d41; --best: #21402a; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.left { text-align: left; }
tr.best { background: var(--best); font-weight: 600; } tr.pruned { color: var(--soft); }
p, footer { color: var(--soft); }
figure { margin: 1rem 0; } figcaption { color: var(--soft); }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
"""


def make_page(
    rows: list[Row],
    metrics: list[str],
    pictures: dict[str, bytes],
    command: str,
    wrong: tuple[str, list[list[str]]] | None = None,
) -> str:
    """Return the page.

    Args:
        pictures: title -> PNG.
        command: what made it.
        wrong: a title, and examples that were told wrongly.
    """
    header, cells = table(rows, metrics)
    parts = [html_table(header, cells, len(rows[0].labels), [row.verdict for row in rows])]
    parts += [f"<p>{escape(note)}</p>" for note in notes(rows, metrics)]
    if waiting := unfinished(rows):
        parts += ["<h2>not finished</h2>", html_table(UNFINISHED, waiting, len(UNFINISHED))]
    parts += [html_picture(title, png) for title, png in pictures.items()]
    if wrong:
        parts.append(f"<h2>{escape(wrong[0])}</h2>\n{html_table(WRONG, wrong[1], len(WRONG) - 1)}")
    return html_page(headline(rows), parts, command)


def html_page(title: str, parts: list[str], command: str) -> str:
    """Return a page of these parts of HTML; its title is text."""
    made = f"<footer><p>made {datetime.now():%Y-%m-%d %H:%M} by <code>{escape(command)}</code></p></footer>"
    title = escape(title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{GENERATOR}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>results: {title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>results</h1>
<p>{title}</p>
{chr(10).join(parts)}
{made}
</body>
</html>
"""


def html_picture(title: str, png: bytes) -> str:
    """Return a picture with its title."""
    data = base64.b64encode(png).decode("ascii")
    image = f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
    return f"<h2>{escape(title)}</h2>\n<figure>{image}</figure>"


def html_table(
    header: list[str] | tuple[str, ...], rows: list[list[str]], left: int, kinds: list[str] | None = None
) -> str:
    """Return a table whose first `left` columns are text; `kinds` are the classes of its rows."""

    def line(tag: str, cells: list[str] | tuple[str, ...], kind: str = "") -> str:
        inside = (
            f"<{tag}{' class=left' if number < left else ''}>{escape(cell)}</{tag}>"
            for number, cell in enumerate(cells)
        )
        return f"<tr{f' class={kind}' if kind else ''}>{''.join(inside)}</tr>"

    body = "\n".join(line("td", cells, kinds[n] if kinds else "") for n, cells in enumerate(rows))
    return f"<div><table>\n<thead>{line('th', header)}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
