//! Finds a table's tensors in a file, and writes those of a model.

use super::{
    form::{Convention, Dialect, Holds, How, Part, Tied},
    tables,
};
use crate::formats::{
    foreign::{Dtype, Foreign, Tensor},
    portable::Portable,
    rounded::rows,
};
use kinglet_core::{
    config::{Bias, Config, NormKind},
    error::{Error, Result},
    params::{self, Layout},
};
use std::{borrow::Cow, cmp::Reverse, collections::BTreeSet, ops::Range};

/// What [`Dialect::read`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The weights, in the layout of the configuration.
    pub weights: Vec<f32>,
    /// Names of biases that the configuration has and the file has not: they are zero.
    pub zeros: Vec<String>,
    /// Names of buffers that were left out, since they hold nothing that was learned.
    pub buffers: Vec<String>,
}

/// A tensor there, and which rows of a tensor here it holds, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Its name there.
    pub theirs: String,
    /// The name of the tensor here.
    pub ours: String,
    /// Of each of its outputs there: which row of the tensor here it is.
    pub rows: Vec<usize>,
}

/// A tensor there, and the rows of a tensor here that it holds.
struct Place<'a> {
    theirs: String,
    tensor: &'a params::Tensor,
    rows: Range<usize>,
    how: How,
    heads: Heads,
}

/// The heads that the rows of a tensor belong to.
#[derive(Clone, Copy)]
struct Heads {
    size: usize,
    n: usize,
}

impl Place<'_> {
    /// Columns of the tensor here: 1 of a bias.
    fn cols(&self) -> usize {
        self.tensor.shape.get(1).copied().unwrap_or(1)
    }

    fn is_matrix(&self) -> bool {
        self.tensor.shape.len() == 2
    }

    /// The shape of the tensor there.
    fn shape(&self) -> Vec<usize> {
        match (self.is_matrix(), self.how) {
            (false, _) => vec![self.rows.len()],
            (true, How::Transposed) => vec![self.cols(), self.rows.len()],
            (true, _) => vec![self.rows.len(), self.cols()],
        }
    }

    /// Which row here is row `row` there; counted from the first of `rows`.
    fn ours(&self, row: usize) -> usize {
        let Heads { size, n } = self.heads;
        match self.how {
            How::Interleaved => {
                let (head, at) = (row / size, row % size);
                head * size + at % 2 * (size / 2) + at / 2
            }
            How::ByHead => {
                let (head, part, at) = (row / (3 * size), row / size % 3, row % size);
                (part * n + head) * size + at
            }
            How::Same | How::Transposed | How::MinusOne => row,
        }
    }

    /// Calls `each` with the index of a number there and of the same number within the tensor here.
    fn each(&self, mut each: impl FnMut(usize, usize)) {
        let (rows, cols) = (self.rows.len(), self.cols());
        let transposed = self.is_matrix() && self.how == How::Transposed;
        for row in 0..rows {
            let ours = (self.rows.start + self.ours(row)) * cols;
            for col in 0..cols {
                each(if transposed { col * rows + row } else { row * cols + col }, ours + col);
            }
        }
    }

    /// What is added to a number there.
    fn offset(&self) -> f32 {
        // A bias is not changed.
        if self.how == How::MinusOne && self.theirs.ends_with(".weight") { 1.0 } else { 0.0 }
    }

    /// Whether the numbers of this tensor are the same ones in the same order.
    fn is_copy(&self) -> bool {
        match self.how {
            How::Same => true,
            How::Transposed => !self.is_matrix(),
            How::MinusOne => self.offset() == 0.0,
            How::Interleaved | How::ByHead => false,
        }
    }
}

