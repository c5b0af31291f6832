"""What is released: one version, whole packages, a check that can fail."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

import implicit_accel
from implicit_accel.experiments import cli, selftest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution and the wheel, built from a copy: building leaves traces."""
    place = tmp_path_factory.mktemp("release")
    (place / "source").mkdir()
    for name in ("implicit_accel", "experiments", "tests", "docs", "benchmarks"):
        (place / "source" / name).symlink_to(REPOSITORY / name)
    for path in REPOSITORY.iterdir():
        if path.is_file() and path.name != ".git":
            (place / "source" / path.name).symlink_to(path)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", "."],
        cwd=place / "source", check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    (wheel,), (source,) = (place / "dist").glob("*.whl"), (place / "dist").glob("*.tar.gz")
    return wheel, source


def package_files() -> set[str]:
    """Everything in the package that is no trace of running it."""
    files = (REPOSITORY / "implicit_accel").rglob("*")
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
        assert (
            "implicit-accel = implicit_accel.experiments.main:main"
            in wheel.read(entry_points).decode()
        )
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == package_files()
    assert any(name.endswith("LICENSE") for name in info)


def test_the_source_can_be_tested_where_it_is_unpacked(built):
    with tarfile.open(built[1]) as source:
        names = {name.split("/", 1)[1] for name in source.getnames() if "/" in name}
    assert package_files() <= names
    assert {
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "tests/conftest.py",
        "tests/oracles.py",
    } <= names
    assert not any("__pycache__" in name for name in names)


def test_there_is_one_version():
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert implicit_accel.__version__ == version
    assert re.search(rf"^version: {re.escape(version)}$", text("CITATION.cff"), re.MULTILINE)
    newest, *_ = re.findall(
        r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", text("CHANGELOG.md"), re.MULTILINE
    )
    number, date = newest
    assert number == version
    assert f"\ndate-released: {date}\n" in text("CITATION.cff")


def text(name: str) -> str:
    return (REPOSITORY / name).read_text()


def test_the_changelog_names_what_there_is():
    programs = set(re.findall(r"implicit-accel (\w+)", text("CHANGELOG.md")))
    from implicit_accel.experiments.main import PROGRAMS

    assert programs <= set(PROGRAMS)
    assert "compare" in programs


def test_the_checks_of_an_installation_hold():
    for name, (check, allowed) in selftest.CHECKS.items():
        assert check() <= allowed, name


def test_a_check_that_fails_is_told(monkeypatch, capsys):
    monkeypatch.setattr(selftest, "CHECKS", {"2 is 3": (lambda: selftest._error(2, 3), 1e-3)})
    with pytest.raises(cli.ProgramError, match="something else: 2 is 3"):
        selftest.main()
    assert "FAILS" in capsys.readouterr().out
    assert selftest._error([1, np.nan], [1, 2]) == np.inf


def test_every_dependency_is_locked_with_its_checksum():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["docs"], *extras["cluster"]]
    names = {re.split(r"[\[<>=;~! ]", each)[0].lower().replace("_", "-") for each in wanted}
    lines = (REPOSITORY / ".github" / "requirements.lock").read_text().splitlines()
    pins = [k for k, line in enumerate(lines) if re.match(r"[a-z0-9.-]+==", line)]
    assert names - {"implicit-accel"} <= {lines[k].split("==")[0] for k in pins}
    assert all(lines[k + 1].startswith("    --hash=sha256:") for k in pins)


def test_actions_are_pinned_and_have_few_rights():
    for path in (REPOSITORY / ".github" / "workflows").glob("*.yml"):
        text = path.read_text()
        used = re.findall(r"uses: (\S+)", text)
        assert used
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            rights = job.get("permissions", {}).items()
            # Only one attaches files to a release.
            allowed = {"id-token", "attestations"} | ({"contents"} if name == "samples" else set())
            assert {right for right, value in rights if value == "write"} <= allowed
