"""Bundles: what is saved is what is loaded, and nothing else is accepted."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memory_model import base as base_module
from memory_model.base import load_base
from memory_model.bundle import (
    ADAPTER_WEIGHTS,
    CONFIG,
    HEADS,
    INFORMATION,
    Bundle,
    BundleConfig,
    load_bundle,
    load_quantiser,
    read_config,
    save_bundle,
)
from memory_model.calibration import create_untrained_bundle
from memory_model.encoder import first_layers
from memory_model.errors import BundleError, BundleMismatchError
from memory_model.quantiser import Quantiser
from memory_model.template import Template
from memory_model.tensor_file import check_adapter, check_tensors
from tests.tiny import save_tiny_model


@pytest.fixture
def saved(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", tiny_bundle.config, tiny_bundle.heads)
    return tmp_path / "bundle"


def test_a_loaded_bundle_makes_the_same_codes(tiny_bundle: Bundle, saved: Path) -> None:
    loaded = load_bundle(saved, tiny_bundle.base)
    assert loaded.fingerprint == tiny_bundle.fingerprint
    tokens = [[3, 50, 60, 70]]
    with torch.no_grad():
        expected = tiny_bundle.compressor.compress(tokens)
        torch.testing.assert_close(loaded.compressor.compress(tokens), expected)


def test_making_the_untrained_bundle_twice_gives_the_same_fingerprint(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    create_untrained_bundle(tmp_path / "again", tiny_bundle.base, slots=4, z_dim=32)
    assert load_bundle(tmp_path / "again", tiny_bundle.base).fingerprint == tiny_bundle.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"slots": 8},
        {"layers": 2},
        {"template": Template(system="Reply.")},
        {"weights_hash": "0"},
        {"checksums": {"heads.safetensors": "0"}},
    ],
)
def test_whatever_a_memory_depends_on_changes_the_fingerprint(
    tiny_bundle: Bundle, change: dict[str, object]
) -> None:
    changed = tiny_bundle.config.model_copy(update=change)
    assert changed.fingerprint != tiny_bundle.fingerprint


def test_a_flipped_bit_in_the_heads_is_refused(tiny_bundle: Bundle, saved: Path) -> None:
    file = saved / "heads.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"heads\.safetensors is damaged"):
        load_bundle(saved, tiny_bundle.base)


HOSTILE = [
    ({"weight": torch.zeros(4, 4)}, "do not belong"),
    ({"codebooks": torch.zeros(22, 256, 64)}, r"\(22, 256, 64\), expected \(22, 256, 32\)"),
    ({"codebooks": torch.zeros(22, 256, 32, dtype=torch.int64)}, "of type I64, not one of"),
]


@pytest.mark.parametrize(("tensors", "told"), HOSTILE)
def test_tensors_of_another_kind_are_refused_with_both_values(
    tmp_path: Path, tensors: dict[str, torch.Tensor], told: str
) -> None:
    save_file(tensors, tmp_path / "codebooks.safetensors")
    with pytest.raises(BundleError, match=told):
        check_tensors(tmp_path / "codebooks.safetensors", {"codebooks": (22, 256, 32)})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ((1 << 62).to_bytes(8, "little") + b"{}", "4611686018427387904 bytes; the file has 10"),
        ((2).to_bytes(8, "little") + b"[]", "no header"),
        (b"", "no header|bytes"),
        (
            (60).to_bytes(8, "little")
            + b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4]}}'
            + b"1234",
            "has 4 bytes of tensors, its header says 4000000",
        ),
    ],
)
def test_a_header_that_says_more_than_the_file_holds_is_refused(
    tmp_path: Path, content: bytes, told: str
) -> None:
    file = tmp_path / "heads.safetensors"
    file.write_bytes(content)
    with pytest.raises(BundleError, match=told):
        check_tensors(file, {"a": (1_000_000,)})


def test_an_adapter_of_another_rank_or_layer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    lm = load_base(str(tiny_model), cache=tmp_path).lm
    get_peft_model(lm, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    plain = load_base(str(tiny_model), cache=tmp_path).lm
    check_adapter(tmp_path, plain)
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    with pytest.raises(BundleError, match=r"expected \(3, "):
        check_adapter(tmp_path, plain)
    with pytest.raises(BundleError, match="of no layer"):
        check_adapter(tmp_path, torch.nn.Linear(2, 2))


def test_any_flipped_bit_in_a_file_of_a_trained_bundle_is_refused(
    tiny_bundle: Bundle, tiny_model: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=1, target_modules=["q_proj"])
    lm = load_base(str(tiny_model), cache=tmp_path).lm
    adapter = get_peft_model(lm, lora, adapter_name="read_adapter")
    directory = tmp_path / "trained"
    quantiser = Quantiser(tiny_bundle.base, z_dim=32, words=2, stages=1)
    save_bundle(directory, tiny_bundle.config, tiny_bundle.heads, [adapter], quantiser)
    random_ = random.Random(0)
    files = [file for file in directory.rglob("*") if file.is_file() and file.name != CONFIG]
    assert {"heads.safetensors", "codebooks.safetensors", "adapter_model.safetensors"} <= {
        file.name for file in files
    }
    for file in files:
        whole = file.read_bytes()
        for _ in range(8):
            file.write_bytes(flipped(whole, random_.randrange(8 * len(whole))))
            with pytest.raises(BundleError, match="is damaged"):
                load_bundle(directory, tiny_bundle.base)
        file.write_bytes(whole)


def test_any_flipped_bit_in_the_configuration_is_refused_or_makes_another_fingerprint(
    saved: Path,
) -> None:
    """Memories of another fingerprint are not read; only what is for people may change unseen."""
    file, before = saved / CONFIG, read_config(saved)
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 3):
        file.write_bytes(flipped(whole, bit))
        try:
            after = read_config(saved)
        except BundleError:
            continue
        if after.fingerprint == before.fingerprint:
            told = {"base_model": before.base_model, "rival_checksums": before.rival_checksums}
            assert after.model_copy(update=told) == before, bit


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_bundle_of_another_model_is_refused_with_both_hashes(
    tiny_bundle: Bundle, saved: Path, tmp_path: Path
) -> None:
    other = load_base(str(save_tiny_model(tmp_path / "other", seed=1)), cache=tmp_path)
    with pytest.raises(BundleMismatchError) as caught:
        load_bundle(saved, other)
    assert tiny_bundle.base.weights_hash in str(caught.value)
    assert other.weights_hash in str(caught.value)


def test_the_identity_of_a_model_does_not_depend_on_how_it_was_saved(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    before = load_base(str(model), cache=tmp_path).weights_hash
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"local_files_only": True}))
    assert load_base(str(model), cache=tmp_path).weights_hash == before
    (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert load_base(str(model), cache=tmp_path).weights_hash != before


def test_a_bundle_of_a_newer_format_is_refused(tiny_bundle: Bundle, saved: Path) -> None:
    file = saved / "bundle.json"
    config = json.loads(file.read_text()) | {"format_version": 3}
    file.write_text(json.dumps(config))
    with pytest.raises(BundleError, match="format_version"):
        load_bundle(saved, tiny_bundle.base)


def test_a_bundle_of_the_first_format_is_read_with_even_windows(
    tiny_bundle: Bundle, saved: Path
) -> None:
    heads = load_file(saved / HEADS)
    del heads[INFORMATION]
    save_file(heads, saved / HEADS)
    first = tiny_bundle.config.model_dump() | {"format_version": 1, "checksums": {}}
    (saved / CONFIG).write_text(json.dumps(first))
    loaded = load_bundle(saved, tiny_bundle.base)
    assert loaded.compressor.token_information.unique().tolist() == [1.0]


def test_a_folder_without_a_bundle_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json is missing"):
        load_bundle(tmp_path, tiny_bundle.base)


def test_codes_wider_than_the_model_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="PARAMEM_Z_DIM=65"):
        create_untrained_bundle(tmp_path / "wide", tiny_bundle.base, slots=4, z_dim=65)


def test_how_several_memories_are_read_is_not_part_of_what_one_depends_on(
    tiny_bundle: Bundle,
) -> None:
    config = tiny_bundle.config
    reading = {"coarse_slots": 2, "score_margin": 0.1}
    assert config.model_copy(update=reading).fingerprint == config.fingerprint
    assert config.model_copy(update={"slots": 2}).fingerprint != config.fingerprint


@pytest.mark.parametrize("reader", ["read_adapter", "text_adapter"])
def test_a_trained_bundle_reads_with_the_chosen_adapter(
    tiny_bundle: Bundle, tiny_model: Path, tmp_path: Path, reader: str
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapters = {}
    for name in ("write_adapter", "read_adapter", "text_adapter"):
        lm = load_base(str(tiny_model), cache=tmp_path).lm
        model = first_layers(lm, tiny_bundle.config.layers) if name == "write_adapter" else lm
        adapters[name] = get_peft_model(model, lora, adapter_name=name)
        for parameter_name, parameter in adapters[name].named_parameters():
            if "lora" in parameter_name:  # values that a bundle can hold
                parameter.data = parameter.data.bfloat16().float()
    config = BundleConfig(**tiny_bundle.config.model_dump() | {"trained": True})
    save_bundle(tmp_path / "trained", config, tiny_bundle.heads, list(adapters.values()))
    base = load_base(str(tiny_model), cache=tmp_path)
    loaded = load_bundle(tmp_path / "trained", base, reader=reader)

    for folder in ("trained/read_adapter", "trained/write_adapter", "trained-text"):
        weights = load_file(tmp_path / folder / ADAPTER_WEIGHTS)
        assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    tokens = torch.tensor([[3, 50, 60, 70]])
    with torch.no_grad():
        expected = adapters[reader](input_ids=tokens).logits
        torch.testing.assert_close(loaded.read_lm(input_ids=tokens).logits, expected)
        plain = tiny_bundle.compressor.compress(tokens.tolist())
        written = loaded.compressor.compress(tokens.tolist())
        encoded = adapters["write_adapter"](input_ids=tokens).last_hidden_state
    assert (written - plain).abs().max() > 1e-4
    assert encoded.shape == (1, 4, base.hidden_size)
    assert loaded.fingerprint != tiny_bundle.fingerprint


def test_memories_do_not_depend_on_the_rival_but_its_damage_is_seen(
    tiny_bundle: Bundle, tiny_model: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    fingerprints = []
    for rank in (1, 2):
        lora = LoraConfig(r=rank, target_modules=["q_proj"])
        lm = load_base(str(tiny_model), cache=tmp_path).lm
        rival = get_peft_model(lm, lora, adapter_name="text_adapter")
        config = save_bundle(tmp_path / f"{rank}", tiny_bundle.config, tiny_bundle.heads, [rival])
        fingerprints.append(config.fingerprint)
    assert fingerprints[0] == fingerprints[1]
    weights = tmp_path / "1-text" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    load_bundle(tmp_path / "1", load_base(str(tiny_model), cache=tmp_path))  # needs it not
    with pytest.raises(BundleError, match=r"1-text/adapter_model\.safetensors is damaged"):
        load_bundle(
            tmp_path / "1", load_base(str(tiny_model), cache=tmp_path), reader="text_adapter"
        )


def test_an_adapter_is_described_in_the_same_words_by_every_process(
    tiny_bundle: Bundle, tiny_model: Path, tmp_path: Path
) -> None:
    """Its checksum is part of the fingerprint, and sets of strings have an order a process."""
    from peft import LoraConfig, get_peft_model

    lm = load_base(str(tiny_model), cache=tmp_path).lm
    lora = LoraConfig(r=2, target_modules="all-linear")
    rival = get_peft_model(lm, lora, adapter_name="text_adapter")
    save_bundle(tmp_path / "saved", tiny_bundle.config, tiny_bundle.heads, [rival])
    told = (tmp_path / "saved-text" / "adapter_config.json").read_text()
    modules = json.loads(told)["target_modules"]
    assert len(modules) == 7
    assert modules == sorted(modules)
    assert told == json.dumps(json.loads(told), indent=2, sort_keys=True)


def test_the_compressor_keeps_its_own_layers_when_the_reader_is_merged(
    tiny_bundle: Bundle, tiny_model: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    lm = load_base(str(tiny_model), cache=tmp_path).lm
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapters = [get_peft_model(lm, lora, adapter_name="read_adapter")]
    save_bundle(tmp_path / "trained", tiny_bundle.config, tiny_bundle.heads, adapters)
    loaded = load_bundle(tmp_path / "trained", load_base(str(tiny_model), cache=tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.compressor.compress([[3, 50, 60]]),
            tiny_bundle.compressor.compress([[3, 50, 60]]),
        )


@pytest.mark.parametrize(
    ("wanted", "native", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bfloat16", False, torch.bfloat16),
        ("float32", True, torch.float32),
    ],
)
def test_weights_are_bfloat16_only_where_the_cpu_multiplies_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    native: bool,
    expected: torch.dtype,
) -> None:
    from transformers import AutoModelForCausalLM

    model = save_tiny_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    monkeypatch.setattr(base_module, "multiplies_bfloat16", lambda: native)
    base = load_base(str(model), cache=tmp_path, device="cpu", dtype=wanted)
    assert base.dtype == expected


@pytest.mark.parametrize("words", [0, 2])
def test_a_quantiser_comes_back_with_its_bundle(
    tiny_bundle: Bundle, tmp_path: Path, words: int
) -> None:
    base = tiny_bundle.base
    random_ = torch.Generator().manual_seed(0)
    means = base.embedding_table[torch.randint(len(base.embedding_table), (600,))]  # (N, h)
    codes = means[:, :32] + 0.1 * torch.randn(600, 32, generator=random_)  # (N, d)
    quantiser = Quantiser(base, z_dim=32, words=words, stages=2)
    quantiser.fit(codes, means)
    save_bundle(tmp_path / "saved", tiny_bundle.config, tiny_bundle.heads, [], quantiser)
    loaded = load_bundle(tmp_path / "saved", base).quantiser
    assert loaded is not None
    names = quantiser.encode(codes)
    assert (loaded.encode(codes) == names).float().mean() > 0.98  # codebooks are kept in float16
    torch.testing.assert_close(loaded.decode(names), quantiser.decode(names), atol=0.01, rtol=0.01)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"codebooks": torch.zeros(65, 1, 1)}, "names 0 words and 65 codewords"),
        (
            {"codebooks": torch.zeros(1, 1, 1), "mixture.weights": torch.zeros(256, 17)},
            "names 17 words and 1 codewords",
        ),
        ({"codebooks": torch.zeros(1, 256, 16)}, r"\(1, 256, 16\), expected \(1, 256, 32\)"),
        ({"other": torch.zeros(1)}, "names 0 words and 0 codewords"),
    ],
)
def test_a_quantiser_of_another_shape_is_refused_before_it_is_made(
    tiny_bundle: Bundle, saved: Path, tensors: dict[str, torch.Tensor], told: str
) -> None:
    save_file(tensors, saved / "codebooks.safetensors")
    with pytest.raises(BundleError, match=told):
        load_quantiser(saved, tiny_bundle.base)
