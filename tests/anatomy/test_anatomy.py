"""What the library says of its methods is what their parts do; no method is left out."""

import pytest

from shoal.algorithms import ALGORITHMS
from shoal.anatomy import method, page, row, specimen
from shoal.anatomy.facts import weighting
from shoal.anatomy.specimens import TOLD, VALUES
from shoal.anatomy.told import TITLES, Method
from shoal.commands.algorithms import show_algorithms
from shoal.core import Algorithm
from shoal.errors import ConfigError
from shoal.messages import TaskRecord

QUICK = sorted(set(ALGORITHMS) - {"fzoos", "fedkseed"})  # those two compute for a second or more


@pytest.fixture(scope="module")
def library() -> dict[str, Method]:
    return {name: method(name, ALGORITHMS[name]) for name in QUICK}


def cell(one: Method, title: str) -> str:
    return row(one)[TITLES.index(title)]


def test_every_method_has_a_row_and_a_page(library: dict[str, Method]) -> None:
    for name, one in library.items():
        cells, lines = row(one), page(one)
        assert len(cells) == len(TITLES) and all(cells) and cells[0] == name
        starts = ("sends up", "sends down", "client keeps", "server keeps", "assumes", "masks")
        assert all(any(line.startswith(start) for line in lines) for start in starts)


@pytest.mark.parametrize("name", ["fzoos", "fedkseed"])
def test_slow_ones_can_be_made(name: str) -> None:
    assert specimen(ALGORITHMS[name]).algorithm.name == name


@pytest.mark.parametrize(
    ("name", "title", "said"),
    [
        ("fedavg", "sends up", "delta"),
        ("fedavg", "client keeps", "nothing"),
        ("fedavg", "planes", "all"),
        ("fedavg", "upload", "any"),
        ("fedavg", "masks", "yes"),
        ("fedasync", "sends up", "model"),
        ("fedasync", "rounds", "no"),
        ("scaffold", "sends down", "model + control/"),
        ("scaffold", "sends up", "delta"),
        ("scaffold", "client keeps", "1 model"),
        ("scaffold", "masks", "yes"),  # one vector, of which only the sum counts
        ("fedadam", "server keeps", "2 models"),
        ("feddyn", "client keeps", "1 model"),
        ("feddyn", "server keeps", "1 model"),
        ("mifa", "server keeps", "1 model + 1 model a client"),
        ("mifa", "masks", "no"),
        ("gradient_coding", "must be told", "shape"),
        ("gradient_coding", "server keeps", "a commit's updates"),
        ("fedavg_m", "sends down", "model + momentum/"),
        ("moon", "client keeps", "1 model"),
        ("fedbuff", "masks", "no"),  # weights by staleness, known only once an update is there
        ("homomorphic", "masks", "yes"),
        ("fetchsgd", "masks", "yes"),  # sketches are added as they are
        ("mezo", "masks", "no"),
        ("gradient_inversion", "masks", "no"),
        ("gradient_inversion", "planes", "local"),
        ("gradient_inversion", "upload", "own"),
        ("wireless_afl", "rounds", "no"),
        ("fedau", "must be told", "population"),
    ],
)
def test_known_answers(library: dict[str, Method], name: str, title: str, said: str) -> None:
    assert cell(library[name], title) == said


def test_pages_give_reasons(library: dict[str, Method]) -> None:
    pages = {name: "\n".join(page(library[name])) for name in ("scaffold", "backup", "masha1")}
    assert 'an upload pipeline needs wire="two"' in pages["scaffold"]
    assert "Slopes remembers updates and is folded in one place" in pages["scaffold"]
    assert "several clients hold the same data" in pages["backup"]
    assert "a monotone operator; everyone takes part in every round" in pages["masha1"]


def test_robust_rules_are_offered_where_they_can_be_given(library: dict[str, Method]) -> None:
    assert library["fedprox"].composed.aggregator == ""
    assert library["fedbuff"].composed.aggregator == "it has one of its own"
    assert "two" in library["scaffold"].composed.aggregator


def test_a_new_requirement_needs_a_value() -> None:
    def strange(*, trainer: object, moons: list[str]) -> Algorithm:
        raise AssertionError

    with pytest.raises(ConfigError, match="no value for 'moons': add one to VALUES"):
        specimen(strange)
    assert set(TOLD) <= set(VALUES)


def test_a_method_that_takes_no_trainer_is_an_error() -> None:
    def picky(*, trainer: object) -> Algorithm:
        raise ConfigError("trainer", "must be made of gold")

    with pytest.raises(ConfigError, match=r"takes none of the trainers: mlp: .*gold"):
        specimen(picky)


def test_what_weights_go_by() -> None:
    def record(client: str, weight: float, examples: int) -> TaskRecord:
        return TaskRecord(0, client, 0, 0, 0, 0, "aggregated", "", 0, weight, examples)

    assert weighting([record("a", 1, 3), record("b", 1, 5)]) == "equal"
    assert weighting([record("a", 6, 3), record("b", 10, 5)]) == "examples"
    two = [record("a", 6, 3), record("b", 7, 5), record("a", 6, 3)]
    assert weighting(two) == "by client"
    assert weighting([*two, record("a", 5, 3)]) == "vary"


def test_the_command_prints_pages_and_knows_names(capsys: pytest.CaptureFixture[str]) -> None:
    show_algorithms(["fedavg"])
    out = capsys.readouterr().out
    assert out.startswith("fedavg: FedAvg: rounds") and "trainers     mlp, quadratic, torch" in out
    with pytest.raises(ConfigError, match="did you mean fedavg"):
        show_algorithms(["fedavgg"])
