//! A model as one C file: weights, tokenizer, and the computation, for programs and machines that have nothing else.
//!
//! `model.c` is C99. It needs `libm`, allocates nothing, and keeps all of its state in one struct that the caller places. Its
//! computation is that of kinglet's cache: learned positions are computed again when the window is full, rotary ones slide.
//! With `-DKINGLET_MAIN` it is a program that takes the options of `kinglet sample`.

mod vocabulary;
mod weights;

use super::{portable::Portable, shape::Shape, written::Written};
use crate::{
    data::parting,
    system::disk::{FolderWriter, refuse_full},
    text::many,
};
use kinglet_core::{
    config::{Activation, NormKind, Quantization},
    error::{Error, Result},
};
use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};
use vocabulary::{Encoder, Vocabulary};
use weights::Arrays;

/// More weights than this make a source that compilers need many gigabytes for.
const MOST: usize = 50_000_000;

/// Writes a model as `model.c` and `model.h`, in a new folder. Matrices of its blocks that have few bits have them there.
///
/// # Errors
/// If the folder is not empty or cannot be written, if weights are not finite, or if there are too many for a compiler. Nothing
/// is left then.
pub fn write(folder: &Path, model: &Portable) -> Result<Written> {
    model.finite()?;
    let weights = model.weights.len();
    if weights > MOST {
        return Err(Error::Data(format!(
            "a C file is for small models: {weights} weights are more than the {MOST} that compilers can take; use another \
             format, such as gguf"
        )));
    }
    refuse_full(folder, |_| false)?;
    let vocabulary = Vocabulary::of(&model.tokenizer);
    let mut writer = FolderWriter::beside(folder)?;
    let mut files = Vec::new();
    let header = header(model, vocabulary.as_ref());
    for name in ["model.h", "model.c"] {
        let mut size = 0;
        writer.add(name, |path| {
            let mut out = BufWriter::with_capacity(1 << 16, File::create(path)?);
            match name {
                "model.h" => out.write_all(header.as_bytes())?,
                _ => source(model, vocabulary.as_ref(), &mut out)?,
            }
            out.flush()?;
            size = path.metadata()?.len();
            Ok(())
        })?;
        files.push((name.to_owned(), size));
    }
    let mut notes = writer.notes.clone();
    writer.finish()?;
    let s = Shape::of(&model.config);
    notes.extend(integers(model));
    let cache = 8 * s.layers * s.block * s.kv();
    let kept = |taps: usize, channels: usize| taps.saturating_sub(1) * channels;
    let tails = s.layers
        * (kept(model.config.qkv_conv, s.att() + 2 * s.kv()) + kept(model.config.res_conv, model.config.n_embd));
    let all = (state_floats(&s, model) + tails) * 4 + cache;
    notes.push(format!("the state takes about {all} bytes, {cache} of them for keys and values"));
    let shown = folder.display();
    let usage = vec![format!(
        "cc -std=c99 -O2 -DKINGLET_MAIN {shown}/model.c -lm -o {shown}/model && {shown}/model --temperature 0"
    )];
    Ok(Written { files, notes, limits: limits(vocabulary.as_ref()), usage })
}

/// What became of matrices in few bits.
fn integers(model: &Portable) -> Option<String> {
    let blocks = model.rounded.keys().filter(|name| name.starts_with("transformer.h.")).count();
    let how = match model.config.quantization {
        Quantization::None => return None,
        Quantization::W8 => "a byte for each, with a scale for each row",
        _ => "two to a byte, with a scale for each 32 weights of a row",
    };
    let rest = match model.rounded.len() - blocks {
        0 => "embeddings, head, norms and biases are f32".to_owned(),
        apart => {
            format!("{} of embeddings and head multiplied out to f32", many(apart as u64, "matrix is", "matrices are"))
        }
    };
    Some(format!("{blocks} matrices, those of the blocks, have the model's own integers, {how}; {rest}"))
}

/// What the program cannot do.
fn limits(vocabulary: Option<&Vocabulary>) -> Vec<String> {
    let what = match vocabulary {
        None => "the program reads and writes ids: what a token adds to the text depends on others in this tokenizer",
        Some(Vocabulary { encoder: None, .. }) => {
            "a prompt is given as ids: only characters, bytes and byte pair encoding of GPT-2's words are encoded in C"
        }
        Some(_) => return Vec::new(),
    };
    vec![what.to_owned()]
}

/// Numbers of the state, without keys and values.
fn state_floats(s: &Shape, model: &Portable) -> usize {
    let fc = model.layout().h[0].c_fc.o;
    2 * s.c + 2 * s.att() + 2 * s.kv() + fc + 2 * s.block + s.hs + s.v
}

/// The id after which text ends, if the model learned to answer.
fn stop(model: &Portable) -> Option<u32> {
    let chat = matches!(&*model.config.data_kind, "conversations" | "exchanges");
    model.tokenizer.end_of_text().filter(|_| chat)
}

