//! The chain of rewrites from a model to one that another program can express, and what it changes.

use super::{
    dialect::{Convention, Dialect, Holds, Tied},
    foreign::Dtype,
    portable::Portable,
    rewrite::Rewrite,
    rounded,
};
use kinglet_core::{
    backend::{Buf, Cpu, Forward, Pass, Reference, Rows},
    config::{Activation, Config, NormKind, PRESETS, Position},
    error::{Error, Result},
    model::Gpt,
    rng::{Purpose, Rng},
};

pub use rounded::Followed;

/// The epsilon of norms in code that has no key for it, which is PyTorch's.
const PYTORCH_EPS: f64 = 1e-5;

/// Positions that llama.cpp rounds a context up to: a table of positions has to go so far.
const CONTEXT: usize = 256;

/// Models with more parameters are compared by the f32 engine.
pub const LARGE: usize = 20_000_000;

/// Multiply-adds that a comparison may take, for each model: about a second.
const EFFORT: f64 = 4e8;

/// Why an architecture cannot express a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The architecture.
    pub dialect: &'static str,
    /// Settings that it has no place for, as they are written.
    pub settings: Vec<String>,
}

/// A way to another program.
#[derive(Clone, Debug)]
pub struct Way {
    /// The architecture there.
    pub dialect: &'static Dialect,
    /// What the model goes through before.
    pub rewrites: Vec<Rewrite>,
}

impl Way {
    /// Gives the model a token at which a text ends, where that changes nothing that the model says: a program that takes
    /// some token for it has to be told of one that is never drawn.
    pub fn add_end(&mut self, config: &Config) {
        let mut after = config.clone();
        self.rewrites.iter().for_each(|rewrite| rewrite.configure(&mut after));
        let holds = &self.dialect.holds;
        let there = self.rewrites.iter().any(|rewrite| matches!(rewrite, Rewrite::EndOfBlock(_)));
        let never = after.norm != NormKind::LayerNorm || !holds.may.norm || after.bias.head;
        if there || never || after.tie_weights && holds.tied == Tied::Written {
            return;
        }
        self.rewrites.extend(after.tie_weights.then_some(Rewrite::Untie));
        self.rewrites.push(Rewrite::EndOfText);
    }
}

/// A setting and its value, as the configuration has them.
fn setting(config: &Config, key: &str) -> String {
    format!("{key} = {}", config.value(key))
}

/// The rewrites that make an architecture's model of one with this configuration; `dtype` is how weights will be stored.
///
/// # Errors
/// If there are none.
pub fn chain(config: &Config, dialect: &'static Dialect, dtype: Dtype) -> Result<Vec<Rewrite>, Refusal> {
    let mut plan = Plan { config: config.clone(), rewrites: Vec::new(), missing: Vec::new(), dialect };
    plan.shape();
    plan.norms();
    plan.activation(dtype);
    plan.attention();
    plan.biases();
    plan.rows(dtype);
    match plan.missing.is_empty() {
        true => Ok(plan.rewrites),
        false => Err(Refusal { dialect: dialect.name, settings: plan.missing }),
    }
}

struct Plan {
    config: Config,
    rewrites: Vec<Rewrite>,
    /// Settings without a place.
    missing: Vec<String>,
    dialect: &'static Dialect,
}

