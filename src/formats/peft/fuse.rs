//! Adapters of PEFT's modules become adapters of kinglet's layers, which hold several of those.
//!
//! Of a layer with modules 1, 2, ... here, `W x` has the rows `W_j x`, and `s_j B_j A_j x` is added to each. That is `S B A` with
//! all A_j below each other, and in the rows of module j the columns of `s_j / S B_j`, zeros elsewhere: exact, of the rank that
//! the ranks of different A_j add up to. Layers of less than the largest rank get rows of zeros.

use super::{
    adapters::Adapters,
    parts::{Named, Parts},
    rows::{self, Module},
    settings::Settings,
};
use crate::{
    formats::{
        chain::{self, Way},
        dialect::{Convention, Dialect},
        foreign::{Dtype, Tensor},
        portable::Portable,
        rewrite::Rewrite,
    },
    text::many,
};
use kinglet_core::{
    config::{Config, LoraTargets},
    error::{Error, Result},
    params::Layout,
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

/// Adapters, and what they are on.
#[derive(Debug)]
pub(in crate::formats) struct Fused {
    /// The adapters, with the base's weights.
    pub(in crate::formats) adapters: Adapters,
    /// The model that they are on.
    pub(in crate::formats) base: Portable,
    /// The architecture whose names the modules have.
    pub(in crate::formats) dialect: &'static Dialect,
    /// How many modules have an adapter there.
    pub(in crate::formats) modules: usize,
    pub(in crate::formats) notes: Vec<String>,
}

/// A module's adapter as it is added here.
struct Piece {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    scale: f64,
    rows: Vec<usize>,
}

/// The adapters of `parts` for `base`.
///
/// # Errors
/// If they belong to another model, something is missing or left over, or kinglet has no form for them.
pub(in crate::formats) fn fuse(base: Portable, parts: Parts, settings: &Settings) -> Result<Fused> {
    let (way, prefixed) = way(&base.config, &parts)?;
    let modules = rows::modules(&rewritten(&base.config, &way), way.dialect)?;
    refuse_others(&modules, &parts, settings, &prefixed)?;
    let mut notes = Vec::new();
    let pieces = pieces(&base.config, &way, &modules, &parts, settings, &prefixed)?;
    let config = configure(&base.config, &pieces, settings, &way)?;
    if pieces.values().flatten().any(|piece| piece.rank != config.lora_rank) {
        notes.push(format!(
            "the adapters of a layer here are those of several modules there, or have fewer rows than others: side by side \
             they have the rank {}, with zeros where a module has none",
            config.lora_rank
        ));
    }
    let kinds = pieces.keys().map(|at| if *at == 4 * config.n_layer { 4 } else { at % 4 }).collect::<BTreeSet<_>>();
    let adapted = Layout::new(&config)?.linears().iter().filter(|linear| linear.lora.is_some()).count();
    if adapted > pieces.len() {
        let n = many((adapted - pieces.len()) as u64, "layer has", "layers have");
        let kinds = kinds.len();
        notes.push(format!(
            "{n} no adapter there and zeros here, since kinglet adapts a kind of layer ({kinds} here) in all blocks"
        ));
    }
    let count = parts.lora.len();
    let (base, config, whole) = whole(base, config, &way, parts.saved, settings)?;
    let layout = Layout::new(&config)?;
    let mut weights = vec![0.0; layout.len()];
    weights[..base.weights.len()].copy_from_slice(&base.weights);
    for (name, numbers) in whole {
        let tensor = layout.tensors.iter().find(|tensor| tensor.name == name).expect("it was found there");
        weights[tensor.span.range()].copy_from_slice(&numbers);
    }
    lay(&mut weights, &layout, &pieces, &config);
    if let Some(tensor) =
        layout.tensors.iter().find(|tensor| weights[tensor.span.range()].iter().any(|x| !x.is_finite()))
    {
        return Err(Error::Data(format!("its numbers are not all finite, in what becomes {}", tensor.name)));
    }
    Ok(Fused { adapters: Adapters { config, weights }, base, dialect: way.dialect, modules: count, notes })
}

/// The configuration of the model that the adapters are of there.
fn rewritten(config: &Config, way: &Way) -> Config {
    let mut config = config.clone();
    way.rewrites.iter().for_each(|rewrite| rewrite.configure(&mut config));
    config
}

/// The names there of the modules in a file, which leaves out the beginning of all names if it is of a model without a head.
type Prefixed = BTreeMap<String, String>;

/// How the base became the model that was adapted: the first way on which it has modules of these names.
fn way(config: &Config, parts: &Parts) -> Result<(Way, Prefixed)> {
    let (mut refusal, mut nearest) = (None, None::<(usize, String, &str)>);
    for convention in [Convention::HuggingFace, Convention::NanoGpt, Convention::Lecture] {
        let ways = match chain::ways(config, convention, Dtype::F32) {
            Ok(ways) => ways,
            Err(error) => {
                // PEFT is for transformers first of all.
                refusal = refusal.or((convention == Convention::HuggingFace).then_some(error));
                continue;
            }
        };
        for way in ways {
            let all = rows::modules(&rewritten(config, &way), way.dialect)?;
            let named = |name: &String| {
                let is = |module: &&Module| module.name == *name || way.dialect.without_prefix(&module.name) == *name;
                all.iter().find(is).map(|module| (name.clone(), module.name.clone()))
            };
            let (found, strange): (Vec<_>, Vec<_>) =
                parts.lora.keys().map(|name| named(name).ok_or(name)).partition(Result::is_ok);
            match strange.first() {
                None => return Ok((way, found.into_iter().flatten().collect())),
                Some(Err(name)) if nearest.as_ref().is_none_or(|(most, ..)| found.len() > *most) => {
                    nearest = Some((found.len(), (*name).clone(), way.dialect.name));
                }
                Some(_) => {}
            }
        }
    }
    match (nearest, refusal) {
        (Some((0, name, _)), Some(refusal)) => {
            let why = refusal.one_line();
            Err(Error::Data(format!(
                "the base has no module {name}; as a model of transformers it cannot be told: {why}"
            )))
        }
        (Some((_, name, architecture)), _) => Err(Error::Data(format!(
            "the base has no linear layer {name}, whichever architecture is assumed ({architecture} is the nearest): it is not the \
             model that was adapted"
        ))),
        (None, Some(refusal)) => Err(refusal),
        (None, None) => unreachable!("there are ways, or transformers has none"),
    }
}

/// Refuses a file that has not the modules which its configuration names.
fn refuse_others(modules: &[Module], parts: &Parts, settings: &Settings, prefixed: &Prefixed) -> Result<()> {
    let there: BTreeMap<&String, &String> = prefixed.iter().map(|(file, module)| (module, file)).collect();
    for module in modules {
        let is_head = module.linear == modules.iter().map(|module| module.linear).max().unwrap_or_default();
        match (settings.expects(&module.name, is_head), there.get(&module.name)) {
            (Some(true), None) => {
                let name = &module.name;
                return Err(Error::Data(format!(
                    "it has no tensor base_model.model.{name}.lora_A.weight, which target_modules asks for"
                )));
            }
            (Some(false), Some(file)) => {
                let name = &parts.lora[*file][0].0;
                let what = "target_modules, exclude_modules and layers_to_transform leave that module out";
                return Err(Error::Data(format!("it has {name}, but {what}")));
            }
            _ => {}
        }
    }
    let is_there = |name: &str| parts.saved.keys().any(|there| format!(".{there}.").contains(&format!(".{name}.")));
    match settings.saved.iter().find(|name| !is_there(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Data(format!("it has no tensor of {name}, which modules_to_save asks for"))),
    }
}

/// The adapters of each linear layer here, by its number.
fn pieces(
    config: &Config,
    way: &Way,
    modules: &[Module],
    parts: &Parts,
    settings: &Settings,
    prefixed: &Prefixed,
) -> Result<BTreeMap<usize, Vec<Piece>>> {
    let layout = Layout::new(config)?;
    let (linears, queries) = (layout.linears(), layout.qkv_rows()[0].len());
    let factor = rows::factor(config, &way.rewrites);
    let mut pieces = BTreeMap::<usize, Vec<Piece>>::new();
    for (file, pair) in &parts.lora {
        let name = &prefixed[file];
        let module = modules.iter().find(|module| module.name == *name).expect("it was found before");
        let rank = shapes(pair, module.rows.len(), linears[module.linear].i, settings.rank(name))?;
        let [a, b] = pair.each_ref().map(|(_, tensor)| tensor.read());
        let (a, mut b) = (a?.into_owned(), b?.into_owned());
        if factor != 1.0 && rows::is_qkv(module.linear, config.n_layer) {
            for (row, numbers) in module.rows.iter().zip(b.chunks_exact_mut(rank)) {
                if *row < queries {
                    numbers.iter_mut().for_each(|x| *x = (f64::from(*x) / factor) as f32);
                }
            }
        }
        let scale = settings.scale(name, rank);
        pieces.entry(module.linear).or_default().push(Piece { a, b, rank, scale, rows: module.rows.clone() });
    }
    Ok(pieces)
}

/// The rank of a pair of matrices, if they have the shapes that a module needs.
fn shapes([(a, left), (b, right)]: &[Named; 2], o: usize, i: usize, rank: u64) -> Result<usize> {
    let r = usize::try_from(rank).unwrap_or(usize::MAX);
    for (name, Tensor { shape, .. }, wants) in [(a, left, [r, i]), (b, right, [o, r])] {
        if shape[..] != wants {
            return Err(Error::Data(format!("{name} has the shape {shape:?} instead of {wants:?}")));
        }
    }
    if r == 0 { Err(Error::Data(format!("{a} has the rank 0"))) } else { Ok(r) }
}

/// The configuration with adapters.
fn configure(base: &Config, pieces: &BTreeMap<usize, Vec<Piece>>, settings: &Settings, way: &Way) -> Result<Config> {
    let mut config = base.clone();
    let mut targets = LoraTargets { qkv: false, proj: false, mlp: false, head: false };
    for &at in pieces.keys() {
        let flag = match (at == 4 * base.n_layer, at % 4) {
            (true, _) => &mut targets.head,
            (_, 0) => &mut targets.qkv,
            (_, 1) => &mut targets.proj,
            _ => &mut targets.mlp,
        };
        *flag = true;
    }
    config.lora_targets = targets;
    let rank = pieces.values().map(|pieces| columns(pieces).1).max().unwrap_or_default();
    config.lora_rank = rank;
    config.lora_alpha = match settings.is_plain(rank) && settings.alpha > 0.0 {
        true => settings.alpha,
        false => shared_scale(pieces) * rank as f64,
    };
    config.lora_dropout = settings.dropout;
    (config.freeze, config.new_tokens, config.replay) = (Vec::new(), 0, 0.0);
    config.modules_to_save = Vec::new();
    config.check()?;
    match way.rewrites.iter().find(|rewrite| !rows::survive(&config, **rewrite)) {
        None => Ok(config),
        Some(rewrite) => Err(not_the_base(*rewrite)),
    }
}

/// The base was rewritten for the other side in a way that adapters there do not survive on the way back.
fn not_the_base(rewrite: Rewrite) -> Error {
    Error::Data(format!(
        "adapters of what the base is there are none of the base itself, since it was rewritten ({rewrite}): --base names the \
         folder that was adapted instead, which is imported"
    ))
}

/// The factor on the output of all adapters here: the first of those there that is not zero.
fn shared_scale(pieces: &BTreeMap<usize, Vec<Piece>>) -> f64 {
    pieces.values().flatten().map(|piece| piece.scale.abs()).find(|scale| *scale > 0.0).unwrap_or(1.0)
}

/// The first column of each piece in its layer's B, and the number of columns: those with the same A share theirs.
fn columns(pieces: &[Piece]) -> (Vec<usize>, usize) {
    let (mut first, mut next) = (Vec::<usize>::new(), 0);
    let same = |x: &[f32], y: &[f32]| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits());
    for (at, piece) in pieces.iter().enumerate() {
        match pieces[..at].iter().position(|other| same(&other.a, &piece.a)) {
            Some(other) => first.push(first[other]),
            None => {
                first.push(next);
                next += piece.rank;
            }
        }
    }
    (first, next)
}

