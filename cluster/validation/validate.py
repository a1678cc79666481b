"""All checks of an overlay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.validation import kuberay, nodes, policies, queues, references, safety
from cluster.validation.manifests import Overlay, Problem
from cluster.validation.programs import Readers, read_programs
from cluster.validation.schemas import Schemas


@dataclass(frozen=True)
class Verdict:
    """On an overlay."""

    objects: int
    problems: Sequence[Problem]
    not_checked: Counter[str]
    """What could not be checked, and how often."""


def validate(overlay: Overlay, schemas: Schemas, readers: Readers) -> Verdict:
    not_checked: Counter[str] = Counter()
    problems = [problem for manifest in overlay.manifests for problem in schemas.problems(manifest, not_checked)]
    # The checks behind read fields whose shapes those have proved.
    if not problems:
        programs, problems = read_programs(overlay, readers, not_checked)
        problems += [problem for manifest in overlay.manifests for problem in kuberay.problems(manifest)]
        problems += references.problems(overlay, not_checked)
        problems += safety.problems(overlay, not_checked)
        problems += policies.problems(overlay, not_checked)
        problems += queues.problems(overlay, not_checked)
        problems += nodes.problems(overlay, programs, not_checked)
    return Verdict(len(overlay.manifests), problems, not_checked)
