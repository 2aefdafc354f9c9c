//! GGUF files: what is written is read as the same model, and what is damaged is refused.

use kinglet::{
    config::{Activation, Config, NormKind, Position},
    formats::{
        Dtype, Foreign, Portable,
        dialect::{Convention, Dialect},
        gguf,
    },
    params::Layout,
    text::tokenizer::{CharTokenizer, Tokenizer},
};
use std::path::{Path, PathBuf};

const TEXT: &str = "in winter the kinglet weighs no more than a coin.\nthe firecrest is a little heavier, a café 🐦\n";

fn architectures() -> impl Iterator<Item = &'static Dialect> {
    Dialect::all().iter().filter(|dialect| dialect.convention == Convention::Gguf)
}

/// A small random model that an architecture holds.
fn model(dialect: &Dialect, tokenizer: Tokenizer, more: &[&str]) -> Portable {
    let holds = dialect.holds;
    let settings = ["n_layer=2", "n_embd=64", "n_head=4", "block_size=32", "n_inner=96", "norm_eps=1e-6"];
    let mut config = Config::default().with(&settings).unwrap();
    (config.position, config.norm, config.activation) = (holds.position, holds.norm, holds.activations[0]);
    (config.qk_norm, config.bias) = (holds.qk_norm, holds.may);
    config.n_kv_head = if holds.grouped { 2 } else { 0 };
    config.vocab_size = tokenizer.vocab_size();
    config.rope_theta = if holds.position == Position::Rotary { 5000.0 } else { config.rope_theta };
    let config = config.with(more).unwrap();
    let weights = Layout::new(&config).unwrap().init(3).into_iter().enumerate();
    // Norms and biases as well as weights have numbers of their own.
    let weights = weights.map(|(i, x)| x + 0.1 * (i as f32 * 0.37).sin());
    Portable::new(config, weights.collect(), tokenizer).unwrap()
}

fn chars(end: bool) -> Tokenizer {
    Tokenizer::from(CharTokenizer::train(TEXT)).extended([], end)
}

fn bpe() -> Tokenizer {
    Tokenizer::train_bpe([TEXT.repeat(5)].into_iter(), 300).unwrap()
}

fn written(folder: &Path, dialect: &Dialect, model: &Portable, dtype: Dtype) -> (PathBuf, gguf::Written) {
    let path = folder.join(format!("{}-{}.gguf", dialect.name, dtype.name()));
    let tensors = dialect.write(model).unwrap();
    let written = gguf::write(&path, model, dialect, &tensors, dtype, None).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), written.bytes);
    (path, written)
}

/// The model of a file, as an import makes it.
fn read(foreign: &Foreign) -> Portable {
    let gguf::Described { dialect, mut config, .. } = gguf::describe(foreign).unwrap();
    let weights = dialect.read(foreign, &config).unwrap().weights;
    let tokenizer = gguf::tokenizer(foreign).unwrap().unwrap();
    (config.bos_token, config.eos_token) = gguf::ends(foreign, &tokenizer).unwrap();
    Portable::new(config, weights, tokenizer).unwrap()
}

#[test]
fn a_file_in_f32_is_the_model_to_the_bit() {
    let temp = tempfile::tempdir().unwrap();
    for dialect in architectures() {
        let head_size: &[&str] = if dialect.holds.head_size { &["head_size=24"] } else { &[] };
        for (tokenizer, more) in [(chars(true), &[][..]), (Tokenizer::byte(), head_size)] {
            let model = model(dialect, tokenizer, more);
            let (path, _) = written(temp.path(), dialect, &model, Dtype::F32);
            let foreign = gguf::read(&path).unwrap();
            let again = read(&foreign);
            let bits = |weights: &[f32]| weights.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&again.weights), bits(&model.weights), "{}", dialect.name);
            assert_eq!(again.config, model.config, "{}", dialect.name);
            assert_eq!(again.tokenizer, model.tokenizer, "{}", dialect.name);
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(read(&gguf::read_bytes(&bytes).unwrap()).weights, model.weights);
        }
    }
}

#[test]
fn tied_weights_stay_tied() {
    let temp = tempfile::tempdir().unwrap();
    let llama = Dialect::find(Convention::Gguf, "llama").unwrap();
    let model = model(llama, bpe(), &["tie_weights=true"]);
    let (path, _) = written(temp.path(), llama, &model, Dtype::F32);
    let again = read(&gguf::read(&path).unwrap());
    assert!(again.config == model.config && again.weights == model.weights && again.tokenizer == model.tokenizer);
}

