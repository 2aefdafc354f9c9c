//! Adapters of PEFT become runs that compute what PEFT computes. The folders in tests/fixtures/foreign/peft are from
//! `scripts/foreign.py`.

use crate::common::cli::Cli;
use kinglet::{
    backend::{Forward, Pass, Reference, Rows},
    config::Config,
    formats::{ImportOptions, ImportedAdapters, Source, adapter_base, adapter_folder, import_adapters},
    model::Gpt,
    params::{Layout, edit::merge},
    run::{RunDir, Which},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const ALL: [&str; 10] =
    ["gpt2", "patterns", "rslora", "neox", "saved", "saved-embedding", "saved-head", "head", "all-linear", "lecture"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/foreign").join(name)
}

fn base(path: &Path) -> Source {
    let options = ImportOptions { tokenizer: Some(file("meta.pkl")), ..ImportOptions::default() };
    Source::of_import(path, &options).unwrap()
}

/// An adapter on the model that it names.
fn imported(name: &str) -> ImportedAdapters {
    let folder = adapter_folder(&file("peft").join(name)).unwrap();
    let (_, at) = adapter_base(&folder).unwrap();
    let at = at.unwrap();
    import_adapters(&folder, base(&at), &at).unwrap_or_else(|error| panic!("{name}: {}", error.one_line()))
}

fn logits(config: &Config, weights: &[f32], ids: &[u32]) -> Vec<f64> {
    let gpt = Gpt::new(config).unwrap();
    let mut p = Reference.zeros(weights.len());
    Reference.upload(&mut p, 0, weights);
    let mut acts = gpt.acts(&Reference, 1, false);
    gpt.forward(&Reference, Pass { p: &p, rows: Rows::new(1, ids.len()), dropout: None }, &mut acts, ids);
    acts.logits()[..ids.len() * config.vocab_size].to_vec()
}

fn largest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn logits_are_those_of_peft_with_adapters_and_merged() {
    for name in ALL {
        let found = imported(name);
        let text = fs::read_to_string(file(&format!("peft/{name}.logits.json"))).unwrap();
        let want: Value = serde_json::from_str(&text).unwrap();
        let ids: Vec<u32> = want["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let want: Vec<f64> = want["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let (config, weights) = (&found.adapters.config, &found.adapters.weights);
        let has = logits(config, weights, &ids);
        assert!(largest(&has, &want) < 1e-5, "{name}: {}", largest(&has, &want));
        let plain = logits(&found.base.config, &found.base.weights, &ids);
        assert!(largest(&plain, &want) > 1e-2, "{name}: the adapter changes the model");
        let (config, weights) = merge(config, weights.clone()).unwrap();
        assert!(largest(&logits(&config, &weights, &ids), &want) < 1e-5, "{name}, merged");
    }
}

#[test]
fn what_modules_share_here_is_told_and_kept_exactly() {
    let shape = |name: &str| {
        let config = imported(name).adapters.config;
        (config.lora_rank, config.lora_alpha, Vec::<String>::from(config.lora_targets), config.modules_to_save)
    };
    let words = |all: &[&str]| all.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    // One module there is one layer here: as they were.
    assert_eq!(shape("gpt2"), (3, 7.0, words(&["qkv", "proj", "mlp"]), vec![]));
    // Queries of rank 3 and values of rank 2 in one layer.
    assert_eq!(shape("patterns").0, 5);
    // Queries, keys and values of rank 2 each.
    assert_eq!(shape("all-linear").0, 6);
    // alpha / sqrt(r) is another alpha.
    let (rank, alpha, ..) = shape("rslora");
    assert!(rank == 3 && (alpha / 3.0 - 4.0 / 3f64.sqrt()).abs() < 1e-12, "{alpha}");
    assert_eq!(shape("saved").3, ["lm_head.weight", "transformer.wte.weight"]);
    assert!(shape("neox").3.iter().all(|name| name.ends_with(".bias")) && shape("neox").3.len() > 5);
    assert_eq!(shape("all-linear").3, ["transformer.ln_f.bias", "transformer.ln_f.weight"]);
    // One of head and embedding was trained: they are no longer the same.
    assert!(!imported("saved-head").base.config.tie_weights && imported("head").base.config.tie_weights);
    let notes = imported("rslora").report.notes.join("\n");
    assert!(notes.contains("5 layers have no adapter there and zeros here"), "{notes}");
}

type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

fn tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let one = |(name, view): (String, TensorView)| (name, view.shape().to_vec(), view.data().to_vec());
    let mut all: Vec<_> = file.tensors().into_iter().map(one).collect();
    all.sort();
    all
}

fn write_tensors(path: &Path, tensors: &Tensors) {
    let views =
        tensors.iter().map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A copy of an adapter, to be changed.
struct Copy {
    temp: tempfile::TempDir,
    told: Value,
    tensors: Tensors,
}

impl Copy {
    fn of(name: &str) -> Copy {
        let folder = file("peft").join(name);
        let told = serde_json::from_str(&fs::read_to_string(folder.join("adapter_config.json")).unwrap()).unwrap();
        let tensors = tensors(&folder.join("adapter_model.safetensors"));
        Copy { temp: tempfile::tempdir().unwrap(), told, tensors }
    }

    fn import(&self, at: &str) -> Result<ImportedAdapters, String> {
        let folder = self.temp.path();
        fs::write(folder.join("adapter_config.json"), self.told.to_string()).unwrap();
        write_tensors(&folder.join("adapter_model.safetensors"), &self.tensors);
        import_adapters(folder, base(&file(at)), &file(at)).map_err(|error| error.one_line())
    }

    #[track_caller]
    fn refused(&self, at: &str, says: &str) {
        let error = self.import(at).err().unwrap_or_else(|| panic!("it should say {says}"));
        assert!(error.contains(says), "{error}\nand not {says}");
    }
}

#[test]
fn what_kinglet_has_no_form_for_is_refused_by_the_name_of_the_setting() {
    for (key, value, says) in [
        ("peft_type", json!("IA3"), "peft_type = \"IA3\": kinglet's adapters are LoRA"),
        ("peft_type", Value::Null, "peft_type = null"),
        ("use_dora", json!(true), "use_dora = true: kinglet's adapters have no magnitudes"),
        ("lora_bias", json!(true), "lora_bias = true"),
        ("use_qalora", json!(true), "use_qalora = true"),
        ("layer_replication", json!([[0, 1], [0, 1]]), "layer_replication = [[0,1],[0,1]]"),
        ("trainable_token_indices", json!([1]), "trainable_token_indices = [1]"),
        ("target_parameters", json!(["a"]), "target_parameters = [\"a\"]"),
        ("alora_invocation_tokens", json!([1]), "alora_invocation_tokens = [1]"),
        (
            "init_lora_weights",
            json!("pissa_niter_4"),
            "init_lora_weights = pissa_niter_4: this beginning changes the base",
        ),
        ("init_lora_weights", json!("olora"), "init_lora_weights = olora"),
        ("some_new_switch", json!(true), "some_new_switch = true: kinglet does not know this setting"),
        ("alpha_pattern", json!({"(q|v)_proj": 4}), "alpha_pattern = (q|v)_proj: kinglet reads names of modules"),
        ("r", json!(4), "mlp.down_proj.lora_A.weight has the shape [2, 12] instead of [4, 12]"),
        ("r", json!("two"), "r = \"two\": must be a rank"),
        ("rank_pattern", json!({}), "self_attn.q_proj.lora_A.weight has the shape [3, 8] instead of [2, 8]"),
        ("lora_dropout", json!(1.5), "lora_dropout = 1.5"),
        ("lora_alpha", json!("many"), "lora_alpha = \"many\": must be a number"),
        (
            "target_modules",
            json!(["q_proj", "v_proj", "up_proj", "down_proj", "o_proj"]),
            "it has no tensor base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight, which target_modules asks for",
        ),
        (
            "target_modules",
            json!(["q_proj", "v_proj", "up_proj"]),
            "layers.0.mlp.down_proj.lora_A.weight, but target_modules, exclude_modules and layers_to_transform leave that module out",
        ),
        ("exclude_modules", json!(["q_proj"]), "self_attn.q_proj.lora_A.weight, but target_modules"),
        ("layers_to_transform", json!([0]), "it has base_model.model.model.layers.1."),
        ("modules_to_save", json!(["lm_head"]), "it has no tensor of lm_head, which modules_to_save asks for"),
    ] {
        let mut copy = Copy::of("patterns");
        copy.told[key] = value;
        copy.refused("llama", says);
    }
    // What says nothing of what it computes is no hindrance; what is not known is told.
    let mut copy = Copy::of("patterns");
    copy.told["init_lora_weights"] = json!("gaussian");
    copy.told["target_modules"] = json!(".*(q|v|up|down)_proj");
    copy.told["some_new_size"] = json!(16);
    let notes = copy.import("llama").unwrap().report.notes.join("\n");
    assert!(notes.contains("some_new_size = 16 in adapter_config.json is left out"), "{notes}");
}

#[test]
fn a_tensor_too_many_too_few_or_of_another_model_is_named() {
    let whole = Copy::of("patterns");
    assert!(whole.import("llama").is_ok());
    for left_out in 0..whole.tensors.len() {
        let mut copy = Copy::of("patterns");
        let (name, ..) = copy.tensors.remove(left_out);
        copy.refused("llama", &name);
    }
    for half in 0..whole.tensors.len() {
        let mut copy = Copy::of("patterns");
        let (name, shape, data) = &mut copy.tensors[half];
        let name = name.clone();
        shape[1] -= 1;
        data.truncate(4 * shape[0] * shape[1]);
        copy.refused("llama", &format!("{name} has the shape"));
    }
    let one = || 1f32.to_le_bytes().to_vec();
    for (name, says) in [
        (
            "base_model.model.model.layers.0.self_attn.sinks",
            "has no place in the architecture llama: model.layers.0.self_attn.sinks [1]",
        ),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector.weight", "no magnitudes (DoRA)"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "an adapter of an embedding"),
        (
            "base_model.model.model.layers.0.mlp.up_proj.lora_B.bias",
            "lora_B.bias: kinglet's adapters have a lora_A.weight",
        ),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.other.weight", "up_proj.lora_A.weight is there twice"),
    ] {
        let mut copy = Copy::of("patterns");
        copy.tensors.push((name.to_owned(), vec![1], one()));
        copy.refused("llama", says);
    }
    // A layer that the base has not.
    let mut copy = Copy::of("patterns");
    for which in ["A", "B"] {
        copy.tensors.push((format!("base_model.model.model.layers.7.mlp.up_proj.lora_{which}.weight"), vec![1], one()));
    }
    copy.refused("llama", "the base has no linear layer model.layers.7.mlp.up_proj");
    Copy::of("patterns").refused("gpt2", "the base has no linear layer model.layers.0.");
    Copy::of("patterns").refused("arcee", "the base has no linear layer model.layers.1.");
    let mut copy = Copy::of("patterns");
    copy.tensors[0].2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    copy.refused("llama", "its numbers are not all finite");
    let mut copy = Copy::of("saved");
    copy.tensors.retain(|(name, ..)| name.contains("lora_"));
    copy.refused("qwen3", "modules_to_save asks for");
    copy.tensors.retain(|(name, ..)| !name.contains("lora_"));
    copy.refused("qwen3", "it has no adapter of a linear layer");
}

/// The names that a model without a head leaves out, wrappers and an adapter's own name change nothing.
#[test]
fn names_are_read_as_peft_writes_them_anywhere() {
    let want = Copy::of("patterns").import("llama").unwrap().adapters.weights;
    let changes: [fn(&str) -> String; 4] = [
        |name| name.replace("base_model.model.model.", "base_model.model."),
        |name| name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
        |name| format!("module.{name}"),
        |name| name.replace("base_model.model.", ""),
    ];
    for change in changes {
        let mut copy = Copy::of("patterns");
        copy.tensors.iter_mut().for_each(|(name, ..)| *name = change(name));
        // The names in the configuration are of the model, whole.
        assert_eq!(copy.import("llama").unwrap().adapters.weights, want, "{}", copy.tensors[0].0);
    }
}

/// The adapter of a run's newest checkpoint.
fn adapter_of(run: &Path) -> (Config, Vec<f32>, Vec<f32>) {
    let mut run = RunDir::open(run).unwrap();
    let base = run.adapted_weights().unwrap().unwrap();
    let layout = Layout::new(&run.config).unwrap();
    let weights = run.load_weights(&layout, Some(&base), Which::Last).unwrap().1;
    (run.config.clone(), base, weights)
}

#[test]
fn adapters_that_go_out_come_back_with_the_same_bits() {
    let cli = Cli::new();
    fs::write(cli.path("text.txt"), "in winter the kinglet weighs no more than a coin. ".repeat(50)).unwrap();
    let set =
        |settings: &[&'static str]| -> Vec<&'static str> { settings.iter().flat_map(|one| ["--set", one]).collect() };
    let brief = set(&["n_embd=16", "n_layer=2", "n_head=4", "max_iters=3", "eval_iters=1", "learning_rate=0.05"]);
    for (name, shape) in [
        (
            "llama",
            set(&[
                "position=rotary",
                "norm=rmsnorm",
                "activation=swiglu",
                "n_kv_head=2",
                "bias=false",
                "attention_scale=head_size",
            ]),
        ),
        ("nanogpt", set(&["activation=gelu", "attention_scale=head_size", "tie_weights=true"])),
        // Here the queries are scaled on the way, by a power of two.
        ("scaled", set(&["activation=gelu_tanh", "attention_scale=n_embd", "bias=[\"proj\", \"mlp\", \"norm\"]"])),
    ] {
        let (tuned, out, back, again) =
            (format!("{name}-tuned"), format!("{name}-peft"), format!("{name}-back"), format!("{name}-again"));
        cli.ok(&[&["train", "text.txt", "--out", name][..], &shape, &brief].concat());
        let lora = set(&["lora_rank=2", "lora_alpha=6", "lora_dropout=0.1"]);
        cli.ok(&[&["finetune", name, "text.txt", "--out", &tuned][..], &brief[6..], &lora].concat());
        cli.ok(&["export", &tuned, "--format", "peft", "-o", &out]);
        let has = adapter_of(&cli.path(&tuned));
        let len = has.1.len();
        // On the run that was tuned; the exported base may be another one, rewritten.
        let said = cli.ok(&["import", &out, "--base", name, "--out", &again]);
        assert!(said.contains("adapters    rank 2, alpha 6, on [\"qkv\", \"proj\", \"mlp\"]"), "{said}");
        let found = adapter_of(&cli.path(&again));
        assert_eq!((found.1 == has.1, found.2 == has.2), (true, true), "{name}");
        assert_eq!((found.0.lora_dropout, found.0.data.len()), (0.1, 0));
        // On what was exported beside it, which the adapter names itself.
        cli.ok(&["import", &out, "--out", &back]);
        if name != "scaled" {
            // The base may have got biases of zeros.
            let found = adapter_of(&cli.path(&back));
            assert!(found.2[found.1.len()..] == has.2[len..], "{name}");
        }
        let sample =
            |run: &str| cli.ok(&["sample", run, "--tokens", "40", "--temperature", "0", "--prompt", "the ", "--quiet"]);
        assert_eq!(sample(&again), sample(&tuned));
        assert_eq!(sample(&back), sample(&tuned));
        assert_ne!(sample(name), "");

        // It is used as a run that was tuned here.
        cli.ok(&["merge", &again, "-o", &format!("{name}-merged")]);
        assert_eq!(sample(&format!("{name}-merged")), sample(&tuned));
        cli.ok(&["eval", &again, "text.txt"]);
        cli.ok(&["info", &again]);
        cli.ok(&["export", &again, "-o", &format!("{name}-hf")]);
        cli.ok(&["export", &again, "--format", "peft", "-o", &format!("{name}-second")]);
        let bytes = |folder: &str| fs::read(cli.path(folder).join("adapter_model.safetensors")).unwrap();
        assert!(bytes(&out) == bytes(&format!("{name}-second")), "{name}");
        assert_eq!(
            cli.ok(&[
                "sample",
                name,
                "--adapter",
                &again,
                "--temperature",
                "0",
                "-n",
                "20",
                "--prompt",
                "the ",
                "--quiet"
            ]),
            cli.ok(&["sample", &tuned, "--temperature", "0", "-n", "20", "--prompt", "the ", "--quiet"])
        );
        cli.fails(&["import", &out, "--base", name, "--out", &again], 1, "already contains a run");
        cli.fails(&["import", &out, "--base", name, "--n-head", "4", "--out", "new"], 2, "is a run, which says itself");
    }
    let out = cli.ok(&["import", "llama-peft", "--base", "llama", "--json", "--out", "json"]);
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&out["format"], &out["architecture"]), (&json!("peft"), &json!("llama")));
    fs::write(cli.path("model.bin"), "x").unwrap();
    cli.fails(&["import", "model.bin", "--base", "llama"], 2, "--base is only for adapters of PEFT");
}

/// A model that is rewritten for transformers is no longer the one whose modules were adapted.
#[test]
fn adapters_of_a_rewritten_model_want_that_as_their_base() {
    let cli = Cli::new();
    fs::write(cli.path("text.txt"), "in winter the kinglet weighs no more than a coin. ".repeat(50)).unwrap();
    // ReLU becomes SwiGLU there, of other sizes.
    let settings = [
        "position=rotary",
        "norm=rmsnorm",
        "activation=relu",
        "bias=false",
        "n_embd=16",
        "n_layer=1",
        "n_head=4",
        "max_iters=2",
        "eval_iters=1",
    ];
    let mut args = vec!["train", "text.txt", "--out", "run"];
    settings.iter().for_each(|setting| args.extend(["--set", setting]));
    cli.ok(&args);
    cli.ok(&["export", "run", "-o", "hf"]);
    let one = |shape: [usize; 2]| (shape.to_vec(), vec![0u8; 4 * shape[0] * shape[1]]);
    let mut made = Tensors::new();
    for (which, shape) in [("A", [1, 16]), ("B", [16, 1])] {
        let (shape, data) = one(shape);
        made.push((format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{which}.weight"), shape, data));
    }
    fs::create_dir(cli.path("adapter")).unwrap();
    write_tensors(&cli.path("adapter/adapter_model.safetensors"), &made);
    let told = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]});
    fs::write(cli.path("adapter/adapter_config.json"), told.to_string()).unwrap();
    cli.fails(
        &["import", "adapter", "--base", "run", "--out", "new"],
        1,
        "--base names the folder that was adapted instead",
    );
    cli.ok(&["import", "adapter", "--base", "hf", "--out", "new"]);
    cli.fails(
        &["import", "adapter", "--out", "other"],
        1,
        "adapters of PEFT belong to another model: --base RUN names it",
    );
}

