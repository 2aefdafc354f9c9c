//! What to train on what, as it is asked for: the commands read it of their words, the Python module of its arguments.

use super::chats;
use crate::{
    config::Config,
    data::Origin,
    error::{Error, Result},
    run::read_config,
    text::source::BUILTIN,
};
use std::{ffi::OsString, path::PathBuf};

/// What to train on what.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Names of data; without any, those of the configuration or else a built-in text.
    pub data: Vec<String>,
    /// Data in memory, instead.
    pub origin: Origin,
    /// The preset to start from.
    pub preset: Option<String>,
    /// The file to start from, instead.
    pub config: Option<PathBuf>,
    /// Settings (`key=value`), in order.
    pub set: Vec<String>,
}

/// A configuration as it was asked for.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The configuration; it is not checked yet.
    pub config: Config,
    /// What it comes from: the name of a preset or of a file.
    pub name: OsString,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Asked {
    /// The configuration.
    ///
    /// # Errors
    /// If there is no such preset or file, or a key that is set does not exist or has another value than is allowed.
    pub fn config(&self) -> Result<Answer> {
        self.config_with(None)
    }

    /// The same where this field of records contains the text, whatever else is set.
    pub(super) fn config_with(&self, field: Option<&str>) -> Result<Answer> {
        let mut notes = Vec::new();
        let (mut config, name) = match (&self.config, &self.preset) {
            (Some(_), Some(preset)) => {
                let what = format!("a preset ({preset}) and a file both say what to start from: use only one of them");
                return Err(Error::BadConfig(what));
            }
            (Some(path), None) => (read_config(path)?, path.file_stem().unwrap_or_default().to_owned()),
            (None, Some(name)) => (Config::preset(name)?, name.into()),
            (None, None) => {
                let (name, note) = chats::default_preset(&self.data, &self.origin, &self.set, field);
                notes.extend(note);
                (Config::preset(name)?, name.into())
            }
        };
        self.set.iter().try_for_each(|setting| config.set(setting))?;
        if !self.data.is_empty() {
            config.data.clone_from(&self.data);
        }
        if config.data.is_empty() {
            config.data = vec![BUILTIN.to_owned()];
        }
        Ok(Answer { config, name, notes })
    }
}
