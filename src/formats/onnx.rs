//! A model as an ONNX graph, in the folder that optimum, transformers.js and onnxruntime-genai load unchanged.
//!
//! | file | who reads it |
//! |---|---|
//! | `onnx/model.onnx`, or `onnx/model_quantized.onnx` (8 bits) or `onnx/model_q4.onnx` (4 bits) | all |
//! | `config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json` | optimum, transformers.js |
//! | `genai_config.json` | onnxruntime-genai |
//!
//! The graph is the model's own computation, so every shape has one, and no rewriting is needed. With a cache it has
//! optimum's inputs and outputs. Where positions are rotations, queries see the last `block_size` positions, as in kinglet's
//! cache; where they are learned, the graph ends with them.

#[cfg_attr(not(feature = "onnx"), path = "no_onnx.rs")]
mod file;
mod folder;
mod options;
#[cfg(all(test, feature = "onnx"))]
mod tests;

pub use options::{Ids, Options};

use super::{portable::Portable, shape::Shape, written::Written};
use crate::{
    data::parting,
    system::disk::{FolderWriter, refuse_full},
    text::many,
};
use file::File;
use kinglet_core::{
    config::{Config, Quantization},
    error::{Error, Result},
};
use std::{fs, io, path::Path};

/// The longest text of a graph of fixed length: its mask has a number for each pair of positions.
const LONGEST_FIXED: usize = 4096;

/// Writes a model as an ONNX graph with what its consumers need, in a new folder.
///
/// # Errors
/// If the folder is not empty or cannot be written, if weights are not finite, if the model has convolutions, or if a graph of
/// fixed length would be too long. Nothing is left then.
pub fn write(folder: &Path, model: &Portable, options: &Options) -> Result<Written> {
    model.finite()?;
    for key in ["qkv_conv", "res_conv"] {
        let taps = model.config.value(key).to_string();
        if taps != "0" {
            return Err(Error::Data(format!(
                "an ONNX graph keeps keys and values only, but {key} = {taps} needs what was before them: write a C file, or \
                 train without it"
            )));
        }
    }
    let block = model.config.block_size;
    if options.fixed && block > LONGEST_FIXED {
        return Err(Error::Data(format!(
            "a graph of fixed length has at most {LONGEST_FIXED} positions, but block_size is {block}: write one without a \
             fixed length"
        )));
    }
    write_file(folder, model, options, &File::new(model, options))
}

fn write_file(folder: &Path, model: &Portable, options: &Options, file: &File) -> Result<Written> {
    refuse_full(folder, |_| false)?;
    let mut writer = FolderWriter::beside(folder)?;
    let mut written = notes(model, options);
    written.notes.splice(0..0, writer.notes.drain(..));
    let name = &format!("onnx/{}", file_name(&model.config).0);
    let beside = format!("{name}_data");
    let mut sizes = Vec::new();
    let mut add = |name: &str, write: &dyn Fn(&Path) -> io::Result<()>| {
        let mut size = 0;
        writer.add(name, |path| {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            write(path)?;
            size = path.metadata()?.len();
            Ok(())
        })?;
        sizes.push((name.to_owned(), size));
        Ok::<(), Error>(())
    };
    add(name, &|path| file.write(path, beside.rsplit('/').next().unwrap_or_default()))?;
    if file.is_external() {
        add(&beside, &|path| file.write_numbers(path))?;
    }
    for (name, content) in folder::files(model, options, name, file.is_external())? {
        add(name, &|path| fs::write(path, &content))?;
    }
    writer.finish()?;
    written.files = sizes;
    written.usage = usage(folder, options, file_name(&model.config));
    Ok(written)
}

