//! The report card of a model whose weights were rounded: what became smaller and faster, and what it costs.

mod layers;
mod page;
mod paired;
mod sizes;
mod speed;

use crate::{data::Split, inference::Model};
use kinglet_core::{
    config::{Precision, Quantization},
    error::Result,
    quant::Weights,
    threads::with_threads,
};
pub use layers::{Layer, Layers};
pub use paired::{ByPosition, Difference, Loss, Paired};
use serde::Serialize;
use serde_json::{Value, json};
pub use sizes::Size;
pub use speed::Speed;
use std::ops::ControlFlow;

/// The name of the page in a run's folder.
pub const PAGE: &str = "quantization.md";

/// The name of its picture.
pub const PICTURE: &str = "quantization.svg";

/// Multiply-adds for each model that a text is measured with, unless all of it is asked for: about a minute on a few cores.
const WORK: u64 = 1_000_000_000_000;

/// What is measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// All of the text, however long that takes; otherwise, of a large model, evenly spread sequences of it.
    pub full: bool,
    /// Threads that measure; 0 is one for each core. The speed is always that of one.
    pub threads: usize,
}

/// What is being measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Both models on the text.
    Text,
    /// Each layer.
    Layers,
    /// How fast both are.
    Speed,
}

/// A model before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What weights were rounded to.
    pub scheme: Quantization,
    /// Whether those of the head were, too.
    pub head: bool,
    /// Whether those of the embeddings were, too.
    pub embeddings: bool,
    /// Sizes before.
    pub before: Size,
    /// Sizes after.
    pub after: Size,
    /// How many times smaller the weights are.
    pub times_smaller: f64,
    /// Both on the text; `None` without text.
    pub text: Option<Paired>,
    /// Each layer; `None` without text.
    pub layers: Option<Layers>,
    /// How fast both write: one text, and several at once.
    pub speed: Vec<Speed>,
    /// The instruction set that was measured with.
    pub isa: &'static str,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// Whether the text is the validation part of the text that the run was trained on.
    #[serde(skip)]
    pub is_own_text: bool,
}

impl Report {
    /// Compares a model in full precision with one of `weights`, of which some are in few bits, on `split`. `progress` receives
    /// what is done of each stage and of how much; if it breaks, the result is `None`.
    ///
    /// # Errors
    /// If the text cannot be read or is too short, or the threads cannot be started.
    pub fn measure(
        [before, after]: [&Model; 2],
        weights: &Weights,
        split: Option<&Split>,
        options: &Measured,
        mut progress: impl FnMut(Stage, usize, usize) -> ControlFlow<()> + Send,
    ) -> Result<Option<Report>> {
        let config = after.config();
        let sizes = (Size::of_numbers(before), Size::of(after, weights));
        let mut report = Report {
            scheme: config.quantization,
            head: config.quantize_head,
            embeddings: config.quantize_embeddings,
            before: sizes.0,
            after: sizes.1,
            times_smaller: sizes.0.weights_mib / sizes.1.weights_mib,
            text: None,
            layers: None,
            speed: Vec::new(),
            isa: before.parts().0.isa().name(),
            notes: Vec::new(),
            is_own_text: false,
        };
        if before.precision() == Precision::Bf16 {
            report.notes.push("before, linear layers compute in bf16, as the run's configuration says".to_owned());
        }
        if let Some(split) = split {
            let measure = || report.read([before, after], weights, split, options, &mut progress);
            if with_threads(options.threads, measure)??.is_break() {
                return Ok(None);
            }
        }
        if progress(Stage::Speed, 0, 1).is_break() {
            return Ok(None);
        }
        report.speed = speed::measure([before, after])?;
        report.note_speed();
        Ok(Some(report))
    }

    /// What is measured on a text.
    fn read(
        &mut self,
        models: [&Model; 2],
        weights: &Weights,
        split: &Split,
        options: &Measured,
        progress: &mut impl FnMut(Stage, usize, usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let config = models[0].config();
        let most = (WORK / models[0].params() as u64) as usize / config.block_size;
        let most = if options.full { usize::MAX } else { most.max(8) };
        let text = paired::measure(models, split, most, |done, of| progress(Stage::Text, done, of))?;
        let Some(text) = text else { return Ok(ControlFlow::Break(())) };
        if text.sequences < text.of_sequences {
            let Paired { sequences, of_sequences, tokens, .. } = text;
            self.notes.push(format!(
                "the text was measured on {tokens} tokens: {sequences} of its {of_sequences} sequences, evenly spread; \
                 --full measures all"
            ));
        }
        self.text = Some(text);
        self.layers = layers::measure(models, weights, split, |done, of| progress(Stage::Layers, done, of))?;
        Ok(if self.layers.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    /// Says if fewer texts were written at once than usual.
    fn note_speed(&mut self) {
        if let Some(last) = self.speed.last().filter(|speed| speed.streams < 32) {
            let n = last.streams;
            self.notes
                .push(format!("the speed is that of at most {n} at once instead of 32: there is no memory for more"));
        }
    }

    /// The event that says the loss of the model after, if the card is about all of its run's own validation text.
    pub(super) fn done(&self, step: u64, params: usize) -> Option<Value> {
        let text = self.text.as_ref().filter(|text| self.is_own_text && text.sequences == text.of_sequences)?;
        let Loss { loss, stderr, .. } = text.after;
        Some(json!({
            "event": "done",
            "step": step,
            "params": params,
            "val_loss_exact": loss,
            "val_loss_stderr": stderr,
        }))
    }

    /// The outcome in a sentence.
    pub fn verdict(&self) -> String {
        let smaller = format!("{:.1} times smaller", self.times_smaller);
        let loss = self.text.as_ref().map(|text| format!(", loss {}", signed(&text.difference)));
        let faster = self.speed.first().map(|speed| match speed.times_faster {
            times @ ..0.95 => format!(", {:.1} times slower for one stream", 1.0 / times),
            ..1.05 => ", as fast for one stream".to_owned(),
            times => format!(", {times:.1} times as fast for one stream"),
        });
        [Some(smaller), loss, faster].into_iter().flatten().collect()
    }
}

/// A difference with its sign and its error, with as many digits as the error has something to say with.
pub fn signed(Difference { loss, stderr, .. }: &Difference) -> String {
    let digits = stderr.filter(|stderr| *stderr > 0.0).map_or(4.0, |stderr| -stderr.log10().floor());
    let digits = digits.clamp(4.0, 7.0) as usize;
    let error = stderr.map_or_else(String::new, |stderr| format!(" ± {stderr:.digits$}"));
    let shown = format!("{loss:+.digits$}");
    // Not "-0.0000".
    let is_zero = shown.chars().all(|c| !('1'..='9').contains(&c));
    format!("{}{error}", if is_zero { format!("+{:.digits$}", 0.0) } else { shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_the_digits_of_its_error() {
        let shown = |loss: f64, stderr: Option<f64>| signed(&Difference { loss, stderr, bits_per_char: 0.0 });
        assert_eq!(shown(0.015_93, Some(0.000_81)), "+0.0159 ± 0.0008");
        assert_eq!(shown(-0.000_161, Some(0.000_023)), "-0.00016 ± 0.00002");
        assert_eq!(shown(-0.000_01, None), "+0.0000");
        assert_eq!(shown(0.0, Some(0.0)), "+0.0000 ± 0.0000");
    }
}
