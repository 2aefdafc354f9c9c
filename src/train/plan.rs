//! A forecast of a run: its size, its tokens, and its duration from measurements.

use super::memory::Memory;
use crate::data::Dataset;
use kinglet_core::{config::Config, error::Result, model::Gpt};
use serde::Serialize;
use std::time::Instant;

/// Tokens in the `sample.txt` of a finished run.
pub(super) const SAMPLE_TOKENS: usize = 500;

/// How often a text can be repeated and still be about as good as new text (Muennighoff et al. 2023).
const GOOD_EPOCHS: f64 = 4.0;

/// Tokens of text per parameter that are enough for a model not to memorize the text (Hoffmann et al. 2022).
const ENOUGH_TOKENS: f64 = 20.0;

/// A run in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Total updates.
    pub steps: u64,
    /// Total tokens trained on.
    pub tokens: f64,
    /// Number of passes over the training split.
    pub epochs: f64,
    /// Tokens of the training split per parameter.
    pub tokens_per_param: f64,
    /// Peak memory.
    pub memory_mib: f64,
    /// A warning about the plan, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// The times, once measured.
    #[serde(flatten)]
    pub time: Option<Time>,
}

/// How long a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Time {
    /// Time per update.
    pub ms_per_step: f64,
    /// An estimate of all losses.
    pub ms_per_estimate: f64,
    /// Time to write a checkpoint and the plot.
    pub ms_per_checkpoint: f64,
    /// Seconds after the last estimate: the exact loss, the sample and the n-gram baseline.
    pub end_s: f64,
    /// Seconds from the start, or from where it resumes, to the end.
    pub wall_s: f64,
}

impl Plan {
    /// Everything except the time; `old` is the old data that fine-tuning may forget.
    ///
    /// # Errors
    /// If `config` does not describe a valid model.
    pub fn new(config: &Config, model: &Gpt, data: &Dataset, old: Option<&Dataset>) -> Result<Plan> {
        let (params, text) = (model.layout.len() as f64, data.train.tokens() as f64);
        let tokens = tokens_per_step(config, data, old) * config.max_iters as f64;
        let new = 1.0 - if old.is_some() { config.replay } else { 0.0 };
        let epochs = data.train.epochs(new * config.sequences_per_step() as f64 * config.max_iters as f64);
        let tokens_per_param = text / params;
        let small = epochs > GOOD_EPOCHS && tokens_per_param < ENOUGH_TOKENS;
        let advice = small.then(|| {
            format!(
                "the text is small for this model: {tokens_per_param:.2} tokens per parameter, and {epochs:.0} \
                 epochs; expect overfitting: set patience or dropout, or use a smaller model"
            )
        });
        let of_process = Memory::of_process(tokens_in_memory(data, old));
        let memory_mib = (Memory::of(config)?.total() + of_process) as f64 / f64::from(1 << 20);
        Ok(Plan { steps: config.max_iters, tokens, epochs, tokens_per_param, memory_mib, advice, time: None })
    }

    /// Adds the times; `wall_s` are the seconds of the whole session.
    pub fn set_time(&mut self, speed: &Speed, shape: &Shape, wall_s: f64) {
        self.time = Some(Time {
            ms_per_step: 1e3 * speed.step.recent_s(),
            ms_per_estimate: 1e3 * speed.sequence.recent_s() * shape.estimate,
            ms_per_checkpoint: 1e3 * speed.checkpoint.recent_s(),
            end_s: speed.seconds(&shape.end()),
            wall_s,
        });
    }
}

/// What a run consists of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    max_iters: u64,
    eval_interval: u64,
    /// Sequences of an estimate, all splits together.
    pub estimate: f64,
    /// Sequences of the exact loss.
    exact: f64,
}

impl Shape {
    /// The shape of a run of `config`; `old` is the old data that fine-tuning may forget.
    pub fn new(config: &Config, data: &Dataset, old: Option<&Dataset>) -> Shape {
        let splits = if old.is_some() { 3.0 } else { 2.0 };
        Shape {
            max_iters: config.max_iters,
            eval_interval: config.eval_interval,
            estimate: splits * config.eval_iters as f64 * config.batch_size as f64,
            exact: data.val.windows() as f64,
        }
    }

