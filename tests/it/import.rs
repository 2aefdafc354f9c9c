//! Models of other programs become runs that compute what those programs compute. The files in tests/fixtures/foreign are
//! from `scripts/foreign.py`.

use crate::common::cli::Cli;
use kinglet::{
    backend::{Forward, Pass, Reference, Rows},
    config::{AttentionScale, Config},
    formats::{
        Certainty, Dtype, ExportOptions, ImportOptions, Imported, Portable, Source, Target,
        dialect::{Convention, Dialect},
        export, gguf, import,
    },
    model::Gpt,
    params::Layout,
    text::tokenizer::{CharTokenizer, Tokenizer},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/foreign").join(name)
}

/// The options with the tokenizer of eleven characters that all fixtures have.
fn told() -> ImportOptions {
    ImportOptions { tokenizer: Some(file("meta.pkl")), ..ImportOptions::default() }
}

#[track_caller]
fn imported(name: &str, options: &ImportOptions) -> Imported {
    import(&file(name), options).unwrap_or_else(|error| panic!("{name}: {}", error.one_line()))
}

/// Why something is not imported.
#[track_caller]
fn refused(path: &Path, options: &ImportOptions) -> String {
    match import(path, options) {
        Ok(imported) => panic!("{}: {:?}", path.display(), imported.report),
        Err(error) => error.one_line(),
    }
}

/// The logits of a model in f64.
fn logits(model: &Portable, ids: &[u32]) -> Vec<f64> {
    let gpt = Gpt::new(&model.config).unwrap();
    let mut weights = Reference.zeros(model.weights.len());
    Reference.upload(&mut weights, 0, &model.weights);
    let mut acts = gpt.acts(&Reference, 1, false);
    let pass = Pass { p: &weights, rows: Rows::new(1, ids.len()), dropout: None };
    gpt.forward(&Reference, pass, &mut acts, ids);
    acts.logits()[..ids.len() * model.config.vocab_size].to_vec()
}

/// Compares with what PyTorch computed.
#[track_caller]
fn same_logits(model: &Portable, name: &str) {
    let want: Value = serde_json::from_str(&fs::read_to_string(file(&format!("{name}.logits.json"))).unwrap()).unwrap();
    let ids: Vec<u32> = want["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let want: Vec<f64> = want["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let has = logits(model, &ids);
    assert_eq!(has.len(), want.len(), "{name}");
    let largest = has.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest < 1e-5, "{name}: {largest}");
    assert!(want.iter().any(|x| x.abs() > 0.5), "{name}: a difference would show");
}

#[test]
fn logits_are_those_of_pytorch() {
    let heads = ImportOptions { n_head: Some(2), ..told() };
    let tanh = ImportOptions { set: vec!["activation=gelu_tanh".to_owned()], ..heads.clone() };
    for (name, options, logits) in [
        ("lecture.pth", &told(), "lecture"),
        ("lecture-legacy.pth", &told(), "lecture-legacy"),
        ("lecture-module.pt", &told(), "lecture"),
        ("lecture-int8.pth", &told(), "lecture-int8"),
        ("nanogpt.pt", &told(), "nanogpt"),
        ("mingpt.pt", &tanh, "mingpt"),
        ("mixed.pt", &heads, "mixed"),
        ("llm.c.bin", &told(), "gpt2"),
        ("llm.c-bf16.bin", &told(), "llm.c-bf16"),
        ("llama2.c.bin", &told(), "llama"),
        ("llama2.c-ak42.bin", &told(), "llama"),
        ("gpt2", &told(), "gpt2"),
        ("gpt_neox", &told(), "gpt_neox"),
        ("llama", &told(), "llama"),
        ("mistral", &told(), "mistral"),
        ("qwen2", &told(), "qwen2"),
        ("qwen3", &told(), "qwen3"),
        ("stablelm", &told(), "stablelm"),
        ("starcoder2", &told(), "starcoder2"),
        ("nemotron", &told(), "nemotron"),
        ("arcee", &told(), "arcee"),
        ("gpt2/model.safetensors", &told(), "gpt2"),
        ("llama/config.json", &told(), "llama"),
    ] {
        same_logits(&imported(name, options).portable, logits);
    }
    // Signed bytes with a scale for four numbers are near.
    let (exact, near) = (imported("llama2.c.bin", &told()), imported("llama2.c-int8.bin", &told()));
    let pairs = || exact.portable.weights.iter().zip(&near.portable.weights);
    assert!(pairs().all(|(a, b)| (a - b).abs() < 0.01) && pairs().any(|(a, b)| a != b));
}

