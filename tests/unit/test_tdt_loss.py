import itertools
import math

import pytest
import torch

from rayapp.asr.tdt_loss import TDTLoss, rnnt_loss, tdt_loss


def batch(size=3, frames=7, labels=4, vocabulary=5, durations=5, dtype=torch.float64):
    """Random logits and targets of different lengths."""
    generator = torch.Generator().manual_seed(frames * 100 + labels)
    tokens = torch.randn(size, frames, labels + 1, vocabulary + 1, dtype=dtype, generator=generator)
    lasting = torch.randn(size, frames, labels + 1, durations, dtype=dtype, generator=generator)
    targets = torch.randint(0, vocabulary, (size, labels), generator=generator)
    frame_lengths = torch.tensor([frames, *(max(frames - 1 - i, 1) for i in range(size - 1))])
    label_lengths = torch.tensor([labels, *(max(labels - 1 - i, 0) for i in range(size - 1))])
    return tokens, lasting, targets, frame_lengths, label_lengths


def log_likelihood_by_enumeration(tokens, lasting, targets, frames, labels, blank, durations, sigma):
    """Sum over every path, one by one: each step emits the next label or a blank, and moves on."""
    token_log_probs, duration_log_probs = tokens.log_softmax(-1) - sigma, lasting.log_softmax(-1)

    def paths(t, u):
        if t == frames:
            return
        for k, duration in enumerate(durations):
            if duration and t + duration <= frames:
                step = token_log_probs[t, u, blank] + duration_log_probs[t, u, k]
                if t + duration == frames and u == labels:
                    yield step
                yield from (step + rest for rest in paths(t + duration, u))
            if u < labels and t + duration < frames:
                step = token_log_probs[t, u, targets[u]] + duration_log_probs[t, u, k]
                yield from (step + rest for rest in paths(t + duration, u + 1))

    return torch.logsumexp(torch.stack(list(paths(0, 0))), 0)


@pytest.mark.parametrize("durations", [[0, 1, 2], [0, 1, 2, 3, 4], [1, 2], [0, 2, 3]])
@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_the_loss_is_the_sum_over_all_paths(durations, sigma):
    tokens, lasting, targets, frame_lengths, label_lengths = batch(frames=5, labels=2, durations=len(durations))
    losses = tdt_loss(tokens, lasting, targets, frame_lengths, label_lengths, blank=5, durations=durations, sigma=sigma)
    for i in range(len(losses)):
        expected = -log_likelihood_by_enumeration(
            tokens[i], lasting[i], targets[i], frame_lengths[i], label_lengths[i], 5, durations, sigma
        )
        assert losses[i].item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize(("frames", "labels"), [(7, 4), (30, 12), (12, 0)])
def test_loss_and_gradient_agree_with_transformers(frames, labels):
    from transformers.loss.loss_tdt import tdt_loss as theirs

    tokens, lasting, targets, frame_lengths, label_lengths = batch(frames=frames, labels=labels, dtype=torch.float32)
    grads, values = [], []
    for compute in (
        lambda a, b: tdt_loss(
            a, b, targets, frame_lengths, label_lengths, blank=5, durations=[0, 1, 2, 3, 4], sigma=0.02
        ),
        lambda a, b: theirs(
            a, b, targets, frame_lengths, label_lengths, 5, [0, 1, 2, 3, 4], sigma=0.02, reduction="none"
        ),
    ):
        inputs = tokens.clone().requires_grad_(), lasting.clone().requires_grad_()
        loss = compute(*inputs)
        (loss * torch.arange(1, len(loss) + 1)).sum().backward()
        values.append(loss.detach())
        grads.append([x.grad for x in inputs])
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-4)
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("durations", [[0, 1, 2, 3, 4], [1, 3]])
def test_the_gradient_is_exact(durations):
    tokens, lasting, *rest = batch(size=2, frames=5, labels=3, durations=len(durations))
    torch.autograd.gradcheck(
        lambda a, b: tdt_loss(a, b, *rest, blank=5, durations=durations, sigma=0.05),
        (tokens.requires_grad_(), lasting.requires_grad_()),
    )