    /// What is left after `step` updates; `due` says whether an estimate of this step is still to come.
    pub fn left(&self, step: u64, due: bool) -> Work {
        let Shape { max_iters, eval_interval, estimate, .. } = *self;
        let last = step < max_iters && !max_iters.is_multiple_of(eval_interval);
        let between = (max_iters / eval_interval).saturating_sub(step / eval_interval);
        let estimates = between as f64 + f64::from(u8::from(last)) + f64::from(u8::from(due));
        let end = self.end();
        Work {
            steps: max_iters.saturating_sub(step) as f64,
            sequences: estimates * estimate + end.sequences,
            checkpoints: estimates,
            ..end
        }
    }

    /// What comes after the last estimate.
    pub fn end(&self) -> Work {
        Work { steps: 0.0, sequences: self.exact, checkpoints: 0.0, reports: 1.0 }
    }
}

/// Work that is left of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Updates.
    pub steps: f64,
    /// Sequences to measure losses on, in estimates and for the exact loss.
    pub sequences: f64,
    /// Checkpoints, each with the plot.
    pub checkpoints: f64,
    /// The sample and the n-gram baseline: 1 until they are done.
    pub reports: f64,
}

/// Tokens of the text that are kept in memory.
pub(super) fn tokens_in_memory(data: &Dataset, old: Option<&Dataset>) -> usize {
    let of = |data: &Dataset| data.train.tokens_in_memory() + data.val.tokens_in_memory();
    of(data) + old.map_or(0, of)
}

/// Mean number of tokens trained on in an update. Padding does not count.
pub(super) fn tokens_per_step(config: &Config, data: &Dataset, old: Option<&Dataset>) -> f64 {
    let new = data.train.tokens_per_sequence();
    let mean = old.map_or(new, |old| new + config.replay * (old.train.tokens_per_sequence() - new));
    config.sequences_per_step() as f64 * mean
}

/// A mean of measured times. What was measured long ago counts less for what is to come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mean {
    seconds: f64,
    pub(super) n: f64,
    /// Both again, with what is older than [`Mean::MEMORY_S`] of work fading.
    recent: (f64, f64),
}

impl Mean {
    /// Seconds of measured work after which a measurement counts a third.
    const MEMORY_S: f64 = 15.0;

    /// Adds the time elapsed since `clock`, in which `part` of one unit was done.
    pub fn add(&mut self, clock: Instant, part: f64) {
        self.add_s(clock.elapsed().as_secs_f64(), part);
    }

    /// Adds `seconds`, in which `part` of one unit was done.
    pub fn add_s(&mut self, seconds: f64, part: f64) {
        let fade = (-seconds / Mean::MEMORY_S).exp();
        self.recent = (fade * self.recent.0 + seconds, fade * self.recent.1 + part);
        (self.seconds, self.n) = (self.seconds + seconds, self.n + part);
    }

    /// Counts as a measurement of so many seconds until others are made.
    pub(super) fn guess(&mut self, mean_s: f64, seconds: f64) {
        if mean_s > 0.0 && self.n == 0.0 {
            self.recent = (seconds, seconds / mean_s);
        }
    }

    /// Mean seconds; 0 if nothing was measured.
    pub fn mean_s(self) -> f64 {
        if self.n > 0.0 { self.seconds / self.n } else { 0.0 }
    }

    /// Mean seconds of what was measured last; 0 if nothing was measured.
    pub fn recent_s(self) -> f64 {
        if self.recent.1 > 0.0 { self.recent.0 / self.recent.1 } else { 0.0 }
    }
}

/// Timings measured in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    /// An update.
    pub step: Mean,
    /// A sequence whose loss is measured.
    pub sequence: Mean,
    /// A checkpoint and the plot.
    pub checkpoint: Mean,
    /// The sample and the n-gram baseline at the end, in seconds.
    pub report_s: f64,
}

impl Speed {
    /// Whether enough updates are measured, or are known from earlier sessions, to say how long each takes.
    pub fn steps_are_known(&self) -> bool {
        let step = self.step;
        // Without a guess there is no more of the recent past than of the whole.
        step.n >= 10.0 || (step.n >= 3.0 && step.seconds >= 1.0) || step.recent.1 > step.n
    }

    /// Whether it is known how long each update and each estimate takes.
    pub fn is_known(&self) -> bool {
        self.steps_are_known() && self.sequence.recent.1 > 0.0
    }