#[test]
fn what_a_file_says_and_what_is_guessed_is_told() {
    let nanogpt = imported("nanogpt.pt", &told());
    assert_eq!((nanogpt.report.step, nanogpt.portable.config.max_iters), (250, 5000));
    assert_eq!((nanogpt.portable.config.dropout, nanogpt.portable.config.learning_rate), (0.1, 1e-3));
    assert!(nanogpt.portable.config.tie_weights && nanogpt.portable.config.n_head == 2);
    let notes = nanogpt.report.notes.join("\n");
    assert!(notes.contains("_orig_mod") || notes.contains("torch.compile"), "{notes}");
    assert!(notes.contains("tensors of optimizer are left out"), "{notes}");

    let lecture = imported("lecture.pth", &told());
    let scale = lecture.report.guesses.iter().find(|guess| guess.key == "attention_scale").unwrap();
    assert_eq!((scale.value.as_str(), scale.certainty), ("n_embd", Certainty::Likely));
    assert_eq!(lecture.report.buffers_left_out, 2);
    // What is told is not guessed.
    let other = ImportOptions { attention_scale: Some(AttentionScale::HeadSize), ..told() };
    let other = imported("lecture.pth", &other);
    assert!(other.report.guesses.iter().all(|guess| guess.key != "attention_scale"));
    assert_eq!(other.portable.config.attention_scale, AttentionScale::HeadSize);

    let int8 = imported("lecture-int8.pth", &told());
    assert!(int8.report.notes.iter().any(|note| note.contains("9 weights are int8")), "{:?}", int8.report.notes);
    let padded = imported("llm.c.bin", &told());
    assert!(padded.report.notes.iter().any(|note| note.contains("5 rows that only pad")), "{:?}", padded.report.notes);
    let mixed = imported("mixed.pt", &ImportOptions { n_head: Some(2), ..told() });
    assert!(
        mixed.report.notes.iter().any(|note| note.contains("of f64 are rounded to f32")),
        "{:?}",
        mixed.report.notes
    );
}

/// What is refused is refused by its name.
#[test]
fn what_is_missing_or_does_not_fit_is_an_error() {
    let plain = ImportOptions::default;
    let set = |setting: &str| ImportOptions { set: vec![setting.to_owned()], ..told() };
    let temp = tempfile::tempdir().unwrap();
    let alone = temp.path().join("lecture.pth");
    fs::copy(file("lecture.pth"), &alone).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = temp.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    fs::create_dir(temp.path().join("empty")).unwrap();
    let eleven = write("eleven.txt", b"hello world, this is no text of eleven characters");
    let cases: Vec<(PathBuf, ImportOptions, &str)> = vec![
        (file("nothing.pth"), told(), "there is no such file or folder"),
        (alone.clone(), plain(), "the tokenizer for its 11 tokens is not in it"),
        (
            alone.clone(),
            ImportOptions { data: vec![eleven.display().to_string()], ..plain() },
            "different characters, but the model has 11 tokens",
        ),
        (alone.clone(), ImportOptions { tokenizer: Some("nothing.json".into()), ..plain() }, "there is no such file"),
        (alone.clone(), ImportOptions { n_head: Some(4), ..told() }, "--n-head 4: the file has 2 heads"),
        (file("mingpt.pt"), told(), "the file does not say how many heads"),
        (file("mingpt.pt"), ImportOptions { n_head: Some(3), ..told() }, "n_head = 3 is no divisor of n_embd = 8"),
        (file("llama"), ImportOptions { n_head: Some(2), ..told() }, "--n-head 2: config.json says 4"),
        (file("llama"), set("n_layer=1"), "the tensors in the file say what n_layer is"),
        (file("llama"), set("head_size=4"), "has the shape [8, 8] instead of [16, 8]"),
        (file("gpt2"), set("block_size=4"), "block_size = 4: the model has learned 8 positions"),
        (file("meta.pkl"), told(), "it has no tensors"),
        (file(""), told(), "several files may be the model: name one of lecture-int8.pth"),
        (temp.path().join("empty"), told(), "no model in this folder"),
        (write("empty.bin", b""), told(), "the file is empty"),
        (write("text.txt", b"once upon a time"), told(), "not a model that kinglet reads"),
        (write("keras.h5", b"\x89HDF\r\n"), told(), "this is HDF5"),
        (write("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1"), told(), "a pointer of Git LFS"),
        (
            write("calls.pt", b"\x80\x02}q\0(X\x01\0\0\0wcposix\nsystem\nX\x04\0\0\0true\x85Ru."),
            told(),
            "it calls posix.system",
        ),
        (write("zeros.safetensors", &[0; 64]), told(), "not a model that kinglet reads"),
    ];
    for (path, options, message) in cases {
        let error = refused(&path, &options);
        assert!(error.contains(message), "{}: {error}", path.display());
    }
}

