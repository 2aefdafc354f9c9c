//! A model as the files of another program.

mod files;
mod options;
mod source;

pub use options::{ExportOptions, MAX_DIFFERENCE, MAX_DIFFERENCE_ROUNDED, Target};
pub use source::Source;

use super::{
    c, chain,
    chain::{Followed, Probabilities},
    dialect::{Convention, Dialect},
    folder,
    foreign::{Dtype, Foreign, Tensor},
    gguf,
    gguf::Types,
    int8, numbers, ollama, onnx,
    opened::OWN,
    peft::Factors,
    portable::Portable,
    pth,
    rewrite::{END_OF_BLOCK, Rewrite},
    safetensors,
    written::Written,
};
use crate::{
    system::{disk::refuse_full, shell},
    text::many,
};
use files::Files;
use kinglet_core::{
    config::{Bias, Config, Position, Quantization, TokenizerKind},
    error::{Error, Result},
};
use options::refuse_options;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// What an export made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Exported {
    /// The architecture there, where it has a name.
    pub architecture: Option<&'static str>,
    /// What the model went through, in order.
    pub rewrites: Vec<Rewrite>,
    /// The largest difference of log-probabilities that was measured between the model and the rewritten one; none if nothing is
    /// rewritten.
    pub difference: Option<f64>,
    /// The same between the model and what the files hold, where they hold fewer bits.
    pub stored_difference: Option<f64>,
    /// Of a model with matrices in few bits: the same between what kinglet computes, which rounds what they are multiplied by
    /// too, and the product of the same weights with numbers that are not rounded, which others compute.
    pub run_difference: Option<f64>,
    /// Whether the f32 engine measured them, since the model is large, instead of the f64 reference.
    pub measured_in_f32: bool,
    /// What was written.
    pub written: Written,
}

impl Exported {
    /// What `kinglet export --json` says.
    pub fn json(&self, target: Target, out: &Path) -> Value {
        let Exported { architecture, difference, stored_difference, run_difference, measured_in_f32, written, .. } =
            self;
        let steps: Vec<_> = self.rewrites.iter().map(ToString::to_string).collect();
        let files: Vec<_> = written.files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
        json!({
            "format": target.name(), "out": out.display().to_string(), "architecture": architecture, "rewrites": steps,
            "difference": difference, "stored_difference": stored_difference, "run_difference": run_difference,
            "measured_in_f32": measured_in_f32,
            "limits": written.limits, "notes": written.notes, "files": files, "usage": written.usage,
        })
    }
}

/// Writes a model into a new folder, whole or not at all.
///
/// # Errors
/// If the other side has no place for the model, if what is written would say something else, or if the folder is not empty
/// or cannot be written.
pub fn export(mut source: Source, target: Target, out: &Path, options: &ExportOptions) -> Result<Exported> {
    refuse_full(out, |_| false)?;
    source.model.finite()?;
    refuse_options(target, options, &source.model)?;
    let ending = limits(&source.model, target);
    let small = source.model.weights.len() <= chain::LARGE;
    let config = source.model.config.clone();
    let mut plain = None;
    if options.scheme != Quantization::None {
        plain = small.then(|| chain::probabilities(&mut source.model, &config)).transpose()?;
        source.model = source.model.round(options.scheme)?;
    }
    let run_difference = match config.quantization {
        Quantization::None => None,
        _ if small => {
            let run = chain::probabilities_as_run(&source.model, &config)?;
            Some(run.difference(&chain::probabilities(&mut source.model, &config)?))
        }
        _ => None,
    };
    let how = How { types: options.types(target, &source.model), options, plain };
    let multiplied = multiplied_out(&source.model, target, how.types);
    if target.convention().is_some() {
        // There, how numbers are stored is no setting of the model.
        let config = &mut source.model.config;
        config.quantization = Quantization::None;
        (config.quantize_head, config.quantize_embeddings) = (false, false);
    }
    let mut exported = match target.convention() {
        Some(convention) => through(source, convention, target, out, &how)?,
        None => as_it_is(source, target, out, &how)?,
    };
    exported.run_difference = run_difference;
    exported.written.notes.extend(multiplied);
    exported.written.limits.splice(0..0, ending);
    Ok(exported)
}

