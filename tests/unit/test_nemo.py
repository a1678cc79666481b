"""NeMo's recognisers of each kind: small models with random weights, of NeMo's own classes."""

import numpy as np
import pytest
import torch

from rayapp.asr.context import NOTHING_KNOWN, Context
from rayapp.asr.open import open_recogniser, open_tokeniser
from rayapp.asr.recipes import fastconformer_tdt_small, recipe, train_tokenizer
from rayapp.asr.recogniser import SpeechBatch
from rayapp.asr.text import plain_text
from rayapp.asr.tokeniser import PieceTokeniser
from rayapp.errors import UserError

pytestmark = pytest.mark.slow

SENTENCES = (
    "please start losartan today",
    "she has water at night",
    "we stopped it last week",
    "no pain when he walks",
)
KINDS = ("tdt", "rnnt", "hybrid", "ctc")


def ctc_decoder():
    return {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": None,
        "num_classes": -1,
        "vocabulary": [],
    }


def config(kind, tokenizer, **encoder):
    """The small recipe with another head."""
    settings = fastconformer_tdt_small(tokenizer)
    settings["encoder"] |= {"n_layers": 2, "d_model": 64, "n_heads": 2, **encoder}
    settings["model_defaults"] |= {"enc_hidden": 64, "pred_hidden": 64, "joint_hidden": 64}
    settings["decoder"]["prednet"]["pred_hidden"] = 64
    if kind in ("rnnt", "hybrid"):
        settings["loss"] = {"loss_name": "default"}
        settings["decoding"] = {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}}
        settings["joint"]["num_extra_outputs"] = 0
    if kind == "hybrid":
        settings["target"] = "nemo.collections.asr.models.EncDecHybridRNNTCTCBPEModel"
        settings["aux_ctc"] = {"ctc_loss_weight": 0.3, "decoder": ctc_decoder(), "decoding": {"strategy": "greedy"}}
    if kind == "ctc":
        settings["target"] = "nemo.collections.asr.models.EncDecCTCModelBPE"
        settings["decoder"] = ctc_decoder()
        settings["decoding"] = {"strategy": "greedy"}
        del settings["joint"], settings["loss"], settings["rnnt_reduction"]
    return settings


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(SENTENCES, folder, 48)
    return folder


@pytest.fixture(scope="module")
def build(tokenizer):
    from rayapp.asr.nemo import NemoRecogniser

    def make(kind, label_noise=0.0, **encoder):
        torch.manual_seed(0)
        return NemoRecogniser.build(config(kind, tokenizer, **encoder), label_noise=label_noise)

    return make


@pytest.fixture(scope="module")
def speech():
    """The sentences as espeak-ng speaks them, with its word times."""
    from pipelines.speech.espeak import speak

    return [speak(text, "en-us+m3", rate_wpm=160, pitch=50) for text in SENTENCES]


@pytest.fixture(scope="module")
def batch(speech, tokenizer):
    return make_batch([audio for audio, *_ in speech], SENTENCES, tokenizer)


def make_batch(audio, texts, tokenizer):
    tokeniser = PieceTokeniser([(tokenizer / "tokenizer.model").read_bytes()])
    pad = torch.nn.utils.rnn.pad_sequence
    tokens = [torch.tensor(tokeniser.encode(text)) for text in texts]
    return SpeechBatch(
        pad([torch.from_numpy(a) for a in audio], batch_first=True),
        torch.tensor([len(a) for a in audio]),
        pad(tokens, batch_first=True),
        torch.tensor([len(t) for t in tokens]),
        torch.empty(len(audio), 0, dtype=torch.int64),
    )


