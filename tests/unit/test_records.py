import numpy as np
import pytest

from pipelines.manifests.write import manifest_table
from rayapp.errors import RejectedError
from rayapp.execution import run_stages
from rayapp.records import MANIFEST_SCHEMA, Term, Utterance, slots_to_table, utterances_from_table, utterances_to_table
from rayapp.stage import Resources


def test_an_utterance_survives_the_way_between_workers(spoken):
    sent = spoken().with_step("noise", 1, snr_db=12.5, background="murmur")
    (received,) = utterances_from_table(utterances_to_table([sent]))
    assert received.slot == sent.slot
    assert received.transcript == sent.transcript
    assert received.steps == sent.steps
    assert [p.symbol for p in received.phonemes] == [p.symbol for p in sent.phonemes] != []
    assert received.phonemes[3].start_seconds == pytest.approx(sent.phonemes[3].start_seconds)
    assert np.array_equal(received.audio, sent.audio)
    assert received.utterance_id == sent.utterance_id


def test_the_companions_of_a_term_survive_the_plan(slot):
    listed = slot(companions=(Term("aspirin", "drug", pronunciation="as-prin", weight=2.0), Term("losartan", "drug")))
    (received,) = utterances_from_table(slots_to_table([listed]))
    assert received.slot == listed


def test_a_slot_without_a_term_survives_the_plan(slot):
    everyday = slot(term=None, style="everyday_en")
    (received,) = utterances_from_table(slots_to_table([everyday]))
    assert received.slot == everyday
    assert received.audio is None


def test_changing_a_record_leaves_the_first_as_it_was(spoken):
    first = spoken()
    second = first.with_audio(first.audio * 2).with_step("gain", 1, gain_db=6)
    assert first.steps == ()
    assert not np.array_equal(first.audio, second.audio)


def test_the_version_of_a_stage_is_part_of_the_id(spoken):
    assert spoken().with_step("noise", 1).utterance_id != spoken().with_step("noise", 2).utterance_id


def test_purposes_draw_from_separate_streams(slot):
    one = slot()
    assert one.rng("noise").random() == one.rng("noise").random()
    assert one.rng("noise").random() != one.rng("room").random()


class Failing:
    name = "failing"
    version = 1
    resources = Resources()

    def __init__(self, error):
        self.error = error

    def __call__(self, utterance):
        raise self.error


class Untouched(Failing):
    def __call__(self, utterance):
        raise AssertionError("a rejected utterance went on")


def test_a_rejected_row_keeps_its_reason_and_goes_no_further(spoken):
    stages = [Failing(RejectedError("too quiet")), Untouched(None)]
    done = run_stages(stages, spoken())
    assert (done.status, done.reason, done.audio) == ("rejected", "failing: too quiet", None)


def test_a_fault_in_a_stage_rejects_the_row_and_tells_nothing_of_what_was_said(spoken):
    done = run_stages([Failing(RuntimeError("losartan for Mr Miller"))], spoken())
    assert done.status == "rejected"
    assert "Miller" not in done.reason


def test_rows_of_a_manifest_hold_flac_that_decodes_to_what_was_made(spoken):
    from rayapp.audio.codec import decode

    utterance = spoken()
    table = manifest_table([utterance, Utterance(utterance.slot).rejected("speech: said nothing")])
    assert table.schema == MANIFEST_SCHEMA
    good, bad = table.to_pylist()
    np.testing.assert_allclose(decode(good["audio"]["bytes"]), utterance.audio, atol=1e-4)
    assert good["audio_hash"]
    assert (bad["audio"], bad["status"], bad["reason"]) == (None, "rejected", "speech: said nothing")
