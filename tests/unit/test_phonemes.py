import numpy as np
import torch

from rayapp.asr.phonemes import UNKNOWN, PhonemeLoss, phoneme_slices


def rows(*symbols_and_starts):
    return [{"symbol": symbol, "start_seconds": start} for symbol, start in symbols_and_starts]


def test_a_slice_belongs_to_the_phoneme_at_its_middle():
    slices = phoneme_slices(rows(("s", 0.0), ("t", 0.049), ("o", 0.051)), 0.1, {"s": 0, "t": 1, "o": 2})
    assert slices.tolist() == [0, 0, 1, 2, 2]


def test_what_is_not_told_is_unknown():
    assert phoneme_slices(None, 0.05, {"s": 0}).tolist() == [UNKNOWN] * 3
    assert phoneme_slices(rows(("new", 0.02)), 0.06, {"s": 0}).tolist() == [UNKNOWN] * 3


def test_the_loss_is_low_where_each_frame_names_the_slices_around_its_middle():
    loss = PhonemeLoss(width=2, count=2, slices_per_frame=4)
    with torch.no_grad():  # the first number of a frame says 0, the second 1
        loss.classifier.weight.copy_(10 * torch.tensor([[1.0, 0], [0, 1]]).repeat(4, 1))
        loss.classifier.bias.zero_()
    slices = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0]])  # frames are centred on slices 0, 4 and 8
    aligned, shifted = (torch.eye(2)[frames].T[None] for frames in ([0, 1, 0], [1, 0, 1]))
    assert loss(aligned, slices) < 1e-3
    assert loss(shifted, slices) > 5


def test_utterances_whose_phonemes_are_unknown_cost_nothing():
    loss = PhonemeLoss(width=8, count=5, slices_per_frame=4)
    encoded = torch.randn(2, 8, 6, requires_grad=True)
    told = torch.from_numpy(np.arange(24) % 5)[None]
    one = loss(encoded[:1], told)
    both = loss(encoded, torch.cat([told, torch.full_like(told, UNKNOWN)]))
    torch.testing.assert_close(one, both)
    loss(encoded, torch.full((2, 24), UNKNOWN)).backward()
    assert not encoded.grad.any()


def test_slices_past_the_last_frame_are_left_out():
    loss = PhonemeLoss(width=8, count=5, slices_per_frame=4)
    assert torch.isfinite(loss(torch.randn(1, 8, 2), torch.zeros(1, 40, dtype=torch.int64)))