impl Dialect {
    /// All architectures.
    pub fn all() -> &'static [Dialect] {
        tables::DIALECTS
    }

    /// kinglet's own names, which hold every model of kinglet's.
    pub fn own() -> &'static Dialect {
        &tables::OWN
    }

    /// The architecture of this name.
    pub fn find(convention: Convention, name: &str) -> Option<&'static Dialect> {
        Dialect::all().iter().find(|dialect| dialect.convention == convention && dialect.name == name)
    }

    /// The architecture whose names these tensors have, if there is one: of those that fit the one that uses most of
    /// them, and of these the first whose biases the file has. What comes with the file has to tell others apart.
    pub fn detect(foreign: &Foreign, convention: Option<Convention>) -> Option<&'static Dialect> {
        let possible = Dialect::all().iter().filter(|dialect| convention.is_none_or(|c| dialect.convention == c));
        let fitting = possible.filter(|dialect| dialect.fits(foreign));
        fitting.min_by_key(|dialect| (Reverse(dialect.lines.len()), !dialect.has_biases_of(foreign)))
    }

    /// Whether a file has the biases that must be there, and no others than there may be.
    pub(super) fn has_biases_of(&self, foreign: &Foreign) -> bool {
        let flags = |b: Bias| [b.qkv, b.proj, b.mlp, b.head, b.norm];
        let (has, may, must) = (flags(self.biases(foreign)), flags(self.holds.may), flags(self.holds.must));
        (0..has.len()).all(|i| (may[i] || !has[i]) && (has[i] || !must[i]))
    }

    /// Whether the tensors have this architecture's names, and its orientation where that can be seen.
    fn fits(&self, foreign: &Foreign) -> bool {
        self.lines.iter().all(|line| {
            let Some(tensor) = self.get(foreign, &(named(line.theirs, 0, 0) + ".weight")) else {
                return line.ours == "lm_head";
            };
            match tensor.shape[..] {
                // Query, key and value together are the only matrix whose shape tells which side is which.
                [rows, cols] if line.ours.ends_with("c_attn") && line.part == Part::All => match line.how {
                    How::Transposed => cols > rows,
                    _ => rows > cols,
                },
                _ => true,
            }
        })
    }

    /// A tensor, whether or not its name has the prefix.
    fn get<'a, 'f>(&self, foreign: &'a Foreign<'f>, name: &str) -> Option<&'a Tensor<'f>> {
        self.name_in(foreign, name).and_then(|name| foreign.tensors.get(&name))
    }

    /// A name without what all names begin with, as files of a model without a head have it.
    pub fn without_prefix<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.prefix).unwrap_or(name)
    }

    pub(super) fn name_in(&self, foreign: &Foreign, name: &str) -> Option<String> {
        let short = name.strip_prefix(self.prefix).unwrap_or(name);
        [name, short].into_iter().find(|name| foreign.tensors.contains_key(*name)).map(str::to_owned)
    }

    /// The tensor that holds the rows of one of kinglet's modules, or the first of those that do; for block and head 0.
    /// `suffix` is `.weight` or `.bias`.
    pub fn tensor<'a, 'f>(&self, foreign: &'a Foreign<'f>, ours: &str, suffix: &str) -> Option<&'a Tensor<'f>> {
        let line = self.lines.iter().find(|line| line.ours == ours)?;
        self.get(foreign, &(named(line.theirs, 0, 0) + suffix))
    }

    /// How many blocks a file has.
    pub fn layers(&self, foreign: &Foreign) -> usize {
        let line = self.lines.iter().find(|line| line.ours.ends_with("ln_1")).expect("every table has it");
        let has = |l: &usize| self.get(foreign, &(named(line.theirs, *l, 0) + ".weight")).is_some();
        (0..).take_while(has).count()
    }

    /// How many heads a file has, where each has tensors of its own.
    pub fn heads(&self, foreign: &Foreign) -> Option<usize> {
        let line = self.lines.iter().find(|line| line.theirs.contains("{m}"))?;
        let has = |m: &usize| self.get(foreign, &(named(line.theirs, 0, *m) + ".weight")).is_some();
        Some((0..).take_while(has).count())
    }

    /// Which biases a file has.
    pub fn biases(&self, foreign: &Foreign) -> Bias {
        let mut bias = Bias::NONE;
        for line in self.lines {
            if self.get(foreign, &(named(line.theirs, 0, 0) + ".bias")).is_some() {
                *flag(&mut bias, line.ours) = true;
            }
        }
        bias
    }

    /// Whether the file's head is its token embedding: it has none, or the same numbers.
    ///
    /// # Errors
    /// If the numbers cannot be read.
    pub fn is_tied(&self, foreign: &Foreign) -> Result<bool> {
        let weight = |ours| self.tensor(foreign, ours, ".weight");
        let (Some(head), Some(wte)) = (weight("lm_head"), weight("transformer.wte")) else { return Ok(true) };
        Ok(head.shape == wte.shape && head.read()? == wte.read()?)
    }

    /// Where the tensors of a layout are there.
    fn places<'a>(&self, config: &Config, layout: &'a Layout) -> Vec<Place<'a>> {
        let mut places = Vec::new();
        for tensor in &layout.tensors {
            let (module, suffix) = tensor.name.rsplit_once('.').expect("names end in .weight or .bias");
            let (pattern, l) = pattern(module);
            for line in self.lines.iter().filter(|line| line.ours == pattern) {
                let rows = part_rows(line.part, tensor.shape[0], layout);
                let size = config.head_size();
                let n = if line.theirs.contains("{m}") { rows.len() / size } else { 1 };
                places.extend((0..n).map(|m| Place {
                    theirs: format!("{}.{suffix}", named(line.theirs, l, m)),
                    tensor,
                    rows: rows.start + m * (rows.len() / n)..rows.start + (m + 1) * (rows.len() / n),
                    how: line.how,
                    heads: Heads { size, n: config.n_head },
                }));
            }
        }
        places
    }

    /// Which rows of kinglet's tensors the tensors there hold, for a model with this configuration.
    ///
    /// # Errors
    /// If the configuration describes no model.
    pub fn rows(&self, config: &Config) -> Result<Vec<Rows>> {
        let layout = Layout::new(config)?;
        let of = |place: Place| Rows {
            ours: place.tensor.name.clone(),
            rows: (0..place.rows.len()).map(|row| place.rows.start + place.ours(row)).collect(),
            theirs: place.theirs,
        };
        Ok(self.places(config, &layout).into_iter().map(of).collect())
    }

    /// The weights of a model with this configuration.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape or holds whole numbers, if one is left that nothing is known of, or if the file cannot be
    /// read.
    pub fn read(&self, foreign: &Foreign, config: &Config) -> Result<Placed> {
        let layout = Layout::new(config)?;
        let places = self.places(config, &layout);
        let (mut found, mut zeros, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
        // Look everything up before there is memory for the numbers.
        for place in &places {
            let Some(name) = self.name_in(foreign, &place.theirs) else {
                if place.theirs.ends_with(".bias") {
                    zeros.push(place.theirs.clone());
                    continue;
                }
                let (missing, ours) = (&place.theirs, &place.tensor.name);
                return Err(Error::Data(format!("it has no tensor {missing} (kinglet's {ours})")));
            };
            let tensor = &foreign.tensors[&name];
            if tensor.shape != place.shape() {
                let (has, wants) = (&tensor.shape, place.shape());
                return Err(Error::Data(format!("{name} has the shape {has:?} instead of {wants:?}")));
            }
            if tensor.dtype.is_whole() {
                let dtype = tensor.dtype.name();
                let what = format!("{name} is of type {dtype}: whole numbers without their scales are no weights");
                return Err(Error::Data(what));
            }
            found.push((place, tensor));
            used.insert(name);
        }
        let buffers = self.leftovers(foreign, config, &used)?;
        let mut weights = vec![0.0; layout.len()];
        for (place, tensor) in found {
            let (numbers, offset) = (tensor.read()?, place.offset());
            let ours = &mut weights[place.tensor.span.range()];
            if place.is_copy() {
                ours[place.rows.start * place.cols()..][..numbers.len()].copy_from_slice(&numbers);
            } else {
                place.each(|theirs, here| ours[here] = numbers[theirs] + offset);
            }
        }
        Ok(Placed { weights, zeros, buffers })
    }

    /// The names of the buffers among the tensors that were not used.
    fn leftovers(&self, foreign: &Foreign, config: &Config, used: &BTreeSet<String>) -> Result<Vec<String>> {
        let head =
            self.lines.iter().find(|line| line.ours == "lm_head").map(|line| named(line.theirs, 0, 0) + ".weight");
        let is_buffer = |name: &str| self.buffers.iter().any(|end| name.ends_with(end));
        let is_tied_head = |name: &str| config.tie_weights && head.as_deref() == Some(name);
        let left = foreign.tensors.keys().filter(|name| !used.contains(*name) && !is_tied_head(name));
        let (buffers, strange): (Vec<_>, Vec<_>) = left.cloned().partition(|name| is_buffer(name));
        if strange.is_empty() {
            return Ok(buffers);
        }
        let shown = strange.iter().take(4).map(|name| format!("{name} {:?}", foreign.tensors[name].shape));
        let (shown, n, name) = (shown.collect::<Vec<_>>().join(", "), strange.len(), self.name);
        let have = if n == 1 { "has" } else { "have" };
        let more = if n > 4 { format!(" and {} more", n - 4) } else { String::new() };
        Err(Error::Data(format!("{n} of its tensors {have} no place in the architecture {name}: {shown}{more}")))
    }

    /// The biases that must be written for a model.
    fn required(&self, config: &Config) -> Bias {
        let Holds { must, together, .. } = self.holds;
        let has = config.bias;
        let any = has.qkv && together.qkv
            || has.proj && together.proj
            || has.mlp && together.mlp
            || has.head && together.head
            || has.norm && together.norm;
        Bias {
            qkv: must.qkv || any && together.qkv,
            proj: must.proj || any && together.proj,
            mlp: must.mlp || any && together.mlp,
            head: must.head || any && together.head,
            norm: must.norm || any && together.norm,
        }
    }

    /// The tensors of a model, as this architecture has them. Missing biases that it needs are zeros.
    ///
    /// # Errors
    /// If it has no place for one of the model's tensors.
    pub fn write<'a>(&self, model: &'a Portable) -> Result<Foreign<'a>> {
        let layout = model.layout();
        let mut foreign = Foreign::default();
        for place in self.places(&model.config, &layout) {
            let name = place.theirs.clone();
            let tensor = tensor_of(&model.weights, &place);
            let rounded = model.rounded.get(&place.tensor.name).filter(|_| place.how != How::Transposed);
            let from = (0..place.rows.len()).map(|row| place.rows.start + place.ours(row));
            foreign.tensors.insert(name, tensor.with_rounded(rounded.map(|matrix| rows(matrix, from))));
        }
        let kept = |tensor: &params::Tensor| {
            let module = tensor.name.rsplit_once('.').expect("names end in .weight or .bias").0;
            self.lines.iter().any(|line| line.ours == pattern(module).0)
        };
        if let Some(tensor) = layout.tensors.iter().find(|tensor| !kept(tensor)) {
            return Err(Error::Data(format!("the architecture {} has no place for {}", self.name, tensor.name)));
        }
        self.add_zeros(model, &mut foreign)?;
        if model.config.tie_weights && self.holds.tied == Tied::Written {
            let head = self.lines.iter().find(|line| line.ours == "lm_head").expect("every table has it");
            let embedding = self.lines.iter().find(|line| line.ours == "transformer.wte").expect("every table has it");
            let wte = foreign.tensors[&(embedding.theirs.to_owned() + ".weight")].shape.clone();
            let weights = &model.weights[layout.embedding.wte.range()];
            foreign.tensors.insert(head.theirs.to_owned() + ".weight", Tensor::of(wte, weights));
        }
        Ok(foreign)
    }

    /// Adds the biases that must be there and are not.
    fn add_zeros(&self, model: &Portable, foreign: &mut Foreign) -> Result<()> {
        let required = self.required(&model.config);
        let missing = Bias {
            qkv: required.qkv && !model.config.bias.qkv,
            proj: required.proj && !model.config.bias.proj,
            mlp: required.mlp && !model.config.bias.mlp,
            head: required.head && !model.config.bias.head,
            norm: required.norm && !model.config.bias.norm && self.holds.norm == NormKind::LayerNorm,
        };
        // The layout of the same model with these biases says which there are.
        let mut config = model.config.clone();
        config.bias = missing;
        let layout = Layout::new(&config)?;
        for place in self.places(&config, &layout).into_iter().filter(|place| place.theirs.ends_with(".bias")) {
            let zeros = vec![0.0; place.rows.len()];
            foreign.tensors.insert(place.theirs.clone(), Tensor::of(place.shape(), zeros));
        }
        Ok(())
    }
}