/// Every number is within half a step of its block, and what is not stored in blocks is what it was.
#[test]
fn smaller_types_round_what_they_should() {
    let temp = tempfile::tempdir().unwrap();
    let llama = Dialect::find(Convention::Gguf, "llama").unwrap();
    let model = model(llama, bpe(), &["n_inner=80"]);
    let exact = llama.write(&model).unwrap();
    for (dtype, step) in [
        (Dtype::F16, 1.0 / 2048.0),
        (Dtype::Bf16, 1.0 / 256.0),
        (Dtype::Q8_0, 0.5 / 127.0),
        (Dtype::Q5_0, 1.0 / 16.0),
        (Dtype::Q4_0, 1.0 / 8.0),
    ] {
        let (path, written) = written(temp.path(), llama, &model, dtype);
        let blocks = !matches!(dtype, Dtype::F16 | Dtype::Bf16);
        let said = written.notes.iter().any(|note| note.starts_with("2 matrices are f16 instead of "));
        assert_eq!(said, blocks, "{:?}", written.notes);
        let foreign = gguf::read(&path).unwrap();
        assert_eq!(foreign.tensors.len(), exact.tensors.len());
        let mut rounded = 0;
        for (name, tensor) in &foreign.tensors {
            let (read, exact) = (tensor.read().unwrap(), exact.tensors[name].read().unwrap());
            let of_tokens = ["token_embd.weight", "output.weight"].contains(&name.as_str());
            let expected = match name.as_str() {
                _ if tensor.shape.len() == 1 => Dtype::F32,
                _ if tensor.shape[1] == 80 && blocks => Dtype::F16,
                _ if of_tokens && blocks => Dtype::Q8_0,
                _ => dtype,
            };
            assert_eq!(tensor.dtype, expected, "{name}");
            rounded += usize::from(read != exact);
            for (a, b) in read.chunks(32).zip(exact.chunks(32)) {
                let largest = b.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(
                    off <= if tensor.shape.len() == 1 { 0.0 } else { largest * step * 1.15 },
                    "{name} {off} {largest}"
                );
            }
        }
        assert_eq!(rounded, foreign.tensors.values().filter(|tensor| tensor.shape.len() == 2).count());
    }
}

#[test]
fn what_an_architecture_or_a_type_cannot_have_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("model.gguf");
    let gpt2 = Dialect::find(Convention::Gguf, "gpt2").unwrap();
    let fails = |model: &Portable, dtype, message: &str| {
        let tensors = gpt2.write(model).unwrap();
        let error = gguf::write(&path, model, gpt2, &tensors, dtype, None).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(std::fs::read_dir(temp.path()).unwrap().next().is_none(), "something was left behind");
    };
    let good = model(gpt2, chars(true), &["bias=true"]);
    let with = |change: fn(&mut Config)| {
        let mut model = good.clone();
        change(&mut model.config);
        model
    };
    fails(
        &with(|c| c.activation = Activation::Relu),
        Dtype::F32,
        "the architecture gpt2 cannot have activation = \"relu\"",
    );
    fails(&with(|c| c.logit_softcap = 15.0), Dtype::F32, "cannot have logit_softcap = 15.0");
    let scale = with(|c| c.attention_scale = kinglet::config::AttentionScale::NEmbd);
    fails(&scale, Dtype::F32, "cannot have attention_scale = \"n_embd\"");
    fails(&good, Dtype::I8, "not as i8");
    let mut large = good.clone();
    let at = large.layout().h[1].c_fc.w.start;
    large.weights[at] = 1e6;
    fails(&large, Dtype::F16, "the tensor blk.1.ffn_up.weight: 1000000 does not fit into f16");
    large.weights[at] = f32::NAN;
    fails(&large, Dtype::Q8_0, "the tensor blk.1.ffn_up.weight: NaN has no q8_0");
    assert_eq!(good.config.norm, NormKind::LayerNorm);
}