/// What has to be said about a graph.
fn notes(model: &Portable, options: &Options) -> Written {
    let (config, s) = (&model.config, Shape::of(&model.config));
    let (mut notes, mut limits) = (Vec::new(), Vec::new());
    let block = s.block;
    match (options.cached(), s.theta) {
        (true, None) => limits.push(format!(
            "the graph ends at {block} tokens, because positions are learned: past them the runtime stops with an error, \
             where kinglet goes on with the last {block}"
        )),
        (true, Some(_)) => limits.push(format!(
            "past {block} tokens the graph attends to the last {block}, as kinglet does; of a prompt that is longer, kinglet \
             reads only the last {block} tokens, the graph all of them; positions end at {}",
            s.reach()
        )),
        (false, _) if options.fixed => limits.push(format!(
            "a call is one text of exactly {block} tokens: put any token behind a shorter one, and read the logits of its \
             last token"
        )),
        (false, _) => limits.push(format!("a call is a text of at most {block} tokens")),
    }
    if parting(&model.tokenizer, config).is_some() {
        limits.push(
            "the graph does not begin anew where a document does, as kinglet does: begin a call there".to_owned(),
        );
    }
    if model.tokenizer.end_of_text().is_none() {
        limits.push("the tokenizer has no end-of-text token: text ends where the caller ends it".to_owned());
    }
    let nameless = (0..s.v as u32).filter(|&id| !model.tokenizer.is_token(id)).count();
    if nameless > 0 {
        limits.push(format!("{nameless} ids are no tokens: kinglet never draws them, other programs may"));
    }
    notes.extend(integers(model));
    if !model.rounded.is_empty() {
        limits.push(
            "onnxruntime, unless its session option session.qdq_matmulnbits_accuracy_level is \"1\", rounds what these matrices \
             are multiplied by to 8 bits for each 32 numbers or so: coarser than kinglet does"
                .to_owned(),
        );
    }
    if options.ids == Ids::Int32 {
        notes.push(
            "ids are int32: optimum and transformers.js pass int64, so this graph is for other runtimes".to_owned(),
        );
    }
    if let Some(note) = folder::note(&s) {
        notes.push(note);
    }
    Written { notes, limits, ..Written::default() }
}

/// The name of the graph's file, and what transformers.js calls its type.
fn file_name(config: &Config) -> (&'static str, &'static str) {
    match config.quantization {
        Quantization::None => ("model.onnx", "fp32"),
        Quantization::W8 => ("model_quantized.onnx", "q8"),
        _ => ("model_q4.onnx", "q4"),
    }
}

/// What became of matrices in few bits.
fn integers(model: &Portable) -> Option<String> {
    let embeddings = ["transformer.wte.weight", "transformer.wpe.weight"];
    let apart = model.rounded.keys().filter(|name| embeddings.contains(&name.as_str())).count();
    let matrices = many((model.rounded.len() - apart) as u64, "matrix has", "matrices have");
    let how = match model.config.quantization {
        Quantization::None => return None,
        Quantization::W8 => "int8, with a scale for each row",
        _ => "int4, with a scale for each 32 weights of a row (opset 21)",
    };
    let rest = match (apart, model.config.quantize_head) {
        (0, false) => "embeddings, head, norms and biases are f32",
        (0, true) => "embeddings, norms and biases are f32",
        _ => "embeddings are multiplied out to f32, and so is a head that shares them",
    };
    Some(format!("{matrices} the model's own integers, {how}; {rest}"))
}

fn usage(folder: &Path, options: &Options, (file, dtype): (&str, &str)) -> Vec<String> {
    let name = match file {
        "model.onnx" => String::new(),
        _ => format!(", file_name=\"{file}\", subfolder=\"onnx\""),
    };
    let shown = folder.display();
    let session = format!("onnxruntime.InferenceSession(\"{shown}/onnx/{file}\")");
    if !options.cached() || options.ids == Ids::Int32 {
        return vec![session];
    }
    vec![
        format!("ORTModelForCausalLM.from_pretrained(\"{shown}\"{name})"),
        format!("await pipeline('text-generation', '{shown}', {{ dtype: '{dtype}' }})"),
        session,
    ]
}