/// The tensors of a safetensors file, to be changed.
fn tensors(name: &str) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(file(name)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> =
        file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec())).collect();
    all.sort();
    all
}

fn write_tensors(path: &Path, tensors: &[(String, Vec<usize>, Vec<u8>)]) {
    let view = |(name, shape, data): &(String, Vec<usize>, Vec<u8>)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data.clone().leak()).unwrap();
        (name.clone(), view)
    };
    let bytes = safetensors::serialize(tensors.iter().map(view), None).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_part_of_a_model_is_refused_by_the_name_of_what_is_missing() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    fs::copy(file("starcoder2/config.json"), folder.join("config.json")).unwrap();
    let all = tensors("starcoder2/model.safetensors");
    for left_out in 0..all.len() {
        let rest: Vec<_> = all.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, one)| one.clone()).collect();
        write_tensors(&folder.join("model.safetensors"), &rest);
        let error = refused(folder, &told());
        assert!(error.contains(&all[left_out].0), "{error}");
    }
    for half in 0..all.len() {
        let mut some = all.clone();
        let (name, shape, data) = &mut some[half];
        let name = name.clone();
        shape[0] /= 2;
        data.truncate(4 * shape.iter().product::<usize>());
        write_tensors(&folder.join("model.safetensors"), &some);
        let error = refused(folder, &told());
        assert!(error.contains(&name) && error.contains("has the shape"), "{error}");
    }
    let mut more = all.clone();
    more.push(("model.layers.0.self_attn.sinks".to_owned(), vec![2], vec![0; 8]));
    write_tensors(&folder.join("model.safetensors"), &more);
    let error = refused(folder, &told());
    assert!(error.contains("model.layers.0.self_attn.sinks"), "{error}");
    let mut infinite = all;
    infinite[3].2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    write_tensors(&folder.join("model.safetensors"), &infinite);
    let error = refused(folder, &told());
    assert!(error.contains("the weights are not all finite"), "{error}");
}

#[test]
fn shards_are_read_as_one_model() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    fs::copy(file("llama/config.json"), folder.join("config.json")).unwrap();
    let all = tensors("llama/model.safetensors");
    let mut map = serde_json::Map::new();
    for (i, part) in all.chunks(7).enumerate() {
        let name = format!("model-0000{i}.safetensors");
        write_tensors(&folder.join(&name), part);
        part.iter().for_each(|(tensor, ..)| _ = map.insert(tensor.clone(), name.clone().into()));
    }
    let index = folder.join("model.safetensors.index.json");
    fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    for path in [folder, &index] {
        same_logits(&import(path, &told()).unwrap().portable, "llama");
    }
}

#[test]
fn gguf_comes_back_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    for (name, architecture) in [("gpt2", "gpt2"), ("llama", "llama"), ("qwen2", "qwen2"), ("stablelm", "stablelm")] {
        let model = imported(name, &told()).portable;
        let dialect = Dialect::find(Convention::Gguf, architecture).unwrap();
        let path = temp.path().join(format!("{name}.gguf"));
        gguf::write(&path, &model, dialect, &dialect.write(&model).unwrap(), Dtype::F32, None).unwrap();
        let back = import(&path, &ImportOptions::default()).unwrap();
        assert_eq!(back.portable.weights, model.weights, "{name}");
        assert_eq!(back.report.tokenizer, "the vocabulary in the file");
        same_logits(&back.portable, name);
    }
}

/// A file that is cut off or changed is an error, or gives a model; it never panics.
#[test]
fn damaged_files_never_panic() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["lecture.pth", "nanogpt.pt", "mingpt.pt", "gpt2/model.safetensors", "llm.c.bin", "llama2.c-int8.bin"] {
        let bytes = fs::read(file(name)).unwrap();
        let path = temp.path().join("damaged");
        let try_bytes = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let options = ImportOptions { n_head: Some(2), ..told() };
            import(&path, &options).map(|imported| imported.report.params)
        };
        for cut in (0..bytes.len()).step_by(bytes.len() / 23 + 1) {
            assert!(try_bytes(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
        for at in (0..bytes.len()).step_by(bytes.len() / 61 + 1) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x41;
            let _ = try_bytes(&changed);
        }
    }
}

