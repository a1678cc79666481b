"""How large batches may be, by what was measured."""

import math

import pytest
import torch

from pipelines.training.batch_memory import Bucket, Limits, default_batch_seconds, largest

LENGTHS = (2.0, 5.0, 10.0, 20.0, 30.0)


def fitting(linear, quadratic, room=1000.0):
    return [Bucket(d, 1, int(room / (linear * d + quadratic * d * d))) for d in LENGTHS]


@pytest.mark.parametrize(("linear", "quadratic"), [(1.0, 0.0), (1.0, 0.02), (0.5, 0.1), (0.01, 0.2)])
def test_no_bucket_is_overfilled_and_all_are_nearly_full(linear, quadratic):
    buckets = fitting(linear, quadratic)
    limits = Limits.of(buckets)
    for bucket in buckets:
        d = bucket.seconds
        cost = d + (d * d / limits.quadratic_seconds if limits.quadratic_seconds else 0)
        assert int(limits.batch_seconds / cost) <= bucket.utterances
        assert limits.batch_seconds / cost >= 0.8 * bucket.utterances - 1


def test_one_length_needs_no_square():
    assert Limits.of([Bucket(12.0, 30, 7)]) == Limits(84.0, None)


@pytest.mark.parametrize("most", [0, 1, 2, 3, 37, 500, 10_000])
def test_the_largest_batch_is_found_without_trying_what_is_far_too_large(most):
    tried = []

    def peak(batch):
        tried.append(batch)
        return 100.0 + 7 * batch

    found = largest(peak, limit=100 + 7 * most)
    assert found <= most
    assert found >= min(most, 4096) * 15 / 16 - 1
    assert max(tried) <= max(2, 1.1 * most)
    assert len(tried) < 24


def test_what_does_not_fit_is_met_only_at_the_limit():
    assert largest(lambda batch: math.inf if batch > 5 else 1.0, limit=10) == 5


def test_without_measurements_a_cpu_takes_little():
    assert default_batch_seconds(10**9, torch.device("cpu")) == 40