def loss_and_gradients(recogniser, batch, seed=1):
    recogniser.module.zero_grad()
    torch.manual_seed(seed)
    loss = recogniser.module(*batch)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in recogniser.module.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def learnt(recogniser, batch):
    """By heart."""
    optimizer = torch.optim.AdamW(recogniser.module.parameters(), lr=3e-3)
    recogniser.module.train()
    for _ in range(110):
        loss = recogniser.module(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return recogniser


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_by_heart_and_hears_it_with_times_and_confidences(kind, build, batch, speech, tmp_path):
    recogniser = learnt(build(kind), batch)
    audio = [samples for samples, *_ in speech]
    with_times = recogniser.transcribe(audio, times=True)
    assert [heard.text for heard in with_times] == list(SENTENCES)
    assert [heard.text for heard in recogniser.transcribe(audio)] == list(SENTENCES)
    among_others = recogniser.transcribe([np.zeros(31 * 16000, np.float32), audio[0], np.zeros(0, np.float32)])
    assert among_others[1].text == SENTENCES[0]
    assert among_others[2].text == ""
    for heard, samples, (*_, spoken) in zip(with_times, audio, speech, strict=True):
        assert [word.text for word in heard.words] == heard.text.split()
        assert all(0 < word.confidence <= 1 for word in heard.words)
        starts = [word.start_seconds for word in heard.words]
        assert starts == sorted(starts)
        assert all(0 <= word.start_seconds < word.end_seconds < len(samples) / 16000 + 0.16 for word in heard.words)
        if kind in ("tdt", "ctc"):  # a plain transducer emits when it likes
            for word, true in zip(heard.words, spoken, strict=True):
                assert word.start_seconds < true.end_seconds + 0.08
                assert word.end_seconds + 0.08 > true.start_seconds

    recogniser.save(tmp_path / "model.nemo")
    assert type(recogniser).load(tmp_path / "model.nemo").transcribe(audio, times=True) == with_times
    assert open_tokeniser(tmp_path / "model.nemo").encode(SENTENCES[0]) == recogniser.tokeniser.encode(SENTENCES[0])


def test_the_tokeniser_gives_nemos_tokens(build):
    recogniser = build("ctc")
    for text in ("Please start – losartan!", "5 mg", "", "ελ"):
        assert recogniser.tokeniser.encode(text) == recogniser.model.tokenizer.text_to_ids(plain_text(text))


def test_phonemes_are_learnt_from_the_slices_of_a_batch_and_not_saved(build, batch):
    recogniser = build("ctc")
    recogniser.module.eval()
    words = recogniser.module(*batch).item()
    recogniser.learn_phonemes(40, weight=10.0)
    slices = torch.randint(0, 40, (4, 60))
    assert recogniser.module(*batch._replace(phoneme_slices=slices)).item() > words + 30
    assert not any("phoneme" in name for name in recogniser.model.state_dict())


def test_what_lies_at_a_path_says_whose_recogniser_it_is(build, tmp_path):
    from rayapp.asr.nemo import NemoRecogniser
    from rayapp.asr.tiny_whisper import tiny_whisper
    from rayapp.asr.whisper import WhisperRecogniser, WhisperTokeniser

    build("ctc").save(tmp_path / "model.nemo")
    tiny_whisper(tmp_path / "whisper", list(SENTENCES))
    assert isinstance(open_recogniser(tmp_path / "model.nemo"), NemoRecogniser)
    assert isinstance(open_tokeniser(tmp_path / "model.nemo"), PieceTokeniser)
    assert isinstance(open_recogniser(tmp_path / "whisper"), WhisperRecogniser)
    assert isinstance(open_tokeniser(tmp_path / "whisper"), WhisperTokeniser)
    for open_it in (open_recogniser, open_tokeniser):
        with pytest.raises(UserError, match="is a folder without a Whisper model"):
            open_it(tmp_path)


def test_a_saved_model_is_one_that_nemo_itself_transcribes_with(build, speech, tmp_path):
    from nemo.collections.asr.models import ASRModel

    from rayapp.audio.codec import encode_flac

    build("tdt").save(tmp_path / "model.nemo")
    (tmp_path / "note.flac").write_bytes(encode_flac(speech[0].audio))
    model = ASRModel.restore_from(str(tmp_path / "model.nemo"), map_location="cpu")
    (heard,) = model.transcribe([str(tmp_path / "note.flac")], batch_size=1, verbose=False)
    assert isinstance(heard.text, str)


def test_silence_and_nothing_are_heard_as_such(build):
    recogniser = build("tdt")
    assert recogniser.transcribe([]) == []
    nothing = np.zeros(0, np.float32)
    assert [heard.text for heard in recogniser.transcribe([nothing], times=True)] == [""]
    assert len(recogniser.transcribe([nothing, np.zeros(100, np.float32)], times=True)) == 2


def test_the_hybrids_loss_is_the_transducers_and_ctcs_as_it_is_configured_to_weigh_them(build, batch):
    recogniser = build("hybrid")
    module, model = recogniser.module, recogniser.model
    module.eval()
    parts = {}
    for weight in (0.0, 0.3, 1.0):
        model.ctc_loss_weight = weight
        parts[weight] = module(*batch).item()
    assert parts[0.3] == pytest.approx(0.7 * parts[0.0] + 0.3 * parts[1.0], rel=1e-5)
    encoded, lengths = model(input_signal=batch.audio, input_signal_length=batch.audio_lengths)
    ctc = model.ctc_loss(
        log_probs=model.ctc_decoder(encoder_output=encoded),
        targets=batch.tokens,
        input_lengths=lengths,
        target_lengths=batch.token_lengths,
    )
    assert parts[1.0] == pytest.approx(ctc.item(), rel=1e-5)


def test_a_plain_transducers_loss_on_the_cpu_is_nemos(build, tokenizer, speech):
    recogniser = build("rnnt")
    batch = make_batch([samples[:6400] for samples, *_ in speech[:2]], ("she has", "we"), tokenizer)
    recogniser.module.eval()
    ours, gradients = loss_and_gradients(recogniser, batch)
    by_device = recogniser.model.loss._loss
    assert by_device.on_cpu is not by_device.on_gpu
    by_device.on_cpu = by_device.on_gpu  # NeMo's; it is slow on a CPU
    theirs, their_gradients = loss_and_gradients(recogniser, batch)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients, their_gradients, rtol=1e-3, atol=1e-5)


