"""What a client sends is checked: every mismatch is an UpdateError that names client and value."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import wire
from shoal.encoded import Quantized, Sparse
from shoal.errors import ModelError, UpdateError
from shoal.messages import Payload, Task, Update
from shoal.tensors import Tensors
from shoal.validation import check_payload

F32 = np.float32
TASK = Task(7, "bob", version=3, dispatched_at=2.0)


def values(**changes: Any) -> Tensors:
    """A model or an update that fits it, with some values replaced, added or (None) left out."""
    table: dict[str, Any] = {
        "w": np.arange(6, dtype=F32).reshape(2, 3),
        "b": np.ones(2, F32),
        "buffer/mean": np.ones(3),
        "counter/n": np.int64(4),
        "control/w": np.ones((2, 3), F32),
    }
    table |= {name.replace("__", "/"): value for name, value in changes.items()}
    return Tensors.of({name: value for name, value in table.items() if value is not None})


MODEL = values()


def check(tensors: Tensors, task: Task = TASK, model: Tensors = MODEL, **changes: Any) -> Update:
    return check_payload(task, replace(Payload(tensors, 10), **changes), model, 5.0)


def problem(*args: Any, **changes: Any) -> str:
    with pytest.raises(UpdateError) as caught:
        check(*args, **changes)
    prefix = "update 7 of client 'bob': "
    text = str(caught.value)
    assert text.startswith(prefix) and len(text) < 400
    return text.removeprefix(prefix)


# What fits.


def test_the_update_tells_all_but_the_tensors():
    found = check(values(), steps=4, metrics={"loss": 0.5})
    assert found == Update(7, "bob", 3, 10, 4, 3.0, {"loss": 0.5}, "train")


@pytest.mark.parametrize("kind", ["delta", "model"])
@pytest.mark.parametrize(
    "tensors",
    [
        values(),
        values(buffer__mean=None, counter__n=None, control__w=None),
        wire.load(wire.dump(values()))[0],
        values().with_flat(Sparse(8, np.array([3]), np.ones(1, F32))),
        values().with_flat(Quantized(np.ones(8, np.int8), np.ones(2, F32), 4)),
        values(w=np.full((2, 3), np.finfo(F32).max)),
    ],
)
def test_what_fits_passes(tensors, kind):
    assert check(tensors, kind=kind).num_examples == 10


def test_what_numpy_counts_with_passes():
    found = check(values(), num_examples=np.int64(3), steps=np.uint8(2), metrics={"a": F32(0.5)})
    assert (found.num_examples, found.steps) == (3, 2)


def test_a_model_without_values_fits_itself():
    empty = Tensors.of({})
    assert check(empty, model=empty).id == 7


# Names, shapes, dtypes.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"b": None}, "without b"),
        ({"w": None, "b": None, "x": F32(1)}, "without b, w and with unknown x"),
        ({"x": F32(1)}, "with unknown x"),
        ({"w": np.ones((3, 2), F32)}, "w has shape (3, 2) where the model has (2, 3)"),
        ({"b": F32(1)}, "b has shape () where the model has (2,)"),
        ({"w": np.ones((2, 3)), "b": np.ones(2)},
         "b, w: dtype float64 where the model has float32"),
        ({"buffer__mean": np.ones(2)}, "buffer/mean has shape (2,) where the model has (3,)"),
        ({"buffer__mean": np.ones(3, F32)},
         "buffer/mean: dtype float32 where the model has float64"),
        ({"buffer__mean": None, "buffer__x": 1.0},
         "without buffer/mean and with unknown buffer/x"),
        ({"counter__n": 4.0}, "counter/n: dtype float64 where the model has int64"),
        ({"control__v": F32(1)}, "with unknown control/v"),
        ({"mask__w": F32(1)}, "unexpected values under 'mask/'"),
        ({"private__w": F32(1)}, "unexpected values under 'private/'"),
    ],
)  # fmt: skip
def test_every_mismatch_is_named(changes, says):
    assert problem(values(**changes)) == says


def test_what_is_private_stays_with_the_client_even_if_the_model_has_it():
    mine = values(private__head=F32(1))
    assert problem(mine, model=mine) == "unexpected values under 'private/'"


def test_names_in_another_order_do_not_fit():
    turned = Tensors.of({name: MODEL[name] for name in reversed(list(MODEL))})
    assert problem(turned) == "b, w: names in another order than the model's"


def test_long_lists_of_names_are_cut():
    many = Tensors.of({f"layer{i:03}": F32(0) for i in range(500)})
    assert problem(Tensors.of({"x": F32(0)}), model=many) == (
        "without layer000, layer001, layer002, layer003, layer004 and 495 more and with unknown x"
    )


def test_encoded_values_must_decode_to_the_dtype_of_the_model():
    coded = values().with_flat(Sparse(8, np.array([1]), np.ones(1)))
    assert problem(coded) == "Sparse decodes to dtype float64 where the model has float32"
    group = MODEL.groups["control/"].with_flat(Quantized(np.ones(6, np.int8), np.ones(1), 6))
    assert problem(values().with_group("control/", group)).startswith("control/Quantized decodes")


# Parts.


def test_a_part_fits_a_task_of_that_part_only():
    part = MODEL.select(["b"])
    task = replace(TASK, part=("b",))
    assert check(part, task).id == 7
    assert problem(part) == "without w"
    assert problem(MODEL, task) == "with unknown w"
    assert problem(MODEL.select(["w"]), task) == "without b and with unknown w"
    assert problem(values(b=np.ones(3, F32)).select(["b"]), task).startswith("b has shape (3,)")
    assert check(MODEL.select(()), replace(TASK, part=())).id == 7
    assert check(MODEL, replace(TASK, part=("b", "w"))).id == 7


# Values.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["w", "b", "buffer/mean", "control/w"])
def test_values_that_are_not_finite_are_named(name, bad, recwarn):
    value = MODEL[name].copy()
    value.flat[-1] = bad
    tensors = values(**{name.replace("/", "__"): value})
    assert problem(tensors) == f"{name} holds NaN or infinity"
    assert not recwarn.list


def test_encoded_values_that_are_not_finite_are_named(recwarn):
    sparse = Sparse(8, np.array([0, 7]), np.array([0, np.nan], F32))
    assert problem(values().with_flat(sparse)) == "b holds NaN or infinity"
    huge = Quantized(np.full(8, 127, np.int8), np.array([1e38], F32), 8)
    assert problem(values().with_flat(huge)) == "w holds NaN or infinity"
    # Not a decoded value, but it shows that the client's quantizer failed.
    scales = Quantized(np.zeros(8, np.int8), np.array([np.inf], F32), 8)
    assert "holds NaN or infinity" in problem(values().with_flat(scales))
    assert not recwarn.list


# Counts, metrics, kinds.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_examples": 0}, "num_examples is 0, not in 1 .. 2**53 - 1"),
        ({"num_examples": -3}, "num_examples is -3, not in"),
        ({"num_examples": 2**53}, "num_examples is 9007199254740992, not in"),
        ({"num_examples": 1.5}, "num_examples is 1.5, not a whole number"),
        ({"num_examples": math.nan}, "num_examples is nan, not a whole number"),
        ({"num_examples": "9"}, "num_examples is '9', not a whole number"),
        ({"num_examples": None}, "num_examples is None, not a whole number"),
        ({"num_examples": True}, "num_examples is True, not a whole number"),
        ({"steps": -1}, "steps is -1, not in 0 .. 2**53 - 1"),
        ({"steps": 2**60}, "steps is 1152921504606846976, not in"),
        ({"steps": 2.0}, "steps is 2.0, not a whole number"),
        ({"metrics": {"loss": math.nan}}, "its metric 'loss' is nan"),
        ({"metrics": {"ok": 1.0, "loss": -math.inf}}, "its metric 'loss' is -inf"),
        ({"metrics": {"loss": F32(np.inf)}}, "its metric 'loss' is inf"),
        ({"metrics": {"loss": "low"}}, "its metric 'loss' is 'low', not a number"),
        ({"metrics": {"loss": None}}, "its metric 'loss' is None, not a number"),
        ({"metrics": {"loss": [1.0]}}, "its metric 'loss' is [1.0], not a number"),
        ({"metrics": {"loss": 10**310}}, "its metric 'loss' is 1000"),
        ({"kind": "gradient"}, "kind 'gradient' is neither 'delta' nor 'model'"),
        ({"kind": None}, "kind None is neither"),
    ],
)
def test_what_cannot_be_counted_is_named(changes, says):
    assert problem(values(), **changes).startswith(says)


def test_an_update_may_come_without_steps():
    assert check(values(), steps=0).steps == 0


def test_answers_to_other_tasks_are_counted_and_their_tensors_left_alone():
    task = replace(TASK, kind="evaluate")
    found = check(Tensors.of({"anything": np.nan}), task, num_examples=0, steps=0, kind="logits")
    assert found.kind == "evaluate" and found.num_examples == 0
    assert problem(Tensors.of({}), task, num_examples=-1).startswith("num_examples is -1")
    assert problem(Tensors.of({}), task, metrics={"loss": math.nan}) == "its metric 'loss' is nan"


# Anything at all.

shapes = st.sampled_from([(), (2,), (2, 3), (0,)])
arrays = st.builds(np.full, shapes, st.sampled_from([0.0, 1.0, np.nan, np.inf]),
                   st.sampled_from([F32, np.float64]))  # fmt: skip
tables = st.dictionaries(
    st.sampled_from(
        ["w", "b", "x", "buffer/mean", "control/w", "control/x", "mask/w", "private/w"]
    ),
    arrays,
)


@given(tables)
def test_nothing_unfit_passes_and_nothing_else_is_raised(table):
    try:
        tensors = Tensors.of(table)
    except ModelError:
        return  # several dtypes in a group
    fits = [name for name in table if name in MODEL and not name.startswith("private/")]
    fine = set(fits) == set(table) and {"w", "b"} <= set(table) and list(tensors)[:2] == ["w", "b"]
    fine = fine and all(
        value.shape == MODEL[name].shape
        and value.dtype == MODEL[name].dtype
        and np.isfinite(value).all()
        for name, value in table.items()
    )
    try:
        check(tensors)
    except UpdateError:
        assert not fine
    else:
        assert fine
