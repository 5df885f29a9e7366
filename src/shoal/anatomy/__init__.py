"""What a method of the library sends, keeps and needs, seen on a small run of its real parts."""

from shoal.anatomy.compose import Composed, composed
from shoal.anatomy.facts import Facts, facts
from shoal.anatomy.specimens import TOLD, Specimen, specimen
from shoal.anatomy.told import Method, method, page, row

__all__ = [
    "TOLD",
    "Composed",
    "Facts",
    "Method",
    "Specimen",
    "composed",
    "facts",
    "method",
    "page",
    "row",
    "specimen",
]