def test_a_loss_that_only_a_gpu_can_compute_is_said_when_it_is_needed(tokenizer, batch):
    from rayapp.asr.nemo import NemoRecogniser

    settings = config("tdt", tokenizer)
    settings["loss"]["tdt_kwargs"]["fastemit_lambda"] = 0.01
    recogniser = NemoRecogniser.build(settings)
    assert len(recogniser.transcribe([batch.audio[0].numpy()])) == 1
    with pytest.raises(UserError, match=r"tdt with .*fastemit_lambda.* can only be computed on a GPU"):
        recogniser.module(*batch)


def test_a_joint_that_takes_a_few_utterances_at_a_time_has_the_same_loss(build, batch):
    recogniser = build("tdt")
    recogniser.module.eval()
    whole = recogniser.module(*batch)
    recogniser.model.joint.set_fuse_loss_wer(True, recogniser.model.loss, recogniser.model.wer)
    recogniser.model.joint.set_fused_batch_size(3)
    torch.testing.assert_close(recogniser.module(*batch), whole)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no LSTM in bfloat16 for a CPU without AVX-512"
)
def test_under_bfloat16_the_loss_is_nearly_the_same(build, batch):
    for kind in KINDS:
        module = build(kind).module.eval()
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(module(*batch).float(), module(*batch.to("cpu")).float())
            loss = module(*batch).float()
        torch.testing.assert_close(loss, module(*batch), rtol=0.05, atol=0.05)


def test_spec_augment_hides_features_in_training_only_and_is_saved(build, batch, tmp_path):
    recogniser = build("ctc")
    seen = []
    recogniser.model.encoder.register_forward_pre_hook(
        lambda _module, _args, inputs: seen.append(inputs["audio_signal"]), with_kwargs=True
    )

    def hidden(features):
        """Of the features of the longest utterance, the share that is exactly 0."""
        longest = int(batch.audio_lengths.argmax())
        return (features[longest] == 0).float().mean().item()

    recogniser.module.train()
    recogniser.module(*batch)
    recogniser.spec_augment(2, 4, 20, 0.1)
    recogniser.module(*batch)
    recogniser.module.eval()
    recogniser.module(*batch)
    before, training, evaluation = map(hidden, seen)
    assert before == evaluation < 0.02
    assert training > 0.1
    recogniser.save(tmp_path / "model.nemo")
    settings = type(recogniser).load(tmp_path / "model.nemo").model.cfg.spec_augment
    assert (settings.freq_masks, settings.time_masks, settings.freq_width, settings.time_width) == (2, 4, 20, 0.1)