/// A change of a file's bytes, and what is said of it.
#[test]
fn damaged_files_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let llama = Dialect::find(Convention::Gguf, "llama").unwrap();
    let (path, _) = written(temp.path(), llama, &model(llama, chars(true), &[]), Dtype::F32);
    let good = std::fs::read(path).unwrap();
    let find = |name: &str| good.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    let (first, key) = (find("blk.0.attn_k.weight"), find("general.type"));
    let set = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    // A description is the name, how many dimensions, these, the type and the offset.
    let (dimensions, sizes) = (first + "blk.0.attn_k.weight".len(), first + "blk.0.attn_k.weight".len() + 4);
    let (kind, offset) = (sizes + 16, sizes + 20);
    let most = u64::MAX.to_le_bytes();
    for (bad, message) in [
        (b"GGU".to_vec(), "not a GGUF"),
        (set(0, b"GGML"), "not a GGUF"),
        (set(4, &1u32.to_le_bytes()), "version 1"),
        (set(4, &3u32.to_be_bytes()), "big-endian"),
        (set(4, &0x0101_0101u32.to_le_bytes()), "version 16843009"),
        (set(8, &most), "it claims 18446744073709551615 tensors"),
        (set(8, &60_000u64.to_le_bytes()), "damaged"),
        (set(16, &most), "damaged"),
        (set(key - 8, &most), "it claims 18446744073709551615 bytes of text"),
        (set(key + 12, &13u32.to_le_bytes()), "a value of type 13"),
        (set(key, b"general.name"), "there are two values of general.name"),
        (set(dimensions, &5u32.to_le_bytes()), "has 5 dimensions"),
        (set(sizes, &0u64.to_le_bytes()), "has an impossible size"),
        (set(sizes, &(1u64 << 40).to_le_bytes()), "goes past the end of the file"),
        (set(sizes, &most), "damaged"),
        (set(kind, &12u32.to_le_bytes()), "is stored as Q4_K (1 of 35 tensors are like that)"),
        (set(kind, &99u32.to_le_bytes()), "is stored as type 99"),
        (set(offset, &7u64.to_le_bytes()), "begins at 7"),
        (set(offset, &64u64.to_le_bytes()), "overlap"),
        (set(offset, &(u64::MAX - 31).to_le_bytes()), "goes past the end of the file"),
        (good[..good.len() - 40].to_vec(), "goes past the end of the file"),
        (good[..first - 4].to_vec(), "within its description"),
    ] {
        let error = gguf::read_bytes(&bad).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
    // Wherever a file ends, it is refused, and wherever one byte is another, it is refused or read without a panic.
    for len in (0..offset).step_by(7) {
        assert!(gguf::read_bytes(&good[..len]).is_err());
    }
    for (at, byte) in good[..offset].iter().enumerate() {
        let read = gguf::read_bytes(&set(at, &[byte ^ 0x55]));
        let _ = read.map(|foreign| (gguf::describe(&foreign).map(drop), gguf::tokenizer(&foreign).map(drop)));
    }
}

#[test]
fn settings_that_kinglet_has_no_shape_for_are_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let llama = Dialect::find(Convention::Gguf, "llama").unwrap();
    let (path, _) = written(temp.path(), llama, &model(llama, chars(true), &[]), Dtype::F32);
    let with = |key: &str, value: serde_json::Value| {
        let mut foreign = gguf::read(&path).unwrap();
        foreign.meta[key] = value;
        gguf::describe(&foreign)
    };
    for (key, value, message) in [
        ("llama.rope.scaling.type", "yarn".into(), "llama.rope.scaling.type = \"yarn\": kinglet has no such setting"),
        ("llama.expert_count", 8.into(), "llama.expert_count = 8"),
        ("llama.attention.sliding_window", 16.into(), "llama.attention.sliding_window = 16"),
        ("llama.attention.value_length", 8.into(), "llama.attention.value_length = 8"),
        ("llama.rope.dimension_count", 8.into(), "llama.rope.dimension_count = 8"),
        ("llama.feed_forward_length", vec![96, 64].into(), "llama.feed_forward_length = [96,64]"),
        ("llama.block_count", 1000.into(), "n_layer = 1000"),
        ("general.architecture", "mamba".into(), "general.architecture = \"mamba\": kinglet knows gpt2"),
        ("llama.attention.layer_norm_rms_epsilon", serde_json::Value::Null, "not a number"),
    ] {
        let error = with(key, value).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    for (key, value) in [
        ("llama.rope.scaling.type", "none".into()),
        ("llama.expert_count", 0.into()),
        ("llama.attention.sliding_window", 32.into()),
        ("llama.vocab_size", 7.into()),
    ] {
        with(key, value).unwrap();
    }
    let long = with("llama.context_length", 131_072.into()).unwrap();
    assert_eq!((long.config.block_size, long.notes.len()), (65536, 1));
}

