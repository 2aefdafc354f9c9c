//! What fine-tuning needs from the run it started from.

use crate::{
    data::{self, Dataset, TokenizerChoice},
    run::RunDir,
    text::tokenizer::Tokenizer,
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};

/// The data the base run was trained on, to measure forgetting and for replay.
pub(super) fn old_data(
    base: &Config,
    tokenizer: &Tokenizer,
    replay: f64,
    notes: &mut Vec<String>,
) -> Result<Option<Dataset>> {
    let read = || {
        if base.data.iter().any(|name| name == "-") {
            return Err(Error::Data("the old data came from standard input".into()));
        }
        let (_, data) = data::read(base, TokenizerChoice::Fixed(tokenizer))?;
        data.check(base)?;
        Ok(data)
    };
    match read() {
        Ok(data) => Ok(Some(data)),
        Err(error) if replay > 0.0 => Err(error),
        Err(error) => {
            notes.push(format!("the loss on the old data is not measured: {error}"));
            Ok(None)
        }
    }
}

/// What a resumed fine-tuning run needs from its base: the weights, and the old data. A missing base is an error only
/// if `needs_weights` is set or old data is replayed.
pub(super) fn resume(
    run: &mut RunDir,
    needs_weights: bool,
    notes: &mut Vec<String>,
) -> Result<(Option<Vec<f32>>, Option<Dataset>)> {
    let base = match run.base() {
        Ok(Some(base)) => base,
        Ok(None) => return Ok((None, None)),
        Err(error) if needs_weights || run.config.replay > 0.0 => return Err(error),
        Err(error) => {
            run.warnings.push(format!("the loss on the old data is not measured: {error}"));
            return Ok((None, None));
        }
    };
    let old = old_data(&base.config, &run.tokenizer, run.config.replay, notes)?;
    Ok((Some(base.weights), old))
}
