"""Counts of a task's steps."""

import pytest
import torch

from plasticity.agents.supervised.counts import STEPS_COUNTED_AT_ONCE, Counts

CPU = torch.device("cpu")


def steps(count, lead, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for step in range(count):
        batch = 3 if step % 5 == 4 else 4
        yield (
            torch.randn(*lead, batch, 3, generator=generator),
            torch.randint(0, 3, (*lead, batch), generator=generator),
            torch.rand(lead, generator=generator),
        )


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("count", [1, STEPS_COUNTED_AT_ONCE, STEPS_COUNTED_AT_ONCE + 9])
def test_means_are_those_over_all_examples(lead, count):
    counts = Counts(lead, CPU)
    correct, loss, examples = torch.zeros(lead), torch.zeros(lead, dtype=torch.float64), 0
    for logits, labels, losses in steps(count, lead):
        counts.add(logits, labels, losses)
        correct += (logits.argmax(-1) == labels).sum(-1)
        loss += (losses * labels.shape[-1]).double()
        examples += labels.shape[-1]
    accuracy, mean = counts.means(examples)
    torch.testing.assert_close(accuracy, correct.double() / examples)
    torch.testing.assert_close(mean, loss / examples)
    counts.clear()
    assert counts.means(1)[1].tolist() == torch.zeros(lead).tolist()


def test_predictions_of_a_regression_are_not_counted():
    counts = Counts((), CPU)
    for loss in (1.0, 4.0):
        counts.add(torch.zeros(3, 1), torch.ones(3, 1), torch.tensor(loss))
    accuracy, mean = counts.means(6)
    assert (accuracy.item(), mean.item()) == (0.0, 2.5)


@pytest.mark.parametrize("stop", [3, STEPS_COUNTED_AT_ONCE, STEPS_COUNTED_AT_ONCE + 7])
def test_a_state_continues_to_the_bit_after_steps_of_another_position(stop):
    """States of step `stop` are loaded into counts that are at step 45."""
    straight, resumed = Counts((2,), CPU), Counts((2,), CPU)
    for step in steps(45, (2,), seed=1):
        resumed.add(*step)
    for position, step in enumerate(steps(60, (2,))):
        if position == stop:
            for index in (0, 1):
                resumed.load_state_dict(straight.state_dict(stop, index), index)
            resumed.keep_until(stop)
        straight.add(*step)
        if position >= stop:
            resumed.add(*step)
    for found, expected in zip(resumed.means(100), straight.means(100), strict=True):
        assert torch.equal(found, expected)


def test_losses_that_are_computed_later_are_the_same_to_the_bit():
    def of_examples(logits, labels):
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    now, later = Counts((), CPU), Counts((), CPU, of_examples)
    for step, (logits, labels, _) in enumerate(steps(STEPS_COUNTED_AT_ONCE + 20, ()), start=1):
        own = logits[:1], labels[:1]
        now.add(*own, of_examples(*own)[0])
        later.add(*own, None)
        if step == 7:  # saved in between, which must not change what follows
            later.state_dict(step, 0)
    count = STEPS_COUNTED_AT_ONCE + 20
    states = [each.state_dict(count, 0) for each in (now, later)]
    assert len(states[0]["pending"]) == len(states[1]["pending"]) == 20
    for mine, theirs in zip(states[1]["pending"], states[0]["pending"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    for mine, theirs in zip(later.means(count), now.means(count), strict=True):
        assert torch.equal(mine, theirs)
