"""Which test has which oracle: an index that fails when a test is renamed or gone.

A11 are the oracles of the asynchronous and aggregation methods, A10 the traps seen in public
implementations, O1 those of the drift-correcting methods; ids as in the notes they come from.
"""

import re
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
AL = "algorithms/test_"
INDEX: dict[str, tuple[str, ...]] = {
    "A11 E1 FedAvg = FedSGD; = central descent": (
        f"{AL}fedsgd.py::test_it_is_fedavg_with_one_full_batch_step",
        f"{AL}fedsgd.py::test_it_is_centralized_gradient_descent_on_a_network",
        f"{AL}fedavg_oracles.py::test_iterates_on_the_quadratic_federation",
    ),
    "A11 E2 FedProx(0) = FedAvg; FedAvgM(0, 1) = FedAvg": (
        f"{AL}fedprox.py::test_without_mu_it_is_fedavg",
        f"{AL}fedopt.py::test_no_momentum_at_rate_one_is_fedavg",
    ),
    "A11 E3 FedBuff(1) = FedAsync(delta); FedBuff(N) = FedAvg": (
        f"{AL}fedbuff.py::test_a_buffer_of_one_is_fedasync_on_deltas",
        f"{AL}fedbuff.py::test_a_buffer_as_large_as_the_cohort_at_equal_speeds_is_fedavg",
    ),
    "A11 E4 FedFix(long window) = FedAvg; calibrated fixed point": (
        f"{AL}fedfix.py::test_a_window_as_long_as_the_slowest_is_fedavg",
        f"{AL}fedfix.py::test_calibrated_weights_have_the_fixed_point_of_fedavg",
        f"{AL}fedfix.py::test_uncalibrated_weights_are_biased_towards_the_fast",
        "theory/test_weights.py::test_fedfix_counts_the_shares_only_where_it_is_calibrated",
    ),
    "A11 E5 FedCompass, equal speeds; golden trace": (
        f"{AL}fedcompass.py::test_equal_speeds_are_fedavg_from_the_second_group_on",
        f"{AL}fedcompass.py::test_golden_trace_in_the_simulator",
    ),
    "A11 E6 FedAU": (
        f"{AL}fedau.py::test_e6_full_participation_is_fedavg_with_equal_weights",
        f"{AL}fedau.py::test_e6_a_cutoff_of_one_averages_over_all_with_zeros_for_the_absent",
        f"{AL}fedau.py::test_e6_omega_has_its_closed_form_under_bernoulli_participation",
    ),
    "A11 E7 MIFA, FedVARP": (f"{AL}mifa_fedvarp.py::test_e7_full_participation_is_fedavg",),
    "A11 E8 AFA-CD = FedBuff, normalized; AFA-CS(all fresh) = AFA-CD": (
        f"{AL}anarchic.py::test_cross_device_is_fedbuff_on_normalized_deltas_without_damping",
        f"{AL}anarchic.py::test_with_all_fresh_both_are_fedavg_with_a_scaled_rate",
        f"{AL}anarchic.py::test_the_running_sum_is_the_sum_after_a_hundred_thousand_folds",
        f"{AL}anarchic.py::test_twice_the_steps_of_equal_gradients_send_the_same",
        f"{AL}anarchic.py::test_cross_silo_counts_every_client_the_same_however_often_it_comes",
    ),
    "A11 E9 FedAT(1) = FedProx": (f"{AL}fedat.py::test_e9_one_tier_is_fedprox",),
    "A11 E10 any plan = flat": (
        "plans/test_execute.py::test_exact_mean_has_the_same_bits_under_any_plan_and_order",
        "plans/test_execute.py::test_role_conversion_takes_over_the_accumulator_and_changes_no_bit",
    ),
    "A11 E11 gradient codes decode": (
        f"{AL}gradient_coding.py::test_e11_every_pair_of_stragglers_decodes_to_the_exact_sum",
        "theory/test_sequential_coding.py::"
        "test_e11_every_conforming_pattern_decodes_in_time_without_waiting",
        "theory/test_sequential_coding.py::test_e11_loads_and_delays_are_as_tabulated",
    ),
    "A11 E12 crash anywhere, resume elsewhere": (
        "laws/test_coordinators.py::test_resume_at_every_event_equals_no_interruption",
        "laws/test_planes.py::test_snapshots_restore_anywhere_at_any_point",
    ),
    "A11 E13 round times of the simulator": (
        "simulation/test_devices.py::test_synchronous_rounds_take_the_slowest_clients_time",
    ),
    "A11 E14 published cost": (
        "plans/test_planner.py::test_e14_the_published_cost_curve_within_five_percent",
    ),
    "A10 1 staleness weights fall": (
        "test_staleness.py::test_a_fresh_update_counts_fully_and_none_more_than_a_fresher_one",
    ),
    "A10 2 FedBuff divides by K": (
        f"{AL}fedbuff.py::test_a_buffer_as_large_as_the_cohort_at_equal_speeds_is_fedavg",
        f"{AL}fedbuff.py::test_every_kth_arrival_is_a_commit_and_staleness_counts_commits",
    ),
    "A10 3 FedCompass loses no late update": (
        f"{AL}fedcompass_churn.py::test_a_late_and_an_on_time_update_of_one_client_both_count",
    ),
    "A10 4 timers are events like others": (
        f"{AL}fedcompass_churn.py::test_an_arrival_before_an_overdue_timer_is_late",
        f"{AL}fedcompass.py::test_handlers_leave_the_old_state_as_it_was",
    ),
    "A10 5 exactly s stragglers are tolerated": (
        f"{AL}gradient_coding.py::"
        "test_trap_exactly_s_stragglers_are_tolerated_and_the_steps_stay_exact",
        "theory/test_sequential_coding.py::test_trap_exactly_s_stragglers_are_no_reason_to_wait",
    ),
    "A10 6 FedAU divides by N, with intervals of before": (
        f"{AL}fedau.py::test_trap_the_sum_is_divided_by_all_clients_not_by_participants",
        f"{AL}fedau.py::test_trap_an_interval_that_ends_in_a_round_does_not_count_in_it",
    ),
    "A10 7 equal staleness still damps": (
        "test_oracles.py::test_trap_equal_staleness_still_damps_what_k_divides",
        f"{AL}fedbuff.py::test_normalized_by_weights_the_mean_divides",
    ),
    "A10 8 buffers are averaged plainly": (
        "test_oracles.py::test_trap_buffers_are_averaged_without_staleness_weights",
        "aggregators/test_routed.py::test_each_group_goes_where_it_belongs",
    ),
    "A10 9 speeds are measured on one clock": (
        f"{AL}fedcompass_churn.py::test_the_estimate_of_a_speed",
        f"{AL}fedcompass_churn.py::test_a_client_that_takes_no_time_has_a_speed_above_zero",
    ),
    "A10 10 best fit by absolute residuals": (
        "plans/test_placement.py::test_absolute_residuals_decide_not_shares",
    ),
    "O1.1 SCAFFOLD": (
        f"{AL}scaffold.py::"
        "test_it_reaches_the_optimum_with_two_clients_of_five_and_fedavg_does_not",
        f"{AL}scaffold.py::test_c_is_the_mean_of_all_control_variates_at_any_time",
        f"{AL}scaffold.py::test_the_first_round_is_fedavg",
        f"{AL}scaffold.py::test_one_step_of_everyone_is_gradient_descent",
        f"{AL}drift_oracles.py::test_scaffold_one_vector_counts_the_steps_of_each_client",
    ),
    "O1.2 SCAFFOLD, one vector": (
        f"{AL}drift_oracles.py::test_scaffold_one_vector_goes_the_way_of_two",
    ),
    "O1.3 FedAvg-M, SCAFFOLD-M": (
        f"{AL}drift_oracles.py::test_fedavg_m_with_beta_one_is_fedavg",
        f"{AL}drift_oracles.py::test_fedavg_m_ends_at_fedavgs_fixed_point_of_a_smaller_rate",
        f"{AL}drift_oracles.py::test_scaffold_m_with_beta_one_is_scaffold",
        f"{AL}drift_oracles.py::test_scaffold_m_reaches_the_optimum_with_two_of_five",
        f"{AL}drift_oracles.py::test_fedavg_m_vr_by_hand",
    ),
    "O1.4 FedDyn": (
        f"{AL}drift_oracles.py::"
        "test_feddyn_reaches_the_optimum_with_two_of_five_and_its_duals_are_gradients",
    ),
    "O1.5 FedSpeed": (
        f"{AL}drift_oracles.py::test_fedspeed_without_its_second_gradient_is_feddyn",
        f"{AL}drift_oracles.py::"
        "test_fedspeed_with_a_fixed_rho_ends_at_the_optimum_of_other_curvatures",
    ),
    "O1.6 FedNova": (
        f"{AL}fednova.py::test_equal_steps_are_fedavg",
        f"{AL}fednova.py::test_unequal_steps_have_the_fixed_points_of_the_reference",
    ),
    "O1.7 MOON": (
        f"{AL}moon.py::test_without_mu_it_is_fedavg",
        f"{AL}moon.py::test_the_first_time_it_costs_ln_2_and_changes_nothing",
    ),
    "O1.8 FedRef": (
        f"{AL}drift_oracles.py::test_fedref_without_mu_is_fedavg",
        f"{AL}drift_oracles.py::test_fedref_of_one_model_is_a_server_rate",
        f"{AL}drift_oracles.py::test_fedref_keeps_fedavgs_fixed_point",
    ),
    "O1.9 curricula": (
        f"{AL}curriculum.py::test_everything_visible_is_fedavg",
        f"{AL}curriculum.py::test_random_order_is_a_clients_own_and_stays",
    ),
    "O1.10 FZooS": (
        f"{AL}fzoos.py::test_of_identical_clients_the_correction_is_zero",
        f"{AL}fzoos.py::test_features_come_to_the_kernel_like_one_over_the_root_of_their_number",
        f"{AL}fzoos.py::test_the_process_finds_the_gradient_from_dense_queries",
    ),
    "A3.5 arrivals in short windows; A3.7 weights by age": (
        f"{AL}fedfix.py::"
        "test_windows_shorter_than_any_gap_are_asynchronous_fedavg_with_calibrated_weights",
        f"{AL}wireless_afl.py::test_weights_are_the_closed_form",
        f"{AL}wireless_afl.py::test_a_slot_method_under_perfect_links_and_equal_speeds_is_fedavg",
    ),
    "A5.5 inversion is exact on the quadratic": (
        f"{AL}gradient_inversion.py::test_the_scalar_quadratic_with_one_step_is_exact",
    ),
}


