"""How inputs arrive and effects leave, and whose clock rules."""

from typing import Any

from shoal.transports.base import Transport, run, steps
from shoal.transports.simulator import Simulator, World
from shoal.transports.threads import Threads
from shoal.transports.tree import Tree

TRANSPORTS: dict[str, type[Any]] = {"simulator": Simulator, "threads": Threads, "tree": Tree}

__all__ = ["TRANSPORTS", "Simulator", "Threads", "Transport", "Tree", "World", "run", "steps"]