def test_without_durations_it_is_the_rnnt_loss_of_torchaudio():
    import torchaudio

    tokens, _, targets, frame_lengths, label_lengths = batch(dtype=torch.float32)
    expected = torchaudio.functional.rnnt_loss(
        tokens, targets.int(), frame_lengths.int(), label_lengths.int(), blank=5, reduction="none"
    )
    torch.testing.assert_close(rnnt_loss(tokens, targets, frame_lengths, label_lengths, blank=5), expected)
    torch.autograd.gradcheck(
        lambda a: rnnt_loss(a, targets, frame_lengths, label_lengths, blank=5), (tokens.double().requires_grad_(),)
    )


def test_what_lies_in_the_padding_changes_nothing():
    tokens, lasting, targets, frame_lengths, label_lengths = batch()
    first = tdt_loss(tokens, lasting, targets, frame_lengths, label_lengths, blank=5, durations=[0, 1, 2, 3, 4])
    for i, (frames, labels) in enumerate(zip(frame_lengths, label_lengths, strict=True)):
        tokens[i, frames:] = 50.0
        lasting[i, :, labels + 1 :] = -50.0
        targets[i, labels:] = 0
    second = tdt_loss(tokens, lasting, targets, frame_lengths, label_lengths, blank=5, durations=[0, 1, 2, 3, 4])
    torch.testing.assert_close(first, second)


def test_long_utterances_stay_finite():
    tokens, lasting, targets, frame_lengths, label_lengths = batch(frames=400, labels=150, dtype=torch.float32)
    tokens = (tokens * 10).requires_grad_()
    loss = tdt_loss(tokens, lasting, targets, frame_lengths, label_lengths, blank=5, durations=[0, 1, 2, 3, 4])
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(tokens.grad).all()


def test_nemos_call_is_split_into_tokens_and_durations():
    tokens, lasting, targets, frame_lengths, label_lengths = batch()
    module = TDTLoss(blank=5, durations=[0, 1, 2, 3, 4], sigma=0.02)
    losses = module(
        acts=torch.cat([tokens, lasting], -1), labels=targets, act_lens=frame_lengths, label_lens=label_lengths
    )
    expected = tdt_loss(
        tokens, lasting, targets, frame_lengths, label_lengths, blank=5, durations=[0, 1, 2, 3, 4], sigma=0.02
    )
    torch.testing.assert_close(losses, expected)


def test_omega_is_the_share_of_batches_with_the_plain_loss():
    tokens, lasting, *rest = batch(dtype=torch.float32)
    module = TDTLoss(blank=5, durations=[0, 1, 2, 3, 4], omega=0.3)
    plain = rnnt_loss(tokens, *rest, blank=5)
    torch.manual_seed(0)
    draws = [torch.equal(module(torch.cat([tokens, lasting], -1), *rest), plain) for _ in range(300)]
    assert sum(draws) / len(draws) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("durations", [[], [0], [2, 1], [1, 1], [-1, 1]])
def test_durations_that_make_no_sense_are_refused(durations):
    tokens, lasting, *rest = batch(durations=max(len(durations), 1))
    with pytest.raises(ValueError, match="durations must"):
        tdt_loss(tokens, lasting, *rest, blank=5, durations=durations)


@pytest.mark.parametrize(("frames", "labels"), [(8, 4), (7, 5), (-1, 4)])
def test_lengths_beyond_the_logits_are_refused(frames, labels):
    tokens, lasting, targets, *_ = batch(size=1)
    lengths = torch.tensor([frames]), torch.tensor([labels])
    for loss in (
        lambda: tdt_loss(tokens, lasting, targets, *lengths, blank=5, durations=[0, 1, 2, 3, 4]),
        lambda: rnnt_loss(tokens, targets, *lengths, blank=5),
    ):
        with pytest.raises(ValueError, match="_lengths must lie within 0 and"):
            loss()


def test_the_enumeration_itself_counts_every_path():
    """Two frames, one label, durations 0 and 1: three paths, each with the same probability."""
    tokens, lasting = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    total = log_likelihood_by_enumeration(tokens, lasting, [0], 2, 1, 1, [0, 1], 0.0)
    paths = [p for p in itertools.product("bl", repeat=3) if p.count("l") == 1 and p[-1] == "b"]
    by_hand = math.log(len(paths) * (1 / 4) ** 3 + (1 / 4) ** 2)  # and one path whose label takes a frame
    assert total.item() == pytest.approx(by_hand)
