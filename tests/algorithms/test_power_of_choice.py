"""Power-of-choice: who is asked, and who is chosen."""

from collections.abc import Callable

import pytest

from shoal import exchange as ex
from shoal.algorithms._losses import HighestLoss, Losses, draw
from shoal.algorithms.fedavg import FedAvg, fedavg
from shoal.algorithms.measured import Measured
from shoal.algorithms.power_of_choice import power_of_choice
from shoal.errors import ConfigError
from shoal.messages import Dispatch, Payload
from shoal.testing import MODEL, Script
from shoal.trainers.quadratic import Quadratic
from shoal.view import View
from support import play, q3

TRAINER = Quadratic(lr=0.1, local_steps=5, start=10.0)


def answer(script: Script, client: str, loss: float) -> list[object]:
    """A candidate answers the question."""
    payload = Payload(MODEL, 1, 0, metrics={"loss": loss})
    return list(script._play(ex.Push(script.task(client).id, client, payload)))


def test_candidates_are_asked_and_the_highest_losses_chosen() -> None:
    algorithm = power_of_choice(2, candidates=3, trainer=TRAINER)
    script = Script(algorithm.coordinator).join("a", "b", "c")
    assert script.start() == [Dispatch(client, kind="evaluate") for client in "abc"]
    assert answer(script, "a", 3.0) == []
    assert answer(script, "c", 5.0) == []
    assert answer(script, "b", 1.0) == [Dispatch("a"), Dispatch("c")]


def test_candidates_that_fail_or_leave_are_left_out() -> None:
    algorithm = power_of_choice(2, candidates=3, trainer=TRAINER)
    script = Script(algorithm.coordinator).join("a", "b", "c")
    script.start()
    assert script.fail("a") == []
    assert answer(script, "c", 5.0) == []
    assert script.leave("b") == [Dispatch("c")]
    again = Script(algorithm.coordinator).join("a", "b", "c")
    again.start()
    for client in "abc":
        again.fail(client)
    assert [a.kind for a in again.wait(0) if isinstance(a, Dispatch)] == ["evaluate"] * 3


def test_slow_candidates_are_not_waited_for() -> None:
    algorithm = power_of_choice(1, candidates=2, patience=4.0, trainer=TRAINER)
    script = Script(algorithm.coordinator).join("a", "b")
    script.start()
    assert answer(script, "b", 2.0) == []
    assert script.wait(4.0) == [Dispatch("b")]


def test_as_many_candidates_as_places_is_fedavg_with_equal_weights() -> None:
    ours = play(power_of_choice(3, candidates=3, trainer=TRAINER), q3(), 20)
    theirs = play(fedavg(3, weighting="equal", trainer=TRAINER), q3(), 20)
    assert ours.xs == theirs.xs


def test_one_place_always_goes_to_the_highest_loss() -> None:
    """At 10 client c2, a = 4, has the highest loss; c0's is higher again below its optimum."""
    played = play(power_of_choice(1, candidates=3, trainer=TRAINER), q3(), 30)
    losses = {c: (float(d.x[0, 0]), float(d.y[0])) for c, d in q3().items()}
    trained = [t for t in played.tasks if t.outcome == "aggregated"]
    for x, task in zip(played.xs, trained, strict=False):
        values = {c: a / 2 * (x - b) ** 2 for c, (a, b) in losses.items()}
        assert values[task.client] == max(values.values())


def test_candidates_are_drawn_by_their_examples() -> None:
    view = View(Script(FedAvg()).join("a", "b", "c").node)
    first = [draw({"a": 6, "b": 3, "c": 1}, 1, view, str(i))[0] for i in range(3000)]
    assert first.count("a") / 3000 == pytest.approx(0.6, abs=0.03)
    assert first.count("c") / 3000 == pytest.approx(0.1, abs=0.02)


def test_last_losses_can_stand_for_questions() -> None:
    view = View(Script(FedAvg()).join("a", "b", "c").node)
    policy = HighestLoss(3)
    assert policy.choose(Losses({"a": 1.0, "b": 9.0}), 2, view, "r")[0] == ["c", "b"]
    played = play(power_of_choice(1, candidates=3, ask=False, trainer=Measured(TRAINER)), q3(), 9)
    assert [task.client for task in played.tasks[:3]] == ["c0", "c1", "c2"]
    assert {task.outcome for task in played.tasks} == {"aggregated"}


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("candidates", lambda: power_of_choice(3, candidates=2, trainer=TRAINER)),
        ("candidates", lambda: power_of_choice(1, candidates=0, trainer=TRAINER)),
        ("patience", lambda: power_of_choice(1, candidates=2, patience=0.0, trainer=TRAINER)),
        ("cohort", lambda: power_of_choice(candidates=2, trainer=TRAINER)),
        (
            "trainer",
            lambda: play(power_of_choice(1, candidates=2, ask=False, trainer=TRAINER), q3(), 2),
        ),
    ],
)
def test_what_cannot_work_is_refused(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}:"):
        make()
