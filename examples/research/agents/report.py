"""Makes a page with a table and a plot of the facts that another agent extracted."""

import html
import json
import pathlib
import sys

FACTS = pathlib.Path("/facts/facts.json")
REPORT = pathlib.Path("/report/report.html")
BAR, GAP, LEFT, SCALE = 22, 8, 160, 4


def table(facts: list) -> str:
    def cell(fact: dict, key: str) -> str:
        value = fact.get(key)
        return f"<td>{value:g}</td>" if value is not None else "<td>&ndash;</td>"

    rows = "".join(
        f"<tr><td>{html.escape(fact['name'])}</td>"
        + "".join(cell(fact, key) for key in ("built", "height", "automatic"))
        + "</tr>\n"
        for fact in sorted(facts, key=lambda fact: fact.get("built", 0))
    )
    head = "<tr><th>Name<th>Built<th>Height in m<th>Automatic since</tr>\n"
    return f"<table>\n{head}{rows}</table>\n"


def plot(facts: list) -> str:
    drawn = sorted((f for f in facts if "height" in f), key=lambda fact: -fact["height"])
    bars = []
    for place, fact in enumerate(drawn):
        y, length = place * (BAR + GAP), fact["height"] * SCALE
        middle = y + BAR * 0.7
        bars.append(
            f'<text x="{LEFT - 8}" y="{middle:.0f}" text-anchor="end">{html.escape(fact["name"])}</text>'
            f'<rect x="{LEFT}" y="{y}" width="{length:.0f}" height="{BAR}"/>'
            f'<text x="{LEFT + length + 6:.0f}" y="{middle:.0f}">{fact["height"]:g} m</text>'
        )
    width = LEFT + max((f["height"] for f in drawn), default=0) * SCALE + 80
    size = f'width="{width:.0f}" height="{len(drawn) * (BAR + GAP)}"'
    return f'<svg {size} role="img" aria-label="Heights in metres">\n' + "\n".join(bars) + "\n</svg>\n"


def main() -> int:
    facts = json.loads(FACTS.read_text(encoding="utf-8"))
    style = "body{font:16px sans-serif;margin:2em}td,th{padding:.2em 1em;text-align:left}rect{fill:#37b}"
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Lighthouses</title>\n'
        f"<style>{style}</style>\n<h1>Lighthouses</h1>\n<p>{len(facts)} documents.</p>\n"
        f"{table(facts)}<h2>Heights</h2>\n{plot(facts)}</html>\n"
    )
    REPORT.write_text(page, encoding="utf-8")
    print(f"{REPORT}: {len(facts)} rows, {len(page)} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