impl Plan {
    fn holds(&self) -> &'static Holds {
        &self.dialect.holds
    }

    fn add(&mut self, rewrite: Rewrite) {
        rewrite.configure(&mut self.config);
        self.rewrites.push(rewrite);
    }

    fn miss(&mut self, key: &str) {
        self.missing.push(setting(&self.config, key));
    }

    /// A layer's bias has no place, which only LayerNorm's constant would have helped.
    fn miss_bias(&mut self, layer: &str) {
        let norm = if self.config.norm == NormKind::RmsNorm { " with norm = \"rmsnorm\"" } else { "" };
        self.missing.push(format!("bias = [\"{layer}\"]{norm}"));
    }

    /// Gives the head a weight of its own; false if it must not have one.
    fn untie(&mut self) -> bool {
        if self.config.tie_weights && !self.must_tie() {
            self.add(Rewrite::Untie);
        }
        !self.config.tie_weights
    }

    /// nanoGPT's code has one matrix for both, so that a head of its own would replace the embedding.
    fn must_tie(&self) -> bool {
        self.holds().tied == Tied::Written
    }

    /// What no rewrite can change.
    fn shape(&mut self) {
        let holds = self.holds();
        if self.config.logit_softcap > 0.0 {
            self.miss("logit_softcap");
        }
        if self.config.qkv_conv > 0 {
            self.miss("qkv_conv");
        }
        if self.config.res_conv > 0 {
            self.miss("res_conv");
        }
        if self.config.position != holds.position {
            self.miss("position");
        }
        if self.config.qk_norm != holds.qk_norm {
            self.miss("qk_norm");
        }
        if !holds.head_size && self.config.attention_size() != self.config.n_embd {
            self.miss("head_size");
        }
        match holds.tied {
            Tied::Written if !self.config.tie_weights => self.miss("tie_weights"),
            Tied::Never => _ = self.untie(),
            _ => {}
        }
    }

    fn norms(&mut self) {
        match (self.config.norm, self.holds().norm) {
            (NormKind::LayerNorm, NormKind::RmsNorm) if self.untie() => self.add(Rewrite::Centre),
            (has, wants) if has != wants => self.miss("norm"),
            _ => {}
        }
        let fixed = matches!(self.dialect.convention, Convention::NanoGpt | Convention::Lecture);
        if fixed && self.config.norm_eps != PYTORCH_EPS {
            if self.untie() { self.add(Rewrite::Epsilon(PYTORCH_EPS)) } else { self.miss("norm_eps") }
        }
    }

    fn activation(&mut self, dtype: Dtype) {
        use Activation::{Gelu, GeluTanh, Relu, Swiglu};
        let has = |activation: &Activation| self.holds().activations.contains(activation);
        // Beyond these, numbers of fewer bits overflow or vanish, or the scales of blocks do.
        let k = match dtype {
            Dtype::F32 | Dtype::Bf16 => 16384.0,
            Dtype::Q8_0 => 128.0,
            _ => 256.0,
        };
        let own = self.config.activation;
        let instead = |from: &[Activation]| from.iter().copied().find(has);
        match own {
            own if has(&own) => {}
            Relu => match instead(&[GeluTanh, Gelu, Swiglu]) {
                Some(activation) => self.add(Rewrite::ReluAs(activation, k)),
                None => self.miss("activation"),
            },
            Gelu | GeluTanh => match instead(&[Gelu, GeluTanh]) {
                Some(activation) => self.add(Rewrite::GeluAs(activation)),
                None => self.miss("activation"),
            },
            _ => self.miss("activation"),
        }
    }

    fn attention(&mut self) {
        let (config, holds) = (&self.config, self.holds());
        let is = |scale| config.attention_scale == scale || config.head_size() == config.n_embd;
        if !is(holds.scale) {
            self.add(Rewrite::Scale(holds.scale));
        }
        let grouped = self.config.kv_heads() != self.config.n_head;
        // Where the values are shared, no bias of theirs makes up for the projection's.
        if grouped && (!holds.grouped || self.config.bias.proj && !holds.may.proj) {
            self.add(Rewrite::RepeatKeys);
        }
    }

    fn biases(&mut self) {
        let may = self.holds().may;
        let layer_norm = self.config.norm == NormKind::LayerNorm;
        let square = self.config.attention_size() == self.config.n_embd;
        let can_qkv = may.qkv || layer_norm;
        if self.config.bias.proj && !may.proj {
            if square && can_qkv { self.add(Rewrite::ProjBias) } else { self.miss_bias("proj") }
        }
        if self.config.bias.mlp && !may.mlp {
            let swiglu = self.config.activation == Activation::Swiglu;
            if layer_norm && swiglu { self.add(Rewrite::MlpBias) } else { self.miss_bias("mlp") }
        }
        if self.config.bias.qkv && !may.qkv {
            if layer_norm { self.add(Rewrite::QkvBias) } else { self.miss_bias("qkv") }
        }
        if self.config.bias.head && !may.head {
            if layer_norm && self.untie() { self.add(Rewrite::HeadBias) } else { self.miss_bias("head") }
        }
        if self.config.bias.norm && !may.norm && layer_norm {
            self.miss_bias("norm");
        }
    }

    /// What llama.cpp needs of the sizes.
    fn rows(&mut self, dtype: Dtype) {
        if self.dialect.convention != Convention::Gguf {
            return;
        }
        let blocks = matches!(dtype, Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0);
        let hidden = self.config.mlp_size();
        if blocks && !hidden.is_multiple_of(32) {
            self.add(Rewrite::Pad(hidden.next_multiple_of(32)));
        }
        let positions = self.config.block_size.next_multiple_of(CONTEXT);
        if self.config.position == Position::Learned && positions != self.config.block_size && self.untie() {
            self.add(Rewrite::EndOfBlock(positions));
        }
    }
}