/// How a model is written.
struct How<'a> {
    options: &'a ExportOptions,
    types: Types,
    /// What the model said before it was rounded, if it was.
    plain: Option<Probabilities>,
}

impl How<'_> {
    /// The type of matrices.
    fn dtype(&self) -> Dtype {
        self.types.matrices
    }
}

/// Says what rewriting did to matrices in few bits, where they are stored so.
fn after_rewriting(followed: Followed, types: Types) -> Vec<String> {
    if !matches!(types.matrices, Dtype::Q8_0 | Dtype::Q5_0 | Dtype::Q4_0) {
        return Vec::new();
    }
    let mut notes = Vec::new();
    if followed.lost > 0 {
        let (n, name) = (many(followed.lost as u64, "matrix has", "matrices have"), types.matrices.name());
        notes.push(format!("{n} other numbers after rewriting, so they are rounded again, to {name}"));
    }
    if followed.rescaled > 0 {
        let n = many(followed.rescaled as u64, "matrix is", "matrices are");
        notes.push(format!("{n} multiplied by a number, with scales rounded to f16"));
    }
    notes
}

/// Says that matrices in few bits are written as other numbers.
fn multiplied_out(model: &Portable, target: Target, types: Types) -> Option<String> {
    let kept = match target {
        // They say it themselves.
        Target::Onnx | Target::C => true,
        Target::Gguf => matches!(types.matrices, Dtype::Q8_0 | Dtype::Q5_0 | Dtype::Q4_0),
        _ => types.matrices == Dtype::I8,
    };
    if kept || model.rounded.is_empty() {
        return None;
    }
    let n = many(model.rounded.len() as u64, "matrix in few bits is", "matrices in few bits are");
    Some(format!(
        "{n} multiplied out: {}",
        if types.matrices == Dtype::F32 { "the same numbers in f32" } else { types.matrices.name() }
    ))
}

/// What the other side cannot do.
fn limits(model: &Portable, target: Target) -> Vec<String> {
    let block = model.config.block_size;
    let mut limits = Vec::new();
    let learned = model.config.position == Position::Learned;
    match (target, learned) {
        // They say it themselves, or are kinglet's own.
        (Target::Onnx | Target::C | Target::Safetensors, _) => return limits,
        (Target::HuggingFace | Target::Peft, true) => limits.push(format!(
            "it cannot go past {block} tokens there, because positions are learned: transformers stops there or, if told to write \
             more, ends with an error, where kinglet goes on with the last {block}"
        )),
        (Target::Gguf, true) => limits.push(format!(
            "it cannot go past {block} tokens there, because positions are learned: a text that gets there ends, where kinglet \
             goes on with the last {block}"
        )),
        (Target::HuggingFace | Target::Gguf | Target::Peft, false) => limits.push(format!(
            "past {block} tokens it attends to all of them there, which it was not trained for; kinglet attends to the last {block}"
        )),
        (Target::Lecture | Target::NanoGpt, _) => {}
    }
    if matches!(target, Target::HuggingFace | Target::Gguf | Target::Peft) && model.tokenizer.end_of_text().is_none() {
        limits.push("the tokenizer has no end-of-text token: a text ends where it is told to".to_owned());
    }
    if target == Target::Gguf && gguf::leaves_out(&model.tokenizer) {
        limits.push("llama.cpp leaves out characters that it does not know, where kinglet refuses them".to_owned());
    }
    let nameless = (0..model.config.vocab_size as u32).filter(|&id| !model.tokenizer.is_token(id)).count();
    if nameless > 0 {
        limits.push(format!("{nameless} ids are no tokens: kinglet never draws them, other programs may"));
    }
    limits
}

