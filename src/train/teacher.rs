//! The run whose probabilities another run learns.

use super::merged;
use crate::{
    run::{Chosen, RunDir, RunName},
    system::disk::sha256,
    text::tokenizer::Tokenizer,
};
use kinglet_core::{
    backend::Backward,
    config::Config,
    error::{Error, Result},
    model::Gpt,
    replica::Replica,
    shards::Teacher,
};
use std::ffi::OsString;

/// Gives a replica the teacher of `config`, if that names one; returns the checksum of its weights. Its tokens must be those of
/// `tokenizer`; without one, as many as the configuration says.
///
/// # Errors
/// If there is no such run, it has other tokens or a shorter context, its weights are not those that `config` has the checksum of, or
/// there are several ranks.
pub(super) fn teach<B: Backward>(
    replica: &mut Replica<B>,
    config: &Config,
    tokenizer: Option<&Tokenizer>,
) -> Result<Option<String>> {
    if !config.teacher.is_empty() && replica.ranks() > 1 {
        return Err(refused(config, "\"\" on several ranks: only one process can have a teacher".into()));
    }
    let Some(Loaded { config: of_teacher, weights, sha256 }) = load(config, tokenizer)? else { return Ok(None) };
    let Replica { be, shards, .. } = replica;
    shards.teach(be, Teacher::new(be, Gpt::new(&of_teacher)?, &weights, config.teacher_weight));
    Ok(Some(sha256))
}

/// The same for a run that begins or goes on. The checksum becomes a part of a new run's configuration, which is written.
///
/// # Errors
/// As [`teach`].
pub(super) fn teach_run<B: Backward>(replica: &mut Replica<B>, run: &mut RunDir) -> Result<()> {
    let Some(sum) = teach(replica, &run.config, Some(&run.tokenizer))? else { return Ok(()) };
    if run.config.teacher_sha256.is_empty() {
        run.config.teacher_sha256 = sum;
        run.write_config()?;
    }
    Ok(())
}

/// A teacher that a run can have.
pub(super) struct Loaded {
    config: Config,
    weights: Vec<f32>,
    sha256: String,
}

/// The teacher of a configuration, if that names one.
///
/// # Errors
/// As [`teach`], but for several ranks.
pub(super) fn load(config: &Config, tokenizer: Option<&Tokenizer>) -> Result<Option<Loaded>> {
    let Some(Chosen { run, which }) = chosen(config)? else { return Ok(None) };
    let (teacher, _, of_teacher, weights) = merged::load(&run, which)?;
    let has_others = tokenizer.is_some_and(|own| own.to_json() != teacher.tokenizer.to_json());
    if has_others || of_teacher.vocab_size != config.vocab_size {
        return Err(refused(config, "a run with the tokenizer of this one: it has other tokens".into()));
    }
    if of_teacher.block_size < config.block_size {
        let (own, shorter) = (config.block_size, of_teacher.block_size);
        return Err(refused(config, format!("a run with a block_size of at least {own}; it has {shorter}")));
    }
    let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let sha256 = sha256(&bytes);
    if !config.teacher_sha256.is_empty() && config.teacher_sha256 != sha256 {
        return Err(refused(config, "the run that this one began with: its weights are others".into()));
    }
    Ok(Some(Loaded { config: of_teacher, weights, sha256 }))
}

/// Bytes that the teacher of a run takes, which computes so many sequences at once in each of so many shards; 0 if there is none, or
/// none that can be read: whoever trains then says so.
pub(super) fn bytes(config: &Config, sequences: usize, shards: usize) -> u64 {
    let of_teacher = chosen(config).ok().flatten().and_then(|chosen| RunDir::open(&chosen.run).ok());
    let Some(model) = of_teacher.and_then(|run| Gpt::new(&run.config).ok()) else { return 0 };
    let of_one_block = model.activation_floats(sequences).0 / model.layout.h.len();
    // Its weights, these packed, and what it computes.
    (4 * shards as u64).saturating_mul(of_one_block as u64).saturating_add(8 * model.layout.len() as u64)
}

fn chosen(config: &Config) -> Result<Option<Chosen>> {
    if config.teacher.is_empty() {
        return Ok(None);
    }
    let name = RunName::from(OsString::from(&config.teacher));
    name.chosen(None).map(Some).map_err(|error| refused(config, format!("a run: {}", error.one_line())))
}

fn refused(config: &Config, allowed: String) -> Error {
    Error::Config { key: "teacher".into(), value: config.value("teacher").to_string(), allowed }
}