/// A tensor there, computed when it is read.
fn tensor_of<'a>(weights: &'a [f32], place: &Place) -> Tensor<'a> {
    let ours = &weights[place.tensor.span.range()];
    let (rows, cols) = (place.rows.clone(), place.cols());
    if place.is_copy() {
        return Tensor::of(place.shape(), &ours[rows.start * cols..rows.end * cols]);
    }
    let place = Place { theirs: place.theirs.clone(), tensor: place.tensor, rows, ..*place };
    let (tensor, offset) = (place.tensor.clone(), place.offset());
    let (shape, rows, how, heads, theirs) = (place.shape(), place.rows, place.how, place.heads, place.theirs);
    Tensor::new(shape, Dtype::F32, move || {
        let place = Place { theirs: theirs.clone(), tensor: &tensor, rows: rows.clone(), how, heads };
        let mut numbers = vec![0.0; rows.len() * place.cols()];
        place.each(|theirs, here| numbers[theirs] = ours[here] - offset);
        Ok(Cow::Owned(numbers))
    })
}

/// A name with the numbers of block and head.
pub(super) fn named(name: &str, l: usize, m: usize) -> String {
    name.replace("{l}", &l.to_string()).replace("{m}", &m.to_string())
}

/// `transformer.h.3.ln_1` as `transformer.h.{l}.ln_1` and 3; other names as they are, and 0.
fn pattern(module: &str) -> (String, usize) {
    let block = module.strip_prefix("transformer.h.").and_then(|rest| rest.split_once('.'));
    match block.and_then(|(l, rest)| Some((l.parse().ok()?, rest))) {
        Some((l, rest)) => (format!("transformer.h.{{l}}.{rest}"), l),
        None => (module.to_owned(), 0),
    }
}