/// Formats that take every model.
fn as_it_is(source: Source, target: Target, out: &Path, how: &How) -> Result<Exported> {
    let mut model = source.model;
    let mut written = match target {
        Target::Onnx => {
            let ExportOptions { ids, fixed, .. } = *how.options;
            onnx::write(out, &model, &onnx::Options { ids, fixed, ..onnx::Options::default() })?
        }
        Target::C => c::write(out, &model)?,
        _ => own(&model, out, how.dtype())?,
    };
    let large = model.weights.len() > chain::LARGE;
    let stored_difference = match how.options.rounds(how.dtype()) {
        Some(how) if large => {
            written.notes.push(not_measured(&how));
            None
        }
        Some(_) => {
            let config = model.config.clone();
            let before = match &how.plain {
                Some(_) => None,
                None => Some(chain::probabilities(&mut model, &config)?),
            };
            numbers::round(&mut model.weights, how.dtype());
            let after = chain::probabilities(&mut model, &config)?;
            how.plain.as_ref().or(before.as_ref()).map(|before| before.difference(&after))
        }
        None => None,
    };
    Ok(Exported {
        architecture: None,
        rewrites: Vec::new(),
        difference: None,
        stored_difference,
        run_difference: None,
        measured_in_f32: false,
        written,
    })
}

/// Says that it is not known how much storing changes.
fn not_measured(how: &str) -> String {
    format!("{how}; how much that changes is not measured of a model of more than {} weights", chain::LARGE)
}

/// Kinglet's own names and shapes: what `Model::from_parts` takes.
fn own(model: &Portable, out: &Path, dtype: Dtype) -> Result<Written> {
    let mut foreign = Foreign::default();
    for tensor in &model.layout().tensors {
        let numbers = &model.weights[tensor.span.range()];
        let matrix = model.rounded.get(&tensor.name).filter(|_| dtype == Dtype::I8).cloned();
        let stored = Tensor::of(tensor.shape.clone(), numbers).with_rounded(matrix);
        foreign.tensors.insert(tensor.name.clone(), stored);
    }
    let foreign = int8::parted(foreign);
    let mut files = Files::new(out)?;
    files.add("model.safetensors", |path| numbers::safetensors(path, &foreign, dtype))?;
    // Its text and the run it came from stay behind, and so does where its tokenizer was.
    let mut config = model.config.clone();
    (config.data, config.base, config.data_sha256) = (Vec::new(), String::new(), String::new());
    // Whoever reads it gets the numbers that there are, and rounds none again.
    config.quantization = Quantization::None;
    (config.quantize_head, config.quantize_embeddings) = (false, false);
    if let TokenizerKind::File(path) = &mut config.tokenizer {
        "tokenizer.json".clone_into(path);
    }
    files.add(OWN, |path| fs::write(path, config.to_toml()))?;
    files.add("tokenizer.json", |path| fs::write(path, model.tokenizer.to_json()))?;
    let shown = out.display();
    let mut written =
        files.finish(vec![format!("safetensors.torch.load_file(\"{shown}/model.safetensors\")  # nanoGPT's names")])?;
    if dtype == Dtype::I8 {
        let n = many(model.rounded.len() as u64, "matrix has", "matrices have");
        written
            .notes
            .push(format!("{n} the model's own integers as NAME.int8_weights, and their scales as NAME.scales"));
    }
    Ok(written)
}

