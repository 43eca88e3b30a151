"""SGD against the paper's rule by hand, groups, schedules."""

import numpy as np
import pytest

from minigrad import nn, optim
from minigrad.kernels import trace


def parameter(value=2.0, shape=(3,)):
    return nn.Parameter(np.full(shape, value))


def step_with(gradient):
    w = parameter()
    w.grad = gradient
    optim.SGD([w]).step()


@pytest.fixture(autouse=True)
def both(forms):
    """Every test runs through the kernel, and through the array form."""


def test_the_kernel_is_used(forms):
    w = parameter()
    w.grad = np.ones(3)
    with trace.launches() as launched:
        optim.SGD([w]).step()
    assert [launch.kernel for launch in launched] == ["sgd_update"] * (forms == "kernels")


def test_the_papers_rule_by_hand():
    """v <- 0.9 v - 0.0005 lr w - lr g, w <- w + v, three steps with the rate dropped before the
    third."""
    w = parameter(2.0)
    opt = optim.SGD([w], lr=0.1)
    v, expected = 0.0, 2.0
    for g, factor in ((1.0, 1.0), (-0.5, 1.0), (0.25, 0.1)):
        w.grad = np.full(3, g)
        opt.factor = factor
        opt.step()
        v = 0.9 * v - 0.0005 * 0.1 * factor * expected - 0.1 * factor * g
        expected += v
        np.testing.assert_allclose(w.data, expected, rtol=1e-14)


def test_torch_form_by_hand():
    w = parameter(2.0)
    opt = optim.SGD([w], lr=0.1, form="torch")
    v, expected = 0.0, 2.0
    for g, factor in ((1.0, 1.0), (-0.5, 0.1)):
        w.grad = np.full(3, g)
        opt.factor = factor
        opt.step()
        v = 0.9 * v + g + 0.0005 * expected
        expected -= 0.1 * factor * v
        np.testing.assert_allclose(w.data, expected, rtol=1e-14)


def test_forms_agree_at_a_constant_rate_and_part_when_it_drops():
    a, b = parameter(), parameter()
    paper, torch = optim.SGD([a], 0.1), optim.SGD([b], 0.1, form="torch")
    for step in range(4):
        a.grad, b.grad = np.cos(a.data + step), np.cos(b.data + step)
        if step == 3:
            np.testing.assert_allclose(a.data, b.data, rtol=1e-12)
            paper.factor = torch.factor = 0.1
        paper.step()
        torch.step()
    assert not np.allclose(a.data, b.data, rtol=1e-3)


@pytest.mark.parametrize("form", ["paper", "torch"])
def test_what_the_optimiser_is_given_acts(form):
    """Momentum, and a decay of the group's own, in either form; for the kernel, too."""
    w = parameter(2.0)
    opt = optim.SGD([{"params": [w], "weight_decay": 0.5}], 0.1, 0.6, 0.25, form)
    v, expected = 0.0, 2.0
    for g in (1.0, -0.5, 0.25):
        w.grad = np.full(3, g)
        opt.step()
        v = 0.6 * v - 0.1 * (g + 0.5 * expected)
        expected += v
        np.testing.assert_allclose(w.data, expected, rtol=1e-14)
    assert optim.SGD([w], weight_decay=0.25).groups[0]["weight_decay"] == 0.25


def test_group_rates():
    w, b, own, c1 = parameter(), parameter(), parameter(), parameter()
    opt = optim.SGD(
        [
            {"params": [w]},
            {"params": [b], "lr": 0.02, "scheduled": False, "weight_decay": 0.0},
            {"params": [own], "lr_scale": 2.0},
            {"params": [c1], "rates": ((67, 1e-5), (72, 0.0))},
        ],
        lr=0.01,
    )
    optim.StepSchedule(opt, (25, 51, 79)).step(30)
    assert [opt.rate(g) for g in opt.groups] == pytest.approx([0.001, 0.02, 0.002, 0.001])
    optim.StepSchedule(opt, (25, 51, 79)).step(70)
    assert opt.rate(opt.groups[3]) == 1e-5
    optim.StepSchedule(opt, (25, 51, 79)).step(72)
    assert opt.rate(opt.groups[3]) == 0.0
    w.grad, b.grad, own.grad, c1.grad = (np.zeros(3) for _ in range(4))
    opt.step()
    assert b.data[0] == 2.0, "no decay on this group"
    assert w.data[0] < 2.0


def test_no_gradient_no_step_and_zero_grad():
    w = parameter()
    opt = optim.SGD([w])
    opt.step()
    assert w.data[0] == 2.0
    w.grad = np.ones(3)
    opt.zero_grad()
    assert w.grad is None


def test_gradient_is_not_written():
    w, g = parameter(), np.ones(3)
    w.grad = g
    optim.SGD([w]).step()
    np.testing.assert_array_equal(g, 1)


def test_large_parameters_take_every_chunk():
    size = 3 * optim.CHUNK + 7
    w = parameter(1.0, (size,))
    w.grad = np.arange(size) / size
    optim.SGD([w], 0.5, weight_decay=0.0).step()
    np.testing.assert_allclose(w.data, 1 - 0.5 * np.arange(size) / size)


def test_max_filter_rms():
    """Filters above the limit come down to it, the others stay (ZFNet)."""
    w = nn.Parameter(np.stack([np.full((3, 3, 2), 0.01), np.full((3, 3, 2), 0.5)], axis=-1))
    opt = optim.SGD([{"params": [w], "max_filter_rms": 0.1}], lr=0.0)
    w.grad = np.zeros_like(w.data)
    opt.step()
    np.testing.assert_allclose(np.sqrt((w.data**2).mean(axis=(0, 1, 2))), [0.01, 0.1])


