"""Execute the page notebooks of this folder into book/.

    python notebooks/execute.py [--all | PAGE ...]
    python notebooks/execute.py --check

Every notebook but run_*.ipynb is a page. Executed are the named ones; without names, those whose
notebook, records or code changed since they were, or --all. What would change from
one execution to the next although the records did not (timings, versions) is left out, and a page
that came out the same is not touched. A page that fails leaves the old one as it was. --check
executes nothing, and says which pages are missing, or are not their notebooks as they stand.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import nbformat
import pages
import papermill
from nbclient.exceptions import DeadKernelError
from pages import BOOK, NOTEBOOKS
from papermill.exceptions import PapermillExecutionError

import reproduce
from reproduce import records
from reproduce.storage import write_bytes

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


class Refused(Exception):
    """A notebook that is damaged, or that ran without becoming a page."""


def execute(source: Path) -> bytes:
    """Execute one notebook and give the content of its page.

    What the notebook writes to stderr goes to this process's stderr, never onto the page.

    Raises:  PapermillExecutionError: a cell failed. DeadKernelError: the kernel went away. Refused:
             it is no notebook, a cell left by sys.exit, or nothing came out.
    """
    try:
        written = nbformat.read(source, as_version=4)
        nbformat.validate(written)
    except (ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise Refused(f"damaged: {first[:200]}") from None
    page = papermill.execute_notebook(
        source,
        None,
        kernel_name="python3",
        cwd=NOTEBOOKS,
        progress_bar=False,
        stderr_file=sys.stderr,
    )
    page.metadata = nbformat.from_dict(METADATA)
    for cell, cell_written in zip(page.cells, written.cells, strict=True):
        cell.metadata = cell_written.metadata
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    if wrong := pages.unfinished(page.cells):
        raise Refused(wrong)
    return f"{nbformat.writes(page)}\n".encode()


def shared() -> bytes:
    """A digest of what every page is made of: the records but for those of scale smoke, which no
    page shows, the package, the profiles, this program and the versions that it is pinned to."""
    package = Path(reproduce.__file__).parent
    files = [p for p in package.rglob("*") if p.suffix in (".py", ".csv")]
    files += [p for p in records.root().rglob("*") if not p.parent.name.startswith("smoke-")]
    files += (package.parent / "profiles").glob("*/config.yaml")
    files += [Path(__file__), Path(pages.__file__), package.parent / "constraints.txt"]
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        digest.update(f"{file}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.digest()


def stamp(name: str, of_all: bytes) -> str:
    """What says that a page, as it stands, was made of its notebook and of what all share."""
    files = NOTEBOOKS / f"{name}.ipynb", BOOK / f"{name}.ipynb"
    content = [file.read_bytes() if file.exists() else b"" for file in files]
    parts = [hashlib.sha256(part).digest() for part in content]
    return hashlib.sha256(b"".join([of_all, *parts])).hexdigest()


def stamps() -> dict[str, str]:
    """{page: its stamp when it was last executed}. It stands beside the site, and is not committed:
    where it is lost, every page is executed once."""
    try:
        return dict(json.loads(_stamps().read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _stamps() -> Path:
    return BOOK.parent / "_build" / "executed.json"


def main(arguments: list[str]) -> str | None:
    """Execute the named pages, all, or what changed; give the reasons for those that failed."""
    if arguments == ["--check"]:
        return "\n".join(pages.problems(BOOK, NOTEBOOKS)) or None
    known = pages.names(NOTEBOOKS)
    unknown = sorted(set(arguments) - {*known, "--all"})
    if unknown:
        return f"no such page: {', '.join(unknown)}; there are: {', '.join(known)}"
    of_all, done = shared(), stamps()
    changed = [name for name in known if done.get(name) != stamp(name, of_all)]
    failures = []
    for name in known if "--all" in arguments else arguments or changed:
        start = time.perf_counter()
        try:
            content = execute(NOTEBOOKS / f"{name}.ipynb")
            page = BOOK / f"{name}.ipynb"
            if not page.exists() or page.read_bytes() != content:
                write_bytes(page, content)
            done[name] = stamp(name, of_all)
            write_bytes(_stamps(), json.dumps(done, indent=1, sort_keys=True).encode())
        except PapermillExecutionError as error:
            cell = "".join(f"\n    {line}" for line in error.source.splitlines())
            reason = f"{error.ename}: {error.evalue}"
            failures.append(f"notebooks/{name}.ipynb, In [{error.exec_count}]: {reason}{cell}")
        except (DeadKernelError, Refused) as error:
            failures.append(f"notebooks/{name}.ipynb: {error}")
        else:
            print(f"book/{name}.ipynb  {time.perf_counter() - start:.1f} s", flush=True)
    return "\n".join(failures) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