/// Ctrl-C while a model is read or written: nothing is left of it.
#[test]
#[cfg(unix)]
fn an_export_that_is_interrupted_leaves_nothing() {
    let cli = Cli::new();
    // Large enough that writing takes a moment.
    let settings = [
        "n_embd=256",
        "n_layer=4",
        "n_head=8",
        "max_iters=1",
        "eval_iters=1",
        "batch_size=1",
        "block_size=8",
        "eval_interval=1",
    ];
    let mut args = vec!["train", "--out", "run", "--quiet"];
    settings.iter().for_each(|setting| args.extend(["--set", setting]));
    cli.ok(&args);
    let mut interrupted = 0;
    for (number, args) in [
        ["export", "run", "--format", "safetensors", "--out", "new/folder/a"],
        ["export", "run", "--format", "onnx", "--out", "new/folder/b"],
    ]
    .iter()
    .enumerate()
    {
        let mut child = cli.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        let is_writing = || {
            let entries = cli.path("new/folder").read_dir().into_iter().flatten().flatten();
            entries.into_iter().any(|entry| {
                entry.file_name().to_string_lossy().ends_with(".tmp")
                    && entry.path().read_dir().is_ok_and(|files| files.count() > 1)
            })
        };
        while !is_writing() && child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "it never begins to write");
            std::thread::sleep(Duration::from_micros(200));
        }
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        if status.code() == Some(130) {
            interrupted += 1;
            assert!(
                !cli.path("new").exists(),
                "number {number}: {:?}",
                cli.path("new/folder")
                    .read_dir()
                    .map(|all| all.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>())
            );
        } else {
            // It was faster than the signal.
            assert!(status.success(), "{status}");
            fs::remove_dir_all(cli.path("new")).unwrap();
        }
    }
    assert!(interrupted > 0, "no export was interrupted");
}
