"""The compilation cache: later processes read programs from it, and no failure changes a result."""

import os
import resource
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from programs import expect_usage_error, forked, run

from implicit_accel.experiments import compilation
from implicit_accel.experiments.compilation import ProgramCount, counted_programs

SMALL = ["--num_steps", "50", "--num_seeds", "1", "--learning_rates", "0.1,0.2"]


def print_small_computation(file_size, max_bytes, factor, *words):
    """In a process of its own: prints the count of programs and the result."""
    warnings.simplefilter("error")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_size), unlimited[1]))
    # JAX reads the environment on import, which was before this process was forked.
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    compilation.MAX_BYTES = int(max_bytes)
    flags.FLAGS(["program", *words])
    compilation.keep_programs(compilation.asked_for())
    x = np.linspace(0, 3, 1001)
    with counted_programs() as count:
        y = jax.jit(lambda x: jnp.sin(x) * float(factor) + jnp.cumsum(x**3))(x)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)  # what is printed is in a file too
    print(count)
    print(np.asarray(y).tobytes().hex(), flush=True)


def compute(
    folder, *, file_size=resource.RLIM_INFINITY, max_bytes=compilation.MAX_BYTES, factor=3.7,
    **environment,
):  # fmt: skip
    """A small computation in a process of its own: its count of programs, its result."""
    asked = [] if folder is None else [f"--compilation_cache={folder}"]
    done = forked(
        print_small_computation, file_size, max_bytes, factor, *asked,
        environment=os.environ | environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def entries(folder):
    return list(folder.rglob("*-cache"))


COMPILED, CACHED = "1 compilation", "1 program from the compilation cache"


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
        assert said[0].startswith({"a": COMPILED, "b": CACHED}[name])
    assert found[0] == found[1]


def test_programs_are_kept_in_the_users_cache(tmp_path):
    said = [compute(None, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    assert [line for line, _ in said] == [COMPILED, CACHED]
    assert said[0][1] == said[1][1]
    (path,) = entries(tmp_path)
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
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
        lambda content: bytes(len(content)),
        lambda content: b"no program",
    ],
)
def test_damage_changes_no_result(tmp_path, damage):
    _, bits = compute(tmp_path)
    (path,) = entries(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert compute(tmp_path) == [COMPILED, bits]


def test_an_interrupted_write_is_repaired(tmp_path):
    """An entry without its second file would stop all later writes, see `_remove_orphans`."""
    _, bits = compute(tmp_path, file_size=1000)  # as on a full disk
    assert [path.stat().st_size for path in entries(tmp_path)] == [1000]
    (tmp_path / f"jit_other-{'0' * 64}-cache").write_bytes(b"x")
    assert compute(tmp_path) == [COMPILED, bits]
    assert compute(tmp_path) == [CACHED, bits]
    assert len(entries(tmp_path)) == 1


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "my-cache").write_text("mine")
    assert compute(tmp_path)[0] == COMPILED
    assert (tmp_path / "my-cache").read_text() == "mine"


def test_the_folder_is_bounded(tmp_path):
    for number in range(5):
        said, _ = compute(tmp_path, max_bytes=9000, factor=3 + number / 10)
        assert said == COMPILED
        assert sum(path.stat().st_size for path in entries(tmp_path)) <= 9000
    assert 1 <= len(entries(tmp_path)) < 5
    assert compute(tmp_path, max_bytes=9000, factor=3.4)[0] == CACHED  # the last one


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/x", "{file}/x"])
def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, place):
    (tmp_path / "file").write_text("")
    assert compute(place.format(file=tmp_path / "file"))[0] == COMPILED


def test_processes_share_a_folder(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(compute, [tmp_path] * 3))
    (bits,) = {bits for _, bits in said}
    assert compute(tmp_path) == [CACHED, bits]


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
    with counted_programs() as count, warnings.catch_warnings():
        jax.jit(lambda x: x * 2.5 + 1)(rng.standard_normal(7))
    assert (count.requested, count.cached) == (1, 0)
    jax.jit(lambda x: x * 3.5 + 1)(rng.standard_normal(7))
    assert count.requested == 1
