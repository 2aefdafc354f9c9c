//! Adapters of PEFT become a run on the run, or on the model of another program, that they are of.

use super::{
    export::Source,
    foreign::Foreign,
    guess,
    hugging_face::read_json,
    import::ImportReport,
    opened::{self, Format},
    peft::{Adapters, Fused, Parts, Settings, fuse},
    portable::Portable,
    pytorch, safetensors,
};
use crate::{
    run::{Base, RunDir, State},
    text::{many, tokenizer::Tokenizer},
};
use kinglet_core::{
    error::{Error, Result},
    params::Layout,
};
use std::path::{Path, PathBuf};

const CONFIG: &str = opened::ADAPTER;

/// Where the tensors may be, the first that there is first.
const TENSORS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Files of a tokenizer, which PEFT saves beside an adapter.
const WORDS: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// The folder of an adapter of PEFT's, if the path is one or a file in one.
pub fn adapter_folder(path: &Path) -> Option<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = if path.is_file() && (name == CONFIG || TENSORS.contains(&&*name)) { path.parent()? } else { path };
    folder.join(CONFIG).is_file().then(|| folder.to_owned())
}

/// The model that an adapter says it was trained on, and the folder or file of this name, if there is one.
///
/// # Errors
/// If its `adapter_config.json` cannot be read, or kinglet has no form for something in it.
pub fn adapter_base(folder: &Path) -> Result<(Option<String>, Option<PathBuf>)> {
    let Some(name) = settings(folder)?.base else { return Ok((None, None)) };
    let found = [PathBuf::from(&name), folder.join(&name)].into_iter().find(|path| path.exists());
    Ok((Some(name), found.map(|path| path.canonicalize().unwrap_or(path))))
}

/// Imported adapters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportedAdapters {
    /// The adapters, with the configuration of the run that they become.
    pub adapters: Adapters,
    /// The model that they are on.
    pub base: Base,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What was found out about them.
    pub report: ImportReport,
}

/// Reads the adapters of PEFT in a folder for the model `base`, which is in `at`.
///
/// # Errors
/// If they cannot be read, are damaged, belong to another model, or have what kinglet has no form for.
pub fn import_adapters(folder: &Path, base: Source, at: &Path) -> Result<ImportedAdapters> {
    let wrong = |error: Error| match error {
        Error::Data(what) => Error::run(folder, what),
        other => other,
    };
    let settings = settings(folder)?;
    let mut foreign = tensors(folder)?;
    guess::unwrap_names(&mut foreign).map_err(wrong)?;
    let mut notes = [base.notes, settings.notes.clone(), std::mem::take(&mut foreign.notes)].concat();
    base.model.finite()?;
    let parts = Parts::of(foreign).map_err(wrong)?;
    let Fused { mut adapters, base, dialect, modules, notes: more } =
        fuse(base.model, parts, &settings).map_err(wrong)?;
    notes.extend(more);
    if let Some(name) = WORDS.iter().find(|name| folder.join(name).exists()) {
        notes.push(format!("{name} in its folder is not read: the base's tokenizer and chat template are kept"));
    }
    let config = &mut adapters.config;
    config.base = std::path::absolute(at).unwrap_or_else(|_| at.to_owned()).display().to_string();
    // What it was trained on is not known, and the base's text is not it.
    (config.data, config.data_sha256, config.data_kind) = (Vec::new(), String::new(), String::new());
    let layout = Layout::new(config)?;
    let params = layout.stored().iter().map(|tensor| tensor.span.len).sum();
    let report = ImportReport {
        format: Format::Peft,
        origin: format!("a LoRA of PEFT on {} of {}", many(modules as u64, "module", "modules"), at.display()),
        architecture: dialect.name,
        params,
        step: 0,
        tokenizer: format!("that of {}", at.display()),
        guesses: Vec::new(),
        buffers_left_out: 0,
        notes,
    };
    let Portable { config, weights, tokenizer, .. } = base;
    Ok(ImportedAdapters { adapters, base: Base { config, weights }, tokenizer, report })
}

fn settings(folder: &Path) -> Result<Settings> {
    let path = folder.join(CONFIG);
    let json = read_json(&path)?.ok_or_else(|| Error::not_found(&path, "there is no such file"))?;
    Settings::read(&json).map_err(|error| Error::run(folder, error.to_string()))
}

fn tensors(folder: &Path) -> Result<Foreign<'static>> {
    match TENSORS.iter().find(|name| folder.join(name).exists()) {
        Some(name) if name.ends_with(".bin") => pytorch::read(&folder.join(name)),
        Some(name) => safetensors::read(&folder.join(name)),
        None => Err(Error::not_found(folder, format!("there are no tensors in this folder: {}", TENSORS.join(" or ")))),
    }
}

impl ImportedAdapters {
    /// Writes the adapters as a run in a new folder, the model that they are on beside them, as fine-tuning leaves it. They can
    /// be used, merged and fine-tuned, but not resumed. The folder is there whole or not at all.
    ///
    /// # Errors
    /// If the folder is unusable.
    pub fn save(&self, out: &Path) -> Result<RunDir> {
        let Adapters { config, weights } = &self.adapters;
        let (layout, state) = (Layout::new(config)?, State::default());
        RunDir::create_whole(out, config.clone(), self.tokenizer.clone(), Some(&self.base), |run| {
            run.save_weights(&layout, &state, |span, out| out.copy_from_slice(&weights[span.range()]))?;
            run.prune(&state)
        })
    }
}
