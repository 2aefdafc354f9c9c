//! The end of a run: interrupted, or finished with an exact loss and a report.

use super::{Run, sample::SAMPLE_ANSWERS};
use crate::{
    report::baselines::{self, Baseline},
    system::machine,
    train::{
        event::{Change, Event},
        plan::SAMPLE_TOKENS,
    },
};
use kinglet_core::{backend::Backward, error::Result, sample::Sampling};

impl<B: Backward> Run<'_, B> {
    /// Writes the sample and measures the n-gram baseline to compare the loss with. Training is done, so any failure
    /// here is only a warning.
    fn report(&mut self) -> Option<Baseline> {
        let (tokens, answers) = (SAMPLE_TOKENS, SAMPLE_ANSWERS);
        let sampled = self
            .sample(tokens, answers, Sampling::default())
            .and_then(|sample| self.job.run.write("sample.txt", sample.as_bytes()));
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
        let event = Event::Interrupted { step: self.state.step, out: self.job.place.display().to_string() };
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
            params: self.replica.model.layout.len(),
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
            out: self.job.place.display().to_string(),
        };
        self.record(done.clone());
        Ok(done)
    }
}