/// The ways to a convention's programs, in the order in which they are to be tried: those first that are exact, and of these
/// as the tables have them.
///
/// # Errors
/// If there is none: what stands in the way, and what would have a way.
pub fn ways(config: &Config, convention: Convention, dtype: Dtype) -> Result<Vec<Way>> {
    let dialects = Dialect::all().iter().filter(|dialect| dialect.convention == convention);
    let (mut ways, mut refusals) = (Vec::new(), Vec::new());
    for dialect in dialects {
        match chain(config, dialect, dtype) {
            Ok(rewrites) => ways.push(Way { dialect, rewrites }),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if ways.is_empty() {
        return Err(Error::Data(no_way(config, convention, dtype, &refusals)));
    }
    // Where nothing has to be changed, nothing is.
    ways.sort_by_key(|way| (!way.rewrites.iter().all(|rewrite| rewrite.is_exact()), !way.rewrites.is_empty()));
    Ok(ways)
}

/// Why no architecture of a convention can express a model.
fn no_way(config: &Config, convention: Convention, dtype: Dtype, refusals: &[Refusal]) -> String {
    let fewest = refusals.iter().map(|refusal| refusal.settings.len()).min().unwrap_or(0);
    let nearest: Vec<_> = refusals.iter().filter(|refusal| refusal.settings.len() == fewest).collect();
    let mut settings: Vec<&str> = Vec::new();
    for setting in nearest.iter().flat_map(|refusal| &refusal.settings) {
        if !settings.contains(&setting.as_str()) {
            settings.push(setting);
        }
    }
    let common = settings.iter().copied().filter(|s| refusals.iter().all(|r| r.settings.iter().any(|t| t == s)));
    let common: Vec<&str> = common.collect();
    let whose = program(convention);
    let why = match common.is_empty() {
        false => format!("{whose} has no place for {}", common.join(", ")),
        true => format!("{whose} has nothing with {} together", settings.join(", ")),
    };
    let preset = nearest_preset(config, convention, dtype);
    let preset = preset.map_or(String::new(), |name| format!(" The most similar preset that goes there is {name}."));
    format!("{why}.{preset} ONNX and C take every model: --format onnx, --format c")
}

/// Whose architectures they are.
pub fn program(convention: Convention) -> &'static str {
    match convention {
        Convention::HuggingFace => "transformers",
        Convention::Gguf => "llama.cpp",
        Convention::NanoGpt => "nanoGPT's code",
        Convention::Lecture => "the lecture's code",
    }
}

/// The preset with most of the model's settings that has an exact way.
fn nearest_preset(config: &Config, convention: Convention, dtype: Dtype) -> Option<&'static str> {
    const KEYS: [&str; 11] = [
        "position",
        "norm",
        "activation",
        "bias",
        "tie_weights",
        "attention_scale",
        "qk_norm",
        "qkv_conv",
        "res_conv",
        "logit_softcap",
        "block_size",
    ];
    let alike = |preset: &Config| KEYS.iter().filter(|key| preset.value(key) == config.value(key)).count();
    let goes = |preset: &Config| {
        let mut dialects = Dialect::all().iter().filter(|dialect| dialect.convention == convention);
        dialects.any(|dialect| chain(preset, dialect, dtype).is_ok_and(|chain| chain.iter().all(|r| r.is_exact())))
    };
    let presets = PRESETS.iter().filter_map(|preset| Some((preset.name, preset.config().ok()?)));
    presets.rev().filter(|(_, preset)| goes(preset)).max_by_key(|(_, preset)| alike(preset)).map(|(name, _)| name)
}

/// Applies a chain. Matrices in few bits keep their integers where these are still what they were; what became of them is
/// returned too.
///
/// # Errors
/// If the weights do not allow it.
pub fn apply(model: Portable, rewrites: &[Rewrite]) -> Result<(Portable, Followed)> {
    let mut model = rewrites.iter().try_fold(model, |model, rewrite| rewrite.apply(model))?;
    let followed = rounded::follow(&mut model);
    Ok((model, followed))
}

/// Log-probabilities of a model on fixed sequences, of each token of its vocabulary at each position.
pub struct Probabilities {
    logs: Vec<f64>,
    vocab: usize,
}