def test_max_filter_rms_is_that_of_whole_filters():
    """Of unequal weights, and as many of each axis as tells the axes apart."""
    w = nn.Parameter(np.random.default_rng(0).normal(size=(2, 3, 4, 5)) * [0.01, 0.05, 0.2, 1, 3])
    before = w.data.copy()
    opt = optim.SGD([{"params": [w], "max_filter_rms": 0.1}], lr=0.0)
    w.grad = np.zeros_like(w.data)
    opt.step()
    for o in range(5):
        rms = np.sqrt((before[..., o] ** 2).sum() / (2 * 3 * 4))
        expected = before[..., o] * min(1, 0.1 / rms)
        np.testing.assert_allclose(w.data[..., o], expected, rtol=1e-12)
    dense = nn.Parameter(np.ones((4, 5)))
    dense.grad = np.zeros_like(dense.data)
    optim.SGD([{"params": [dense], "max_filter_rms": 0.1}], lr=0.0).step()
    np.testing.assert_array_equal(dense.data, 1)


def test_step_schedule():
    opt = optim.SGD([parameter()], 1.0)
    schedule = optim.StepSchedule(opt, (2, 4.5))
    rates = []
    for epoch in range(7):
        schedule.step(epoch)
        rates.append(opt.factor)
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_step_schedule_takes_any_factor_and_order_and_bears_rounding():
    opt = optim.SGD([parameter()], 1.0)
    schedule = optim.StepSchedule(opt, (4.5, 2), factor=0.5)
    for epoch, factor in ((1.99, 1), (2 - 1e-12, 0.5), (4.4, 0.5), (4.5, 0.25), (9, 0.25)):
        schedule.step(epoch)
        assert (opt.epoch, opt.factor) == (epoch, factor)


def test_plateau_schedule_takes_any_factor_and_starts_with_the_papers():
    opt = optim.SGD([parameter()], 1.0)
    schedule = optim.PlateauSchedule(opt, 1, 0.5, 2)
    factors = []
    for epoch, error in enumerate([0.5, 0.6, 0.55, 0.55, 0.4, 0.55]):
        schedule.step(epoch, error)
        assert opt.epoch == epoch
        factors.append(opt.factor)
    assert factors == [1, 0.5, 0.25, 0.25, 0.25, 0.25], "what is better than the last is no best"
    given = optim.PlateauSchedule(opt)
    assert (given.patience, given.factor, given.drops) == (3, 0.1, 3)


def test_a_plateau_schedule_goes_on_in_the_middle_of_waiting():
    opt, other = optim.SGD([parameter()], 1.0), optim.SGD([parameter()], 1.0)
    schedule = optim.PlateauSchedule(opt, patience=2)
    for epoch, error in enumerate([0.5, 0.5, 0.5, 0.5]):
        schedule.step(epoch, error)
    state = schedule.state()
    assert state == {"best": 0.5, "waited": 1, "dropped": 1, "factor": 0.1}
    again = optim.PlateauSchedule(other, patience=2)
    again.load_state(state)
    assert again.state() == state
    again.step(4, 0.5)
    assert (other.factor, again.dropped, again.waited) == (pytest.approx(0.01), 2, 0)


def test_plateau_schedule_drops_three_times_and_its_state_comes_back():
    opt = optim.SGD([parameter()], 1.0)
    schedule = optim.PlateauSchedule(opt, patience=2)
    factors = []
    for epoch, error in enumerate(
        [None, 0.9, 0.8, 0.8, 0.85, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
    ):
        schedule.step(epoch, error)
        factors.append(opt.factor)
    assert factors == pytest.approx(
        [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001, 0.001, 0.001]
    )
    other = optim.SGD([parameter()], 1.0)
    again = optim.PlateauSchedule(other, patience=2)
    again.load_state(schedule.state())
    assert (again.best, again.dropped, other.factor) == (0.7, 3, opt.factor)


@pytest.mark.parametrize(
    ("words", "action"),
    [
        ("no parameters", lambda: optim.SGD([])),
        ("given twice", lambda: (lambda p: optim.SGD([p, p]))(parameter())),
        ("form must be", lambda: optim.SGD([parameter()], form="adam")),
        ("need lr >= 0", lambda: optim.SGD([parameter()], lr=-1)),
        ("need lr >= 0", lambda: optim.SGD([parameter()], momentum=1.0)),
        ("need lr >= 0", lambda: optim.SGD([parameter()], momentum=-0.1)),
        ("need lr >= 0", lambda: optim.SGD([parameter()], weight_decay=-0.1)),
        ("gradient of .* is float32", lambda: step_with(np.ones(3, np.float32))),
        (r"gradient of .* is float64 \(2,\)", lambda: step_with(np.ones(2))),
        ("unknown or missing", lambda: optim.SGD([{"params": [parameter()], "rate": 1}])),
        (
            "w, v and g must have one size",
            lambda: optim.sgd_update(np.ones(3000), np.ones(2), np.ones(3), 0.1, 0.9, 0.0, "paper"),
        ),
        (
            "w and v be contiguous",
            lambda: optim.sgd_update(
                np.ones((3, 2)).T, np.ones((2, 3)), np.ones((2, 3)), 0.1, 0.9, 0.0, "paper"
            ),
        ),
        (
            "form must be 'paper' or 'torch', not 'Paper'",
            lambda: optim.sgd_update(*np.ones((3, 3)), 0.1, 0.9, 0.0, "Paper"),
        ),
    ],
)
def test_errors(words, action):
    with pytest.raises(ValueError, match=words):
        action()


def test_not_a_parameter():
    with pytest.raises(TypeError, match="requires_grad=True"):
        optim.SGD([np.ones(3)])
