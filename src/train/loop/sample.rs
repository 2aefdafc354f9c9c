//! What the model writes: at estimates for the metrics, and at the end for `sample.txt`.

use super::Run;
use crate::{
    data,
    run::RunDir,
    text::chat::{Ending, Reader},
    train::{event::Event, job::Job},
};
use kinglet_core::{
    backend::Backward,
    batch::{Batch, IGNORE},
    config::Config,
    error::Result,
    replica::Replica,
    sample::{Sampling, Stream},
};

/// Number of answers in `sample.txt` for conversations.
pub(super) const SAMPLE_ANSWERS: usize = 5;

/// The longest sample in the metrics, in characters: its line stays readable, however they are escaped.
const LONGEST: usize = 100_000;

/// What drawing a token costs, as positions in a batch: alone it reads all weights for itself. Where positions are learned and the
/// context is full, all of it is read again.
const TOKEN: (f64, f64) = (20.0, 50.0);

/// A position that is trained on costs as much as so many that are evaluated.
const TRAINED: f64 = 3.0;

/// The part of the time that samples may take.
const PART: f64 = 0.004;

/// So many samples of a run are worth more: [`MOST`].
const WORTH: u64 = 8;

/// The part of the time that these may take.
const MOST: f64 = 0.02;

/// At every how manyth estimate a sample is drawn; besides, there is one at the beginning and one at the end. It depends on the
/// configuration alone: a resumed run has the same samples.
fn every(config: &Config) -> u64 {
    let block = config.block_size as f64;
    let within = config.sample_tokens.min(config.block_size) as f64;
    let beyond = config.sample_tokens as f64 - within;
    let sample = within * TOKEN.0 + beyond * TOKEN.1;
    let trained = TRAINED * config.eval_interval as f64 * config.sequences_per_step() as f64 * block;
    let estimated = 2.0 * config.eval_iters as f64 * config.batch_size as f64 * block;
    let between = trained + estimated;
    let for_its_part = (sample / (PART * between)).ceil() as u64;
    let estimates = config.max_iters.div_ceil(config.eval_interval).max(1);
    let worth = ((MOST * between * estimates as f64 / sample) as u64).clamp(1, WORTH);
    for_its_part.min(estimates.div_ceil(worth)).max(1)
}

/// Whether a sample is drawn at the estimate of this step.
fn is_due(config: &Config, step: u64) -> bool {
    let estimate = step / config.eval_interval;
    config.sample_tokens > 0 && (step == config.max_iters || estimate.is_multiple_of(every(config)))
}

impl<B: Backward> Run<'_, B> {
    /// Draws a sample for the metrics: with the run's seed, the same draws at each estimate. Nothing else draws from them. For
    /// conversations it is the answer to the first one of the validation split.
    pub(super) fn record_sample(&mut self) {
        let (config, step) = (&self.job.run.config, self.state.step);
        if !is_due(config, step) {
            return;
        }
        let mut sampling = Sampling::default();
        sampling.seed = config.seed;
        match self.sample(config.sample_tokens, 1, sampling) {
            Ok(text) => self.record(Event::Sample { step, text: cut(text) }),
            // Weights that are not finite write nothing. That is said once.
            Err(error) if !self.unsampled => {
                self.unsampled = true;
                self.warn(format!("no sample was drawn: {}", error.one_line()));
            }
            Err(_) => {}
        }
    }

    /// A sample of the model's output: a text or, for conversations, answers to the first ones in the validation split.
    pub(super) fn sample(&self, tokens: usize, answers: usize, sampling: Sampling) -> Result<String> {
        let Job { run: RunDir { tokenizer, config, .. }, data: dataset, .. } = &self.job;
        let Replica { be, model, p, .. } = &self.replica;
        let barred: Vec<u32> = (0..model.vocab_size as u32).filter(|&id| !tokenizer.is_token(id)).collect();
        let write = |prompt: &[u32], tokens: usize, ending: Ending| -> Result<String> {
            let stream = Stream::new(be, model, prompt, sampling.clone(), 0)?;
            let mut stream = stream.barring(&barred).parting_at(data::parting(tokenizer, config));
            let (mut reader, mut text) = (Reader::new(ending, &[]), String::new());
            for _ in 0..tokens {
                let drawn = stream.draw(be, model, p.weights())?;
                let (more, end) = reader.push(tokenizer, drawn.id);
                text += &more;
                if end.is_some() {
                    return Ok(text);
                }
            }
            Ok(text + &reader.finish(tokenizer).0)
        };
        if !dataset.val.is_conversations() {
            let ends = tokenizer.given().map(|_| Ending::of_text(tokenizer));
            return write(&[tokenizer.start_of_text()], tokens, ends.unwrap_or_default());
        }
        // Shown is all that the model writes after the prompt, up to the end.
        let ending = data::template_of(config, tokenizer)?.usual_ending(tokenizer);
        let ending = Ending { head: String::new(), ..ending };
        let mut batch = Batch::default();
        let mut text = String::new();
        for i in 0..dataset.val.windows().min(answers) {
            dataset.val.window(i, &mut batch)?;
            let (ids, targets) = batch.sequence(i);
            let said = targets.iter().position(|&target| target != IGNORE).map_or(ids.len(), |at| at + 1);
            // An answer ends where the context is full, as in a conversation.
            let most = (config.block_size + 1).saturating_sub(said).min(tokens / answers);
            let answer = write(&ids[..said], most, ending.clone())?;
            text += &format!("{}{answer}\n", tokenizer.decode(&ids[..said]));
        }
        Ok(text)
    }
}

/// The beginning of a text that is too long.
fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
