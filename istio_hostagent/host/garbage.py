"""When the cyclic garbage collector runs: the one place that says so (gc in Python's library).

A verb or a worker never collects. It lives for less than a second, and what it leaves in circles
ends with it; looking for them took a tenth of a verb's time.
The resident collects, since what loading leaves in circles would stay with it for ever: 0.8 MB.
Once it is complete, all that it has made so far is taken out of every later collection: it stays,
and is not walked through again. After each reload it collects at once: the configuration that was
replaced hangs in circles, and ten thousand networks would raise the memory before the collector
came round to them by itself.
What the C library keeps of freed memory (malloc(3)) is given back when the rules were proven or
verified: 0.9 MB after ten thousand networks were read.
"""

import gc
import sys


def never_collect() -> None:
    """For a process that ends soon."""
    gc.disable()


def collect_after_all() -> None:
    """For one that makes very much which refers to itself."""
    gc.enable()


def keep_all() -> None:
    """What has been made so far stays for ever."""
    gc.freeze()


def collect() -> None:
    """Something large has just been replaced."""
    gc.collect()


def give_back() -> None:
    """The work that took most memory is done.

    Through ctypes, where it is loaded already: the resident process has it (`legacyrules`), and a
    verb ends soon.
    """
    if (ctypes := sys.modules.get("ctypes")) is not None:
        ctypes.CDLL(None).malloc_trim(0)
