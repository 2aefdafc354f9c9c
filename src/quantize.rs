//! Models with weights in few bits: made of others, and compared with them.

mod calibrate;
pub mod made;
pub mod report;

use crate::{
    data::Dataset,
    inference::{Model, Part, dataset},
    run::{RunDir, State, Which},
    text::tokenizer::Tokenizer,
    train::finetune,
};
use calibrate::Wanted;
use kinglet_core::{
    backend::Cpu,
    config::{Config, Precision, Quantization},
    error::{Error, Result},
    params::{Layout, Tensor},
    quant::Weights,
};
use report::Report;
use std::{ops::ControlFlow, path::Path};

/// Bytes that what is measured on a text may take, if one block does not take more.
const MEMORY: usize = 256 << 20;

/// Why a text is of no use for rounding.
const NO_TEXT: &str = "the training part of the text has fewer than 2 tokens";

/// How a model's weights are rounded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What to.
    pub scheme: Quantization,
    /// Whether the head's are too.
    pub head: bool,
    /// Whether those of the embeddings are too.
    pub embeddings: bool,
    /// Whether the error of each column is made up for by the columns after it (GPTQ, Frantar et al. 2023). This needs text.
    pub feedback: bool,
    /// Tokens of the text that it is measured on what each weight is multiplied by; 0 to round without text.
    pub tokens: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { scheme: Quantization::W8, head: false, embeddings: false, feedback: false, tokens: 16 * 1024 }
    }
}

/// A model in full precision, to be rounded. That of a run that trained with rounded weights is what these are rounded from, and
/// it is rounded as there: the result is the model that the run is.
#[derive(Debug)]
pub struct Source {
    /// Its configuration, without adapters.
    pub config: Config,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The state of its checkpoint.
    pub state: State,
    /// Bytes of the file with its weights; none where these are those of another run with adapters.
    pub file_bytes: Option<u64>,
    /// Its weights, with adapters merged.
    pub weights: Vec<f32>,
    /// Damage that was found, and what was used instead.
    pub warnings: Vec<String>,
    /// What a user should know.
    pub notes: Vec<String>,
}

impl Source {
    /// A checkpoint of the run in a folder.
    ///
    /// # Errors
    /// If there is none, or its weights are in few bits already.
    pub fn open(run: &Path, which: Which) -> Result<Source> {
        let mut opened = RunDir::open(run)?;
        let layout = Layout::new(&opened.config)?;
        if opened.config.quantization != Quantization::None {
            let (state, weights) = opened.load_masters(&layout, which)?;
            let name = opened.config.quantization.name();
            let weights = weights.ok_or_else(|| {
                let what = format!("its weights are in few bits already ({name}): name the run that it was made of");
                Error::run(run, what)
            })?;
            let file_bytes = Some(opened.weights_bytes(&layout, state.step)?);
            let RunDir { config, tokenizer, warnings, mut notes, .. } = opened;
            notes.push(format!(
                "this run trained with weights rounded to {name}: they are rounded as in training, without calibration"
            ));
            notes.extend(without_bf16(&config));
            return Ok(Source { config, tokenizer, state, file_bytes, weights, warnings, notes });
        }
        let (opened, state, config, weights) = finetune::load(run, which)?;
        let has_adapters = opened.config.lora_rank > 0;
        let file_bytes = (!has_adapters).then(|| opened.weights_bytes(&layout, state.step)).transpose()?;
        let RunDir { tokenizer, warnings, mut notes, .. } = opened;
        if has_adapters {
            notes.push("the run's adapters are merged into its weights first".to_owned());
        }
        notes.extend(without_bf16(&config));
        Ok(Source { config, tokenizer, state, file_bytes, weights, warnings, notes })
    }

    /// Refuses weights that are not finite: what they are multiplied by would be blamed on others.
    fn check(&self, layout: &Layout) -> Result<()> {
        let broken = |w: &[f32]| w.iter().copied().find(|x| !x.is_finite());
        let found =
            layout.tensors.iter().find_map(|tensor| Some((tensor, broken(&self.weights[tensor.span.range()])?)));
        let refused = |(tensor, x): (&Tensor, f32)| Err(Error::Data(format!("{}: {x} cannot be rounded", tensor.name)));
        found.map_or(Ok(()), refused)
    }