/// The sequences that models are compared on: one of random ids, and the beginning of one that repeats itself, as texts do.
fn sequences(config: &Config) -> Vec<Vec<u32>> {
    let positions = EFFORT / (Gpt::new(config).map_or(1.0, |gpt| gpt.layout.len() as f64)) / 2.0;
    let positions = (positions as usize).clamp(8, 512).min(config.block_size);
    let mut rng = Rng::new(1, Purpose::Sample, 0, 0);
    let random: Vec<u32> = (0..positions).map(|_| rng.below(config.vocab_size as u64) as u32).collect();
    let repeated = random.iter().take(positions.div_ceil(4)).cycle().take(positions).copied().collect();
    vec![random, repeated]
}

/// What a model of the sequences that belong to `config` says. `config` is that of the model before it was rewritten. The
/// weights of a large model are lent to the engine, which has no room for a copy of them, and are the same afterwards.
///
/// # Errors
/// If the machine's instruction set is not known.
pub fn probabilities(model: &mut Portable, config: &Config) -> Result<Probabilities> {
    let (gpt, sequences) = (Gpt::new(&model.config)?, sequences(config));
    let mut logs = if model.weights.len() > LARGE {
        let cpu = Cpu::new()?;
        let p = Buf::in_place(std::mem::take(&mut model.weights));
        let logs = logits(&cpu, &gpt, &p, &sequences);
        model.weights = p.into_numbers();
        logs
    } else {
        let mut p = Reference.zeros(model.weights.len());
        Reference.upload(&mut p, 0, &model.weights);
        logits(&Reference, &gpt, &p, &sequences)
    };
    logs.chunks_exact_mut(model.config.vocab_size).for_each(log_softmax);
    Ok(Probabilities { logs, vocab: model.config.vocab_size })
}

/// The same of a model with matrices in few bits, as kinglet runs it: it rounds what they are multiplied by too.
///
/// # Errors
/// If the machine's instruction set is not known.
pub fn probabilities_as_run(model: &Portable, config: &Config) -> Result<Probabilities> {
    let gpt = Gpt::new(&model.config)?;
    let cpu = Cpu::new()?.with_quantization(model.config.quantization);
    let mut p = cpu.zeros(model.weights.len());
    cpu.upload(&mut p, 0, &model.weights);
    for tensor in &gpt.layout.tensors {
        if let Some(matrix) = model.rounded.get(&tensor.name) {
            cpu.place(&mut p, tensor.span.start, matrix);
        }
    }
    let mut logs = logits(&cpu, &gpt, &p, &sequences(config));
    logs.chunks_exact_mut(model.config.vocab_size).for_each(log_softmax);
    Ok(Probabilities { logs, vocab: model.config.vocab_size })
}

/// The logits at each position of the sequences.
fn logits<B: Read>(be: &B, gpt: &Gpt, p: &B::Buf, sequences: &[Vec<u32>]) -> Vec<f64> {
    sequences.iter().flat_map(|ids| logits_of(be, gpt, p, ids)).collect()
}

fn logits_of<B: Read>(be: &B, gpt: &Gpt, p: &B::Buf, ids: &[u32]) -> Vec<f64> {
    // The block may have been made longer: activations are only for what is read.
    let mut gpt = gpt.clone();
    gpt.block_size = ids.len();
    let mut acts = gpt.acts(be, 1, false);
    gpt.forward(be, Pass { p, rows: Rows::new(1, ids.len()), dropout: None }, &mut acts, ids);
    be.read(acts.logits(), ids.len() * gpt.vocab_size)
}

/// Numbers of a backend in f64.
trait Read: Forward {
    fn read(&self, buffer: &Self::Buf, len: usize) -> Vec<f64>;
}

impl Read for Reference {
    fn read(&self, buffer: &Vec<f64>, len: usize) -> Vec<f64> {
        buffer[..len].to_vec()
    }
}

impl Read for Cpu {
    fn read(&self, buffer: &Self::Buf, len: usize) -> Vec<f64> {
        let mut numbers = vec![0.0; len];
        self.download(buffer, 0, &mut numbers);
        numbers.into_iter().map(f64::from).collect()
    }
}

fn log_softmax(row: &mut [f64]) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max;
    row.iter_mut().for_each(|x| *x -= sum);
}

impl Probabilities {
    /// The largest difference to what another model says, over the tokens that both have. Not a number if one of them says
    /// none.
    pub fn difference(&self, other: &Probabilities) -> f64 {
        let rows = self.logs.chunks_exact(self.vocab).zip(other.logs.chunks_exact(other.vocab));
        let differences = rows.flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs()));
        differences.fold(0.0, |max: f64, x| if x.is_nan() || x > max { x } else { max })
    }
}

#[cfg(test)]
mod tests;
