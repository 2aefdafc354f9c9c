//! What every recipe has to keep to: the text and its split are as published, and nothing is chosen by the validation loss.

use crate::{
    config::{Config, FIELDS},
    error::{Error, Result},
    text::source::{TINY_SHAKESPEARE, TINY_SHAKESPEARE_SHA256},
    train::refuse_finetuning,
};

/// The longest context. With a longer one the first characters of a window would count less and less, which is no merit of a model.
pub(super) const LONGEST: usize = 256;

/// Parts of a batch where a recipe leaves that open: one for each of the two cores. The bits depend on it, so the machine must not
/// decide.
const SHARDS: usize = 2;

/// The rules in a few words.
pub(super) const RULES: &str = "\
Tiny Shakespeare, its split and its characters are as published, and nothing is trained on or chosen by the validation split. A loss
is the exact one of the last weights over the whole validation split, in windows of the model's own context (at most 256). Seconds
are those of training steps; measuring and saving are not among them. A target holds for the mean over the seeds, a budget for every
run.";

/// The settings of a recipe as they are trained, once they are known to keep to the rules.
///
/// # Errors
/// If they do not, or cannot be trained; the message names the key.
pub(super) fn checked(mut config: Config) -> Result<Config> {
    let default = Config::default();
    let refused = |config: &Config, key: &str, allowed: String| Error::Config {
        key: key.into(),
        value: config.value(key).to_string(),
        allowed: format!("{allowed} in a speedrun"),
    };
    refuse_finetuning(&config)?;
    // The configuration of an earlier run names its text.
    if !config.data.is_empty() && config.data != [TINY_SHAKESPEARE] {
        return Err(refused(&config, "data", format!("{TINY_SHAKESPEARE:?}")));
    }
    for field in FIELDS.iter().filter(|field| field.section == "data" && !field.is_settled_by_run()) {
        // How sequences are drawn from the training split is a matter of the recipe.
        let is_free = matches!(field.key, "data" | "replacement");
        if !is_free && config.value(field.key) != field.default_value() {
            let allowed =
                format!("{}, because the text, its split and its tokens are as published,", field.default_value());
            return Err(refused(&config, field.key, allowed));
        }
    }
    if config.block_size > LONGEST {
        return Err(refused(&config, "block_size", format!("at most {LONGEST}")));
    }
    if config.patience != default.patience {
        return Err(refused(&config, "patience", "0, because it chooses the end by the validation loss,".into()));
    }
    if config.teacher != default.teacher {
        return Err(refused(&config, "teacher", "\"\", because what the teacher took would not count,".into()));
    }
    if config.seed != default.seed {
        return Err(refused(&config, "seed", "left alone, because the seeds are 1, 2, ...".into()));
    }
    config.data = vec![TINY_SHAKESPEARE.to_owned()];
    // Another text of this name is refused wherever it is read.
    config.data_sha256 = TINY_SHAKESPEARE_SHA256.to_owned();
    (config.data_kind, config.template_time) = (default.data_kind, default.template_time);
    config.tokenizer_sha256.clear();
    if config.shards == 0 {
        config.shards = SHARDS;
    }
    config.check()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_no_fair_comparison_is_refused() {
        for (setting, allowed) in [
            ("data=[\"other.txt\"]", "must be \"tinyshakespeare\" in a speedrun"),
            ("train_split=0.99", "must be 0.9, because the text"),
            ("tokenizer=byte", "must be \"char\", because the text"),
            ("bos_token=^", "must be \"\", because the text"),
            ("packing=true", "must be false, because the text"),
            ("block_size=257", "must be at most 256 in a speedrun"),
            ("patience=3", "must be 0, because it chooses the end by the validation loss,"),
            ("teacher=big", "must be \"\", because what the teacher took would not count,"),
            ("seed=4", "the seeds are 1, 2, ... in a speedrun"),
            ("lora_rank=4", "it applies only to kinglet finetune"),
            ("n_head=5", "must be a divisor"),
        ] {
            // Some keys are checked only together with others.
            let mut config = Config::default();
            config.set(setting).unwrap();
            let error = checked(config).unwrap_err().to_string();
            assert!(
                error.starts_with(setting.split('=').next().unwrap()) && error.contains(allowed),
                "{setting}: {error}"
            );
        }
        let free =
            ["replacement=false", "block_size=256", "data=[\"tinyshakespeare\"]", "max_iters=7", "optimizer=muon"];
        let config = checked(Config::default().with(&free).unwrap()).unwrap();
        assert_eq!((config.data, config.shards), (vec![TINY_SHAKESPEARE.to_owned()], SHARDS));
        assert_eq!(config.data_sha256, TINY_SHAKESPEARE_SHA256);
        assert_eq!(checked(Config::default().with(&["shards=4"]).unwrap()).unwrap().shards, 4);
    }

    #[test]
    fn every_recipe_keeps_to_the_rules_on_two_cores() {
        for track in &super::super::track::TRACKS {
            let config = checked(Config::preset(track.recipe).unwrap()).unwrap();
            let own = Config::preset(track.recipe).unwrap();
            assert_eq!(own.shards, SHARDS, "{}: the bits of `kinglet train` are the same", track.recipe);
            assert!(config.eval_interval >= config.max_iters / 2, "{}: estimates take time", track.recipe);
        }
    }
}
