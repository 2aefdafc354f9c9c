//! A model that is to be exported.

use super::options::Target;
use crate::{
    formats::{
        import::{ImportOptions, Imported, import},
        peft::{Adapters, Factors},
        portable::Portable,
    },
    run::{RunDir, RunName, Which},
    train::finetune,
};
use kinglet_core::{
    config::Quantization,
    error::{Error, Result},
    params::Layout,
};
use std::{ffi::OsStr, path::Path};

/// A model that is to be exported.
#[derive(Clone, Debug)]
pub struct Source {
    /// The model, its adapters merged in; or without them, if they are beside it.
    pub model: Portable,
    /// Its adapters, if they are to be written as such.
    pub adapters: Option<Factors>,
    /// How far it was trained.
    pub step: u64,
    /// Its best validation loss, if it is known.
    pub val_loss: Option<f64>,
    /// What its files are called.
    pub name: String,
    /// Damage found in the run, and what was used instead.
    pub warnings: Vec<String>,
    /// What else the user should know of it.
    pub notes: Vec<String>,
}

impl Source {
    /// The run of this name, as `target` takes it, or else the model of another program in this file or folder, of which `options`
    /// says what it does not say itself. A run's checkpoint is the one that its name says, or else `checkpoint`, or else the best.
    ///
    /// # Errors
    /// If there is neither, or `options` say something of a run.
    pub fn named(name: &OsStr, checkpoint: Option<Which>, target: Target, options: &ImportOptions) -> Result<Source> {
        let path = Path::new(name);
        let chosen = match RunName::from(name.to_owned()).chosen(checkpoint) {
            Ok(chosen) => chosen,
            Err(error) if !path.exists() || checkpoint.is_some() || matches!(error, Error::BadConfig(_)) => {
                return Err(error);
            }
            Err(_) if target == Target::Peft => {
                return Err(Error::run(path, "--format peft takes a run with adapters"));
            }
            Err(_) => return Source::of_import(path, options),
        };
        options.check_for_run(&chosen.run)?;
        if options.format.is_some() {
            let what = format!("{} is a run: --from is for the model of another program", chosen.run.display());
            return Err(Error::BadConfig(what));
        }
        match target {
            Target::Peft => Source::of_adapters(&chosen.run, chosen.which),
            _ => Source::of_run(&chosen.run, chosen.which),
        }
    }

    /// A checkpoint of a run, its adapters merged in.
    ///
    /// # Errors
    /// If there is none.
    pub fn of_run(run: &Path, which: Which) -> Result<Source> {
        let name = run.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let opened = RunDir::open(run)?;
        if opened.config.quantization != Quantization::None {
            return Source::of_rounded(opened, which, name);
        }
        let (run, state, config, weights) = finetune::load(run, which)?;
        let merged = run.config.lora_rank > 0;
        let mut notes = run.notes;
        notes.extend(merged.then(|| "the adapters are merged into the weights".to_owned()));
        Ok(Source {
            model: Portable::new(config, weights, run.tokenizer)?,
            adapters: None,
            step: state.step,
            val_loss: state.best.map(|(loss, _)| loss),
            name: name.unwrap_or_else(|| "model".to_owned()),
            warnings: run.warnings,
            notes,
        })
    }

    /// A checkpoint of a run with weights in few bits: those that it computes with.
    fn of_rounded(mut run: RunDir, which: Which, name: Option<String>) -> Result<Source> {
        let (state, weights) = run.load_model(&Layout::new(&run.config)?, None, which)?;
        Ok(Source {
            model: Portable::of_weights(run.config, weights, run.tokenizer)?,
            adapters: None,
            step: state.step,
            val_loss: state.best.map(|(loss, _)| loss),
            name: name.unwrap_or_else(|| "model".to_owned()),
            warnings: run.warnings,
            notes: run.notes,
        })
    }

    /// A checkpoint of a run with adapters, these beside the model.
    ///
    /// # Errors
    /// If there is none, or the run has no adapters.
    pub fn of_adapters(run: &Path, which: Which) -> Result<Source> {
        let name = run.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let mut opened = RunDir::open(run)?;
        let Some(base) = opened.adapted_weights()? else {
            return Err(Error::run(run, "this run has no adapters: --format hf writes its weights"));
        };
        let (state, weights) = opened.load_weights_onto(&Layout::new(&opened.config)?, base, which)?;
        let (config, weights, adapters) = Adapters { config: opened.config.clone(), weights }.split()?;
        Ok(Source {
            model: Portable::new(config, weights, opened.tokenizer)?,
            adapters: Some(adapters),
            step: state.step,
            val_loss: state.best.map(|(loss, _)| loss),
            name: name.unwrap_or_else(|| "model".to_owned()),
            warnings: opened.warnings,
            notes: opened.notes,
        })
    }

    /// A model of another program.
    ///
    /// # Errors
    /// As [`import`].
    pub fn of_import(path: &Path, options: &ImportOptions) -> Result<Source> {
        let name = path.canonicalize().ok().and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        let Imported { portable: model, report, .. } = import(path, options)?;
        let guessed = report
            .guesses
            .iter()
            .map(|guess| format!("guessed: {} = {} ({}): {}", guess.key, guess.value, guess.certainty, guess.reason));
        Ok(Source {
            model,
            adapters: None,
            step: report.step,
            val_loss: None,
            name: name.unwrap_or_else(|| "model".to_owned()),
            warnings: Vec::new(),
            notes: report.notes.iter().cloned().chain(guessed).collect(),
        })
    }
}
