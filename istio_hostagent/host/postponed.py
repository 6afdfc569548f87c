"""Modules that a library imports and hardly anybody uses: loaded when they are.

dataclasses imports inspect, with ast and dis behind it, and up to Python 3.12 asks it only about
classes that have no docstring. watchdog imports ctypes.util, never to use it, and with it shutil,
subprocess, tempfile and the compression libraries. Together 2.3 MB for as long as the agent lives.
"""

import importlib
import sys
import types
from typing import Any


def postpone(name: str) -> None:
    """Let imports of this module find a stand-in that loads it at the first use (PEP 562).

    Call it before the library is imported; a module that is loaded already stays as it is.
    """
    if name in sys.modules:
        return
    stand_in = types.ModuleType(name)

    def load(attribute: str) -> Any:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        value = getattr(importlib.import_module(name), attribute)
        setattr(stand_in, attribute, value)  # whoever holds the stand-in asks once
        return value

    stand_in.__dict__["__getattr__"] = load
    sys.modules[name] = stand_in
