"""Where tensors are held and folded."""

from shoal.planes.functions import Functions
from shoal.planes.local import Local
from shoal.planes.processes import Processes

PLANES = {"Local": Local, "Processes": Processes, "Functions": Functions}

__all__ = ["PLANES", "Functions", "Local", "Processes"]
