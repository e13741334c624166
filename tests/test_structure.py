"""The house as a whole: public names, documentation that names every room, a quick import."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import medseg

ROOT = Path(__file__).resolve().parents[1]
ROOMS = sorted(
    path.stem
    for path in (ROOT / "medseg").iterdir()
    if not path.name.startswith("__") and (path.suffix == ".py" or (path / "__init__.py").exists())
)


def test_every_public_name_is_there_and_none_is_a_module_in_disguise():
    assert set(medseg.__all__) == {*medseg._PUBLIC, "__version__"}
    for name in medseg.__all__:
        assert getattr(medseg, name) is not None
    assert not {"plan", "train", "predict", "evaluate", "fingerprint", "read", "write"} & set(ROOMS)


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md"])
def test_documents_name_every_room(document):
    text = (ROOT / document).read_text()
    assert [room for room in ROOMS if f"`{room}`" not in text and f"`{room}/`" not in text] == []


def test_every_room_has_its_place_in_the_import_contract():
    text = (ROOT / ".importlinter").read_text().split("[importlinter:contract:without-torch]")[0]
    assert [room for room in ROOMS if f"medseg.{room}" not in text] == []


def test_links_in_documents_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_import_is_quick_and_loads_no_torch():
    code = "import sys, medseg, medseg.cli; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_planning_and_evaluation_run_without_torch():
    code = "import sys; sys.modules['torch'] = None; import medseg; medseg.plan, medseg.fingerprint, medseg.evaluate"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_pinned_versions_satisfy_the_declared_ones():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for requirement in declared:
        name = re.match(r"[A-Za-z0-9-]+", requirement)[0].lower()  # type: ignore[index]
        assert name in pinned, name
    assert pinned["torch"] == "2.13.0"