/// Text of the eleven characters that a model of the lecture's code has learned nothing of.
#[test]
fn tensors_alone_come_back_as_the_same_model() {
    for settings in [
        &["bias=false"][..],
        &["position=rotary", "norm=rmsnorm", "activation=swiglu", "qk_norm=true", "n_kv_head=1", "tie_weights=false"],
        &["attention_scale=n_embd", "activation=relu", "bias=true", "norm_eps=1e-6", "bos_token=a"],
    ] {
        let mut config = Config::default().with(&["n_layer=2", "n_embd=8", "n_head=2", "block_size=8"]).unwrap();
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        (config.vocab_size, config.data) = (4, vec!["/home/somebody/text.txt".to_owned()]);
        config.check().unwrap();
        let weights =
            Layout::new(&config).unwrap().init(5).iter().enumerate().map(|(i, x)| x + i as f32 / 7.0).collect();
        let tokenizer = Tokenizer::from(CharTokenizer::train("abcd"));
        let tokenizer = tokenizer.with_ends(&config.bos_token, &config.eos_token).unwrap();
        let model = Portable::new(config, weights, tokenizer).unwrap();
        let source = Source {
            model: model.clone(),
            adapters: None,
            step: 3,
            val_loss: None,
            name: "x".to_owned(),
            warnings: Vec::new(),
            notes: Vec::new(),
        };
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path().join("e");
        export(source, Target::Safetensors, &out, &ExportOptions::default()).unwrap();
        for path in [out.clone(), out.join("model.safetensors"), out.join("kinglet.toml")] {
            let back = import(&path, &ImportOptions::default()).unwrap_or_else(|error| panic!("{}", error.one_line()));
            assert!(back.portable.weights == model.weights, "{settings:?}: the same bits");
            assert_eq!(back.portable.tokenizer.to_json(), model.tokenizer.to_json());
            assert_eq!(back.portable.tokenizer.begin_of_text(), model.tokenizer.begin_of_text());
            let mut want = model.config.clone();
            want.data.clear();
            assert_eq!(back.portable.config, want, "{settings:?}");
            assert!(back.report.guesses.is_empty() && back.report.notes.is_empty(), "{:?}", back.report);
        }
        assert!(!fs::read_to_string(out.join("kinglet.toml")).unwrap().contains("somebody"));
        // What the configuration asks for must be there.
        // Nothing is rounded on the way in, whoever asks for it.
        let few = "an import has the numbers of the file, and none is rounded";
        let set = |setting: &str| ImportOptions { set: vec![setting.to_owned()], ..ImportOptions::default() };
        assert!(refused(&out, &set("quantization=w8")).contains(few));
        let own = fs::read_to_string(out.join("kinglet.toml")).unwrap();
        fs::write(out.join("kinglet.toml"), format!("quantization = \"w4\"\n{own}")).unwrap();
        assert!(refused(&out, &ImportOptions::default()).contains(few));
        let plain = import(&out, &set("quantization=none")).unwrap().portable;
        assert!(plain.config.quantization.is_none() && plain.rounded.is_empty());
        fs::write(out.join("kinglet.toml"), own).unwrap();
        let toml = fs::read_to_string(out.join("kinglet.toml")).unwrap().replace("n_layer = 2", "n_layer = 3");
        fs::write(out.join("kinglet.toml"), toml).unwrap();
        let error = refused(&out, &ImportOptions::default());
        assert!(error.contains("it has no tensor transformer.h.2."), "{error}");
    }
}

/// A copy of a fixture's folder, with changes in its JSON files.
fn changed(name: &str, changes: &[(&str, &str, Value)]) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(file(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, temp.path().join(path.file_name().unwrap())).unwrap();
    }
    for (file, key, value) in changes {
        let path = temp.path().join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
        let mut json: Value = serde_json::from_str(&text).unwrap();
        json[*key] = value.clone();
        fs::write(&path, json.to_string()).unwrap();
    }
    temp
}

