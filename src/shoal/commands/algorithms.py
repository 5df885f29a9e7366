"""`shoal show algorithms [NAME]`: what methods send, keep and assume, and what they go with."""

from shoal.errors import ConfigError, nearest


def show_algorithms(names: list[str]) -> None:
    """Print the table of all methods, or a page for each name.

    Raises:
        ConfigError: for a name that the library has not.
    """
    from shoal.algorithms import ALGORITHMS
    from shoal.anatomy.told import TITLES, method, page, row

    for name in names:
        if name not in ALGORITHMS:
            raise ConfigError("show algorithms", f"no {name!r}; {nearest(name, ALGORITHMS)}")
        print(f"{name}: " + "\n".join(page(method(name, ALGORITHMS[name], every=True))))
    if names:
        return
    rows = [row(method(name, factory)) for name, factory in ALGORITHMS.items()]
    widths = [max(map(len, column)) for column in zip(TITLES, *rows, strict=True)]
    for cells in (TITLES, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        print(line.rstrip())
    print("\nSizes are in models; `shoal show algorithms NAME` gives the reasons.")