#[test]
fn tokenizers_come_back_as_they_were() {
    let temp = tempfile::tempdir().unwrap();
    let llama = Dialect::find(Convention::Gguf, "llama").unwrap();
    let odd = Tokenizer::from(CharTokenizer::train("\0\x01\t\n\r\\nxab\u{7f}"));
    let signs = Tokenizer::from(CharTokenizer::train("<|endoftx> "));
    for (tokenizer, kind, end) in [
        (Tokenizer::byte(), "gpt2", Some("<|endoftext|>")),
        (bpe(), "gpt2", Some("<|endoftext|>")),
        // An unknown character is refused where that is possible.
        (odd.clone(), "rwkv", None),
        (odd.extended([], true), "rwkv", Some("\\x02")),
        (signs.extended([], true), "rwkv", Some("<|endoftext|>")),
        (chars(true), "gpt2", Some("<|endoftext|>")),
    ] {
        assert!(!gguf::needs_end(&tokenizer));
        let model = model(llama, tokenizer, &[]);
        let (path, _) = written(temp.path(), llama, &model, Dtype::F32);
        let foreign = gguf::read(&path).unwrap();
        assert_eq!(gguf::tokenizer(&foreign).unwrap().unwrap(), model.tokenizer);
        assert_eq!(gguf::leaves_out(&model.tokenizer), kind == "gpt2" && model.tokenizer.chars().is_some());
        assert_eq!(foreign.meta["tokenizer.ggml.model"], kind);
        // Without an end-of-text token no token may be taken for one, as token 11 would.
        let id = foreign.meta.get("tokenizer.ggml.eos_token_id").and_then(|id| id.as_u64());
        assert_eq!(id, model.tokenizer.end_of_text().map(u64::from));
        let named = id.map(|id| foreign.meta["tokenizer.ggml.tokens"][id as usize].as_str().unwrap());
        assert_eq!(named, end);
    }
    let endless = model(llama, chars(false), &[]);
    assert!(gguf::needs_end(&endless.tokenizer));
    let tensors = llama.write(&endless).unwrap();
    let error = gguf::write(&temp.path().join("x.gguf"), &endless, llama, &tensors, Dtype::F32, None).unwrap_err();
    assert!(error.to_string().contains("takes token 11 for the end"), "{error}");
}

#[test]
fn begin_and_end_of_texts_are_those_of_the_run() {
    let temp = tempfile::tempdir().unwrap();
    let llama = Dialect::find(Convention::Gguf, "llama").unwrap();
    for (tokenizer, begin, end, told, adds) in [
        (bpe(), "", "", "0", false),
        (bpe(), "<|endoftext|>", "", "0", true),
        (bpe(), "", "a", "65", false),
        (chars(false), "", "\n", "0", false),
        (Tokenizer::from(CharTokenizer::train("ab\n")), "", "b", "2", false),
    ] {
        let mut model = model(llama, tokenizer, &[]);
        (model.config.bos_token, model.config.eos_token) = (begin.to_owned(), end.to_owned());
        let (path, _) = written(temp.path(), llama, &model, Dtype::F32);
        let foreign = gguf::read(&path).unwrap();
        assert_eq!(foreign.meta["tokenizer.ggml.eos_token_id"].to_string(), told);
        assert_eq!(foreign.meta["tokenizer.ggml.add_bos_token"], adds);
        assert_eq!(read(&foreign).config, model.config);
    }
    // A begin that llama.cpp would not put before a prompt is told of.
    let mut model = model(llama, Tokenizer::from(CharTokenizer::train("ab\n")), &[]);
    model.config.bos_token = "\n".to_owned();
    let (_, written) = written(temp.path(), llama, &model, Dtype::F32);
    assert_eq!(written.notes, ["llama.cpp puts no \"\\n\" before a prompt of characters: it has to be written there"]);
}