/// Formats whose programs have shapes of their own.
fn through(mut source: Source, convention: Convention, target: Target, out: &Path, how: &How) -> Result<Exported> {
    let (dtype, allowed) = (how.dtype(), how.options.allowed(how.dtype()));
    let mut ways = chain::ways(&source.model.config, convention, dtype)?;
    if target == Target::Gguf {
        let Config { bos_token, eos_token, .. } = &source.model.config;
        let tokenizer = source.model.tokenizer.clone().with_ends(bos_token, eos_token)?;
        if gguf::needs_end(&tokenizer) {
            ways.iter_mut().for_each(|way| way.add_end(&source.model.config));
        }
    }
    if let Some(adapters) = &source.adapters {
        keep_for(adapters, &mut ways)?;
    }
    let large = source.model.weights.len() > chain::LARGE;
    let config = source.model.config.clone();
    let lossy = dtype != Dtype::F32 && !large;
    let before = if !ways[0].rewrites.is_empty() || lossy {
        Some(chain::probabilities(&mut source.model, &config)?)
    } else {
        None
    };
    // There are copies for more than one try only of those that are small.
    let tries = if large { 1 } else { ways.len() };
    let mut refused: Option<Error> = None;
    for (i, way) in ways.into_iter().take(tries).enumerate() {
        let kept = if i + 1 < tries { source.model.weights.clone() } else { Vec::new() };
        let weights = std::mem::replace(&mut source.model.weights, kept);
        let Portable { rounded, tokenizer, .. } = &source.model;
        let model =
            Portable { config: config.clone(), weights, rounded: rounded.clone(), tokenizer: tokenizer.clone() };
        let (model, followed, difference) = match rewritten(model, &way, before.as_ref(), &config) {
            Ok(done) => done,
            Err(error) => {
                refused.get_or_insert(error);
                continue;
            }
        };
        // A difference that is not a number is not small.
        let small = |difference: f64| difference <= allowed;
        if !difference.is_none_or(small) {
            refused.get_or_insert(too_different(&way, difference.unwrap_or(f64::NAN), allowed));
            continue;
        }
        source.model = model;
        let (mut written, mut stored) = write(&source, &way, target, out, how.types)?;
        written.notes.extend(after_rewriting(followed, how.types));
        let stored = match (before.as_ref(), &mut stored) {
            (Some(before), Some(stored)) if lossy => {
                let before = how.plain.as_ref().unwrap_or(before);
                Some(before.difference(&chain::probabilities(stored, &config)?))
            }
            _ => None,
        };
        written.notes.extend(how.options.rounds(dtype).filter(|_| large).map(|how| not_measured(&how)));
        return Ok(Exported {
            architecture: Some(way.dialect.name),
            rewrites: way.rewrites,
            difference,
            stored_difference: stored,
            run_difference: None,
            measured_in_f32: large && difference.is_some(),
            written,
        });
    }
    Err(refused.expect("there is at least one way"))
}

/// Keeps the ways on which adapters stay adapters.
fn keep_for(adapters: &Factors, ways: &mut Vec<chain::Way>) -> Result<()> {
    let in_the_way = ways[0].rewrites.iter().find(|rewrite| !adapters.survive(**rewrite)).copied();
    ways.retain(|way| way.rewrites.iter().all(|rewrite| adapters.survive(*rewrite)));
    match in_the_way.filter(|_| ways.is_empty()) {
        None => Ok(()),
        Some(rewrite) => Err(Error::Data(format!(
            "adapters do not stay adapters if the model is rewritten ({rewrite}): --format hf merges them"
        ))),
    }
}

fn too_different(way: &chain::Way, difference: f64, allowed: f64) -> Error {
    let steps: Vec<_> = way.rewrites.iter().map(|rewrite| format!("  {rewrite}")).collect();
    let program = chain::program(way.dialect.convention);
    let above = 10f64.powf((difference * 1.5).log10().ceil());
    let advice = match difference.is_finite() {
        true => format!("--max-difference {above:e} accepts it"),
        false => "no setting accepts that".to_owned(),
    };
    Error::Data(format!(
        "{program} would say something else: rewritten as {}, the model's log-probabilities differ by {difference:.1e}, and \
         {allowed:e} is allowed ({advice}):\n{}",
        way.dialect.name,
        steps.join("\n")
    ))
}

