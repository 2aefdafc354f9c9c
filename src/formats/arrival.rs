//! A model of another program on its way to become a run, whichever kind it is: a model, or adapters and what they are on.

use super::{
    adapt::{ImportedAdapters, adapter_base, adapter_folder, import_adapters},
    export::Source,
    import::{ImportOptions, ImportReport, Imported, import},
    opened::Format,
};
use crate::run::{HOME, RunDir, RunName};
use kinglet_core::{
    config::{Config, FIELDS},
    error::{Error, Result},
};
use serde_json::{Map, Value, json};
use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

/// A model that was read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Arrival {
    /// What it is.
    pub kind: Arrived,
    /// What it is called.
    pub name: OsString,
    /// Damage that was found in the run that adapters are on, and what was used instead.
    pub warnings: Vec<String>,
}

/// What was read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Arrived {
    /// A model.
    Model(Box<Imported>),
    /// Adapters of PEFT, and the model they are on.
    Adapters(Box<ImportedAdapters>),
}

impl Arrival {
    /// Reads the model in a file or folder. Adapters of PEFT are on `base`, which is a run or what [`import`] takes; if it is none,
    /// on what they say.
    ///
    /// # Errors
    /// As [`import`] and [`import_adapters`], and if the base is not there.
    pub fn read(path: &Path, base: Option<&OsStr>, options: &ImportOptions) -> Result<Arrival> {
        let is_peft = options.format.is_none_or(|format| format == Format::Peft);
        let Some(folder) = adapter_folder(path).filter(|_| is_peft) else {
            if base.is_some() {
                let what =
                    format!("--base is only for adapters of PEFT, and {} has no adapter_config.json", path.display());
                return Err(Error::BadConfig(what));
            }
            let kind = Arrived::Model(Box::new(import(path, options)?));
            return Ok(Arrival { kind, name: name_of(path), warnings: Vec::new() });
        };
        let (mut on, at) = base_of(&folder, base, options)?;
        if base.is_none() {
            on.notes.push(format!("its base is the one that adapter_config.json names: {}", at.display()));
        }
        let warnings = std::mem::take(&mut on.warnings);
        let kind = Arrived::Adapters(Box::new(import_adapters(&folder, on, &at)?));
        Ok(Arrival { kind, name: name_of(&folder), warnings })
    }

    /// The configuration of the run that it becomes.
    pub fn config(&self) -> &Config {
        match &self.kind {
            Arrived::Model(imported) => &imported.portable.config,
            Arrived::Adapters(imported) => &imported.adapters.config,
        }
    }

    /// What was found out about it.
    pub fn report(&self) -> &ImportReport {
        match &self.kind {
            Arrived::Model(imported) => &imported.report,
            Arrived::Adapters(imported) => &imported.report,
        }
    }

    /// Where it goes unless told otherwise.
    pub fn usual_out(&self) -> PathBuf {
        Path::new(HOME).join(&self.name)
    }

    /// Writes it as a run in a new folder, which is there whole or not at all.
    ///
    /// # Errors
    /// If the folder is unusable.
    pub fn save(&self, out: &Path) -> Result<RunDir> {
        match &self.kind {
            Arrived::Model(imported) => imported.save(out),
            Arrived::Adapters(imported) => imported.save(out),
        }
    }

    /// What `kinglet import --json` says of the run that it became.
    ///
    /// # Errors
    /// None that are known.
    pub fn json(&self, run: &Path) -> Result<Value> {
        let refused = |error: serde_json::Error| Error::Data(error.to_string());
        let mut fields = serde_json::to_value(self.report()).map_err(refused)?;
        fields["out"] = run.display().to_string().into();
        // The keys that say what the model is.
        let keys = FIELDS.iter().filter(|field| field.section == "model");
        let model: Map<_, _> =
            keys.map(|field| (field.key.to_owned(), json!(self.config().value(field.key)))).collect();
        fields["config"] = model.into();
        Ok(fields)
    }
}

/// The model that an adapter is of, and where it is.
fn base_of(folder: &Path, base: Option<&OsStr>, options: &ImportOptions) -> Result<(Source, PathBuf)> {
    let (says, found) = adapter_base(folder)?;
    let name = match (base, found, says) {
        (Some(name), ..) => name.to_owned(),
        (None, Some(found), _) => found.into_os_string(),
        (None, None, says) => {
            let says = says.map_or_else(String::new, |says| format!("; it says {says}, which is not here"));
            let what = format!("adapters of PEFT belong to another model: --base RUN names it{says}");
            return Err(Error::run(folder, what));
        }
    };
    let at = PathBuf::from(&name);
    match RunName::from(name).chosen(None) {
        Ok(chosen) => {
            options.check_for_run(&at)?;
            Ok((Source::of_run(&chosen.run, chosen.which)?, chosen.run))
        }
        Err(_) if at.exists() => {
            let options = ImportOptions { format: None, ..options.clone() };
            Ok((Source::of_import(&at, &options)?, at))
        }
        Err(error) => Err(error),
    }
}

/// What a file or folder is called, as the name of a run.
fn name_of(path: &Path) -> OsString {
    let path = if path.file_name().is_some() { path.to_owned() } else { path.canonicalize().unwrap_or_default() };
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let stem: String = stem
        .unwrap_or_default()
        .to_string_lossy()
        .chars()
        .map(|c| if c == '@' || c.is_control() { '-' } else { c })
        .collect();
    let stem = stem.trim_start_matches('.');
    if stem.is_empty() { "imported".into() } else { stem.into() }
}