#[test]
fn what_a_folder_says_twice_or_both_ways_is_told_once() {
    let ends = ["config.json", "generation_config.json"].map(|name| (name, "eos_token_id", json!(7)));
    let notes = import(changed("llama", &ends).path(), &told()).unwrap().report.notes;
    assert_eq!(notes.iter().filter(|note| note.contains("eos_token_id = 7 is left out")).count(), 1, "{notes:?}");

    let tied = changed("llama", &[("config.json", "tie_word_embeddings", json!(true))]);
    let notes = import(tied.path(), &told()).unwrap().report.notes.join("\n");
    assert!(notes.contains("transformers 4") && notes.contains("transformers 5"), "{notes}");
}

#[test]
fn a_file_that_is_cut_off_and_what_is_no_file_are_refused_as_such() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("cut.pth");
    let whole = fs::read(file("lecture.pth")).unwrap();
    for len in [whole.len() - 10, whole.len() / 2, 100] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = refused(&path, &told());
        assert!(error.contains("it is cut off"), "{error}");
    }
    #[cfg(unix)]
    {
        let pipe = temp.path().join("model.safetensors");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::write(temp.path().join("config.json"), fs::read(file("llama/config.json")).unwrap()).unwrap();
        for path in [pipe.as_path(), temp.path()] {
            let error = refused(path, &told());
            assert!(error.contains("neither a file nor a folder"), "{error}");
        }
    }
}

#[test]
fn every_activation_and_scale_is_tried_and_what_is_told_is_compared() {
    let cli = Cli::new();
    // A text that does not change: how clear the losses are depends on it.
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE-APACHE"), cli.path("text.txt")).unwrap();
    let settings = "n_layer=1 n_embd=64 n_head=8 block_size=32 activation=relu attention_scale=n_embd max_iters=600 \
                    eval_iters=2 learning_rate=0.005 bias=false batch_size=8";
    let mut args = vec!["train", "text.txt", "--name", "small", "--quiet"];
    settings.split_whitespace().for_each(|setting| args.extend(["--set", setting]));
    cli.ok(&args);
    cli.ok(&["export", "small", "--format", "safetensors", "-o", "e"]);
    cli.fails(&["sample", "e"], 1, "not a run: kinglet import e makes a run of it");
    cli.ok(&["import", "e", "--name", "back"]);
    let sample = |run| cli.ok(&["sample", run, "--tokens", "50", "--seed", "1", "--quiet"]);
    assert_eq!(sample("back"), sample("small"));
    fs::remove_file(cli.path("e/kinglet.toml")).unwrap();

    let import = |more: &[&str]| {
        let args = [&["import", "e/model.safetensors", "--json"], more].concat();
        serde_json::from_str::<Value>(&cli.ok(&args)).unwrap()
    };
    let found = import(&["--n-head", "8", "--data", "text.txt"]);
    let guess = |found: &Value, key: &str| {
        found["guesses"].as_array().unwrap().iter().find(|guess| guess["key"] == key).unwrap().clone()
    };
    let activation = guess(&found, "activation");
    assert_eq!((&activation["value"], &activation["certainty"]), (&json!("relu"), &json!("measured")), "{activation}");
    let reason = activation["reason"].as_str().unwrap();
    assert!(
        ["gelu", "gelu_tanh", "relu_squared"].iter().all(|name| reason.contains(&format!("with {name}"))),
        "{reason}"
    );
    let scale = guess(&found, "attention_scale");
    assert_eq!((&scale["value"], &scale["certainty"]), (&json!("n_embd"), &json!("measured")), "{scale}");

    let found = import(&["--n-head", "8", "--data", "text.txt", "--attention-scale", "head_size"]);
    let notes = found["notes"].to_string();
    assert!(notes.contains("attention_scale = head_size, as told, but the loss on text.txt is "), "{notes}");
    assert!(notes.contains("clearly lower with n_embd: "), "{notes}");
    let notes = import(&["--n-head", "4", "--data", "text.txt"])["notes"].to_string();
    assert!(notes.contains("n_head = 4, as told"), "{notes}");

    // Without a text it is a guess, and which option decides it is said.
    let scale = guess(&import(&["--n-head", "8"]), "attention_scale");
    assert_eq!(scale["certainty"], "likely");
    let reason = scale["reason"].as_str().unwrap();
    assert!(reason.contains("--data TEXT") && reason.contains("--attention-scale"), "{reason}");
}

const TEXT: &str = "abc!;\n defg";

