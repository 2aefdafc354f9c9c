//! `kinglet serve` of a kinglet that was built without the feature `serve`.

use super::terminal::Ended;
use crate::error::Error;

/// Serve trained models with OpenAI's API (not in this kinglet)
#[derive(clap::Args)]
pub(super) struct Args {
    /// What another kinglet would take
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _words: Vec<String>,
}

impl Args {
    pub(super) fn run(&self, _json: bool) -> anyhow::Result<Ended> {
        Err(Error::BadConfig("this kinglet was built without the feature `serve`".into()).into())
    }
}
