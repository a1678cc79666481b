"""Token-and-duration transducer (TDT) loss in plain PyTorch, fast on a CPU.

NeMo's own TDT loss is a CUDA kernel. This one needs no compiler and no GPU: it works out the
forward and backward variables frame by frame, vectorised over batch and labels, and returns the
exact gradient instead of recording thousands of small operations for autograd.

Source: Xu et al., "Efficient Sequence Transduction by Jointly Predicting Tokens and Durations"
(https://arxiv.org/abs/2304.06795), cited below as TDT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_UNREACHABLE = -1e30
"""Log probability of what cannot be; finite, so that differences of it stay numbers."""


def tdt_loss(
    token_logits: Tensor,
    duration_logits: Tensor,
    labels: Tensor,
    frame_lengths: Tensor,
    label_lengths: Tensor,
    *,
    blank: int,
    durations: Sequence[int],
    sigma: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of each utterance, summed over all its alignments.

    token_logits: (batch, frames, labels + 1, vocabulary + 1), unnormalised.
    duration_logits: (batch, frames, labels + 1, durations), unnormalised.
    labels: (batch, labels), int. frame_lengths, label_lengths: (batch,), int.
    sigma: logit under-normalisation (TDT section 3.3): each token costs this much more, which
        favours long durations.

    Returns (batch,), in the dtype of the logits. Infinite-like (> 1e29) where the frames are too few
    for the labels.

    >>> zeros = torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 2)  # one frame, no label
    >>> loss = tdt_loss(*zeros, torch.zeros(1, 0, dtype=int), torch.tensor([1]), torch.tensor([0]),
    ...                 blank=2, durations=[0, 1])
    >>> round(loss.item(), 4)  # ln 3 for the blank, ln 2 for its duration of 1
    1.7918
    """
    if list(durations) != sorted(set(durations)) or not durations or durations[0] < 0:
        raise ValueError(f"durations must rise from 0 or above, without repeats; got {list(durations)}")
    if durations[-1] == 0:
        raise ValueError("durations must hold one above 0, or no blank could end the utterance; got [0]")
    loss: Tensor = _Transducer.apply(  # type: ignore[no-untyped-call]
        token_logits, duration_logits, labels, frame_lengths, label_lengths, blank, tuple(durations), sigma
    )
    return loss


def rnnt_loss(
    token_logits: Tensor, labels: Tensor, frame_lengths: Tensor, label_lengths: Tensor, *, blank: int
) -> Tensor:
    """Plain RNN-T loss (Graves 2012): a blank takes one frame, a label takes none. Shapes as above."""
    loss: Tensor = _Transducer.apply(  # type: ignore[no-untyped-call]
        token_logits, None, labels, frame_lengths, label_lengths, blank, (0, 1), 0.0
    )
    return loss


class TDTLoss(torch.nn.Module):
    """The call that NeMo's `RNNTLoss` makes on its inner loss, answered by `tdt_loss`.

    omega: the probability that a batch is trained with the plain RNN-T loss on its tokens instead
        (TDT section 4.1), so that the tokens stay good without durations.
    """

    def __init__(self, blank: int, durations: Sequence[int], sigma: float = 0.0, omega: float = 0.0) -> None:
        super().__init__()
        self.blank = blank
        self.durations = list(durations)
        self.sigma = sigma
        self.omega = omega
        self.reduction = None  # NeMo reduces; it sets and resets this attribute around each call

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """acts: (batch, frames, labels + 1, vocabulary + 1 + durations), as NeMo's joint gives them."""
        tokens, durations = acts.split([self.blank + 1, len(self.durations)], dim=-1)
        if self.omega and torch.rand(()).item() < self.omega:
            return rnnt_loss(tokens, labels, act_lens, label_lens, blank=self.blank)
        return tdt_loss(
            tokens,
            durations,
            labels,
            act_lens,
            label_lens,
            blank=self.blank,
            durations=self.durations,
            sigma=self.sigma,
        )


