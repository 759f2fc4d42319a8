"""How the tests compile: little optimisation, and programs kept from one process to the next.

``conftest.py`` imports this before anything imports JAX. Three variables of the environment rule
it, each with JAX's own meaning: ``JAX_DISABLE_MOST_OPTIMIZATIONS``, ``JAX_COMPILATION_CACHE_DIR``
(empty: nothing is kept) and ``JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS``.
"""

import contextlib
import hashlib
import os
import platform
import tempfile
from pathlib import Path

QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"
DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
FLAGS = "XLA_FLAGS"
# With the optimisations gone, these halve what is left: XLA's older emitters of fused loops, and
# one module of LLVM instead of many. Not every version has them.
QUICK_OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
# Above this the oldest programs of the directory go.
MOST_BYTES = 2 * 1024**3


def machine() -> str:
    """A name for what programs depend on beside JAX's own key: the processor's features."""
    features = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:12]


def is_writable(directory: Path) -> bool:
    """Whether files can be made in a directory, which is made if need be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def choose(directory: Path) -> None:
    """Sets the environment in which this process and those it starts compile, where it is unset."""
    os.environ.setdefault(QUICK, "1")
    os.environ.setdefault(LEAST_SECONDS, "0.05")
    directory = Path(os.environ.setdefault(DIRECTORY, str(directory / machine())) or os.devnull)
    # JAX would warn at every program that it can't write.
    if not is_writable(directory):
        os.environ[DIRECTORY] = ""


def tidy(directory: Path, most_bytes: int = MOST_BYTES) -> None:
    """Removes the programs of a directory that were written first, down to ``most_bytes``."""
    with contextlib.suppress(OSError):
        files = sorted(
            (
                (entry.stat().st_mtime, entry.stat().st_size, entry.path)
                for entry in os.scandir(directory)
            ),
        )
        excess = sum(size for _, size, _ in files) - most_bytes
        for _, size, path in files:
            if excess <= 0:
                break
            Path(path).unlink(missing_ok=True)
            excess -= size


def guard() -> bool:
    """Makes JAX's files of programs safe between processes; False where this JAX has others.

    JAX writes them in place and never again: a process that reads a half-written one, or one that a
    kill cut short, warns and compiles anew, each time. Here a file appears whole, and a damaged one
    goes, so that the next compilation writes it.
    """
    try:
        from jax._src.compilation_cache import decompress_executable
        from jax._src.lru_cache import _CACHE_SUFFIX, LRUCache

        read, _ = LRUCache.get, LRUCache.put
    except (ImportError, AttributeError):
        return False

    def get(self, key):
        value = read(self, key)
        if value is None:
            return None
        try:
            decompress_executable(value)
        except Exception:
            Path(self.path / f"{key}{_CACHE_SUFFIX}").unlink(missing_ok=True)
            return None
        return value

    def put(self, key, value):
        whole = Path(self.path / f"{key}{_CACHE_SUFFIX}")
        part = whole.with_name(f".{os.getpid()}.part")
        # A full disk costs a compilation in the next process, no more.
        with contextlib.suppress(OSError):
            part.write_bytes(value)
            part.replace(whole)

    LRUCache.get, LRUCache.put = get, put
    return True


def known(options: dict) -> dict:
    """Returns those of the options that this XLA takes; one that it has not would end a process."""
    import jax

    taken = {}
    for name, value in options.items():
        with contextlib.suppress(Exception):
            jax.jit(lambda x: x, compiler_options={name: value})(0)
            taken[name] = value
    return taken


def add_options() -> None:
    """Gives every quick compilation ``QUICK_OPTIONS``, and processes started from here, too."""
    import jax

    try:
        from jax._src import compiler

        original = compiler.get_compile_options
    except (ImportError, AttributeError):
        return
    options = known(QUICK_OPTIONS)

    def get_compile_options(*args, env_options_overrides=None, **kwargs):
        if jax.config.values["jax_disable_most_optimizations"]:
            env_options_overrides = {**options, **(env_options_overrides or {})}
        return original(*args, env_options_overrides=env_options_overrides, **kwargs)

    compiler.get_compile_options = get_compile_options
    # XLA reads the variable once, so that it is for other processes alone.
    flags = [f"--{name}={str(value).lower()}" for name, value in options.items()]
    _flags.update({True: " ".join([_given, *flags]).strip(), False: _given})
    os.environ[FLAGS] = _flags[bool(jax.config.values["jax_disable_most_optimizations"])]


_given = os.environ.get(FLAGS, "")
_flags: dict[bool, str] = {True: _given, False: _given}


def use(quick: bool) -> None:
    """Compiles with little optimisation, or with all of it, from here on.

    What was compiled otherwise goes: JAX does not tell the two apart.
    """
    import jax

    if jax.config.values["jax_disable_most_optimizations"] == quick:
        return
    os.environ[QUICK] = str(int(quick))
    os.environ[FLAGS] = _flags[quick]
    jax.config.update("jax_disable_most_optimizations", quick)
    jax.clear_caches()


def memory_maps() -> float:
    """The part of the memory maps that a process may have which this one has; 0 where unknown.

    Each compiled program takes some, and a process that has none left dies.
    """
    try:
        most = int(Path("/proc/sys/vm/max_map_count").read_text("ascii"))
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps) / most
    except (OSError, ValueError):
        return 0.0
