"""Compiled programs are kept from one process to the next, and never make anything worse."""

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from programs import expect_usage_error, run

from implicit_accel.experiments.compilation import ProgramCount, Programs, counted_programs

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--num_steps", "50", "--num_seeds", "1", "--learning_rates", "0.1,0.2"]

SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp, numpy as np
from absl import flags
from implicit_accel.experiments import compilation
flags.FLAGS(sys.argv)
compilation.keep_programs(compilation.asked_for())
x = np.linspace(0, 3, 1001)
with compilation.counted_programs() as count:
    y = jax.jit(lambda x: jnp.sin(x) * 3.7 + jnp.cumsum(x**3))(x)
print(count)
print(np.asarray(y).tobytes().hex())
"""


def compute(folder, **environment):
    """A small computation in a process of its own: how it came by its program, its result."""
    asked = [] if folder is None else [f"--compilation_cache={folder}"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *asked],
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "true"} | environment,
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


COMPILED, KEPT = "1 compilation", "1 program from the compilation cache"


def test_a_second_sweep_compiles_nothing_and_gives_the_same_bits(tmp_path):
    found = []
    for name in "ab":
        result = run(
            "sweep", *SMALL, "--output_dir", tmp_path / name,
            "--compilation_cache", tmp_path / "programs", JAX_ENABLE_COMPILATION_CACHE="true",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        found.append((tmp_path / name / "results.nc").read_bytes())
        said = [line for line in result.stdout.splitlines() if "run-steps/s" in line]
        assert said[0].startswith({"a": COMPILED, "b": KEPT}[name])
    assert found[0] == found[1]


def test_programs_are_kept_in_the_users_cache(tmp_path):
    said = [compute(None, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    assert [line for line, _ in said] == [COMPILED, KEPT]
    assert said[0][1] == said[1][1]
    (path,) = files(tmp_path)
    assert path.parent == tmp_path / "implicit_accel" / "compiled"
    assert path.parent.stat().st_mode & 0o077 == 0
    path.parent.chmod(0o777)  # somebody else may have put machine code there
    assert compute(None, XDG_CACHE_HOME=str(tmp_path))[0] == COMPILED
    assert compute("none", XDG_CACHE_HOME=str(tmp_path))[0] == COMPILED
    own = tmp_path / "own"
    assert compute(None, JAX_COMPILATION_CACHE_DIR=str(own))[0] == COMPILED


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[:100],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
        lambda content: bytes(len(content)),
    ],
)
def test_a_damaged_program_is_replaced(tmp_path, damage):
    programs = Programs(tmp_path)
    programs.put("key", b"value" * 1000)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    assert programs.get("key") == b"value" * 1000
    path.write_bytes(damage(whole))
    assert programs.get("key") is None
    assert files(tmp_path) == []
    programs.put("key", b"value" * 1000)
    assert path.read_bytes() == whole


def test_damage_changes_no_result(tmp_path):
    _, bits = compute(tmp_path)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-300] + bytes(300))
    assert compute(tmp_path) == [COMPILED, bits]
    assert compute(tmp_path) == [KEPT, bits]
    # What is whole but no program of JAX's is compiled anew as well, without a word.
    key = "any"
    Programs(tmp_path / "x").put(key, b"no program")
    (other,) = files(tmp_path / "x")
    assert Programs(tmp_path / "x").get(key) == b"no program"
    path.write_bytes(other.read_bytes())  # another's place
    assert compute(tmp_path) == [COMPILED, bits]


def test_another_machine_has_its_own_programs(tmp_path, monkeypatch):
    Programs(tmp_path).put("key", b"here")
    monkeypatch.setattr("implicit_accel.experiments.compilation._machine", lambda: "another")
    assert Programs(tmp_path).get("key") is None
    Programs(tmp_path).put("key", b"there")
    assert Programs(tmp_path).get("key") == b"there"
    assert len(files(tmp_path)) == 2


def test_the_folder_is_bounded_and_forgets_what_is_used_least(tmp_path):
    programs = Programs(tmp_path, most_bytes=5000)
    for number in range(4):
        programs.put(str(number), bytes(1000))
        path, _ = programs._file(str(number))
        os.utime(path, (number, number))
    assert programs.get("0") is not None  # now the one used last
    programs.put("4", bytes(1000))
    assert [programs.get(str(n)) is not None for n in range(5)] == [True, False, True, True, True]
    programs.put("5", bytes(10_000))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 5000


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/x", "{file}/x"])
def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, place):
    (tmp_path / "file").write_text("")
    folder = place.format(file=tmp_path / "file")
    programs = Programs(Path(folder))
    programs.put("key", b"value")
    assert programs.get("key") is None
    assert compute(folder)[0] == COMPILED


def test_a_full_disk_is_done_without(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", full)
    Programs(tmp_path).put("key", b"value")
    assert files(tmp_path) == []


def test_many_processes_share_a_folder(tmp_path):
    writer = (
        "import sys; from pathlib import Path; from experiments.compilation import Programs\n"
        "p = Programs(Path(sys.argv[1]), 20_000)\n"
        "for i in range(300):\n"
        "    key = str(i % 7)\n"
        "    assert p.get(key) in (None, key.encode() * 5000)\n"
        "    p.put(key, key.encode() * 5000)\n"
    )
    command = [sys.executable, "-c", writer, str(tmp_path)]
    others = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [other.wait() for other in others] == [0, 0, 0]
    assert all(path.suffix == ".program" for path in files(tmp_path))
    assert len(files(tmp_path)) <= 4


def test_bad_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for asked in (tmp_path / "file", ""):
        result = run(
            "sweep", *SMALL, "--output_dir", tmp_path / "out", f"--compilation_cache={asked}"
        )
        expect_usage_error(result, "--compilation_cache", "is no folder")


def test_counts_in_words():
    assert str(ProgramCount()) == "0 compilations"
    assert str(ProgramCount(1)) == COMPILED
    assert str(ProgramCount(3, 3)) == "3 programs from the compilation cache"
    assert str(ProgramCount(3, 1)) == "2 compilations, 1 program from the compilation cache"


def test_counting_ends(rng):
    import jax

    with counted_programs() as count, warnings.catch_warnings():
        jax.jit(lambda x: x * 2.5 + 1)(rng.standard_normal(7))
    assert (count.asked, count.kept) == (1, 0)
    jax.jit(lambda x: x * 3.5 + 1)(rng.standard_normal(7))
    assert count.asked == 1
