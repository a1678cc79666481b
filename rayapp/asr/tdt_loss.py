"""Token-and-duration transducer (TDT) loss that is fast on a CPU.

NeMo's own TDT loss is a CUDA kernel. This one works out the forward and backward variables in two
small loops that numba compiles, leaves what is as wide as the vocabulary to PyTorch, and returns the
exact gradient instead of recording thousands of small operations for autograd.

Source: Xu et al., "Efficient Sequence Transduction by Jointly Predicting Tokens and Durations"
(https://arxiv.org/abs/2304.06795), cited below as TDT.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

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

    Returns (batch,), in the dtype of the logits. Infinite-like (> 1e29), without a gradient, where the
    frames are too few for the labels. Raises `ValueError` for logits that are not on the CPU, and for
    lengths that exceed them.

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
    _check(token_logits, frame_lengths, label_lengths)
    loss: Tensor = _Transducer.apply(  # type: ignore[no-untyped-call]
        token_logits, duration_logits, labels, frame_lengths, label_lengths, blank, tuple(durations), sigma
    )
    return loss


def rnnt_loss(
    token_logits: Tensor, labels: Tensor, frame_lengths: Tensor, label_lengths: Tensor, *, blank: int
) -> Tensor:
    """Plain RNN-T loss (Graves 2012): a blank takes one frame, a label takes none. Shapes as above."""
    _check(token_logits, frame_lengths, label_lengths)
    loss: Tensor = _Transducer.apply(  # type: ignore[no-untyped-call]
        token_logits, None, labels, frame_lengths, label_lengths, blank, (0, 1), 0.0
    )
    return loss


def _check(token_logits: Tensor, frame_lengths: Tensor, label_lengths: Tensor) -> None:
    """The compiled loops trust the lengths."""
    if token_logits.device.type != "cpu":
        raise ValueError(f"this loss is for the CPU; the logits are on {token_logits.device}: use NeMo's kernel there")
    _, frames, states, _ = token_logits.shape
    for lengths, most, name in ((frame_lengths, frames, "frame"), (label_lengths, states - 1, "label")):
        if int(lengths.min()) < 0 or int(lengths.max()) > most:
            raise ValueError(f"{name}_lengths must lie within 0 and {most}; got {lengths.tolist()}")


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
        alpha, total = _forward_variables(
            blank_arcs.numpy(), label_arcs.numpy(), frame_lengths.numpy(), label_lengths.numpy(), np.array(durations)
        )
        ctx.save_for_backward(
            token_logits, token_norm, duration_log_probs, labels, frame_lengths, label_lengths, blank_arcs, label_arcs
        )
        ctx.blank, ctx.durations, ctx.alpha, ctx.total = blank, durations, alpha, total
        return torch.from_numpy(-total).to(token_logits.dtype)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        token_logits, token_norm, duration_log_probs, labels, frame_lengths, label_lengths, *arcs = ctx.saved_tensors
        blank_use, label_use = (
            torch.from_numpy(use).to(token_logits.dtype) * grad_loss[:, None, None, None]
            for use in _occupancies(
                ctx.alpha, ctx.total, *(arc.numpy() for arc in arcs), frame_lengths.numpy(), label_lengths.numpy(),
                np.array(ctx.durations),
            )
        )  # fmt: skip

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


@numba.njit(cache=True, nogil=True)
def _forward_variables(
    blank_arcs: NDArray[Any],
    label_arcs: NDArray[Any],
    frame_lengths: NDArray[np.int64],
    label_lengths: NDArray[np.int64],
    durations: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """alpha[b, t, u]: log probability of all ways from the start to frame t with u labels out (TDT eq. 6).

    Returns alpha, (batch, frames, labels + 1), and the log probability of all alignments, (batch,): each
    ends by a blank whose duration meets the end.
    """
    batch, frames, states, kinds = blank_arcs.shape
    alpha = np.full((batch, frames, states), _UNREACHABLE)
    total = np.empty(batch)
    ways = np.empty(2 * kinds + 1)
    for b in range(batch):
        last_frame, last_label = frame_lengths[b], label_lengths[b]
        for t in range(last_frame):
            for u in range(last_label + 1):
                ways[-1] = 0.0 if t == 0 and u == 0 else _UNREACHABLE
                for k in range(kinds):
                    source = t - durations[k]
                    ways[2 * k] = ways[2 * k + 1] = _UNREACHABLE
                    if source >= 0:
                        if durations[k] > 0:
                            ways[2 * k] = alpha[b, source, u] + blank_arcs[b, source, u, k]
                        if u > 0:
                            ways[2 * k + 1] = alpha[b, source, u - 1] + label_arcs[b, source, u - 1, k]
                alpha[b, t, u] = _log_sum_exp(ways)
        ways[:] = _UNREACHABLE
        for k in range(kinds):
            source = last_frame - durations[k]
            if durations[k] > 0 and source >= 0:
                ways[k] = alpha[b, source, last_label] + blank_arcs[b, source, last_label, k]
        total[b] = _log_sum_exp(ways)
    return alpha, total


@numba.njit(cache=True, nogil=True)
def _occupancies(
    alpha: NDArray[np.float64],
    total: NDArray[np.float64],
    blank_arcs: NDArray[Any],
    label_arcs: NDArray[Any],
    frame_lengths: NDArray[np.int64],
    label_lengths: NDArray[np.int64],
    durations: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior probability of each arc: (batch, frames, labels + 1, durations) for blanks and for labels.

    beta[t, u] is the log probability of all ways from frame t with u labels out to the end (TDT eq. 7).
    The end is an utterance's own length, and only a blank may reach it.
    """
    batch, kinds = blank_arcs.shape[0], blank_arcs.shape[3]
    blank_use, label_use = np.zeros(blank_arcs.shape), np.zeros(blank_arcs.shape)
    ways = np.empty(2 * kinds)
    for b in range(batch):
        if total[b] < _UNREACHABLE / 2:
            continue
        last_frame, last_label = frame_lengths[b], label_lengths[b]
        beta = np.full((last_frame, last_label + 1), _UNREACHABLE)
        for t in range(last_frame - 1, -1, -1):
            for u in range(last_label, -1, -1):
                for k in range(kinds):
                    target = t + durations[k]
                    ways[2 * k] = ways[2 * k + 1] = _UNREACHABLE
                    if durations[k] > 0:
                        if target < last_frame:
                            ways[2 * k] = beta[target, u] + blank_arcs[b, t, u, k]
                        elif target == last_frame and u == last_label:
                            ways[2 * k] = blank_arcs[b, t, u, k]
                    if u < last_label and target < last_frame:
                        ways[2 * k + 1] = beta[target, u + 1] + label_arcs[b, t, u, k]
                beta[t, u] = _log_sum_exp(ways)
                for k in range(kinds):
                    blank_use[b, t, u, k] = math.exp(min(alpha[b, t, u] + ways[2 * k] - total[b], 0.0))
                    label_use[b, t, u, k] = math.exp(min(alpha[b, t, u] + ways[2 * k + 1] - total[b], 0.0))
    return blank_use, label_use


@numba.njit(cache=True, nogil=True)
def _log_sum_exp(ways: NDArray[np.float64]) -> float:
    most = ways.max()
    if most < _UNREACHABLE / 2:
        return _UNREACHABLE
    total = 0.0
    for way in ways:
        total += math.exp(way - most)
    return float(most + math.log(total))
