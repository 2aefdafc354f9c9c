//! The run whose probabilities another run learns.

use super::finetune;
use crate::{
    run::{Chosen, RunDir, RunName},
    system::disk::sha256,
};
use kinglet_core::{
    backend::Backward,
    error::{Error, Result},
    model::Gpt,
    shards::Teacher,
};
use std::ffi::OsString;

/// The teacher of a run, if it has one. Of a new run, the checksum of the teacher's weights becomes a part of the configuration,
/// which is written.
///
/// # Errors
/// If there is no such run, if it has other tokens or a shorter context, or if its weights are not those that the run began with.
pub(super) fn of<B: Backward>(run: &mut RunDir, be: &B) -> Result<Option<Teacher<B>>> {
    if run.config.teacher.is_empty() {
        return Ok(None);
    }
    let name = &run.config.teacher;
    let refused = |why: String| Error::Config { key: "teacher".into(), value: format!("{name:?}"), allowed: why };
    let Chosen { run: path, which } = RunName::from(OsString::from(name))
        .chosen(None)
        .map_err(|error| refused(format!("a run: {}", error.one_line())))?;
    let (teacher, _, config, weights) = finetune::load(&path, which)?;
    if teacher.tokenizer.to_json() != run.tokenizer.to_json() {
        return Err(refused("a run with the tokenizer of this one: it has other tokens".into()));
    }
    if config.block_size < run.config.block_size {
        let (own, shorter) = (run.config.block_size, config.block_size);
        return Err(refused(format!("a run with a block_size of at least {own}; it has {shorter}")));
    }
    let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let sum = sha256(&bytes);
    if run.config.teacher_sha256.is_empty() {
        run.config.teacher_sha256 = sum;
        run.write_config()?;
    } else if run.config.teacher_sha256 != sum {
        let path = path.display();
        return Err(refused(format!("the run that this one began with; the weights of {path} are others")));
    }
    Ok(Some(Teacher::new(be, Gpt::new(&config)?, &weights, run.config.teacher_weight)))
}
