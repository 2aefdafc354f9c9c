//! Adapters and frozen parameters in training: what does not train keeps its bits and takes no memory, what does
//! learns, and the result neither depends on the threads nor changes when the adapters are merged into the weights.

use kinglet::{
    backend::{Buf, Cpu, Forward, Pass, Reference, Rows},
    batch::Batch,
    config::Config,
    model::Gpt,
    optim::Optimizer,
    params::{Layout, edit::merge},
    run::{Checkpoint, RunDir, State, Which},
    shards::Shards,
    text::tokenizer::CharTokenizer,
    threads::with_threads,
    train::Memory,
};

const ALL: &str = "lora_targets=[\"qkv\",\"proj\",\"mlp\",\"head\"]";

fn config(settings: &[&str]) -> Config {
    let small = ["vocab_size=11", "block_size=8", "n_layer=2", "n_head=2", "n_embd=12", "bias=true", "batch_size=6"];
    let config = Config::default().with(&[&small, settings].concat()).unwrap();
    layout(&config).check(&config).unwrap();
    config
}

fn layout(config: &Config) -> Layout {
    Layout::new(config).unwrap()
}

fn ids() -> Vec<u32> {
    (0..1000u32).map(|i| (i * i / 3 + i / 7) % 11).collect()
}

/// The state of a training after some steps.
struct Trained {
    p: Vec<f32>,
    g: Vec<f32>,
    optimizer: Optimizer<Cpu>,
    losses: Vec<f64>,
}

/// Trains on six sequences, over and over.
fn train(config: &Config, p: Vec<f32>, steps: u64) -> Trained {
    let (be, model, ids) = (Cpu::new().unwrap(), Gpt::new(config).unwrap(), ids());
    let mut shards = Shards::new(&be, &model, config.batch_size, 3, true);
    let mut optimizer = Optimizer::new(&be, &model.layout, config).unwrap();
    let mut p = Buf::from(p);
    let mut batch = Batch::default();
    (0..config.batch_size).for_each(|i| _ = batch.add(&ids[i * 50..][..9]));
    let step = |step| {
        let (loss, norm) = shards.gradient(&be, &model, &p, &batch, 1, step);
        optimizer.step(&be, &mut p, shards.last_gradient(), norm, 1.0, step);
        loss
    };
    let losses = (0..steps).map(step).collect();
    Trained { g: shards.last_gradient().to_vec(), p: p.to_vec(), optimizer, losses }
}

/// The logits of a few sequences.
fn logits<B: Forward>(be: &B, config: &Config, p: &[f32], host: impl Fn(&B::Buf) -> Vec<f64>) -> Vec<f64> {
    let model = Gpt::new(config).unwrap();
    let mut buf = be.zeros(p.len());
    be.upload(&mut buf, 0, p);
    let mut acts = model.acts(be, 3, false);
    let pass = Pass { p: &buf, rows: Rows::new(3, 8), dropout: None };
    model.forward(be, pass, &mut acts, &ids()[..24]);
    host(acts.logits())
}

