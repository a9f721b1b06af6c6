"""`make docs` builds a site of all pages, with a search, and without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.pages import PAGES, ROOT
from tests.kit.process import environment

BUILD_S = 300.0  # 25 pages, on a busy machine


@pytest.mark.slow
def test_the_site_has_every_page_and_builds_without_a_warning(tmp_path: Path) -> None:
    options = ["-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "cache"), "-c", "docs"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(tmp_path / "site")],
        capture_output=True, text=True, cwd=ROOT, timeout=BUILD_S, check=False, env=environment(),
    )  # fmt: skip
    assert (built.returncode, built.stderr) == (0, "")
    for page in PAGES:
        assert (tmp_path / "site" / page.relative_to(ROOT).with_suffix(".html")).is_file(), page
    index = (tmp_path / "site" / "searchindex.js").read_text(encoding="utf-8")
    assert "lifecycle.cancelled" in index
    contents = (tmp_path / "site" / "docs" / "index.html").read_text(encoding="utf-8")
    for part in ("Tutorial", "How-to", "Reference", "Internals"):
        assert f'<span class="caption-text">{part}</span>' in contents, part
