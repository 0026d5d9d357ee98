"""Do the tests fail when the code breaks? Mutate one operator at a time and run the tests of its area.

    python scripts/mutants.py --n 24 --seed 7
    python scripts/mutants.py --only src/seewhy/bench/samples.py --n 10

A seeded sample of single changes (arithmetic, comparisons, min/max, sin/cos, constants, signs, and/or) is drawn from
the source. Each is applied to a copy of the repository, in which the tests of that area run until the first failure. A
change that no test notices has survived. The exit status is 1 if the share of survivors exceeds `--bound`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path("src/seewhy")

BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
PAIRS = (("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("minimum", "maximum"))
PAIRS += (("sin", "cos"), ("floor", "ceil"), ("any", "all"))
NAMES = {**dict(PAIRS), **{second: first for first, second in PAIRS}}

HARMLESS = {"strict", "frozen", "eq", "kw_only", "help"}  # keyword arguments that change no result

# Beside tests/<area>: what else holds an area. A module of the top floor has tests/test_<module>.py.
ALSO = {
    "methods": ["contracts/test_methods.py"],
    "metrics": ["contracts/test_metric_checks.py"],
    "models": ["contracts/test_models.py"],
    "data": ["contracts/test_datasets.py"],
    "checks": ["contracts"],
    "errors": ["core", "test_package.py"],
    "explanation": ["viz"],
}


@dataclass(frozen=True)
class Mutation:
    """One change of one expression: the bytes `start:stop` of a file are replaced."""

    path: Path
    line: int
    start: int
    stop: int
    before: str
    after: str
    constant: bool

    @cached_property
    def tests(self) -> list[str]:
        """The test files that must notice."""
        return tests_of(self.path)

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.path}:{self.line}  {before}  →  {after}"


def mutations(path: Path) -> Iterator[Mutation]:
    """Yield every mutation of a file, in the order of its syntax tree."""
    source = (ROOT / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _runtime_nodes(ast.parse(source)):
        mutant = _mutated(node)
        if mutant is not None:
            start = starts[node.lineno - 1] + node.col_offset
            stop = starts[node.end_lineno - 1] + node.end_col_offset
            after = f"({ast.unparse(mutant)})"
            constant = isinstance(node, ast.Constant)
            yield Mutation(path, node.lineno, start, stop, source[start:stop].decode(), after, constant)


def _runtime_nodes(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions that run: no annotations, no f-strings (their positions are unreliable before 3.12)."""
    if isinstance(node, ast.keyword) and node.arg in HARMLESS:
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or isinstance(value, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from _runtime_nodes(child)


def _mutated(node: ast.expr) -> ast.expr | None:
    """Return the expression with its own operator, name or value changed; None where there is nothing to change."""
    mutant = copy.deepcopy(node)
    match mutant:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY and not (_text(left) or _text(right)):
            mutant.op = BINARY[type(op)]()
        case ast.Compare(ops=[op, *rest]) if type(op) in COMPARE:
            mutant.ops = [COMPARE[type(op)](), *rest]
        case ast.BoolOp(op=op):
            mutant.op = ast.Or() if isinstance(op, ast.And) else ast.And()
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            return operand
        case ast.Call(func=ast.Name(id=name) as called) if name in NAMES:
            called.id = NAMES[name]
        case ast.Call(func=ast.Attribute(attr=name) as called) if name in NAMES:
            called.attr = NAMES[name]
        case ast.Constant(value=bool(value)):
            mutant.value = not value
        case ast.Constant(value=int(value)):
            mutant.value = value + 1
        case ast.Constant(value=float(value)):
            mutant.value = value * 1.5 + 0.01
        case _:
            return None
    return mutant


def _text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def tests_of(path: Path) -> list[str]:
    """Return the test files of the area that a source file is in; those that name its module come first."""
    area = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    tests = ROOT / "tests"
    files: set[Path] = set(tests.glob(f"test_{area}*.py"))
    for place in [area, *ALSO.get(area, [])]:
        files |= {tests / place} if place.endswith(".py") else set((tests / place).rglob("test_*.py"))
    if not files:
        sys.exit(f"no tests found for {path}; name them in ALSO of {Path(__file__).name}")
    ordered = sorted(files, key=lambda file: (path.stem not in file.read_text("utf-8"), file))
    return [str(file.relative_to(ROOT)) for file in ordered]


def copied(folder: Path) -> Path:
    """Copy what git knows of (and what it would add) into a folder; return the copy's root."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    root = folder / ROOT.name
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    if (ROOT.parent / "shared").is_dir():  # images that some tests read
        (folder / "shared").symlink_to(ROOT.parent / "shared")
    return root


def first_failure(root: Path, tests: list[str], limit: float, memory: float) -> str:
    """Run tests in a copy of the repository; return the first that fails, or nothing if all pass.

    A run of more than `limit` seconds is a "timeout", one that a signal ends (for want of memory) is "killed". Each
    process may allocate `memory` GiB; the test that asks for more fails.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(root / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-rfE", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    # RLIMIT_DATA: what is allocated, without the address space that libraries only reserve
    command = ["sh", "-c", f'ulimit -d {int(memory * 2**20)}; exec "$@"', "sh", *pytest]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as running:
        try:
            shown, errors = running.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            return "timeout"
    if running.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", shown, re.MULTILINE)
    if failed is not None:
        return failed[1]
    if running.returncode < 0:
        return "killed"
    raise RuntimeError(f"pytest ended with {running.returncode} and names no test:\n{shown}{errors}")


def judge(mutation: Mutation, roots: SimpleQueue[Path], limit: float, memory: float) -> str:
    """Apply a mutation to a free copy, run its area's tests, take it back; print and return the verdict.

    The verdict is "void" if the test that fails does so without the mutation, too.
    """
    root = roots.get()
    target = root / mutation.path
    source = target.read_bytes()
    began = time.monotonic()
    try:
        target.write_bytes(source[: mutation.start] + mutation.after.encode() + source[mutation.stop :])
        failed = first_failure(root, mutation.tests, limit, memory)
        target.write_bytes(source)
        void = failed not in ("", "timeout", "killed") and first_failure(root, [failed], limit, memory)
    finally:
        target.write_bytes(source)
        roots.put(root)
    verdict = "void" if void else "killed" if failed else "SURVIVED"
    print(f"{verdict:9}{time.monotonic() - began:5.0f} s  {mutation}  {failed}", flush=True)
    return verdict


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=24, help="number of mutations (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=20261125, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="PATH", help="files or folders to mutate")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at the same time (default: %(default)s)")
    parser.add_argument("--bound", type=float, default=0.4, help="largest share of survivors (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=6, help="GiB for each process (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the sample and stop")
    return parser.parse_args()


def drawn(every: list[Mutation], n: int, seed: int) -> list[Mutation]:
    """Draw `n` mutations; three of four change an operator (constants are many, and often only looks)."""
    generator = random.Random(seed)
    constants = [mutation for mutation in every if mutation.constant]
    operators = [mutation for mutation in every if not mutation.constant]
    few = generator.sample(constants, min(n // 4, len(constants)))
    return generator.sample(operators, min(n - len(few), len(operators))) + few


def main() -> int:
    """Draw the sample, run it, and judge the share of survivors."""
    options = arguments()
    chosen = [Path(name) for name in options.only] or [SOURCE]
    files = sorted(path.relative_to(ROOT) for path in (ROOT / SOURCE).rglob("*.py"))
    files = [path for path in files if any(path.is_relative_to(place) for place in chosen)]
    every = [mutation for path in files for mutation in mutations(path)]
    sample = drawn(every, options.n, options.seed)
    print(f"{len(sample)} of {len(every)} mutations, seed {options.seed}", flush=True)
    if options.list or not sample:
        print(*sample, sep="\n")
        return 0 if sample else 1
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch, ThreadPoolExecutor(options.jobs) as pool:
        roots: SimpleQueue[Path] = SimpleQueue()
        for job in range(options.jobs):
            roots.put(copied(Path(scratch) / str(job)))
        assert all(mutation.tests for mutation in sample)  # looked up before the working tree changes
        verdicts = Counter(pool.map(partial(judge, roots=roots, limit=options.limit, memory=options.memory), sample))
    killed, survived, void = (verdicts[verdict] for verdict in ("killed", "SURVIVED", "void"))
    print(f"{killed} killed, {survived} survived, {void} void (bound on survivors: {options.bound:.0%})")
    return 2 if void else int(survived > options.bound * len(sample))


if __name__ == "__main__":
    sys.exit(main())