def saved_bytes(module, batch):
    """What autograd keeps from the forward pass for the backward pass, parameters aside."""
    kept = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())  # the tensor stays, so that its place is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(*batch)
    return sum(size for _, size in kept.values())


def test_checkpointed_activations_take_less_memory_and_change_nothing_else(build, batch):
    plain, sparing = (build("ctc", n_layers=8, dropout=0.1, dropout_att=0.1) for _ in range(2))
    assert sparing.checkpoint_activations() == 8
    for recogniser in (plain, sparing):
        recogniser.module.train()
    loss, gradients = loss_and_gradients(plain, batch)
    same_loss, same_gradients = loss_and_gradients(sparing, batch)
    torch.testing.assert_close(same_loss, loss)
    torch.testing.assert_close(same_gradients, gradients)
    torch.testing.assert_close(sparing.model.state_dict(), plain.model.state_dict())  # batch norms' statistics too
    assert saved_bytes(sparing.module, batch) < saved_bytes(plain.module, batch) / 2


@torch.no_grad()
def encoded(recogniser, audio):
    from rayapp.asr.nemo import encode

    signal, lengths = torch.from_numpy(audio)[None], torch.tensor([len(audio)])
    recogniser.model.eval()
    return encode(recogniser.model, signal, lengths)[0]


def test_local_attention_hears_the_same_where_all_is_near(build, speech, tmp_path):
    for use_bias in (True, False):
        recogniser = build("ctc", use_bias=use_bias)
        for parameter in recogniser.model.encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        full = encoded(recogniser, speech[0][0])
        recogniser.long_audio((32, 32))
        local = encoded(recogniser, speech[0][0])
        torch.testing.assert_close(local, full, rtol=1e-3, atol=1e-3)
        recogniser.save(tmp_path / "local.nemo")
        torch.testing.assert_close(encoded(type(recogniser).load(tmp_path / "local.nemo"), speech[0][0]), local)


def test_a_forward_pass_waits_for_no_other_rank(build, batch, tmp_path, monkeypatch):
    import torch.distributed as dist

    recogniser = build("ctc")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: pytest.fail("it waits"))
        recogniser.transcribe([batch.audio[0].numpy()])
        recogniser.module(*batch)
    finally:
        dist.destroy_process_group()


def test_training_goes_on_after_longer_audio_was_heard(build, batch):
    recogniser = build("ctc", pos_emb_max_len=64)  # the longest utterance has 181 frames
    recogniser.transcribe([audio.numpy() for audio in batch.audio])
    recogniser.module.train()
    recogniser.module(*batch).backward()


def test_a_model_that_is_no_recogniser_is_refused(tmp_path):
    from rayapp.asr.nemo import NemoRecogniser

    (tmp_path / "bad.nemo").write_text("not a model")
    for use in (NemoRecogniser.load, open_tokeniser):
        with pytest.raises(UserError, match=r"bad\.nemo (is not a NeMo model|has no tokenizer)"):
            use(tmp_path / "bad.nemo")
    with pytest.raises(UserError, match=r"none\.nemo does not exist"):
        NemoRecogniser.load(tmp_path / "none.nemo")
    with pytest.raises(UserError, match="there is no recipe 'parakeet'; known: fastconformer_tdt_small, parakeet"):
        recipe("parakeet")


def test_phrases_are_heard_more_readily_in_the_audio_that_they_are_given_for(build, batch, speech, monkeypatch):
    recogniser = learnt(build("tdt"), batch)
    audio = [samples for samples, *_ in speech]
    plain = [heard.text for heard in recogniser.transcribe(audio)]
    monkeypatch.setattr("rayapp.asr.boosting._WEIGHT", 20.0)
    contexts = [Context(("Water", "ünknown")), *[NOTHING_KNOWN] * (len(audio) - 1)]
    first, *others = [heard.text for heard in recogniser.transcribe(audio, contexts=contexts)]
    assert "water" in first
    assert others == plain[1:]
    assert [heard.text for heard in recogniser.transcribe(audio)] == plain


def test_a_model_that_cannot_be_told_what_is_likely_says_so(build):
    recogniser = build("ctc")
    assert not recogniser.takes_context
    with pytest.raises(UserError, match="a model with CTC cannot"):
        recogniser.transcribe([np.zeros(16000, np.float32)], contexts=[Context(("losartan",))])
