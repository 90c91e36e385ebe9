"""Links from guides to files outside of `docs/`: the code host opens the file, the site shows a page with its text."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

LINK = re.compile(r"(?<=\]\()(\.\.?/[^)#\s]+)(?=[)#])")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "bash"}


def outside(target: str, page: str) -> str | None:
    """The path in the repository of what a page links to, when that is a file outside of `docs/`."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith(("docs/", "..")) else path


def on_files(files, config):
    """Adds a page for every file that is linked to; a link that leads nowhere is left for MkDocs to report."""
    root = Path(config.config_file_path).parent
    for page in list(files.documentation_pages()):
        for target in LINK.findall(page.content_string):
            path = outside(target, page.src_uri)
            source = f"source/{path}.md"
            if path and (root / path).is_file() and files.get_file_from_path(source) is None:
                text = (root / path).read_text(encoding="utf-8")
                fence = "`" * (1 + max(map(len, re.findall("`{3,}", text)), default=2))
                language = LANGUAGES.get(Path(path).suffix, "text")
                content = f"# `{path}`\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"
                files.append(File.generated(config, source, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points the links at those pages."""
    folder = posixpath.dirname(page.file.src_uri) or "."

    def pointed(match):
        path = outside(match[1], page.file.src_uri)
        source = f"source/{path}.md"
        return posixpath.relpath(source, folder) if path and files.get_file_from_path(source) else match[1]

    return LINK.sub(pointed, markdown)