    /// The model in full precision.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn model(&self) -> Result<Model> {
        let mut config = self.config.clone();
        config.quantization = Quantization::None;
        (config.quantize_head, config.quantize_embeddings) = (false, false);
        Model::from_weights(Cpu::new()?, config, self.tokenizer.clone(), &self.weights)
    }

    /// The configuration of the rounded model.
    ///
    /// # Errors
    /// If the options do not fit it, or are others than those it was trained with.
    pub fn rounded_config(&self, options: &Options) -> Result<Config> {
        let mut config = self.config.clone();
        // Its results have the same bits on every processor.
        config.precision = Precision::F32;
        if self.has_learned_so() {
            self.check_trained(options)?;
            return Ok(config);
        }
        config.quantization = options.scheme;
        (config.quantize_head, config.quantize_embeddings) = (options.head, options.embeddings);
        if config.tie_weights {
            let both = options.head || options.embeddings;
            (config.quantize_head, config.quantize_embeddings) = (both, both);
        }
        config.check()?;
        Ok(config)
    }

    /// Whether its run learned with its weights in few bits: then these are what it computes with, and only how they are stored
    /// changes.
    pub fn has_learned_so(&self) -> bool {
        self.config.quantization != Quantization::None
    }

    /// Checks that the options are those that the run was trained with, as far as they were chosen.
    fn check_trained(&self, options: &Options) -> Result<()> {
        let Config { quantization, quantize_head, quantize_embeddings, .. } = self.config;
        let trained = quantization.name();
        let what = if options.scheme != quantization {
            format!("its weights were trained to be rounded to {trained}: use --scheme {trained}")
        } else if options.head && !quantize_head || options.embeddings && !quantize_embeddings {
            let both = |on: bool| if on { "rounded" } else { "in full precision" };
            let (head, embeddings) = (both(quantize_head), both(quantize_embeddings));
            format!("it was trained with its head {head} and its embeddings {embeddings}")
        } else if options.feedback {
            "its weights are rounded as in training, which --calibrate would change".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::BadConfig(what))
    }

    /// Whether a text decides how weights are rounded.
    fn reads_text(&self, options: &Options) -> bool {
        !self.has_learned_so() && options.tokens > 0 && (options.scheme == Quantization::W4 || options.feedback)
    }

    /// A note if these options ask for a text to round by and this one has nothing for that: then weights are rounded without.
    pub fn note_text(&self, options: &Options, data: &Dataset) -> Option<String> {
        let lacks = self.reads_text(options) && data.train.windows() == 0;
        lacks.then(|| format!("{NO_TEXT}: scales are chosen for the weights alone"))
    }

    /// The rounded weights. `data` is text to measure on what weights are multiplied by; its training split is used, and where
    /// that is empty, weights are rounded without text.
    /// `progress` receives the layers done and their number; if it breaks, the result is `None`.
    ///
    /// # Errors
    /// If the text cannot be read, or a weight cannot be rounded.
    pub fn round(
        &self,
        options: &Options,
        data: Option<&Dataset>,
        progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Weights>> {
        let config = self.rounded_config(options)?;
        let layout = Layout::new(&config)?;
        self.check(&layout)?;
        if self.has_learned_so() {
            return Weights::rounded(&config, &layout, self.weights.clone()).map(Some);
        }
        let (weights, feedback) = (&self.weights, options.feedback);
        let wanted = Wanted { config: &self.config, weights, rounded: (&config, &layout), feedback, memory: MEMORY };
        match data.filter(|_| self.reads_text(options)) {
            None if feedback => Err(Error::BadConfig("--calibrate needs text".into())),
            None => wanted.alone().map(Some),
            Some(data) if data.train.windows() == 0 => match feedback {
                true => Err(Error::Data(format!("--calibrate needs more text: {NO_TEXT}"))),
                false => wanted.alone().map(Some),
            },
            Some(data) => wanted.by_text(&data.train, options.tokens, progress),
        }
    }

    /// Writes a rounded model as a run in a new folder, which can be used and fine-tuned, but not resumed. The folder is there
    /// whole or not at all.
    ///
    /// # Errors
    /// If the folder is unusable.
    pub fn save(&self, config: &Config, weights: &Weights, out: &Path) -> Result<RunDir> {
        self.save_with(config, weights, out, |_, _| Ok(()))
    }

    /// The same with its report card, as a page and a picture in the folder. Both get the sizes of the files. `name` is what the
    /// page calls the model before. If the card is about all of the run's own validation text, the run has its loss in its metrics
    /// too.
    ///
    /// # Errors
    /// As [`Source::save`].
    pub fn save_reported(
        &self,
        config: &Config,
        weights: &Weights,
        (report, name): (&mut Report, &str),
        out: &Path,
    ) -> Result<RunDir> {
        self.save_with(config, weights, out, |run, layout| {
            report.before.file_bytes = self.file_bytes;
            report.after.file_bytes = Some(run.weights_bytes(layout, self.state.step)?);
            if let Some(done) = report.done(self.state.step, layout.len()) {
                run.clone().continue_metrics(&self.state, |_| ())?.append(&done)?;
            }
            run.write(report::PAGE, report.page(name).as_bytes())?;
            report.picture().map_or(Ok(()), |picture| run.write(report::PICTURE, picture.as_bytes()))
        })
    }

    fn save_with(
        &self,
        config: &Config,
        weights: &Weights,
        out: &Path,
        then: impl FnOnce(&RunDir, &Layout) -> Result<()>,
    ) -> Result<RunDir> {
        let layout = Layout::new(config)?;
        let state = State { best: None, since_best: 0, ..self.state.clone() };
        RunDir::create_whole(out, config.clone(), self.tokenizer.clone(), None, |run| {
            run.save_model(&layout, &state, weights)?;
            run.prune(&state)?;
            then(run, &layout)
        })
    }

    /// The text that its run was trained on, as it is split there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn data(&self, names: Option<&[String]>) -> Result<Dataset> {
        let Config { bos_token, eos_token, .. } = &self.config;
        let tokenizer = self.tokenizer.clone().with_ends(bos_token, eos_token)?;
        dataset(&self.config, &tokenizer, names, Part::Train)
    }
}

/// A note on a precision that the rounded model does not have.
fn without_bf16(config: &Config) -> Option<String> {
    let had = config.precision == Precision::Bf16;
    had.then(|| {
        "precision = \"bf16\" does not apply to weights in few bits: the new run has precision = \"f32\", and so has what is \
         fine-tuned from it unless --set precision=bf16 says otherwise"
            .to_owned()
    })
}
