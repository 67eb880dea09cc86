"""Records: what is kept, what is derived, and what is said when something was not kept."""

import numpy as np
import pytest

from dmflib import matrices
from dmflib.linear_networks import gaussian, product
from dmflib.stopping import MaxSteps
from dmflib.trajectory import KEEPABLE, Recorder, Trajectory, recorded_steps, schedule


def recorded(keep, count=4, widths=(3, 4, 2)):
    """A trajectory of random factors, and the states that went into it."""
    recorder, states = Recorder(keep), []
    for k in range(count):
        factors = gaussian(widths, 1.0, rng=k)
        states.append(factors)
        recorder.add(10 * k, 1 / (k + 1), product(factors), factors)
    return recorder.trajectory(MaxSteps(30), states[-1], 31), states


def test_everything_kept():
    path, states = recorded(KEEPABLE)
    products = np.stack([product(factors) for factors in states])
    np.testing.assert_array_equal(path.times, [0, 10, 20, 30])
    np.testing.assert_array_equal(path.losses, [1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_array_equal(path.products, products)
    assert [F.shape for F in path.factors] == [(4, 4, 3), (4, 2, 4)]
    for i, history in enumerate(path.factors):
        np.testing.assert_array_equal(history, [factors[i] for factors in states])
    np.testing.assert_allclose(path.singular_values, np.linalg.svd(products)[1], rtol=1e-14)
    assert (len(path), path.evaluations, path.stopped_by) == (4, 31, MaxSteps(30))


def test_records_are_copies():
    recorder = Recorder(KEEPABLE)
    factors = [np.eye(2), np.eye(2)]
    W = product(factors)
    recorder.add(0, 1.0, W, factors)
    W[...], factors[0][...] = 7, 7
    path = recorder.trajectory(None, factors, 1)
    np.testing.assert_array_equal(path.products[0], np.eye(2))
    np.testing.assert_array_equal(path.factors[0][0], np.eye(2))


@pytest.mark.parametrize("keep", ["products", "singular_values", ("products", "singular_values")])
def test_singular_values_and_ranks_are_derived_from_whatever_is_there(keep):
    path, states = recorded(keep)
    for k, factors in enumerate(states):
        sigma = matrices.singular_values(product(factors))
        np.testing.assert_allclose(path.singular_values[k], sigma, rtol=1e-13)
        for kind in matrices.EFFECTIVE_RANKS:
            rank = path.effective_rank(kind)
            assert rank.shape == (4,)
            assert rank[k] == pytest.approx(matrices.effective_rank(product(factors), kind))


def test_singular_values_are_computed_once():
    path, _ = recorded("products")
    assert path.singular_values is path.singular_values


def test_what_was_not_kept_is_named():
    path, _ = recorded(())
    with pytest.raises(ValueError, match=r"keep=\(\): keep must contain 'products'"):
        _ = path.products
    with pytest.raises(ValueError, match="keep must contain 'factors'"):
        _ = path.factors
    for ask in (lambda: path.singular_values, path.effective_rank):
        with pytest.raises(ValueError, match="'products' or 'singular_values'"):
            ask()
    path, _ = recorded("factors")
    with pytest.raises(ValueError, match=r"keep=\('factors',\)"):
        _ = path.products


@pytest.mark.parametrize("keep", ["losses", ("products", "norms"), 3, None, [["products"]]])
def test_unknown_names_are_refused(keep):
    with pytest.raises(ValueError, match="keep must be"):
        Recorder(keep)


def test_a_name_given_twice_is_kept_once():
    path, _ = recorded(["products", "products"])
    assert path.products.shape == (4, 2, 3)


def test_an_interruption_while_recording_leaves_no_half_record(monkeypatch):
    """The singular values take longest, so that is where a user's Ctrl-C usually lands."""
    recorder, factors = Recorder(("products", "singular_values")), [np.eye(2)]
    recorder.add(0, 1.0, np.eye(2), factors)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np.linalg, "svd", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recorder.add(1, 0.5, np.eye(2), factors)
    assert recorder.times == [0]
    path = recorder.trajectory(None, factors, 1)
    assert len(path.times) == len(path.losses) == len(path.products) == len(path.singular_values)


def test_repr_says_how_it_went():
    path, _ = recorded("products")
    text = repr(path)
    assert text == ("Trajectory(4 records, times 0 to 30, loss 1 to 0.25, stopped by MaxSteps(30))")


def test_effective_rank_of_a_zero_product_is_refused():
    path = Trajectory([0], [1.0], {"products": np.zeros((1, 2, 2))}, None, None, 0)
    with pytest.raises(ValueError, match="nonzero"):
        path.effective_rank()
    with pytest.raises(ValueError, match="kind must be one of"):
        path.effective_rank("spectral")


def test_recorded_steps_hold_both_ends_in_order_and_nothing_beyond():
    assert recorded_steps(3, 7) == [0, 3, 6, 7]
    assert recorded_steps([9, 2, 2], 5) == [0, 2, 5]
    assert recorded_steps(10, 0) == [0]
    assert recorded_steps(np.array([5]), 5) == [0, 5]


@pytest.mark.parametrize("record", [1, 3, 10**30, [9, 2, 2], np.array([0]), range(4, 9)])
def test_a_schedule_holds_the_steps_of_a_run_of_any_length(record):
    due = schedule(record)
    for steps in range(12):
        wished = [k for k in range(steps + 1) if k in due or k == steps]
        assert recorded_steps(record, steps) == wished


@pytest.mark.parametrize("record", [0, -1, 1.5, None, "2", [], [-1], [0.5], [[1], [1, 2]]])
def test_recorded_steps_refuse_what_is_no_schedule(record):
    with pytest.raises(ValueError, match=r"record.*must be"):
        recorded_steps(record, 5)