    /// How long that work takes.
    pub fn seconds(&self, work: &Work) -> f64 {
        work.steps * self.step.recent_s()
            + work.sequences * self.sequence.recent_s()
            + work.checkpoints * self.checkpoint.recent_s()
            + work.reports * self.report_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::Survey, text::source::Corpus};

    fn plan(settings: &[&str]) -> Plan {
        let mut config = Config::default();
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        let corpus = Corpus::from_text(&"abcdefghij".repeat(1000));
        let survey = Survey::of(&corpus, &config).unwrap();
        let tokenizer = survey.char_tokenizer();
        config.vocab_size = tokenizer.vocab_size();
        let data = Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap();
        let mut speed = Speed { report_s: 2.25, ..Speed::default() };
        speed.step.add_s(2.0, 200.0);
        speed.sequence.add_s(3.2, 6400.0);
        speed.checkpoint.add_s(0.5, 5.0);
        let mut plan = Plan::new(&config, &Gpt::new(&config).unwrap(), &data, None).unwrap();
        let shape = Shape::new(&config, &data, None);
        plan.set_time(&speed, &shape, speed.seconds(&shape.left(0, true)));
        plan
    }

    #[test]
    fn the_sum_of_the_parts() {
        let plan = plan(&["max_iters=1000", "eval_interval=100", "batch_size=16", "block_size=32", "eval_iters=200"]);
        assert_eq!((plan.steps, plan.tokens), (1000, 512_000.0));
        assert!((plan.epochs - 512_000.0 / 9000.0).abs() < 1e-9);
        let time = plan.time.unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{time:?}: {a} and {b}");
        near(time.ms_per_step, 10.0);
        near(time.ms_per_estimate, 3200.0);
        near(time.ms_per_checkpoint, 100.0);
        // A sequence of an estimate takes 0.5 ms; 32 of them measure the validation split.
        near(time.end_s, 32.0 * 0.0005 + 2.25);
        near(time.wall_s, 1000.0 * 0.010 + 11.0 * 3.3 + time.end_s);
    }

    #[test]
    fn estimates_that_are_left_are_counted() {
        let shape = |max_iters, eval_interval| Shape { max_iters, eval_interval, estimate: 10.0, exact: 3.0 };
        for (shape, step, due, steps, estimates) in [
            (shape(1000, 100), 0, true, 1000.0, 11.0),
            (shape(1000, 100), 0, false, 1000.0, 10.0),
            (shape(1000, 100), 99, false, 901.0, 10.0),
            (shape(1000, 100), 100, true, 900.0, 10.0),
            (shape(1000, 100), 1000, true, 0.0, 1.0),
            (shape(1000, 100), 1000, false, 0.0, 0.0),
            // The last step has an estimate of its own.
            (shape(250, 100), 0, false, 250.0, 3.0),
            (shape(250, 100), 249, false, 1.0, 1.0),
            (shape(250, 100), 250, true, 0.0, 1.0),
            (shape(50, 100), 10, false, 40.0, 1.0),
        ] {
            let work = shape.left(step, due);
            let want = Work { steps, sequences: 10.0 * estimates + 3.0, checkpoints: estimates, reports: 1.0 };
            assert_eq!(work, want, "{shape:?} {step} {due}");
        }
    }

    #[test]
    fn what_was_measured_last_counts_most() {
        let mut mean = Mean::default();
        assert_eq!((mean.mean_s(), mean.recent_s()), (0.0, 0.0));
        (0..100).for_each(|_| mean.add_s(1.0, 1.0));
        (0..60).for_each(|_| mean.add_s(2.0, 1.0));
        assert!((mean.mean_s() - 220.0 / 160.0).abs() < 1e-9);
        assert!((1.9..2.0).contains(&mean.recent_s()), "{}", mean.recent_s());
    }

    #[test]
    fn a_small_text_is_warned_of_where_it_is_repeated() {
        assert!(plan(&["max_iters=1000"]).advice.unwrap().contains("the text is small for this model"));
        assert_eq!(plan(&["max_iters=50"]).advice, None, "less than four epochs");
        assert_eq!(plan(&["max_iters=1000", "n_embd=4", "n_layer=1", "block_size=4", "batch_size=32"]).advice, None);
    }
}
