//! What fine-tuning needs from the run it started from.

use crate::{
    data::{self, Dataset, TokenizerChoice},
    run::RunDir,
    text::{source, tokenizer::Tokenizer},
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};

/// The data the base run was trained on, to measure forgetting and for replay. `moved` says where it is now; if it is
/// empty, the data is where the base run had it. Where it is now becomes part of `base`.
///
/// # Errors
/// If `moved` is not the same text, or there is none to replay.
pub(super) fn old_data(
    base: &mut Config,
    tokenizer: &Tokenizer,
    replay: f64,
    moved: &[String],
    notes: &mut Vec<String>,
) -> Result<Option<Dataset>> {
    if !moved.is_empty() {
        base.data = moved.to_vec();
        let data = read(base, tokenizer).map_err(|error| advised(error, ""))?;
        base.data = source::located(moved);
        return Ok(Some(data));
    }
    let found = match base.data.iter().any(|name| name == "-") {
        true => Err(Error::Data("it was read from standard input".into())),
        false => read(base, tokenizer),
    };
    match found.map_err(|error| advised(error, "; use --replay-data DATA to say where that text is now")) {
        Ok(data) => Ok(Some(data)),
        Err(error) if replay > 0.0 => Err(error),
        Err(error) => {
            notes.push(format!("the loss on the old data could not be measured: {}", error.one_line()));
            Ok(None)
        }
    }
}

fn read(base: &Config, tokenizer: &Tokenizer) -> Result<Dataset> {
    let (_, data) = data::read(base, TokenizerChoice::Fixed(tokenizer))?;
    data.check(base)?;
    Ok(data)
}

/// An error about the old data, with advice.
fn advised(error: Error, advice: &str) -> Error {
    Error::Data(format!("cannot use the data of the base run: {}{advice}", error.one_line()))
}

/// What a resumed fine-tuning run takes from its base.
#[derive(Default)]
pub(super) struct Resumed {
    /// The weights, if they are needed.
    pub(super) weights: Option<Vec<f32>>,
    /// The old data, if it is available.
    pub(super) old: Option<Dataset>,
    /// The base's configuration, if its data has moved.
    pub(super) moved: Option<Config>,
}

/// Reads what a resumed fine-tuning run needs from its base. A missing base is an error only if `needs_weights` is set
/// or old data is replayed or said to have moved.
pub(super) fn resume(
    run: &mut RunDir,
    needs_weights: bool,
    moved: &[String],
    notes: &mut Vec<String>,
) -> Result<Resumed> {
    let mut base = match run.base() {
        Ok(Some(base)) => base,
        Ok(None) if moved.is_empty() => return Ok(Resumed::default()),
        Ok(None) => {
            let what = "--replay-data is only for fine-tuned runs, but this run has no base run";
            return Err(Error::run(run.path(), what));
        }
        Err(error) if needs_weights || run.config.replay > 0.0 || !moved.is_empty() => return Err(error),
        Err(error) => {
            run.warnings.push(format!("the loss on the old data could not be measured: {error}"));
            return Ok(Resumed::default());
        }
    };
    let old = old_data(&mut base.config, &run.tokenizer, run.config.replay, moved, notes)?;
    let moved = (!moved.is_empty()).then_some(base.config);
    Ok(Resumed { weights: needs_weights.then_some(base.weights), old, moved })
}