/// The macros that describe the model.
fn sizes(model: &Portable, vocabulary: Option<&Vocabulary>) -> String {
    let (config, s) = (&model.config, Shape::of(&model.config));
    let encoder = vocabulary.and_then(|vocabulary| vocabulary.encoder.as_ref());
    let words = match encoder {
        Some(Encoder::Words(words)) => Some(words),
        _ => None,
    };
    let activations = [
        (Activation::Relu, "RELU"),
        (Activation::ReluSquared, "RELU_SQUARED"),
        (Activation::Gelu, "GELU"),
        (Activation::GeluTanh, "GELU_TANH"),
        (Activation::Swiglu, "SWIGLU"),
    ];
    let mut text = String::new();
    let mut define = |name: &str, value: String| _ = writeln!(text, "#define KINGLET_{name} {value}");
    define("VOCAB_SIZE", s.v.to_string());
    define("BLOCK_SIZE", s.block.to_string());
    define("LAYERS", s.layers.to_string());
    define("EMBD", s.c.to_string());
    define("HEADS", s.nh.to_string());
    define("KV_HEADS", s.nkv.to_string());
    define("HEAD_SIZE", s.hs.to_string());
    define("INNER", s.inner.to_string());
    define("FC", model.layout().h[0].c_fc.o.to_string());
    define("SCALE", format!("{:e}f", s.scale as f32));
    define("EPS", format!("{:e}f", s.eps as f32));
    define("ROTARY", u8::from(s.theta.is_some()).to_string());
    define("RMSNORM", u8::from(config.norm == NormKind::RmsNorm).to_string());
    define("QKV_CONV", config.qkv_conv.to_string());
    define("RES_CONV", config.res_conv.to_string());
    define("QK_NORM", u8::from(config.qk_norm).to_string());
    activations.iter().zip(1..).for_each(|((_, name), i)| define(name, i.to_string()));
    let activation = activations.iter().find(|(activation, _)| *activation == config.activation);
    define("ACTIVATION", format!("KINGLET_{}", activation.expect("every activation has a name").1));
    define("SOFTCAP", u8::from(config.logit_softcap > 0.0).to_string());
    define("CAP", format!("{:e}f", config.logit_softcap as f32));
    define("INT8", u8::from(config.quantization == Quantization::W8).to_string());
    define("INT4", u8::from(config.quantization == Quantization::W4).to_string());
    define("START", model.tokenizer.start_of_text().to_string());
    let some = [
        ("END_OF_TEXT", model.tokenizer.end_of_text()),
        ("BEGIN", model.tokenizer.begin_of_text()),
        ("PARTING", parting(&model.tokenizer, config)),
        ("STOP", stop(model)),
    ];
    some.into_iter().filter_map(|(name, id)| Some((name, id?))).for_each(|(name, id)| define(name, id.to_string()));
    define("TOKENS", vocabulary.map_or(0, |vocabulary| vocabulary.tokens.len()).to_string());
    define("ENCODES", u8::from(encoder.is_some()).to_string());
    define("CHARS", u8::from(matches!(encoder, Some(Encoder::Chars))).to_string());
    define("WORDS", u8::from(words.is_some()).to_string());
    define("MERGES", words.map_or(0, |words| words.merges.len()).to_string());
    if let Some(vocabulary) = vocabulary {
        // Each byte may become U+FFFD; up to three are held back.
        define("TEXT", (3 * (vocabulary.longest() + 3) + 1).to_string());
        if let Some(special) = vocabulary.special {
            define("SPECIAL", special.to_string());
        }
    }
    text
}

/// `model.h`
fn header(model: &Portable, vocabulary: Option<&Vocabulary>) -> String {
    include_str!("c/model.h").replace("/*SIZES*/\n", &sizes(model, vocabulary))
}

/// `model.c`
fn source(model: &Portable, vocabulary: Option<&Vocabulary>, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(include_str!("c/types.c").as_bytes())?;
    let mut arrays = Arrays { model, out };
    arrays.weights()?;
    if let Some(vocabulary) = vocabulary {
        arrays.vocabulary(vocabulary)?;
    }
    barred(model, &mut arrays)?;
    out.write_all(include_str!("c/runtime.c").as_bytes())?;
    if vocabulary.is_some() {
        out.write_all(include_str!("c/text.c").as_bytes())?;
    }
    out.write_all(include_str!("c/main.c").as_bytes())
}

/// The ids that are never drawn, because they are no tokens.
fn barred(model: &Portable, arrays: &mut Arrays) -> io::Result<()> {
    let barred: Vec<u32> = (0..model.config.vocab_size as u32).filter(|&id| !model.tokenizer.is_token(id)).collect();
    writeln!(arrays.out, "#define BARRED {}", barred.len())?;
    if !barred.is_empty() {
        arrays.array("uint32_t", "barred", barred.iter().map(u32::to_string))?;
    }
    Ok(())
}
