//! The end of a run: interrupted, or finished with an exact loss and a report.

use super::Run;
use crate::{
    data,
    report::baselines::{self, Baseline},
    run::RunDir,
    system::machine,
    text::chat::{Ending, Reader},
    train::{
        event::{Change, Event},
        job::Job,
        plan::SAMPLE_TOKENS,
    },
};
use kinglet_core::{
    backend::Backward,
    batch::{Batch, IGNORE},
    error::Result,
    sample::{Sampling, Stream},
};

/// Number of answers in `sample.txt` for conversations.
const SAMPLE_ANSWERS: usize = 5;

impl<B: Backward> Run<'_, B> {
    /// A sample of the model's output: text or, for conversations, answers to the first ones in the validation split.
    fn sample(&self) -> Result<String> {
        let Job { run: RunDir { tokenizer, config, .. }, data: dataset, .. } = &self.job;
        let barred: Vec<u32> = (0..self.model.vocab_size as u32).filter(|&id| !tokenizer.is_token(id)).collect();
        let write = |prompt: &[u32], tokens: usize, ending: Ending| -> Result<String> {
            let stream = Stream::new(&self.be, &self.model, prompt, Sampling::default(), 0)?;
            let mut stream = stream.barring(&barred).parting_at(data::parting(tokenizer, config));
            let (mut reader, mut text) = (Reader::new(ending, &[]), String::new());
            for _ in 0..tokens {
                let drawn = stream.draw(&self.be, &self.model, &self.p)?;
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
            return write(&[tokenizer.start_of_text()], SAMPLE_TOKENS, ends.unwrap_or_default());
        }
        // Shown is all that the model writes after the prompt, up to the end.
        let ending = data::template_of(config, tokenizer)?.usual_ending(tokenizer);
        let ending = Ending { head: String::new(), ..ending };
        let mut batch = Batch::default();
        let mut text = String::new();
        for i in 0..dataset.val.windows().min(SAMPLE_ANSWERS) {
            dataset.val.window(i, &mut batch)?;
            let (ids, targets) = batch.sequence(i);
            let said = targets.iter().position(|&target| target != IGNORE).map_or(ids.len(), |at| at + 1);
            // An answer ends where the context is full, as in a conversation.
            let most = (config.block_size + 1).saturating_sub(said).min(SAMPLE_TOKENS / SAMPLE_ANSWERS);
            let answer = write(&ids[..said], most, ending.clone())?;
            text += &format!("{}{answer}\n", tokenizer.decode(&ids[..said]));
        }
        Ok(text)
    }

    /// Writes the sample and measures the n-gram baseline to compare the loss with. Training is done, so any failure
    /// here is only a warning.
    fn report(&mut self) -> Option<Baseline> {
        let sampled = self.sample().and_then(|sample| self.job.run.write("sample.txt", sample.as_bytes()));
        if let Err(error) = sampled {
            self.warn(error.one_line());
        }
        let baseline = baselines::best(&self.job.data, self.job.run.config.vocab_size);
        baseline.unwrap_or_else(|error| {
            self.warn(baselines::missing(&error));
            None
        })
    }

    pub(super) fn interrupted(mut self) -> Result<Event> {
        self.save()?;
        let event = Event::Interrupted { step: self.state.step, out: self.job.run.path().display().to_string() };
        (self.observe)(&event);
        Ok(event)
    }

    /// Measures the exact loss, writes a sample, and reports the last event.
    pub(super) fn finish(mut self) -> Result<Event> {
        let step = self.state.step;
        // No estimate need have been finite.
        let (best_val_loss, best_step) = self.state.best.unwrap_or((f64::NAN, step));
        if step < self.job.run.config.max_iters {
            self.record(Event::EarlyStop { step, best_val_loss, best_step });
        }
        self.clock.ending();
        let exact = self.measure(|mut evaluator, job, progress| evaluator.exact(&job.data.val, progress));
        let Some(exact) = exact? else { return self.interrupted() };
        self.clock.estimated();
        // Read before the baseline, which is not part of training.
        let peak_memory_mib = machine::peak_memory_mib();
        let baseline = if self.job.skip_report { None } else { self.report() };
        let (_, train_loss, val_loss) = *self.curves.points.last().expect("the last step was estimated");
        let before = self.curves.points.iter().find(|point| point.0 == 0);
        let change = before.filter(|_| !self.job.run.config.base.is_empty()).map(|before| Change {
            val_loss_before: before.2,
            old_val_loss_before: self.curves.old.iter().find(|point| point.0 == 0).map(|point| point.1),
            old_val_loss: self.curves.old.last().map(|point| point.1),
        });
        let done = Event::Done {
            step,
            params: self.model.layout.len(),
            train_loss,
            val_loss,
            val_loss_exact: exact.loss,
            val_loss_stderr: exact.stderr,
            bits_per_char: exact.bits_per_char,
            bits_per_byte: exact.bits_per_byte,
            best_val_loss,
            best_step,
            change,
            entropy_floor: self.job.data.floor,
            baseline,
            ms_per_step: 1e3 * self.state.train_s / step as f64,
            tokens_per_s: self.tokens_per_step() * step as f64 / self.state.train_s,
            train_s: self.state.train_s,
            wall_s: self.clock.wall_s(),
            peak_memory_mib,
            out: self.job.run.path().display().to_string(),
        };
        self.record(done.clone());
        Ok(done)
    }
}
