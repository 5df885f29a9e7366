"""Where tensors are held and folded."""

from shoal.planes.local import Local

PLANES = {"Local": Local}

__all__ = ["PLANES", "Local"]