/// The model that is written, what became of its integers, and by how much it differs.
fn rewritten(
    model: Portable,
    way: &chain::Way,
    before: Option<&Probabilities>,
    config: &Config,
) -> Result<(Portable, Followed, Option<f64>)> {
    if way.rewrites.is_empty() {
        return Ok((model, Followed::default(), None));
    }
    let (mut model, followed) = chain::apply(model, &way.rewrites)?;
    model.finite()?;
    let before = before.expect("it was measured, since something is rewritten");
    let difference = before.difference(&chain::probabilities(&mut model, config)?);
    Ok((model, followed, Some(difference)))
}

/// Writes a rewritten model. Also returns it as the files have it, if they have fewer bits and it is small.
fn write(
    source: &Source,
    way: &chain::Way,
    target: Target,
    out: &Path,
    types: Types,
) -> Result<(Written, Option<Portable>)> {
    let (model, dialect, dtype) = (&source.model, way.dialect, types.matrices);
    let mut foreign = dialect.write(model)?;
    let bias = dialect.biases(&foreign);
    let mut files = Files::new(out)?;
    let shown = shell::quoted(&out.display().to_string());
    let mut notes = Vec::new();
    let compares = dtype != Dtype::F32 && model.weights.len() <= chain::LARGE;
    let reads = |path: &Path, read: fn(&Path) -> Result<Foreign<'static>>| -> Result<Option<Portable>> {
        if compares { as_stored(model, dialect, &read(path)?).map(Some) } else { Ok(None) }
    };
    let rounds = |foreign: &Foreign| -> Result<Option<Portable>> {
        if compares { as_stored(model, dialect, &numbers::rounded(foreign, dtype)).map(Some) } else { Ok(None) }
    };
    let (usage, stored) = match target {
        Target::Gguf => {
            let name = format!("{}-{}.gguf", source.name, dtype.name());
            let path = files.writer.aside().join(&name);
            let stops = way.rewrites.iter().any(|rewrite| matches!(rewrite, Rewrite::EndOfBlock(_)));
            let made = gguf::write(&path, model, dialect, &foreign, types, stops.then_some(END_OF_BLOCK))?;
            notes.extend(made.notes);
            let stored = reads(&path, gguf::read)?;
            files.add(&name, |_| Ok(()))?;
            let (modelfile, more) = ollama::modelfile(&name, model);
            notes.extend(more);
            files.add("Modelfile", |path| fs::write(path, &modelfile))?;
            let file = shell::quoted(&out.join(&name).display().to_string());
            let how = if chats(model) { "" } else { " -no-cnv -p \"Once\"" };
            let modelfile = shell::quoted(&out.join("Modelfile").display().to_string());
            let ollama = format!("ollama create {} -f {modelfile}", shell::quoted(&source.name));
            (vec![format!("llama-cli -m {file} --temp 0{how}"), ollama], stored)
        }
        Target::HuggingFace => {
            let said = if chats(model) { "[{\"role\": \"user\", \"content\": \"Hello\"}]" } else { "\"Once\"" };
            let stored = add_folder(&mut files, "", (model, dialect), (&foreign, bias), dtype, &reads)?;
            let path = out.display();
            (
                vec![format!(
                    "python -c 'from transformers import pipeline; print(pipeline(\"text-generation\", \"{path}\")({said}))'"
                )],
                stored,
            )
        }
        Target::Peft => {
            let adapters = source.adapters.as_ref().expect("it was asked for them");
            let stored = add_folder(&mut files, "base/", (model, dialect), (&foreign, bias), dtype, &reads)?;
            let base = std::path::absolute(out).map_err(Error::io("find", out))?.join("base");
            let (tensors, told) = adapters.write(model, dialect, &way.rewrites, &base.display().to_string())?;
            files.add("adapter_model.safetensors", |path| numbers::safetensors(path, &tensors, dtype))?;
            let told = serde_json::to_string_pretty(&told).expect("a JSON value");
            files.add("adapter_config.json", |path| fs::write(path, told + "\n"))?;
            let path = out.display();
            (
                vec![format!(
                    "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(\"{path}/base\"), \"{path}\")"
                )],
                stored,
            )
        }
        Target::Lecture => {
            let stored = rounds(&foreign)?;
            pth::add_masks(model, &mut foreign);
            pth::check(&foreign, dtype)?;
            files.add("model.pth", |path| pth::write(path, &foreign, dtype, |pickle, weights| weights(pickle)))?;
            notes.extend(meta(source, &mut files)?);
            let config = &model.config;
            notes.push(format!(
                "the lecture's code needs n_embd = {}, n_head = {}, n_layer = {}, block_size = {}, and scores times \
                 n_embd**-0.5 (C**-0.5)",
                config.n_embd, config.n_head, config.n_layer, config.block_size
            ));
            (vec![format!("model.load_state_dict(torch.load(\"{}/model.pth\"))", out.display())], stored)
        }
        _ => {
            pth::check(&foreign, dtype)?;
            let folder = std::path::absolute(out).map_err(Error::io("find", out))?;
            let trained = (source.step, source.val_loss.unwrap_or(f64::INFINITY));
            let around = pth::checkpoint(model, bias.norm, &folder, trained);
            files.add("ckpt.pt", |path| pth::write(path, &foreign, dtype, around))?;
            notes.extend(meta(source, &mut files)?);
            if model.tokenizer.chars().is_some() {
                notes.push(format!(
                    "sample.py finds meta.pkl by the path {}: if the folder is moved, it takes GPT-2's tokens without an \
                     error",
                    folder.display()
                ));
            }
            (vec![format!("python sample.py --out_dir={shown} --device=cpu")], rounds(&foreign)?)
        }
    };
    let mut written = files.finish(usage)?;
    written.notes.extend(notes);
    Ok((written, stored))
}

