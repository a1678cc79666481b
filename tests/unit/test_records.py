import numpy as np
import pytest

from pipelines.manifests.rows import manifest_table
from rayapp.errors import RejectedError
from rayapp.records import MANIFEST_SCHEMA, Term, Utterance, Voice, slots_from_table, slots_to_table
from rayapp.stage import Resources, run_stages
from rayapp.workers import pack, unpack


def test_an_utterance_survives_the_way_between_workers(spoken):
    sent = spoken().with_step("noise", 1, snr_db=12.5, background="murmur").with_quality(wer=0.25)
    (received,) = unpack(pack([sent]))
    assert received.slot == sent.slot
    assert received.transcript == sent.transcript
    assert (received.steps, received.quality) == (sent.steps, sent.quality)
    assert received.phonemes == sent.phonemes != ()
    assert received.words == sent.words != ()
    assert np.array_equal(received.audio, sent.audio)
    assert received.utterance_id == sent.utterance_id


def test_a_slot_survives_the_plan(slot):
    cast = (
        Voice("espeak", "cmn+m3", "cmn", "zh", rate_wpm=150, pitch=40, role="clinician"),
        Voice("espeak", "en-us+f2", "en-us", "en", role="patient"),
    )
    companions = (Term("aspirin", "drug", pronunciation="as-prin", weight=2.0), Term("losartan", "drug"))
    slots = [slot(companions=companions, cast=cast), slot(term=None, style="everyday_en")]
    assert slots_from_table(slots_to_table(slots)) == slots


def test_a_turn_goes_to_the_voice_of_its_role_and_language(slot):
    def voice(role, language):
        return Voice("espeak", f"{role} {language}", "", language, role=role)

    cast = tuple(voice(role, language) for role in ("clinician", "patient") for language in ("zh", "en"))
    one = slot(cast=cast)
    assert one.voice_for("patient", "en").name == "patient en"
    assert one.voice_for("patient", "fr").name == "patient zh"
    assert slot().voice_for("anyone", "zh") == slot().voice


def test_times_follow_audio_that_is_stretched_and_delayed(spoken):
    utterance = spoken()
    moved = utterance.retimed(stretch=2.0, delay_seconds=1.0)
    for before, after in zip(utterance.words, moved.words, strict=True):
        assert after.start_seconds == pytest.approx(2 * before.start_seconds + 1)
        assert after.end_seconds == pytest.approx(2 * before.end_seconds + 1)
    assert moved.phonemes[-1].start_seconds == pytest.approx(2 * utterance.phonemes[-1].start_seconds + 1)


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
    (done,) = run_stages(stages, [spoken()])
    assert (done.status, done.reason, done.audio) == ("rejected", "failing: too quiet", None)


def test_a_fault_in_a_stage_rejects_the_row_and_tells_nothing_of_what_was_said(spoken):
    (done,) = run_stages([Failing(RuntimeError("losartan for Mr Miller"))], [spoken()])
    assert done.status == "rejected"
    assert "Miller" not in done.reason


class Doubling:
    name = "doubling"
    version = 1
    resources = Resources()
    batch_size = 3

    def __init__(self):
        self.batches = []

    def on_batch(self, utterances):
        self.batches.append(len(utterances))
        if any(utterance.slot.seed == 4 for utterance in utterances):
            raise RuntimeError("this batch is too much for me")
        return [
            RejectedError("odd") if utterance.slot.seed % 2 else utterance.with_step("doubling", 1)
            for utterance in utterances
        ]


def test_a_batch_that_fails_is_tried_row_by_row_and_a_bad_row_costs_the_others_nothing(slot):
    stage = Doubling()
    done = run_stages([stage], [Utterance(slot(seed=seed)) for seed in range(7)])
    assert [u.reason for u in done] == [
        "",
        "doubling: odd",
        "",
        "doubling: odd",
        "doubling: RuntimeError",
        "doubling: odd",
        "",
    ]
    assert stage.batches == [3, 3, 1, 1, 1, 1]


def test_seconds_are_told_by_stage(spoken):
    seconds = {}
    run_stages([Doubling()], [spoken(seed=2)], seconds)
    assert seconds["doubling"] > 0


def test_rows_of_a_manifest_hold_flac_that_decodes_to_what_was_made(spoken):
    from rayapp.audio.codec import decode

    utterance = spoken()
    table = manifest_table([utterance, Utterance(utterance.slot).rejected("speech: said nothing")])
    assert table.schema == MANIFEST_SCHEMA
    good, bad = table.to_pylist()
    np.testing.assert_allclose(decode(good["audio"]["bytes"]), utterance.audio, atol=1e-4)
    assert good["audio_hash"]
    assert [word["text"] for word in good["words"]] == good["text"].split()
    assert (good["voice"], good["turns"], good["wer"]) == ("en-us+m3", [], None)
    assert (bad["audio"], bad["status"], bad["reason"]) == (None, "rejected", "speech: said nothing")