#[test]
fn tokens_that_only_the_model_has_are_unused() {
    let temp = tempfile::tempdir().unwrap();
    let llama = Dialect::find(Convention::Gguf, "llama").unwrap();
    let model = model(llama, bpe(), &["vocab_size=304"]);
    let (path, written) = written(temp.path(), llama, &model, Dtype::F32);
    assert_eq!(written.notes, ["4 of the 304 tokens of the model are none of the tokenizer's: they are unused there"]);
    let foreign = gguf::read(&path).unwrap();
    let tokens = foreign.meta["tokenizer.ggml.tokens"].as_array().unwrap();
    assert_eq!((tokens.len(), &tokens[303]), (304, &"[unused_303]".into()));
    assert_eq!(read(&foreign).tokenizer, model.tokenizer);
}

/// A program that goes past the learned positions is stopped by a token that the tokenizer need not have.
#[test]
fn the_end_of_the_block_is_an_end_whatever_the_tokenizer() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("model.gguf");
    let llama = Dialect::find(Convention::Gguf, "llama").unwrap();
    let letters = Tokenizer::from(CharTokenizer::train("ab\n")).extended([], true);
    for (tokenizer, name) in [(chars(true), "<|eot_id|>"), (letters, "\\x02"), (Tokenizer::byte(), "<|eot_id|>")] {
        let mut model = model(llama, tokenizer.clone(), &[]);
        model.config.vocab_size += 1;
        let id = tokenizer.vocab_size();
        model.weights = Layout::new(&model.config).unwrap().init(1);
        let tensors = llama.write(&model).unwrap();
        gguf::write(&path, &model, llama, &tensors, Dtype::F32, Some("<|eot_id|>")).unwrap();
        let foreign = gguf::read(&path).unwrap();
        assert_eq!(foreign.meta["tokenizer.ggml.eot_token_id"], id);
        assert_eq!(foreign.meta["tokenizer.ggml.tokens"][id], name);
        assert_eq!(foreign.meta["tokenizer.ggml.token_type"][id], 3);
        assert_eq!(gguf::tokenizer(&foreign).unwrap().unwrap(), tokenizer);
    }
}

/// Another tokenizer than kinglet's own, with something of it changed.
fn foreign_tokenizer(change: impl FnOnce(&mut serde_json::Value)) -> Tokenizer {
    let mut file: serde_json::Value = serde_json::from_str(bpe().to_json()).unwrap();
    change(&mut file);
    Tokenizer::from_json(&file.to_string()).unwrap()
}

#[test]
fn only_words_that_llama_cpp_knows_are_written() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("model.gguf");
    let llama = Dialect::find(Convention::Gguf, "llama").unwrap();
    let result = |tokenizer| {
        let model = model(llama, tokenizer, &[]);
        gguf::write(&path, &model, llama, &llama.write(&model).unwrap(), Dtype::F32, None)
    };
    let level = |regex: bool| serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let digits = serde_json::json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, level(true)]});
    let tokenizer = foreign_tokenizer(|file| file["pre_tokenizer"] = digits);
    result(tokenizer.clone()).unwrap();
    let foreign = gguf::read(&path).unwrap();
    assert_eq!(foreign.meta["tokenizer.ggml.pre"], "smollm");
    let again = gguf::tokenizer(&foreign).unwrap().unwrap();
    let text = "the kinglet weighs 5.13 g\n\n  and 1024 coins";
    assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap());
    for (change, message) in [
        (
            Box::new(|file: &mut serde_json::Value| {
                let split = serde_json::json!({"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Isolated", "invert": false});
                file["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [split, level(false)]});
            }) as Box<dyn FnOnce(&mut serde_json::Value)>,
            "text is split into words by {\"type\":\"Sequence\"",
        ),
        (Box::new(|file| file["pre_tokenizer"]["add_prefix_space"] = true.into()), "text is split into words"),
        (
            Box::new(|file| file["normalizer"] = serde_json::json!({"type": "Lowercase"})),
            "normalizer {\"type\":\"Lowercase\"}",
        ),
        (Box::new(|file| file["model"]["ignore_merges"] = true.into()), "with ignore_merges"),
    ] {
        let error = result(foreign_tokenizer(change)).unwrap_err().to_string();
        assert!(error.contains("llama.cpp has no such tokenizer") && error.contains(message), "{error}");
    }
    let endless = foreign_tokenizer(|file| {
        file["added_tokens"] = serde_json::json!([]);
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        let end = vocab.remove("<|endoftext|>").unwrap();
        vocab.insert("unending".to_owned(), end);
    });
    let error = result(endless).unwrap_err().to_string();
    assert!(error.contains("takes token 11 for the end"), "{error}");
}
