"""The front door: Python API, YAML, command line, reports.

`import thresher` imports nothing of the rest: each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from controller.strategy import Strategy as Strategy
    from controller.trial import FailureKind as FailureKind
    from search_spaces.domains import Choice as Choice
    from search_spaces.domains import Float as Float
    from search_spaces.domains import Int as Int
    from search_spaces.space import Space as Space
    from thresher.api import Study as Study
    from thresher.asking import MustWait as MustWait
    from thresher.asking import OpenTrial as OpenTrial
    from thresher.functions import ObjectiveError as ObjectiveError
    from thresher.results import Best as Best
    from thresher.results import StudyError as StudyError
    from thresher.strategies import make_strategy as make_strategy
    from thresher.tuning import tune as tune

__version__ = "0.1.0"

__all__ = [
    "Best",
    "Choice",
    "FailureKind",
    "Float",
    "Int",
    "MustWait",
    "ObjectiveError",
    "OpenTrial",
    "Space",
    "Strategy",
    "Study",
    "StudyError",
    "make_strategy",
    "tune",
]

_MODULES: Final = {
    "Best": "thresher.results",
    "Choice": "search_spaces.domains",
    "FailureKind": "controller.trial",
    "Float": "search_spaces.domains",
    "Int": "search_spaces.domains",
    "MustWait": "thresher.asking",
    "ObjectiveError": "thresher.functions",
    "OpenTrial": "thresher.asking",
    "Space": "search_spaces.space",
    "Strategy": "controller.strategy",
    "Study": "thresher.api",
    "StudyError": "thresher.results",
    "make_strategy": "thresher.strategies",
    "tune": "thresher.tuning",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
