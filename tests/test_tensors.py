"""Tensors: one buffer, named views, groups, immutability; differences and finiteness."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal.encoded import Quantized, Sparse
from shoal.errors import ModelError
from shoal.tensors import (
    EMPTY,
    PREFIXES,
    Layout,
    Tensors,
    all_finite,
    difference,
    equal,
    prefix_of,
    zeros,
)

F32 = np.dtype(np.float32)


def model() -> Tensors:
    return Tensors.of(
        {
            "w": np.arange(6, dtype=np.float32).reshape(2, 3),
            "b": np.float32(7),
            "buffer/mean": np.ones(2, np.float32),
            "counter/batches": np.int64(5),
            "control/w": np.full((2, 3), 2, np.float32),
        }
    )


# Packing.


def test_values_are_packed_in_order_and_seen_under_their_names():
    m = model()
    assert m.layout == Layout(("w", "b"), ((2, 3), ()), F32)
    assert m.flat.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert m["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert m["b"].shape == () and m["b"] == 7
    assert np.shares_memory(m["w"], m.flat)


def test_prefixed_names_form_sorted_groups_with_dtypes_of_their_own():
    m = model()
    assert list(m.groups) == ["buffer/", "control/", "counter/"]
    assert m.groups["counter/"].layout == Layout(("batches",), ((),), np.dtype(np.int64))
    assert m["counter/batches"] == 5 and m["control/w"].shape == (2, 3)
    assert list(m) == ["w", "b", "buffer/mean", "control/w", "counter/batches"]
    assert len(m) == 5
    assert "control/w" in m and "control/x" not in m and "mask/x" not in m and "x" not in m
    assert m.nbytes == 7 * 4 + 2 * 4 + 6 * 4 + 8


def test_the_repr_says_how_much_there_is():
    text = repr(model())
    assert text == "Tensors(2 names, 7 values, buffer/*1, control/*1, counter/*1)"
    assert "Sparse" in repr(model().with_flat(sparse(7)))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_names_a_group(prefix):
    assert prefix_of(prefix + "a/b") == prefix
    assert prefix_of(prefix.rstrip("/")) == "" and prefix_of("x" + prefix) == ""
    assert Tensors.of({prefix + "a": [1.0]}).groups[prefix].layout.names == ("a",)


def test_only_the_first_prefix_counts():
    m = Tensors.of({"control/buffer/x": np.ones(1, np.float32), "a/control/x": [0.0]})
    assert list(m.groups) == ["control/"] and m.groups["control/"].layout.names == ("buffer/x",)
    assert m.layout.names == ("a/control/x",)


def test_nothing_is_a_model_too():
    m = Tensors.of({})
    assert m.layout == EMPTY and len(m) == 0 and m.flat.size == 0 and m.finite()


@pytest.mark.parametrize("value", [3, 3.0, True, np.float16(3), np.array(3.0)])
def test_scalars_keep_the_shape_of_a_scalar(value):
    m = Tensors.of({"x": value})
    assert m["x"].shape == () and m["x"] == value and m.flat.shape == (1,)
    assert m.layout.dtype == np.asarray(value).dtype


def test_values_without_elements_take_no_room():
    m = Tensors.of({"a": np.zeros((0, 3)), "b": np.ones(2), "c": np.zeros((2, 0))})
    assert m["a"].shape == (0, 3) and m["c"].shape == (2, 0) and m.flat.tolist() == [1, 1]


def test_a_dtype_casts_the_trainable_values_only():
    m = Tensors.of({"x": [1, 2], "y": 0.5, "counter/n": 3}, dtype=np.float32)
    assert m.layout.dtype == F32 and m["y"] == 0.5
    assert m.groups["counter/"].layout.dtype == np.asarray(3).dtype


def test_strides_and_byte_orders_of_the_source_do_not_matter():
    source = np.arange(12, dtype=">f4").reshape(3, 4)
    m = Tensors.of({"x": source.T, "y": source[::2, ::-1]})
    assert m.layout.dtype == F32 and m.layout.dtype.isnative
    assert np.array_equal(m["x"], source.T) and np.array_equal(m["y"], source[::2, ::-1])


def test_several_dtypes_in_one_group_raise():
    with pytest.raises(ModelError, match="float32, float64"):
        Tensors.of({"x": np.zeros(1, np.float32), "y": np.zeros(1)})


@pytest.mark.parametrize("value", ["text", None, 1j, np.datetime64(0, "s"), [b"x"], {}])
def test_what_is_no_number_raises_and_is_named(value):
    with pytest.raises(ModelError, match="odd"):
        Tensors.of({"odd": value})


def test_a_dtype_that_is_no_number_raises():
    with pytest.raises(ModelError, match="complex"):
        Tensors.of({"x": [1.0]}, dtype=np.complex64)


# What cannot be.


@pytest.mark.parametrize(
    ("flat", "says"),
    [
        (np.zeros(6, np.float32), "6 values for a layout of 7"),
        (np.zeros(7, np.float64), "float64"),
        (np.zeros((7, 1), np.float32), r"shape \(7, 1\)"),
    ],
)
def test_a_buffer_that_does_not_fit_its_layout_raises(flat, says):
    with pytest.raises(ModelError, match=says):
        model().with_flat(flat)


def test_groups_must_be_known_and_flat():
    inner = Tensors.of({"x": [1.0]})
    with pytest.raises(ModelError, match="'other/'"):
        inner.with_group("other/", inner)
    with pytest.raises(ModelError, match="without groups of its own"):
        inner.with_group("control/", inner.with_group("buffer/", inner))


def test_layouts_need_one_shape_for_each_different_name():
    with pytest.raises(ModelError, match="2 names, 1 different"):
        Layout(("a", "a"), ((1,), (1,)), F32)
    with pytest.raises(ModelError, match=r"1 names.* 2 shapes"):
        Layout(("a",), ((1,), (1,)), F32)


# Immutability.


def test_nobody_writes_through_tensors():
    m = model()
    for array in (m.flat, m["w"], m["b"], m.dense, m["control/w"]):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1
    with pytest.raises(TypeError):
        m["w"] = np.zeros((2, 3))  # type: ignore[index]
    with pytest.raises(AttributeError):
        m.other = 1  # type: ignore[attr-defined]


def test_a_buffer_is_taken_over_without_a_copy_and_its_own_flags_are_left_alone():
    flat = np.zeros(7, np.float32)
    m = model().with_flat(flat)
    assert np.shares_memory(m.flat, flat) and flat.flags.writeable
    assert not m.flat.flags.writeable


def test_of_copies():
    source = np.zeros(3)
    m = Tensors.of({"x": source})
    source[:] = 1
    assert m.flat.tolist() == [0, 0, 0]


def test_the_groups_of_the_caller_are_not_shared():
    groups = {"control/": zeros(EMPTY)}
    m = Tensors(model().layout, model().flat, groups)
    groups["mask/"] = zeros(EMPTY)
    assert list(m.groups) == ["control/"]


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_between_processes_are_equal_and_read_only(again):
    m = model()
    assert hash(m.layout) and m.layout.slices  # what is cached must not travel
    twin = again(m)
    assert equal(m, twin) and twin == m and not twin.flat.flags.writeable
    assert hash(twin.layout) == hash(m.layout)
    assert "_hash" not in vars(pickle.loads(pickle.dumps(m.layout)))


# Changing a part.


def test_with_flat_keeps_names_and_groups():
    m = model().with_flat(np.ones(7, np.float32))
    assert m["w"].sum() == 6 and m.groups == model().groups


def test_with_group_replaces_adds_and_removes():
    m = model()
    mask = Tensors.of({"w": np.ones((2, 3), np.bool_)})
    more = m.with_group("mask/", mask).with_group("buffer/", mask)
    assert list(more.groups) == ["buffer/", "control/", "counter/", "mask/"]
    assert more.groups["buffer/"] is mask
    less = more.with_group("mask/", None).with_group("clip/", None)
    assert list(less.groups) == ["buffer/", "control/", "counter/"]
    assert list(m.groups) == ["buffer/", "control/", "counter/"]


def test_select_keeps_the_order_of_the_model_and_the_groups():
    m = Tensors.of({"a": [1.0, 2.0], "b": 3.0, "c": [[4.0]], "control/x": 0.0})
    part = m.select(["c", "a"])
    assert part.layout == Layout(("a", "c"), ((2,), (1, 1)), np.dtype(np.float64))
    assert part.flat.tolist() == [1, 2, 4] and part.groups == m.groups
    assert m.select(m.layout.names) is m and m.select(["c", "b", "a"]) is m
    assert m.select(()).layout.size == 0
    assert m.select(["a", "a"]).layout.names == ("a",)


def test_select_of_unknown_names_raises_and_names_them():
    m = Tensors.of({"a": 1.0, "b": 2.0})
    for names in (["x", "a"], ["a", "b", "x"]):
        with pytest.raises(ModelError, match="no such names in the model: x"):
            m.select(names)


def test_select_decodes():
    m = Tensors.of({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
    part = m.with_flat(sparse(4)).select(["a"])
    assert part.flat.tolist() == [0, 1]


# Comparison.


def test_equal_tensors_have_the_same_names_shapes_dtypes_and_bits():
    m = model()
    assert equal(m, model()) and m == model()
    others = [
        m.with_flat(np.zeros(7, np.float32)),
        m.with_group("control/", None),
        m.with_group("control/", m.groups["control/"].with_flat(np.zeros(6, np.float32))),
        Tensors.of({"w": np.arange(6, dtype=np.float32), "b": np.float32(7)}),
        Tensors.of({k: v.astype(np.float64) for k, v in m.items()}),
        Tensors.of({("v" if k == "w" else k): v for k, v in m.items()}),
    ]
    for other in others:
        assert not equal(m, other) and m != other
    assert m != {"w": 1} and m != 3


def test_bits_are_compared_not_numbers():
    a, b = (Tensors.of({"x": [v, np.nan]}) for v in (0.0, -0.0))
    assert a != b and a == Tensors.of({"x": [0.0, np.nan]})


def test_encoded_values_are_compared_as_decoded():
    m = Tensors.of({"x": np.array([0, 1, 0, 0], np.float32)})
    assert m.with_flat(sparse(4)) == m
    double = Sparse(4, np.array([1]), np.ones(1))
    assert m.with_flat(double) != m  # decodes to another dtype


@given(hnp.arrays(np.float32, st.integers(0, 9)), hnp.arrays(np.float32, st.integers(0, 9)))
def test_equality_is_that_of_bytes(a, b):
    assert equal(Tensors.of({"x": a}), Tensors.of({"x": b})) == (a.tobytes() == b.tobytes())


# Differences.


def test_the_difference_leaves_buffers_and_counters_as_they_are():
    base = model()
    local = Tensors.of(
        {
            "w": np.ones((2, 3), np.float32),
            "b": np.float32(1),
            "buffer/mean": np.full(2, 9, np.float32),
            "counter/batches": np.int64(8),
            "control/w": np.zeros((2, 3), np.float32),
        }
    )
    delta = difference(local, base)
    assert delta.flat.tolist() == [1, 0, -1, -2, -3, -4, -6]
    assert delta["buffer/mean"].tolist() == [9, 9] and delta["counter/batches"] == 8
    assert delta["control/w"].tolist() == [[-2] * 3] * 2
    assert delta.layout is local.layout


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.int64, np.bool_])
def test_differences_keep_the_dtype_and_lead_back(dtype):
    base = Tensors.of({"x": np.array([0, 1, 1, 0]).astype(dtype)})
    local = Tensors.of({"x": np.array([1, 1, 0, 0]).astype(dtype)})
    delta = difference(local, base)
    assert delta.layout.dtype == dtype
    back = base.flat ^ delta.flat if dtype is np.bool_ else base.flat + delta.flat
    assert back.tolist() == local.flat.tolist()


def test_differences_of_encoded_models_are_dense():
    base = Tensors.of({"x": np.ones(4, np.float32)})
    assert difference(base.with_flat(sparse(4)), base).flat.tolist() == [-1, 0, -1, -1]


@pytest.mark.parametrize(
    "other",
    [
        Tensors.of({"y": [1.0, 2.0], "control/c": 1.0}),
        Tensors.of({"x": [[1.0, 2.0]], "control/c": 1.0}),
        Tensors.of({"x": np.ones(2, np.float32), "control/c": 1.0}),
        Tensors.of({"x": [1.0, 2.0]}),
        Tensors.of({"x": [1.0, 2.0], "control/d": 1.0}),
    ],
)
def test_a_difference_of_different_layouts_raises(other):
    m = Tensors.of({"x": [1.0, 2.0], "control/c": 1.0})
    with pytest.raises(ModelError, match="no difference"):
        difference(m, other)


# Finiteness.

SIZES = (1, 100, 5000)  # below and above the size from which the dot product is asked first


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_huge_finite_values_are_finite_and_warn_nobody(size, dtype, recwarn):
    values = np.full(size, np.finfo(dtype).max, dtype)
    values[::2] *= -1
    assert all_finite(values) and not recwarn.list


def test_values_whose_squares_overflow_are_finite():
    assert all_finite(np.full(10_000, 1e30, np.float32))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_anywhere_is_found(size, dtype, bad, recwarn):
    for at in {0, size // 2, size - 1}:
        values = np.ones(size, dtype)
        values[at] = bad
        assert not all_finite(values)
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_are_finite(dtype):
    assert all_finite(np.ones(5000, dtype))


def test_groups_and_encoded_values_are_looked_at():
    m = model()
    bad = m.groups["buffer/"].with_flat(np.array([1, np.inf], np.float32))
    assert m.finite() and not m.with_group("buffer/", bad).finite()
    assert m.with_flat(sparse(7)).finite() and not m.with_flat(sparse(7, np.nan)).finite()
    scales = np.array([np.inf], np.float32)
    assert not m.with_flat(Quantized(np.zeros(7, np.int8), scales, 8)).finite()


def sparse(size: int, value: float = 1.0) -> Sparse:
    return Sparse(size, np.array([1], np.int32), np.array([value], np.float32))
