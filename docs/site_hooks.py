"""MkDocs hooks: pages from the repository's root, links that work on GitHub and on the site, no remote assets."""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Files of the repository's root and the pages of the site that they become."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
REMOTE_ASSET = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?(?:https?:)?//"""
)
REMOTE_STYLE = re.compile(r"""(?:url\(|@import\s*)["']?(?:https?:)?//""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files of the repository's root."""
    for name, uri in ROOT_PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Rewrite the relative links of a page for the site."""
    return site_links(markdown, page.file.src_uri)


def site_links(markdown: str, uri: str) -> str:
    """Links of a page as the site needs them.

    On GitHub a link is relative to the file that has it. A link to another page is made relative to the page's place
    in the site. A link to any other file of the repository, such as code or a config, becomes its text. A link to
    nothing stays, so that a strict build fails.

    Args:
        markdown: text of the page.
        uri: path of the page in the site, such as `guides/full_node.md`.
    """
    names = {page: name for name, page in ROOT_PAGES.items()}
    folder = (ROOT / names[uri] if uri in names else DOCS / uri).parent

    def rewritten(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = Path(os.path.normpath(folder / target))
        if "://" in target or not path.exists():
            return match[0]
        if path.parent == ROOT and path.name in ROOT_PAGES:
            page = ROOT_PAGES[path.name]
        elif path.is_file() and path.is_relative_to(DOCS) and path.suffix != ".py":
            page = path.relative_to(DOCS).as_posix()
        else:
            return text
        return f"{image}[{text}]({os.path.relpath(page, Path(uri).parent)}{anchor or ''})"

    return LINK.sub(rewritten, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if a page would make the browser load something from another host.

    Raises:
        PluginError: with the files that name a remote script, image, style sheet or font.
    """
    site = Path(config.site_dir)
    patterns = {".html": REMOTE_ASSET, ".css": REMOTE_STYLE}
    files = [path for path in site.rglob("*") if path.suffix in patterns]
    remote = [
        path.relative_to(site).as_posix()
        for path in files
        if patterns[path.suffix].search(path.read_text(encoding="utf-8"))
    ]
    if remote:
        raise PluginError(f"expected no asset of another host, found some in {', '.join(sorted(remote))}")
