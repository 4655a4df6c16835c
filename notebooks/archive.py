"""The records as pages of the site, one a network, and links to them.

Named in _config.yml as an extension of Sphinx. Wherever a page shows the key of a record as code,
`0123abcd`, the site leads from it to what was asked and what came out. The pages are made from
results/ at each build and are not committed; weights and images stay in results/.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby

import numpy as np
from docutils import nodes

from reproduce import records
from reproduce.records import Record

KEY = re.compile(r"[0-9a-f]{8}")


def setup(app) -> dict:
    """The hook of Sphinx."""
    app.connect("doctree-resolved", link_keys)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def page_of(folder: str) -> str:
    """The page of a network's folder, below the site and without .html."""
    return f"records/{folder}"


@cache
def addresses() -> dict[str, str]:
    """{key of a network or a measurement: where the site shows its record}: the run that succeeded,
    else the last one that failed."""
    found = {}
    files = records.root().glob("*/*/*.json")
    for file in sorted(files, key=lambda file: ("-failed-" not in file.stem, file)):
        folder = f"{file.parent.parent.name}/{file.parent.name}"
        if not file.parent.name.startswith("smoke-"):
            stem, failed, when = file.stem.partition("-failed-")
            key = folder[-8:] if stem == "network" else stem[-8:]
            found[key] = f"{page_of(folder)}.html#record-{key}{failed}{when}"
    return found


def anchor(record: Record) -> str:
    """The id of a record on its page; runs that failed have one each."""
    failed = "" if record.error is None else f"-failed-{record.run.created.replace(':', '')}"
    return f"record-{record.key}{failed}"


def link_keys(app, doctree: nodes.document, docname: str) -> None:
    """Make a link of each key of a record that a page shows as code."""
    if app.builder.format != "html":
        return
    up = "../" * docname.count("/")
    for code in list(doctree.findall(nodes.literal)):
        address = addresses().get(code.astext())
        if address and not isinstance(code.parent, nodes.reference):
            link = nodes.reference("", "", internal=True, refuri=up + address)
            code.replace_self(link)
            link += code


def pages(app) -> Iterator[tuple[str, dict, str]]:
    """A page for each network: (its name, what the theme's template needs, the template)."""
    for folder, of in groupby(records.every(), key=lambda record: record.folder):
        name = folder.partition("/")[2]
        if not name.startswith("smoke-"):
            yield page_of(folder), {"title": name, "body": body(folder, list(of))}, "page.html"


# --- A network's page -----------------------------------------------------------------------------


def body(folder: str, of: list[Record]) -> str:
    """The records of one network as HTML."""
    name = folder.partition("/")[2]
    trained = (record for record in of if record.name == "network" and record.error is None)
    network = next(trained, None)
    measured = [record for record in of if record is not network]
    rows = "".join(map(row, measured))
    titles = ("measured", "outcome", "min", "date", "record")
    head = "".join(f"<th>{title}</th>" for title in titles)
    return f"""<h1>{escaped(name[:-9])}</h1>
<p>One network, and all that was measured of it. <a href="../../runs.html">All networks</a>.</p>
{described(network) if network else ""}
<h2>Measured</h2>
<div class="pst-scrollable-table-container" tabindex="0"><table class="table sortable">
<thead><tr>{head}</tr></thead>
<tbody>{rows}</tbody>
</table></div>"""


def described(network: Record) -> str:
    """What was trained, on what, at what cost."""
    run = network.run
    curves = {n: v for n, v in network.values.items() if isinstance(v[-1], float)}
    facts = {
        "record": f"<code>results/{escaped(network.folder)}/network.json</code>",
        "data": f"{escaped(network.dataset['name'])}, sha256 {short(network.dataset['sha256'])}",
        "weights": f"sha256 {short(network.weights_sha256 or '–')}",
        "last epoch": ", ".join(f"{escaped(n)} {v[-1]:.4g}" for n, v in curves.items()) or "–",
        "cost": f"{run.own_s / 60:.1f} min on {escaped(run.device)}",
        "date": run.created[:10],
    }
    lines = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f'<div id="{anchor(network)}"><dl class="record">{lines}</dl>{asked(network)}</div>'


def row(record: Record) -> str:
    """One measurement as a row of a table; its commit, versions and digest on demand."""
    run = record.run
    return f"""<tr id="{anchor(record)}"><td>{escaped(record.name)}</td>
<td>{escaped(outcome(record))}</td>
<td class="text-right">{run.own_s / 60:.1f}</td>
<td class="text-nowrap">{run.created[:10]}</td>
<td><code>{record.key}</code>{asked(record)}</td></tr>"""


def asked(record: Record) -> str:
    """The configuration that the key is of, and what vouches for the outcome."""
    run = record.run
    lines = [
        json.dumps(record.configuration, indent=1, sort_keys=True),
        run.device,
        ", ".join(f"{package} {version}" for package, version in run.versions.items()),
        f"commit {run.commit or '–'}{' and changes' if run.dirty else ''}",
        f"digest {digest(record)}",
    ]
    what = escaped("\n".join(lines))
    return f'<details><summary>asked</summary><pre tabindex="0">{what}</pre></details>'


def outcome(record: Record) -> str:
    """What came out, in a few words."""
    if record.error is not None:
        return f"failed: {next(iter(record.error.splitlines()), '')}"
    said = []
    if record.bits is not None:
        what = "alike" if record.configuration["kind"] == "agreement" else "right"
        said.append(f"{record.correct:,} of {record.total:,} {what} ({record.accuracy:.2f} %)")
    if record.norms is not None:
        right = record.norms[record.norms > 0]
        broken = right[np.isfinite(right)]
        said.append(f"{len(broken)} of {len(right)} broken")
        said += [f"median l2 norm {np.median(broken):.3g}"] if len(broken) else []
    said += [f"{n} {v:.4g}" for n, v in record.values.items() if isinstance(v, int | float)]
    held = [n for n, v in record.values.items() if isinstance(v, list | dict)] + list(record.arrays)
    return ", ".join(said) or f"holds {', '.join(held)}"


def digest(record: Record) -> str:
    return json.loads(record.path.read_text(encoding="utf-8"))["digest"]


def short(sha256: str) -> str:
    """A hash by its beginning; whole where a pointer rests on it."""
    return f'<code title="{sha256}">{sha256[:12]}</code>'


def escaped(text: str) -> str:
    return html.escape(str(text))
