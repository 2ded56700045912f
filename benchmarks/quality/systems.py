"""The systems by name: `thresher-KIND` for every kind of search, and the peers."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import peers
from tables import Problem

from controller.schedulers.rungs import geometric_rungs
from controller.strategy import Strategy
from quality.trace import TRAININGS, Setting, Trace, run_peer, run_strategy
from thresher.strategies import SEARCH_KINDS, make_strategy

OURS: Final = "thresher-"
_ROOT: Final = Path(__file__).resolve().parents[2]
_PEER_SOURCES: Final = ("benchmarks/peers", "benchmarks/tables.py", "benchmarks/quality/trace.py")
_SOURCES: Final = (
    "controller",
    "search_spaces",
    "thresher/strategies.py",
    "benchmarks/tables.py",
    "benchmarks/quality",
)


@dataclass(frozen=True, slots=True)
class System:
    """A system that can be run.

    Attributes:
        factory: `module:function` that makes its strategy from (space, rungs, max_trials, workers); None for a kind
            of search, or a peer.
    """

    name: str
    factory: str | None = None

    @property
    def version(self) -> str:
        """What the results of its runs depend on: the version of a peer, a digest of our own code."""
        if self.name in peers.PEERS:
            distribution = peers.DISTRIBUTIONS[peers.PEERS[self.name][1]]
            return f"{distribution} {metadata.version(distribution)}, {_digest(_PEER_SOURCES)}"
        added = [] if self.factory is None else [importlib.import_module(self.factory.partition(":")[0]).__file__ or ""]
        return _digest([*_SOURCES, *added])

    def run(self, problem: Problem, setting: Setting) -> Trace:
        """Run it."""
        if self.name in peers.PEERS:
            made_for = peers.Setting(problem.space, problem.epochs, problem.row, setting.seed, setting.workers)
            return run_peer(lambda: peers.make_peer(self.name, made_for), problem, setting)
        return run_strategy(self._strategy, problem, setting)

    def _strategy(self, problem: Problem, workers: int) -> Strategy:
        rungs = geometric_rungs(peers.MIN_EPOCHS, problem.epochs, peers.REDUCTION_FACTOR)
        max_trials = TRAININGS * problem.epochs // rungs[0]  # no more could be begun
        if self.factory is None:
            return make_strategy(self.name.removeprefix(OURS), problem.space, rungs, max_trials)
        module, _, function = self.factory.partition(":")
        strategy: Strategy = getattr(importlib.import_module(module), function)(
            problem.space, rungs, max_trials, workers
        )
        return strategy


def known_systems(added: Mapping[str, str]) -> dict[str, System]:
    """All systems, ours first. `added`: name -> factory."""
    ours = {f"{OURS}{kind}": System(f"{OURS}{kind}") for kind in SEARCH_KINDS}
    mine = {name: System(name, factory) for name, factory in added.items()}
    return {**ours, **mine, **{name: System(name) for name in peers.PEERS}}


def why_missing(system: System) -> str | None:
    """Why a system cannot run here, or None if it can."""
    return peers.why_missing(system.name) if system.name in peers.PEERS else None


def _digest(sources: Iterable[str]) -> str:
    """Of all Python files in these places."""
    digest = hashlib.sha256()
    for source in sources:
        path = _ROOT / source
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