#[test]
fn an_imported_run_is_used_like_any_other() {
    let cli = Cli::new();
    fs::write(cli.path("text.txt"), TEXT.repeat(200)).unwrap();
    let lecture = file("lecture.pth").display().to_string();
    let out = cli.ok(&["import", &lecture, "--data", "text.txt", "--tokenizer", file("meta.pkl").to_str().unwrap()]);
    assert!(out.contains("guessed     attention_scale = ") && out.contains("runs/lecture"), "{out}");
    let json: Value =
        serde_json::from_str(&cli.ok(&["import", &lecture, "--data", "text.txt", "--json", "--name", "second"]))
            .unwrap();
    assert_eq!((json["params"].as_u64(), json["format"].as_str()), (Some(1115), Some("pytorch")));
    assert!(json["guesses"][0]["reason"].as_str().unwrap().contains("the loss on text.txt is "), "{json}");
    assert_eq!(json["out"], "runs/second");

    assert_eq!(cli.ok(&["sample", "lecture", "--tokens", "20", "--seed", "1", "--quiet"]).chars().count(), 21);
    cli.ok(&["eval", "lecture"]);
    cli.ok(&["info", "lecture"]);
    let listed = cli.ok(&["list", "--json"]);
    assert!(listed.contains("\"done\""), "{listed}");
    cli.ok(&["finetune", "lecture", "text.txt", "--set", "max_iters=2", "--set", "eval_iters=1", "--out", "tuned"]);
    cli.fails(&["train", "--resume", "lecture"], 1, "it has no optimizer state (an import has none");
    cli.fails(&["import", &lecture, "--data", "text.txt", "--out", "runs/lecture"], 1, "already contains a run");
    cli.fails(&["import", "runs/lecture"], 1, "this is a run of kinglet's");
}

/// A model as the lecture's code would have saved it, in `path`.
fn as_lecture(run: &str, cli: &Cli, path: &Path) {
    let model = kinglet::run::RunDir::open(&cli.path(run)).unwrap();
    let (config, tokenizer, layout) =
        (model.config.clone(), model.tokenizer.clone(), kinglet::params::Layout::new(&model.config).unwrap());
    let weights = { model }.load_weights(&layout, None, kinglet::run::Which::Last).unwrap().1;
    let portable = Portable::new(config, weights, tokenizer).unwrap();
    let foreign = Dialect::find(Convention::Lecture, "lecture").unwrap().write(&portable).unwrap();
    let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensors: Vec<_> = foreign
        .tensors
        .iter()
        .map(|(name, one)| (name.clone(), one.shape.clone(), bytes(&one.read().unwrap())))
        .collect();
    write_tensors(path, &tensors);
}

#[test]
fn the_loss_on_a_text_decides_what_a_file_does_not_say() {
    let cli = Cli::new();
    fs::write(cli.path("text.txt"), kinglet_text()).unwrap();
    let path = cli.path("model.safetensors");
    for (scale, activation) in [("n_embd", "relu"), ("head_size", "relu"), ("n_embd", "gelu")] {
        let set = |key: &str, value: &str| ["--set".to_owned(), format!("{key}={value}")];
        let settings = [
            set("attention_scale", scale),
            set("activation", activation),
            set("max_iters", "300"),
            set("eval_interval", "300"),
            set("eval_iters", "1"),
            set("n_layer", "2"),
            set("n_embd", "32"),
            set("learning_rate", "0.005"),
        ];
        let run = format!("{scale}-{activation}");
        let mut args = vec!["train", "text.txt", "--preset", "big-0.2m", "--quiet", "--out", &run];
        args.extend(settings.iter().flatten().map(String::as_str));
        cli.ok(&args);
        as_lecture(&run, &cli, &path);
        let options =
            ImportOptions { data: vec![cli.path("text.txt").display().to_string()], ..ImportOptions::default() };
        let found = import(&path, &options).unwrap();
        let guess = |key: &str| found.report.guesses.iter().find(|guess| guess.key == key).unwrap();
        assert_eq!(
            (guess("attention_scale").value.as_str(), guess("attention_scale").certainty),
            (scale, Certainty::Measured)
        );
        assert_eq!(guess("activation").value, activation, "{:?}", found.report.guesses);
        assert_eq!(found.portable.config.value("attention_scale").as_str(), Some(scale));
    }
}

/// Text with something to learn about what came before.
fn kinglet_text() -> String {
    let words = ["the", "kinglet", "weighs", "less", "than", "a", "coin", "and", "sings", "all", "winter"];
    let mut state = 7usize;
    let mut text = String::new();
    for _ in 0..4000 {
        state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
        let word = words[state / 65_536 % words.len()];
        text += &format!("{word} {} {word}\n", words[state / 1024 % words.len()]);
    }
    text
}
