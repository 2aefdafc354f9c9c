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
    /// An estimate of both losses.
    pub ms_per_estimate: f64,
    /// Time to write a checkpoint and the plot.
    pub ms_per_checkpoint: f64,
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
                "the text is small for this model: {tokens_per_param:.2} tokens a parameter, each seen {epochs:.0} times; \
                 expect the validation loss to rise again, and set patience or dropout, or a smaller model"
            )
        });
        let in_memory = |data: &Dataset| data.train.tokens_in_memory() + data.val.tokens_in_memory();
        let text_tokens = in_memory(data) + old.map_or(0, in_memory);
        let memory_mib = (Memory::of(config)?.total() + Memory::of_process(text_tokens)) as f64 / f64::from(1 << 20);
        Ok(Plan { steps: config.max_iters, tokens, epochs, tokens_per_param, memory_mib, advice, time: None })
    }

    /// Adds the times, for a run that starts or resumes at step `first`.
    pub fn set_speed(&mut self, speed: &Speed, config: &Config, data: &Dataset, first: u64) {
        let per_sequence = speed.estimate.mean_s() / (2.0 * config.eval_iters as f64 * config.batch_size as f64);
        let steps = (config.max_iters - first) as f64;
        let estimates = (config.max_iters / config.eval_interval - first / config.eval_interval) as f64
            + if first.is_multiple_of(config.eval_interval) { 1.0 } else { 0.0 }
            + if config.max_iters.is_multiple_of(config.eval_interval) { 0.0 } else { 1.0 };
        // The exact loss and the sample; each token of the sample costs about as much as a sequence.
        let at_the_end = per_sequence * (data.val.windows() + SAMPLE_TOKENS) as f64;
        let each = speed.estimate.mean_s() + speed.checkpoint.mean_s();
        self.time = Some(Time {
            ms_per_step: 1e3 * speed.step.mean_s(),
            ms_per_estimate: 1e3 * speed.estimate.mean_s(),
            ms_per_checkpoint: 1e3 * speed.checkpoint.mean_s(),
            wall_s: steps * speed.step.mean_s() + estimates * each + at_the_end + speed.baseline.mean_s(),
        });
    }
}

/// Mean number of tokens trained on in an update. Padding does not count.
pub(super) fn tokens_per_step(config: &Config, data: &Dataset, old: Option<&Dataset>) -> f64 {
    let new = data.train.tokens_per_sequence();
    let mean = old.map_or(new, |old| new + config.replay * (old.train.tokens_per_sequence() - new));
    config.sequences_per_step() as f64 * mean
}

/// A mean of measured times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mean {
    seconds: f64,
    pub(super) n: f64,
}

impl Mean {
    /// Adds the time elapsed since `clock`, in which `part` of one unit was done.
    pub fn add(&mut self, clock: Instant, part: f64) {
        self.seconds += clock.elapsed().as_secs_f64();
        self.n += part;
    }

    /// Mean seconds; 0 if nothing was measured.
    pub fn mean_s(self) -> f64 {
        if self.n > 0.0 { self.seconds / self.n } else { 0.0 }
    }
}

/// Timings measured in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    /// An update.
    pub step: Mean,
    /// An estimate of both losses.
    pub estimate: Mean,
    /// A checkpoint and the plot.
    pub checkpoint: Mean,
    /// The n-gram baseline at the end.
    pub baseline: Mean,
}

impl Speed {
    /// Whether there are enough measurements to forecast the duration.
    pub fn is_known(&self) -> bool {
        self.step.n >= 3.0 && self.step.seconds >= 1.0 && self.estimate.n > 0.0
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
        let speed = Speed {
            step: Mean { seconds: 2.0, n: 200.0 },
            estimate: Mean { seconds: 6.4, n: 2.0 },
            checkpoint: Mean { seconds: 0.5, n: 5.0 },
            baseline: Mean { seconds: 2.0, n: 1.0 },
        };
        let mut plan = Plan::new(&config, &Gpt::new(&config).unwrap(), &data, None).unwrap();
        plan.set_speed(&speed, &config, &data, 0);
        plan
    }

    #[test]
    fn the_sum_of_the_parts() {
        let plan = plan(&["max_iters=1000", "eval_interval=100", "batch_size=16", "block_size=32", "eval_iters=200"]);
        assert_eq!((plan.steps, plan.tokens), (1000, 512_000.0));
        assert!((plan.epochs - 512_000.0 / 9000.0).abs() < 1e-9);
        let time = plan.time.unwrap();
        assert_eq!((time.ms_per_step, time.ms_per_estimate, time.ms_per_checkpoint), (10.0, 3200.0, 100.0));
        // A sequence of an estimate takes 0.5 ms; 32 of them measure the validation split, 500 write the sample.
        let want = 1000.0 * 0.010 + 11.0 * 3.3 + 532.0 * 0.0005 + 2.0;
        assert!((time.wall_s - want).abs() < 1e-9, "{time:?}, {want}");
    }

    #[test]
    fn a_small_text_is_warned_of_where_it_is_repeated() {
        assert!(plan(&["max_iters=1000"]).advice.unwrap().contains("the text is small for this model"));
        assert_eq!(plan(&["max_iters=50"]).advice, None, "less than four epochs");
        assert_eq!(plan(&["max_iters=1000", "n_embd=4", "n_layer=1", "block_size=4", "batch_size=32"]).advice, None);
    }
}