/// The rows of a tensor with `n` rows that make a part of it.
fn part_rows(part: Part, n: usize, layout: &Layout) -> Range<usize> {
    let [query, key, value] = layout.qkv_rows();
    match part {
        Part::All => 0..n,
        Part::Query => query,
        Part::Key => key,
        Part::Value => value,
        Part::Gate => 0..n / 2,
        Part::Up => n / 2..n,
    }
}

/// The flag of the biases of a module.
fn flag<'a>(bias: &'a mut Bias, module: &str) -> &'a mut bool {
    match module.rsplit_once("{l}.").map_or(module, |(_, rest)| rest) {
        "attn.c_attn" => &mut bias.qkv,
        "attn.c_proj" => &mut bias.proj,
        "lm_head" => &mut bias.head,
        mlp if mlp.starts_with("mlp.") => &mut bias.mlp,
        _ => &mut bias.norm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::{CharTokenizer, Tokenizer};
    use kinglet_core::config::Activation;

    /// A small random model that the architecture holds, with all biases that it may have.
    fn model(dialect: &Dialect, activation: Activation) -> Portable {
        let holds = dialect.holds;
        let mut config = Config::default().with(&["n_layer=2", "n_embd=24", "n_head=6", "block_size=5"]).unwrap();
        (config.vocab_size, config.n_inner) = (11, 20);
        (config.position, config.norm, config.activation) = (holds.position, holds.norm, activation);
        (config.attention_scale, config.qk_norm, config.bias) = (holds.scale, holds.qk_norm, holds.may);
        config.n_kv_head = if holds.grouped { 2 } else { 0 };
        let weights = Layout::new(&config).unwrap().init(3).into_iter().enumerate();
        // Norms and biases as well as weights have numbers of their own.
        let weights = weights.map(|(i, x)| x + (i as f32 * 0.37).sin());
        Portable::new(config, weights.collect(), Tokenizer::from(CharTokenizer::train("abc"))).unwrap()
    }

    fn either(a: Bias, b: Bias) -> Bias {
        Bias {
            qkv: a.qkv || b.qkv,
            proj: a.proj || b.proj,
            mlp: a.mlp || b.mlp,
            head: a.head || b.head,
            norm: a.norm || b.norm,
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same_model() {
        for dialect in Dialect::all() {
            for &activation in dialect.holds.activations {
                let model = model(dialect, activation);
                let foreign = dialect.write(&model).unwrap();
                let placed = dialect.read(&foreign, &model.config).unwrap();
                assert!(placed.zeros.is_empty() && placed.buffers.is_empty());
                // An addition of one and its inverse round.
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 2e-7 * (1.0 + a.abs());
                assert!(model.weights.iter().zip(&placed.weights).all(close), "{}", dialect.name);
                assert_eq!(dialect.layers(&foreign), 2);
                assert_eq!(dialect.biases(&foreign), either(dialect.required(&model.config), model.config.bias));
                assert!(!dialect.is_tied(&foreign).unwrap());
                let found = Dialect::detect(&foreign, Some(dialect.convention)).unwrap();
                assert_eq!(found.lines.len(), dialect.lines.len(), "{} is taken for {}", dialect.name, found.name);
            }
        }
    }

    #[test]
    fn tied_weights_are_written_where_they_are_wanted() {
        for dialect in Dialect::all().iter().filter(|dialect| dialect.holds.tied != Tied::Never) {
            let model = model(dialect, dialect.holds.activations[0]);
            let mut config = model.config.clone();
            (config.tie_weights, config.bias.head) = (true, false);
            let weights = model.weights[..Layout::new(&config).unwrap().len()].to_vec();
            let model = Portable::new(config, weights, model.tokenizer).unwrap();
            let foreign = dialect.write(&model).unwrap();
            assert!(dialect.is_tied(&foreign).unwrap());
            let has = dialect.tensor(&foreign, "lm_head", ".weight").is_some();
            assert_eq!(has, dialect.holds.tied == Tied::Written);
            assert_eq!(dialect.read(&foreign, &model.config).unwrap().weights, model.weights);
        }
    }

    #[test]
    fn what_is_missing_strange_or_of_another_shape_is_named() {
        let dialect = Dialect::find(Convention::HuggingFace, "llama").unwrap();
        let model = model(dialect, Activation::Swiglu);
        let error = |change: &dyn Fn(&mut Foreign)| {
            let mut foreign = dialect.write(&model).unwrap();
            change(&mut foreign);
            dialect.read(&foreign, &model.config).unwrap_err().to_string()
        };
        let name = "model.layers.1.self_attn.k_proj.weight";
        assert_eq!(
            error(&|foreign| _ = foreign.tensors.remove(name)),
            format!("it has no tensor {name} (kinglet's transformer.h.1.attn.c_attn.weight)")
        );
        let half = |foreign: &mut Foreign| {
            foreign.tensors.insert(name.to_owned(), Tensor::of(vec![4, 24], vec![0.0; 96]));
        };
        assert_eq!(error(&half), format!("{name} has the shape [4, 24] instead of [8, 24]"));
        for dtype in [Dtype::I8, Dtype::U8, Dtype::I16, Dtype::I32, Dtype::I64, Dtype::Bool] {
            let whole = |foreign: &mut Foreign| {
                let ones = || Ok(Cow::Owned(vec![1.0; 192]));
                foreign.tensors.insert(name.to_owned(), Tensor::new(vec![8, 24], dtype, ones));
            };
            let type_of = format!("{name} is of type {}: whole numbers", dtype.name());
            assert!(error(&whole).starts_with(&type_of), "{}", error(&whole));
        }
        let more = |foreign: &mut Foreign| {
            foreign.tensors.insert("model.layers.1.gate".to_owned(), Tensor::of(vec![2], vec![0.0; 2]));
        };
        assert_eq!(error(&more), "1 of its tensors has no place in the architecture llama: model.layers.1.gate [2]");
    }

    #[test]
    fn buffers_missing_biases_and_missing_prefixes_are_told_of() {
        let dialect = Dialect::find(Convention::HuggingFace, "gpt2").unwrap();
        let model = model(dialect, Activation::Relu);
        let mut foreign = dialect.write(&model).unwrap();
        let short = |name: &str| name.strip_prefix("transformer.").unwrap_or(name).to_owned();
        foreign.tensors = std::mem::take(&mut foreign.tensors).into_iter().map(|(k, v)| (short(&k), v)).collect();
        foreign.tensors.insert("h.0.attn.bias".to_owned(), Tensor::of(vec![1], vec![1.0]));
        foreign.tensors.remove("h.1.ln_2.bias");
        assert_eq!(Dialect::detect(&foreign, None).unwrap().name, "gpt2");
        let placed = dialect.read(&foreign, &model.config).unwrap();
        assert_eq!(placed.buffers, ["h.0.attn.bias"]);
        assert_eq!(placed.zeros, ["transformer.h.1.ln_2.bias"]);
    }
}