fn reference(config: &Config, p: &[f32]) -> Vec<f64> {
    logits(&Reference, config, p, Vec::clone)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_new_adapter_changes_no_bit_of_the_logits() {
    for tied in ["tie_weights=false", "tie_weights=true"] {
        let (plain, adapted) = (config(&[tied]), config(&[tied, "lora_rank=3", ALL]));
        let (base, p) = (layout(&plain).init(5), layout(&adapted).init(5));
        assert!(p.len() > base.len() && bits(&p[..base.len()]) == bits(&base), "the base is the beginning");
        let of = |config, p| logits(&Cpu::new().unwrap(), config, p, |buf| buf.iter().map(|&x| x.into()).collect());
        assert_eq!(of(&adapted, &p), of(&plain, &base));
        assert_eq!(reference(&adapted, &p), reference(&plain, &base));
    }
}

#[test]
fn what_does_not_train_keeps_its_bits_and_has_neither_gradient_nor_moments() {
    for settings in [
        &["lora_rank=2", "lora_dropout=0.2"][..],
        &["lora_rank=2", ALL, "tie_weights=true", "modules_to_save=[\"*.ln_f.*\"]"],
        &["lora_rank=2", "freeze=[\"*.lora_A.*\"]", "weight_decay=0.5"],
        &["freeze=[\"transformer.h.0.*\",\"*.wte.*\"]", "grad_clip=0.1"],
        &["freeze=[\"*.weight\"]"],
        &["freeze=[\"*.wte.*\"]", "tie_weights=true", "dropout=0.1", "embd_dropout=0.1"],
    ] {
        let config = config(settings);
        let layout = layout(&config);
        let before = layout.init(3);
        let after = train(&config, before.clone(), 5);
        let mut trained = 0;
        for tensor in &layout.tensors {
            let at = tensor.span.range();
            let untouched = [&after.g, &*after.optimizer.m, &*after.optimizer.v];
            if tensor.trainable {
                assert!(bits(&after.p[at.clone()]) != bits(&before[at]), "{settings:?}: {}", tensor.name);
                trained += tensor.span.len;
            } else {
                assert!(bits(&after.p[at.clone()]) == bits(&before[at.clone()]), "{settings:?}: {}", tensor.name);
                assert!(untouched.iter().all(|buf| buf[at.clone()].iter().all(|&x| x == 0.0)), "{}", tensor.name);
            }
        }
        assert!(trained > 0 && trained == layout.trainable_len());
        let memory = Memory::of(&config.clone().with(&["shards=3"]).unwrap()).unwrap();
        assert_eq!((memory.optimizer, memory.gradients), (8 * trained as u64, 12 * trained as u64));
    }
}

#[test]
fn adapters_learn_and_the_bits_do_not_depend_on_the_threads() {
    let config = config(&["lora_rank=4", ALL, "lora_dropout=0.05", "lora_alpha=8", "learning_rate=0.02"]);
    let p = layout(&config).init(7);
    let one = with_threads(1, || train(&config, p.clone(), 150)).unwrap();
    assert!(one.losses[149] < 0.5 * one.losses[0], "{} to {}", one.losses[0], one.losses[149]);
    for threads in [2, 3] {
        let other = with_threads(threads, || train(&config, p.clone(), 150)).unwrap();
        assert!(bits(&other.p) == bits(&one.p) && other.losses == one.losses, "{threads} threads");
    }
}

#[test]
fn merged_adapters_are_the_same_function() {
    for settings in [
        &["lora_rank=2"][..],
        &["lora_rank=5", ALL, "lora_alpha=3"],
        &["lora_rank=5", ALL, "tie_weights=true", "bias=[\"head\",\"norm\"]"],
        &["lora_rank=2", "lora_targets=[\"mlp\"]", "tie_weights=true", "modules_to_save=[\"*.wte.*\"]"],
        &["lora_rank=3", ALL, "position=rotary", "n_kv_head=1", "qk_norm=true"],
        &["lora_rank=3", ALL, "head_size=10", "n_kv_head=1", "norm_eps=0.01"],
    ] {
        let config = config(settings);
        let adapted = train(&config, layout(&config).init(9), 20).p;
        let (plain, merged) = merge(&config, adapted.to_vec()).unwrap();
        let layout = layout(&plain);
        layout.check(&plain).unwrap();
        assert!(merged.len() == layout.len() && !layout.has_adapters() && layout.trainable_len() == layout.len());
        assert_eq!(plain.tie_weights, config.tie_weights && !config.lora_targets.head);
        let want = reference(&config, &adapted);
        let far = |p: &[f32]| {
            let other = reference(&plain, p);
            want.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        assert!(far(&merged) < 1e-5, "{settings:?}: {}", far(&merged));
        // Without them it is another function.
        let (_, without) = merge(&config.with(&["lora_alpha=1e-9"]).unwrap(), adapted.to_vec()).unwrap();
        assert!(far(&without) > 1e-3, "{settings:?}: {}", far(&without));
    }
}

#[test]
fn a_checkpoint_holds_what_trains() {
    let temp = tempfile::tempdir().unwrap();
    let tensors = |run: &RunDir, file: &str| {
        let bytes = std::fs::read(run.path().join("checkpoints/step-000000").join(file)).ok()?;
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<_> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        Some(names)
    };
    for (name, settings) in [
        ("adapters", &["lora_rank=2", "lora_targets=[\"proj\"]", "modules_to_save=[\"*.wpe.*\"]"][..]),
        (
            "frozen A",
            &["lora_rank=2", "lora_targets=[\"proj\"]", "freeze=[\"*lora_A*\"]", "modules_to_save=[\"*wpe*\"]"],
        ),
        ("frozen", &["freeze=[\"transformer.h.*\",\"*.wte.*\"]"]),
    ] {
        let config = config(settings);
        let layout = layout(&config);
        let after = train(&config, layout.init(4), 2);
        let (m, v) = (after.optimizer.m.to_vec(), after.optimizer.v.to_vec());
        let checkpoint = Checkpoint { state: State::default(), weights: after.p, m, v };
        let tokenizer = CharTokenizer::train("abcdefghijk");
        let (mut run, _lock) = RunDir::create(&temp.path().join(name), config, tokenizer.into(), None).unwrap();
        run.save(&layout, &checkpoint.state, |buffer, span, out| checkpoint.read(buffer, span, out)).unwrap();
        // Of a model with adapters they can be read back into another copy of the same weights.
        let base = layout.init(4)[..layout.base_len].to_vec();
        let base = layout.has_adapters().then_some(&base[..]);
        assert_eq!(run.load(&layout, base, |_| true).unwrap(), checkpoint);
        assert_eq!(run.load_weights(&layout, base, Which::Last).unwrap().1, checkpoint.weights);
        let lora = |block, part| format!("transformer.h.{block}.attn.c_proj.lora_{part}.weight");
        let trained: Vec<_> = layout.trained().iter().map(|tensor| tensor.name.clone()).collect();
        let mut moments: Vec<_> =
            ["exp_avg", "exp_avg_sq"].iter().flat_map(|of| trained.iter().map(move |t| format!("{of}.{t}"))).collect();
        moments.sort();
        assert_eq!(tensors(&run, "optimizer.safetensors").unwrap(), moments);
        if name == "frozen" {
            assert_eq!(tensors(&run, "adapter.safetensors"), None);
            assert_eq!(tensors(&run, "model.safetensors").unwrap().len(), layout.tensors.len());
            continue;
        }
        assert_eq!(tensors(&run, "model.safetensors"), None);
        let want =
            [lora(0, "A"), lora(0, "B"), lora(1, "A"), lora(1, "B"), "transformer.wpe.weight".to_owned()].to_vec();
        assert_eq!(tensors(&run, "adapter.safetensors").unwrap(), want);
        let error = run.load(&layout, None, |_| true).unwrap_err().to_string();
        assert!(error.contains("adapter.safetensors: it contains adapters (lora_rank)"), "{error}");
    }
}
