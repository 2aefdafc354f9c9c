//! The arrays of the C file.

use super::vocabulary::{Encoder, Vocabulary};
use crate::{
    formats::{portable::Portable, shape::Shape},
    run::packed,
};
use kinglet_core::{
    config::Quantization,
    params::{Layout, Linear, Norm, Param},
};
use std::io::{self, Write};

/// Characters of a line before it is broken.
const LINE: usize = 120;

/// Writes arrays.
pub(super) struct Arrays<'a> {
    pub(super) model: &'a Portable,
    pub(super) out: &'a mut dyn Write,
}

impl Arrays<'_> {
    /// All weights, and the table of the blocks.
    pub(super) fn weights(&mut self) -> io::Result<()> {
        let (layout, s) = (self.model.layout(), Shape::of(&self.model.config));
        let Layout { embedding, .. } = &layout;
        self.param("wte", embedding.wte)?;
        if let Some(wpe) = embedding.wpe {
            self.param("wpe", wpe)?;
        }
        if let Some(theta) = s.theta {
            // More digits than f32 has: they are multiplied by positions.
            let frequencies = (0..s.hs / 2).map(|i| format!("{:e}", s.frequency(theta, i)));
            self.array("double", "frequencies", frequencies)?;
        }
        let mut table = Vec::new();
        for (l, h) in layout.h.iter().enumerate() {
            let name = |part: &str| format!("h_{l}_{part}");
            let res_conv = self.optional(&name("res_conv"), h.res_conv.map(|conv| conv.w))?;
            let ln_1 = self.norm(&name("ln_1"), h.ln_1)?;
            let c_attn = self.linear(&name("c_attn"), h.c_attn)?;
            let conv = self.optional(&name("conv"), h.conv.map(|conv| conv.w))?;
            let qk = match h.qk.and_then(|qk| qk.norm) {
                None => "0, 0".to_owned(),
                Some((q, k)) => {
                    self.param(&name("q_norm"), q)?;
                    self.param(&name("k_norm"), k)?;
                    format!("{}, {}", name("q_norm"), name("k_norm"))
                }
            };
            let attn_proj = self.linear(&name("attn_proj"), h.attn_proj)?;
            let ln_2 = self.norm(&name("ln_2"), h.ln_2)?;
            let c_fc = self.linear(&name("c_fc"), h.c_fc)?;
            let mlp_proj = self.linear(&name("mlp_proj"), h.mlp_proj)?;
            table.push(format!(
                "    {{{res_conv}, {ln_1}, {conv}, {qk}, {ln_2}, {c_attn}, {attn_proj}, {c_fc}, {mlp_proj}}}"
            ));
        }
        writeln!(self.out, "static const struct block blocks[] = {{\n{}\n}};", table.join(",\n"))?;
        self.param("ln_f", layout.ln_f.w)?;
        self.pointer("ln_f_bias", layout.ln_f.b)?;
        if self.model.config.tie_weights {
            writeln!(self.out, "#define lm_head wte")?;
        } else {
            self.param("lm_head", layout.lm_head.w)?;
        }
        self.pointer("lm_head_bias", layout.lm_head.b)
    }

    /// An array that may be missing.
    fn pointer(&mut self, name: &str, param: Option<Param>) -> io::Result<()> {
        let of = match param {
            None => "0".to_owned(),
            Some(param) => {
                let of = format!("{name}_values");
                self.param(&of, param)?;
                of
            }
        };
        writeln!(self.out, "static const float *const {name} = {of};")
    }

    fn norm(&mut self, name: &str, w: Norm) -> io::Result<String> {
        self.param(name, w.w)?;
        let bias = self.optional(&format!("{name}_bias"), w.b)?;
        Ok(format!("{name}, {bias}"))
    }

    fn linear(&mut self, name: &str, w: Linear) -> io::Result<String> {
        let (model, layout) = (self.model, self.model.layout());
        let tensor =
            layout.tensors.iter().find(|tensor| tensor.span == w.w.span).expect("every parameter has a tensor");
        let scale = match model.rounded.get(&tensor.name) {
            Some(matrix) => {
                match matrix.scheme() {
                    Quantization::W4 => {
                        let bytes = packed(matrix.codes(), w.i, 8);
                        self.array("uint8_t", name, bytes.iter().map(u8::to_string))?;
                    }
                    _ => self.array("int8_t", name, matrix.codes().iter().map(i8::to_string))?,
                }
                self.array("float", &format!("{name}_scale"), matrix.scales().iter().copied().map(float))?;
                format!("{name}_scale, ")
            }
            None => {
                self.param(name, w.w)?;
                String::new()
            }
        };
        let bias = self.optional(&format!("{name}_bias"), w.b)?;
        Ok(format!("{{{name}, {scale}{bias}, {}, {}}}", w.i, w.o))
    }

    fn optional(&mut self, name: &str, param: Option<Param>) -> io::Result<String> {
        let Some(param) = param else { return Ok("0".to_owned()) };
        self.param(name, param)?;
        Ok(name.to_owned())
    }

    fn param(&mut self, name: &str, param: Param) -> io::Result<()> {
        let model = self.model;
        self.array("float", name, model.weights[param.range()].iter().copied().map(float))
    }

    /// The tables of the tokenizer.
    pub(super) fn vocabulary(&mut self, vocabulary: &Vocabulary) -> io::Result<()> {
        let mut at = 0;
        let ends = vocabulary.tokens.iter().map(|token| {
            at += token.len();
            at.to_string()
        });
        let starts: Vec<String> = std::iter::once("0".to_owned()).chain(ends).collect();
        self.array("uint32_t", "token_at", starts.into_iter())?;
        // An array is never empty.
        let bytes = vocabulary.tokens.iter().flatten().chain(&[0]).map(u8::to_string);
        self.array("unsigned char", "token_bytes", bytes)?;
        let Some(Encoder::Words(words)) = &vocabulary.encoder else { return Ok(()) };
        self.array("uint32_t", "byte_ids", words.byte_ids.iter().map(u32::to_string))?;
        let merges = words.merges.iter().map(|m| format!("{{{},{},{},{}}}", m.a, m.b, m.rank, m.id));
        let none = words.merges.is_empty().then(|| "{0,0,0,0}".to_owned());
        self.array("struct merge", "merges", merges.chain(none))?;
        self.array("uint32_t", "class_from", words.classes.iter().map(|(from, _)| from.to_string()))?;
        self.array("unsigned char", "class_is", words.classes.iter().map(|(_, class)| (*class as u8).to_string()))
    }

    pub(super) fn array(&mut self, kind: &str, name: &str, values: impl Iterator<Item = String>) -> io::Result<()> {
        write!(self.out, "static const {kind} {name}[] = {{")?;
        let mut line = LINE;
        for (i, value) in values.enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if line + value.len() >= LINE {
                write!(self.out, "{comma}\n{value}")?;
                line = value.len();
            } else {
                write!(self.out, "{comma}{value}")?;
                line += value.len() + 1;
            }
        }
        writeln!(self.out, "}};")
    }
}

/// A number as C writes it; a compiler reads the same bits.
fn float(x: f32) -> String {
    format!("{x:e}f")
}
