import torch

from crosstask_weighting import Equal


def test_equal_is_the_sum() -> None:
    gradients = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Equal().combine(gradients), gradients.sum(0))


def test_equal_asks_for_no_gradient() -> None:
    trunk = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    heads = [torch.nn.Parameter(torch.tensor(float(i))) for i in range(2)]
    losses = [(trunk * head).sum() for head in heads]
    weights = Equal().backward(losses)
    torch.testing.assert_close(weights, torch.ones(2))
    torch.testing.assert_close(trunk.grad, torch.ones(2))  # 0 + 1
    torch.testing.assert_close(heads[1].grad, torch.tensor(3.0))
