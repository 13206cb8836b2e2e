import pytest
import torch
from torch import nn

from plasticity.agents import PPOConfig
from plasticity.scripts.bench.comparison import Effort
from plasticity.scripts.bench.learners import (
    image_network,
    learning_step,
    make_classifier,
    on_batches,
    ppo_config,
    ppo_update,
    synthetic_task,
    train_steps,
    train_whole_task,
)

QUICK = Effort(quick=True)


def test_the_settings_of_ppo_are_the_published_ones():
    published = ppo_config(Effort())
    expected = PPOConfig(
        hidden=(256, 256),
        activation="relu",
        rollout_steps=2048,
        epochs=10,
        minibatch_size=128,
        learning_rate=1e-4,
        betas=(0.9, 0.999),
    )
    assert expected == published
    assert published.num_minibatches == 16
    assert ppo_config(QUICK).rollout_steps < 100


def test_the_synthetic_task_is_permuted_and_of_mnists_size_by_default():
    task = synthetic_task(QUICK)
    assert task.index == 1
    assert not torch.equal(task.permutation, torch.arange(784))
    assert (task.num_train, task.dataset.image_shape) == (256, (28, 28))
    assert torch.equal(task.dataset.train_images, synthetic_task(QUICK).dataset.train_images)


def test_batches_come_in_turn():
    seen = []
    step = on_batches(lambda *batch: seen.append(batch), QUICK)
    for _ in range(3):
        step()
    assert seen[0][0].shape == (64, 1, 28, 28)
    assert seen[0][1].shape == (64,)
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][0], seen[2][0])


@pytest.mark.parametrize("fused", [False, True])
def test_a_learning_step_updates_on_the_given_batch(fused):
    network = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        network.weight.zero_()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=fused)
    learning_step(network, optimizer)(torch.tensor([[1.0, 3.0]]), torch.tensor([0]))
    # Both classes have probability 1/2, so the gradient is (1/2 - 1) x for class 0 and x/2 for class 1;
    # the first step has no momentum.
    expected = torch.tensor([[0.05, 0.15], [-0.05, -0.15]])
    torch.testing.assert_close(network.weight.detach(), expected)


def test_training_on_the_same_task_again_uses_all_of_it_again():
    task = synthetic_task(QUICK)
    seen = []

    class Recording:
        index, num_train, spec = task.index, task.num_train, task.spec

        def train_batch(self, indices):
            seen.append(indices)
            return task.train_batch(indices)

    classifier = make_classifier(image_network(), "cpu")
    before = image_network().fc1.weight
    for _ in range(2):
        train_whole_task(classifier, Recording())
    for half in (seen[:4], seen[4:]):  # 256 examples in batches of 64
        assert torch.equal(torch.cat(half).sort().values, torch.arange(256))
    assert classifier.network.fc1.weight.ne(before).any()


def test_a_turn_has_its_steps_and_the_next_one_continues():
    class Trainer:
        done, tasks = 0, 0

        def train(self, task, should_stop):
            while self.done < 5:
                if should_stop():
                    return False
                self.done += 1
            return True

        def finish(self, task):
            self.done, self.tasks = 0, self.tasks + 1

    trainer = Trainer()
    train_steps(trainer, None, 3)
    assert (trainer.tasks, trainer.done) == (0, 3)
    train_steps(trainer, None, 4)
    assert (trainer.tasks, trainer.done) == (1, 2)


def test_an_update_of_ppo():
    assert set(ppo_update(QUICK, 28)()) > {"policy_loss", "value_loss"}
    with pytest.raises(ValueError, match="needs a CUDA device"):
        ppo_update(QUICK, 28, compile=True)
