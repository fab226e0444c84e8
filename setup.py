"""What pyproject.toml cannot say: the text that an index shows, and the addresses of the project.

In the repository the README's links are relative. An index shows the same text elsewhere, where such a link leads
nowhere. With ``PROJECT_URL=https://...`` in the environment (``make dist URL=https://...``) links become absolute below
that address, and the package's metadata names it. Without it, the text keeps the words of its links, and no address is
made up.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import setup

_LINK = re.compile(r"(?P<picture>!?)\[(?P<words>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def shown(text: str, address: str | None) -> str:
    """A page of the repository as it can be shown anywhere.

    Args:
        text: Markdown.
        address: where the repository can be looked at; None if that is not known.
    """

    def outside(link: re.Match[str]) -> str:
        picture, words, target = link["picture"], link["words"], link["target"]
        if re.match(r"(https?:|mailto:|#)", target):
            return link[0]
        if address is None:
            return f"*{words}*" if picture else words
        return f"{picture}[{words}]({address.rstrip('/')}/{'raw' if picture else 'blob'}/HEAD/{target})"

    return _LINK.sub(outside, re.sub(r"<!--.*?-->\n?", "", text, flags=re.S))


def addresses(address: str | None) -> dict[str, str]:
    """The project's addresses in the metadata."""
    if address is None:
        return {}
    base = address.rstrip("/")
    pages = {"Changelog": "CHANGELOG.md", "Documentation": "docs/index.md", "Security": "SECURITY.md"}
    return {"Source": base, "Issues": f"{base}/issues"} | {n: f"{base}/blob/HEAD/{p}" for n, p in pages.items()}


def main() -> None:
    """Called by setuptools' build backend."""
    address = os.environ.get("PROJECT_URL") or None
    readme = (Path(__file__).resolve().parent / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=shown(readme, address),
        long_description_content_type="text/markdown",
        project_urls=addresses(address),
    )


if __name__ == "__main__":
    main()