class _Transducer(torch.autograd.Function):
    """Forward variables on the way in; backward variables and arc occupancies on the way out.

    Duration logits of None make it the plain RNN-T: blanks take exactly 1 frame, labels exactly 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        token_logits: Tensor,
        duration_logits: Tensor | None,
        labels: Tensor,
        frame_lengths: Tensor,
        label_lengths: Tensor,
        blank: int,
        durations: tuple[int, ...],
        sigma: float,
    ) -> Tensor:
        labels = labels[:, : token_logits.shape[2] - 1].long()
        frame_lengths, label_lengths = frame_lengths.long(), label_lengths.long()
        # One utterance at a time: the temporaries stay in the cache, which is 3 times as fast.
        token_norm = torch.stack([utterance.logsumexp(-1) for utterance in token_logits])
        duration_log_probs = None if duration_logits is None else duration_logits.log_softmax(-1)
        blank_arcs, label_arcs = _arcs(
            token_logits, token_norm, duration_log_probs, labels, label_lengths, blank, durations, sigma
        )
        alpha = _alpha(blank_arcs, label_arcs, durations)
        total = _end(alpha, blank_arcs, frame_lengths, label_lengths, durations)
        ctx.save_for_backward(
            token_logits, token_norm, duration_log_probs, labels, frame_lengths, label_lengths,
            blank_arcs, label_arcs, alpha, total,
        )  # fmt: skip
        ctx.blank, ctx.durations = blank, durations
        return -total

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        (token_logits, token_norm, duration_log_probs, labels, frame_lengths, label_lengths,
         blank_arcs, label_arcs, alpha, total) = ctx.saved_tensors  # fmt: skip
        betas = _beta(blank_arcs, label_arcs, frame_lengths, label_lengths, ctx.durations)
        blank_use, label_use = _occupancies(alpha, betas, blank_arcs, label_arcs, total, ctx.durations)
        scale = grad_loss[:, None, None, None]
        blank_use, label_use = blank_use * scale, label_use * scale

        # d(-log p)/d(logit) of a softmax output is use_of_all * softmax - use_of_this.
        blank_total, label_total = blank_use.sum(-1), label_use.sum(-1)
        all_total = blank_total + label_total
        grad_tokens = torch.empty_like(token_logits)
        for grad, logits, norm, use in zip(grad_tokens, token_logits, token_norm, all_total, strict=True):
            torch.sub(logits, norm[..., None], out=grad).exp_().mul_(use[..., None])
        grad_tokens[..., ctx.blank] -= blank_total
        index = labels[:, None, :, None].expand(-1, token_logits.shape[1], -1, 1)
        grad_tokens[:, :, :-1].scatter_add_(-1, index, -label_total[:, :, :-1, None])
        grad_durations = None
        if duration_log_probs is not None:
            use = blank_use + label_use
            grad_durations = duration_log_probs.exp() * use.sum(-1, keepdim=True) - use
        return grad_tokens, grad_durations, None, None, None, None, None, None


def _arcs(
    token_logits: Tensor,
    token_norm: Tensor,
    duration_log_probs: Tensor | None,
    labels: Tensor,
    label_lengths: Tensor,
    blank: int,
    durations: tuple[int, ...],
    sigma: float,
) -> tuple[Tensor, Tensor]:
    """Log probability of leaving each node by a blank and by its label, per duration.

    Returns two (batch, frames, labels + 1, durations). A blank of duration 0 does not exist, nor
    does a label after the last one.
    """
    batch, frames, states, _ = token_logits.shape
    blank_log_probs = token_logits[..., blank] - token_norm - sigma
    index = labels[:, None, :, None].expand(-1, frames, -1, 1)
    label_logits = token_logits[:, :, :-1].gather(-1, index).squeeze(-1)
    label_log_probs = token_logits.new_full((batch, frames, states), _UNREACHABLE)
    label_log_probs[:, :, :-1] = label_logits - token_norm[:, :, :-1] - sigma
    past_the_last = torch.arange(states, device=labels.device) >= label_lengths[:, None]
    label_log_probs.masked_fill_(past_the_last[:, None], _UNREACHABLE)

    if duration_log_probs is None:
        sure, never = torch.zeros_like(blank_log_probs), torch.full_like(blank_log_probs, _UNREACHABLE)
        return (
            torch.stack([never, blank_log_probs], -1),
            torch.stack([label_log_probs + sure, never], -1),
        )
    blank_arcs = blank_log_probs[..., None] + duration_log_probs
    if durations[0] == 0:
        blank_arcs[..., 0] = _UNREACHABLE
    return blank_arcs, label_log_probs[..., None] + duration_log_probs


def _alpha(blank_arcs: Tensor, label_arcs: Tensor, durations: tuple[int, ...]) -> Tensor:
    """alpha[b, t, u]: log probability of all ways from the start to frame t with u labels out (TDT eq. 6)."""
    batch, frames, states, _ = blank_arcs.shape
    alpha = blank_arcs.new_full((batch, frames, states), _UNREACHABLE)
    for t in range(frames):
        ways = []
        if t == 0:
            start = blank_arcs.new_full((batch, states), _UNREACHABLE)
            start[:, 0] = 0.0
            ways.append(start)
        for k, d in enumerate(durations):
            if d == 0 or d > t:
                continue
            source = alpha[:, t - d]
            ways.append(source + blank_arcs[:, t - d, :, k])
            ways.append(_shift_right(source + label_arcs[:, t - d, :, k]))
        here = torch.logsumexp(torch.stack(ways), 0) if ways else alpha[:, t]
        alpha[:, t] = _emit_within_frame(here, label_arcs[:, t, :, 0]) if durations[0] == 0 else here
    return alpha


def _beta(
    blank_arcs: Tensor, label_arcs: Tensor, frame_lengths: Tensor, label_lengths: Tensor, durations: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """beta[b, t, u]: log probability of all ways from frame t with u labels out to the end (TDT eq. 7).

    Returns (batch, frames + durations[-1], labels + 1) twice: as a label finds it on arriving, and as
    a blank does. They differ at the end itself, an utterance's own length, which only a blank may reach.
    """
    batch, frames, states, _ = blank_arcs.shape
    after_label = blank_arcs.new_full((batch, frames + durations[-1], states), _UNREACHABLE)
    after_blank = after_label.clone()
    after_blank[torch.arange(batch, device=after_blank.device), frame_lengths, label_lengths] = 0.0
    for t in range(frames - 1, -1, -1):
        ways = []
        for k, d in enumerate(durations):
            if d == 0:
                continue
            ways.append(after_blank[:, t + d] + blank_arcs[:, t, :, k])
            ways.append(_shift_left(after_label[:, t + d]) + label_arcs[:, t, :, k])
        here = torch.logsumexp(torch.stack(ways), 0)
        if durations[0] == 0:
            steps = _shift_left(label_arcs[:, t, :, 0].flip(-1))
            here = _emit_within_frame(here.flip(-1), steps).flip(-1)
        inside = (t < frame_lengths)[:, None]
        after_label[:, t] = torch.where(inside, here, after_label[:, t])
        after_blank[:, t] = torch.where(inside, here, after_blank[:, t])
    return after_label, after_blank


def _occupancies(
    alpha: Tensor,
    betas: tuple[Tensor, Tensor],
    blank_arcs: Tensor,
    label_arcs: Tensor,
    total: Tensor,
    durations: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """Posterior probability of each arc: (batch, frames, labels + 1, durations) for blanks and for labels."""
    frames = alpha.shape[1]
    after_label, after_blank = betas
    source = (alpha - total[:, None, None])[..., None]
    blank_ends = torch.stack([after_blank[:, d : d + frames] for d in durations], -1)
    label_ends = torch.stack([_shift_left(after_label[:, d : d + frames]) for d in durations], -1)
    return (source + blank_arcs + blank_ends).exp(), (source + label_arcs + label_ends).exp()


def _end(
    alpha: Tensor, blank_arcs: Tensor, frame_lengths: Tensor, label_lengths: Tensor, durations: tuple[int, ...]
) -> Tensor:
    """Log probability of all alignments, (batch,): each ends by a blank whose duration meets the end."""
    rows = torch.arange(alpha.shape[0], device=alpha.device)
    ways = []
    for k, d in enumerate(durations):
        if d == 0:
            continue
        last = (frame_lengths - d).clamp(min=0)
        way = alpha[rows, last, label_lengths] + blank_arcs[rows, last, label_lengths, k]
        ways.append(way.masked_fill(frame_lengths < d, _UNREACHABLE))
    return torch.logsumexp(torch.stack(ways), 0)


def _emit_within_frame(arriving: Tensor, steps: Tensor) -> Tensor:
    """Solve x[u] = logaddexp(arriving[u], x[u - 1] + steps[u - 1]) along the last axis, without a loop.

    With c[u] = steps[0] + … + steps[u - 1] this is x[u] = c[u] + logcumsumexp(arriving - c)[u].
    A step that cannot be taken would drown c in rounding, so it counts as 0 there: such steps lie
    behind the last label only, where nothing arrives and nothing leads back.
    """
    taken = steps[..., :-1].masked_fill(steps[..., :-1] < _UNREACHABLE / 2, 0.0)
    offsets = torch.nn.functional.pad(taken.cumsum(-1), (1, 0))
    return offsets + (arriving - offsets).logcumsumexp(-1)


def _shift_right(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x[..., :-1], (1, 0), value=_UNREACHABLE)


def _shift_left(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x[..., 1:], (0, 1), value=_UNREACHABLE)
