import torch

from plasticity.mitigations.progress import Progress


def test_what_is_known_of_a_step_is_dropped_and_the_rest_stays():
    batches = list
    progress = Progress(step=4, task=2, batches=batches, example=torch.ones(3))
    progress.inputs, progress.batch_size = torch.ones(5, 3), 5
    progress.layer_inputs["fc"] = [torch.ones(5, 2)]
    progress.forget_step()
    assert progress.inputs is None
    assert (progress.batch_size, progress.layer_inputs) == (0, {})
    assert (progress.step, progress.task, progress.batches) == (4, 2, batches)
    assert progress.example is not None


def test_the_loss_is_cross_entropy_unless_another_is_given():
    # Two classes with the same logit: ln 2.
    found = Progress().loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(found, torch.tensor(2.0).log())