/// Whether it was trained on conversations.
fn chats(model: &Portable) -> bool {
    folder::chat_template(&model.config).is_some()
}

/// How a file is read again, where it holds fewer bits.
type Reads<'a> = dyn Fn(&Path, fn(&Path) -> Result<Foreign<'static>>) -> Result<Option<Portable>> + 'a;

/// Adds the files that transformers loads. Returns what they hold, as `reads` does.
fn add_folder(
    files: &mut Files,
    under: &str,
    (model, dialect): (&Portable, &Dialect),
    (foreign, bias): (&Foreign, Bias),
    dtype: Dtype,
    reads: &Reads,
) -> Result<Option<Portable>> {
    let name = format!("{under}model.safetensors");
    files.add(&name, |path| numbers::safetensors(path, foreign, dtype))?;
    let stored = reads(&files.writer.aside().join(&name), safetensors::read)?;
    for (name, text) in folder::files(model, dialect, bias, dtype)? {
        files.add(&format!("{under}{name}"), |path| fs::write(path, &text))?;
    }
    Ok(stored)
}

/// The model as files have it.
fn as_stored(model: &Portable, dialect: &Dialect, foreign: &Foreign) -> Result<Portable> {
    let mut config = model.config.clone();
    config.bias = dialect.biases(foreign);
    let weights = dialect.read(foreign, &config)?.weights;
    Portable::new(config, weights, model.tokenizer.clone())
}

/// Writes nanoGPT's vocabulary beside the model, or says that it has none.
fn meta(source: &Source, files: &mut Files) -> Result<Option<String>> {
    let tokenizer = &source.model.tokenizer;
    match tokenizer.chars() {
        Some(chars) => {
            let end = tokenizer.end_of_text_name().unwrap_or_default();
            files.add("meta.pkl", |path| fs::write(path, pth::meta(chars, &end)))?;
            Ok(None)
        }
        None => {
            files.add("tokenizer.json", |path| fs::write(path, tokenizer.to_json()))?;
            let what = "the code there has only characters and GPT-2's own tokens: encode and decode with tokenizer.json, \
                 such as with Python's tokenizers";
            Ok(Some(what.to_owned()))
        }
    }
}