@cache
def names_in(path: str) -> frozenset[str]:
    return frozenset(re.findall(r"^def (test_\w+)", (HERE / path).read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("oracle", sorted(INDEX))
def test_every_oracle_has_its_tests(oracle: str) -> None:
    assert INDEX[oracle]
    for place in INDEX[oracle]:
        path, _, name = place.partition("::")
        assert name in names_in(path), f"{path} has no {name}"


def test_none_is_left_out() -> None:
    numbered = {" ".join(oracle.split()[:2]) for oracle in INDEX}
    assert numbered >= {f"A11 E{i}" for i in range(1, 15)}
    assert numbered >= {f"A10 {i}" for i in range(1, 11)}
    assert {oracle.split()[0] for oracle in INDEX} >= {f"O1.{i}" for i in range(1, 11)}


def test_trap_equal_staleness_still_damps_what_k_divides() -> None:
    """Two updates, each one commit old: half as much as fresh ones."""
    import shoal
    from shoal.simulation import Devices
    from shoal.staleness import Polynomial
    from shoal.trainers.quadratic import Quadratic
    from support import play, q3

    clients = {f"c{i}": q3()["c0"] for i in range(4)}
    unequal = Devices(speeds={"c0": 1.0, "c1": 1.0, "c2": 1.5, "c3": 1.5})
    damped = shoal.fedbuff(2, staleness=Polynomial(1.0), trainer=Quadratic(lr=0.1))
    tasks = play(damped, clients, 2, devices=unequal).tasks
    done = [task for task in tasks if task.outcome == "aggregated"]
    assert [(t.client, t.staleness) for t in done] == [("c0", 0), ("c1", 0), ("c2", 1), ("c3", 1)]
    assert [task.weight for task in done] == [0.5, 0.5, 0.25, 0.25]


def test_trap_buffers_are_averaged_without_staleness_weights() -> None:
    import numpy as np

    import shoal
    from shoal.messages import Payload
    from shoal.planes import Local
    from shoal.tensors import Tensors

    model = Tensors.of({"x": np.zeros(2, np.float32), "buffer/v": np.ones(2, np.float32)})
    plane = Local(shoal.Sum(), shoal.chain())
    plane.start(model, 0)
    for i, (value, weight) in enumerate(((2.0, 1.0), (4.0, 0.1))):
        sent = {"x": np.ones(2, np.float32), "buffer/v": np.full(2, value, np.float32)}
        plane.put(i, Payload(Tensors.of(sent), 1))
        plane.fold(i, weight, f"c{i}")
    after = plane.commit()
    assert after["buffer/v"] == pytest.approx([3.0, 3.0])  # not (2 + 0.4) / 1.1, and not 2.4
    assert after["x"] == pytest.approx([1.1, 1.1])