/// Writes the adapters to their places.
fn lay(weights: &mut [f32], layout: &Layout, pieces: &BTreeMap<usize, Vec<Piece>>, config: &Config) {
    let shared = config.lora_alpha / config.lora_rank as f64;
    let linears = layout.linears();
    for (at, pieces) in pieces {
        let linear = linears[*at];
        let lora = linear.lora.expect("its kind is a target");
        for (piece, first) in pieces.iter().zip(columns(pieces).0) {
            weights[lora.a.range()][first * linear.i..][..piece.a.len()].copy_from_slice(&piece.a);
            let b = &mut weights[lora.b.range()];
            // Where all have the same factor, no number changes.
            let ratio = if (piece.scale - shared).abs() <= 1e-15 * shared { 1.0 } else { piece.scale / shared };
            for (row, numbers) in piece.rows.iter().zip(piece.b.chunks_exact(piece.rank)) {
                for (to, x) in b[row * lora.r + first..].iter_mut().zip(numbers) {
                    *to = (f64::from(*x) * ratio) as f32;
                }
            }
        }
    }
}

/// Tensors here, by their names, and their numbers.
type Whole = Vec<(String, Vec<f32>)>;

/// The parameters that were trained as a whole. Where one of head and embedding was, they are no longer the same.
fn whole(
    mut base: Portable,
    mut config: Config,
    way: &Way,
    mut saved: BTreeMap<String, Named>,
    settings: &Settings,
) -> Result<(Portable, Config, Whole)> {
    if saved.is_empty() {
        return Ok((base, config, Vec::new()));
    }
    if let Some(rewrite) = way.rewrites.first() {
        return Err(not_the_base(*rewrite));
    }
    let mut untied = base.config.clone();
    untied.tie_weights = false;
    let places = way.dialect.rows(&untied)?;
    let full = |name: &String| {
        let is = |theirs: &str| theirs == name || way.dialect.without_prefix(theirs) == *name;
        places.iter().find(|place| is(&place.theirs)).map_or(name.clone(), |place| place.theirs.clone())
    };
    saved = saved.into_iter().map(|(name, tensor)| (full(&name), tensor)).collect();
    let named = |ours: &str| places.iter().find(|place| place.ours == ours).map(|place| place.theirs.clone());
    if base.config.tie_weights
        && let (Some(head), Some(wte)) = (named("lm_head.weight"), named("transformer.wte.weight"))
    {
        let numbers = |name: &String| match saved.get(name) {
            Some((_, tensor)) => tensor.read(),
            None => Ok(Cow::Borrowed(&base.weights[base.layout().embedding.wte.range()])),
        };
        let only_wte = saved.contains_key(&wte) && !saved.contains_key(&head);
        let together = only_wte && settings.stays_tied || numbers(&head)? == numbers(&wte)?;
        if together {
            saved.remove(&head);
        } else {
            base = Rewrite::Untie.apply(base)?;
            config.tie_weights = false;
        }
    }
    let mut touched = BTreeSet::new();
    let mut foreign = way.dialect.write(&base)?;
    for (name, (_, tensor)) in saved {
        touched.extend(places.iter().filter(|place| place.theirs == name).map(|place| place.ours.clone()));
        let (shape, dtype) = (tensor.shape.clone(), tensor.dtype);
        foreign.tensors.insert(name, Tensor::new(shape, dtype, move || tensor.read()));
    }
    let (layout, read) = (base.layout(), way.dialect.read(&foreign, &base.config)?);
    drop(foreign);
    let tensors = layout.tensors.iter().filter(|tensor| touched.contains(&tensor.name));
    let whole = tensors.map(|tensor| (tensor.name.clone(), read.weights[tensor.span.range()].to_vec())).collect();
    config.modules_to_save = touched.into_iter().collect();
    config.check()?;
    Ok((base, config, whole))
}
