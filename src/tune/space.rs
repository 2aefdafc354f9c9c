//! The search space: configuration keys, the values they may take, and the settings drawn from them.

use kinglet_core::{
    config::{Config, FIELDS, Field, OptimizerKind, unknown_key},
    error::{Error, Result},
    rng::{Purpose, Rng},
};
use std::{fmt, str::FromStr};

/// A key to vary, and its values.
///
/// Written `key=low..high`, optionally followed by `:log` or `:linear`, or `key=[a, b, c]`. A bare `learning_rate`
/// leaves its range to the range test. Without an explicit scale, a range that starts above 0 and spans at least a
/// factor of ten is logarithmic.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// The configuration key.
    pub key: &'static str,
    /// The values it may take.
    pub values: Values,
}

/// The values that a key may take.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Between the limits that the learning-rate range test finds.
    Tested,
    /// Between two numbers, both included.
    Between {
        /// The lower limit.
        low: f64,
        /// The upper limit.
        high: f64,
        /// Whether values are distributed uniformly on a logarithmic scale.
        log: bool,
        /// Whether values are integers.
        whole: bool,
    },
    /// One of a list.
    OneOf(Vec<toml::Value>),
}

/// Whether runs that differ in this key can be compared.
fn can_vary(field: &Field) -> bool {
    match field.section {
        // With another context length or vocabulary, the losses would measure different things.
        "model" => !matches!(field.key, "vocab_size" | "block_size"),
        "training" => matches!(field.key, "batch_size" | "gradient_accumulation_steps" | "precision"),
        "optimizer" => true,
        _ => false,
    }
}

impl FromStr for Sweep {
    type Err = Error;

    fn from_str(text: &str) -> Result<Sweep> {
        let (key, values) = match text.split_once('=') {
            Some((key, values)) => (key.trim(), Some(values.trim())),
            None => (text.trim(), None),
        };
        let field = FIELDS.iter().find(|field| field.key == key).ok_or_else(|| unknown_key(key))?;
        if !can_vary(field) {
            let keys: Vec<_> = FIELDS.iter().filter(|field| can_vary(field)).map(|field| field.key).collect();
            return Err(Error::BadConfig(format!(
                "{key} cannot be tuned, because runs with different values cannot be compared; the keys that \
                 can be tuned are {}",
                keys.join(", ")
            )));
        }
        let key = field.key;
        let values = match values {
            None if key == LEARNING_RATE => Values::Tested,
            None => {
                return Err(Error::BadConfig(format!(
                    "{text:?} does not have the form {key}=low..high or {key}=[a, b, c]; only {LEARNING_RATE} \
                     has an automatic range"
                )));
            }
            Some(list) if list.starts_with('[') => Values::OneOf(values_of(key, list)?),
            Some(range) => between(key, range)?,
        };
        Ok(Sweep { key, values })
    }
}

/// The key that the range test determines.
pub(super) const LEARNING_RATE: &str = "learning_rate";

/// The different values of a key in a list such as `[a, b, c]`, each a value that the key may have.
///
/// # Errors
/// If one is not, or the list is empty.
pub(crate) fn values_of(key: &str, text: &str) -> Result<Vec<toml::Value>> {
    let parsed = format!("x = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("x"));
    let list: Vec<toml::Value> = match parsed {
        Some(toml::Value::Array(list)) => list,
        // Quotes around strings may be omitted.
        _ => {
            let inside = text.trim_start_matches('[').trim_end_matches(']').split(',').map(str::trim);
            let value = |word: &str| {
                let parsed = format!("x = {word}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("x"));
                parsed.unwrap_or_else(|| toml::Value::String(word.to_owned()))
            };
            inside.filter(|word| !word.is_empty()).map(value).collect()
        }
    };
    let mut values: Vec<toml::Value> = Vec::new();
    for value in list {
        let mut config = Config::default();
        config.set(&format!("{key}={value}"))?;
        // Normalize to the field's type: 1 becomes 1.0 for a float key.
        let value = config.value(key);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    if values.is_empty() {
        return Err(Error::BadConfig(format!("{key}={text}: this list is empty")));
    }
    Ok(values)
}

fn between(key: &str, text: &str) -> Result<Values> {
    let wrong = |what: &str| Err(Error::BadConfig(format!("{key}={text}: {what}")));
    let (range, scale) = match text.split_once(':') {
        Some((range, scale)) => (range.trim(), Some(scale.trim())),
        None => (text, None),
    };
    let Some((low, high)) = range.split_once("..") else {
        return wrong("must be a range low..high or a list [a, b, c]");
    };
    let default = Config::default().value(key);
    let whole = match default {
        toml::Value::Integer(_) => true,
        toml::Value::Float(_) => false,
        _ => return wrong("this key is not a number; give its values as a list [a, b, c]"),
    };
    let mut limits = [0.0; 2];
    for (limit, text) in limits.iter_mut().zip([low.trim(), high.trim()]) {
        // A limit must be a valid value of the key. Check that first: its error message is better than "not a number".
        Config::default().set(&format!("{key}={text}"))?;
        match text.parse() {
            Ok(number) => *limit = number,
            Err(_) => return wrong("the limits are not numbers"),
        }
    }
    let [low, high] = limits;
    if low >= high {
        return wrong("the range is empty; the lower limit must come first");
    }
    let log = match scale {
        None => low > 0.0 && high >= 10.0 * low,
        Some("linear") => false,
        Some("log") if low > 0.0 => true,
        Some("log") => return wrong("a logarithmic range must start above 0; use :linear or a higher limit"),
        Some(_) => return wrong("the scale must be log or linear"),
    };
    Ok(Values::Between { low, high, log, whole })
}

impl fmt::Display for Sweep {
    /// The form that `FromStr` parses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sweep { key, values } = self;
        match values {
            Values::Tested => write!(f, "{key}"),
            Values::Between { low, high, log, .. } => {
                let plain = |number: f64| {
                    if number != 0.0 && number < 1e-3 { format!("{number:e}") } else { number.to_string() }
                };
                write!(f, "{key}={}..{}:{}", plain(*low), plain(*high), if *log { "log" } else { "linear" })
            }
            Values::OneOf(list) => write!(f, "{key}={}", toml::Value::Array(list.clone())),
        }
    }
}

impl Sweep {
    /// The value at position `u` in [0, 1). Floats are rounded to three significant digits.
    pub fn at(&self, u: f64) -> toml::Value {
        match &self.values {
            Values::Tested => unreachable!("the range test has replaced it"),
            Values::OneOf(list) => list[((u * list.len() as f64) as usize).min(list.len() - 1)].clone(),
            &Values::Between { low, high, log, whole } => {
                // Extend the range by one half on both sides, so that every integer is equally likely.
                let half = if whole { 0.5 } else { 0.0 };
                let (from, to) = (low - half, high + half);
                let value = if log && from > 0.0 {
                    libm::exp(libm::log(from) + u * (libm::log(to) - libm::log(from)))
                } else {
                    from + u * (to - from)
                };
                if whole {
                    return toml::Value::Integer(value.round().clamp(low, high) as i64);
                }
                let short: f64 = format!("{value:.2e}").parse().expect("a number");
                toml::Value::Float(short.clamp(low, high))
            }
        }
    }
}

/// The configuration with `settings` applied, one value per sweep. If `learning_rate` is swept, the other learning
/// rates keep their ratio to it, unless they are swept themselves.
///
/// # Errors
/// If the settings conflict.
pub(super) fn apply(base: &Config, sweeps: &[Sweep], settings: &[toml::Value]) -> Result<Config> {
    let mut config = base.clone();
    for (Sweep { key, .. }, value) in sweeps.iter().zip(settings) {
        config.set(&format!("{key}={value}"))?;
    }
    if sweeps.iter().any(|sweep| sweep.key == LEARNING_RATE) {
        scale_rates(&mut config, base, sweeps)?;
    }
    config.check()?;
    Ok(config)
}

/// Scales the other learning rates (`min_lr`, and any others of the optimizer) to keep their original ratios.
fn scale_rates(config: &mut Config, base: &Config, varied: &[Sweep]) -> Result<()> {
    let factor = config.learning_rate / base.learning_rate;
    let in_use = |field: &&Field| field.key != "muon_lr" || config.optimizer == OptimizerKind::Muon;
    let others: Vec<_> =
        FIELDS.iter().filter(|f| f.section == "optimizer" && f.key.ends_with("_lr")).filter(in_use).collect();
    for field in others.into_iter().filter(|field| !varied.iter().any(|sweep| sweep.key == field.key)) {
        if let (toml::Value::Float(rate), true) = (base.value(field.key), factor != 1.0) {
            config.set(&format!("{}={:e}", field.key, rate * factor))?;
        }
    }
    Ok(())
}

/// At most `n` different settings that satisfy `fits`, each with one value per sweep. The first are those of `base`;
/// the others are spread evenly over the ranges, for any number of keys, by additive recurrence (Roberts 2018) from a
/// random starting point.
///
/// # Errors
/// Why the last candidate did not fit, if only the first does.
pub(super) fn draw(
    base: &Config,
    sweeps: &[Sweep],
    n: usize,
    fits: impl Fn(&Config) -> Result<()>,
) -> Result<Vec<Vec<toml::Value>>> {
    // The positive root of x^(d + 1) = x + 1, by fixed-point iteration.
    let root = (0..64).fold(1.5, |x, _| libm::pow(1.0 + x, 1.0 / (sweeps.len() + 1) as f64));
    let mut rng = Rng::new(base.seed, Purpose::Tune, 0, 0);
    let begins: Vec<f64> = sweeps.iter().map(|_| rng.uniform()).collect();
    let mut drawn = vec![sweeps.iter().map(|sweep| base.value(sweep.key)).collect::<Vec<_>>()];
    let mut unfit = None;
    for i in 1..=100 * n {
        if drawn.len() == n {
            break;
        }
        let place = |(k, begin): (usize, &f64)| (begin + i as f64 * libm::pow(root, -((k + 1) as f64))).fract();
        let places = begins.iter().enumerate().map(place);
        let settings: Vec<_> = sweeps.iter().zip(places).map(|(sweep, u)| sweep.at(u)).collect();
        match apply(base, sweeps, &settings).and_then(|config| fits(&config)) {
            Err(error) => unfit = Some(error),
            Ok(()) if drawn.contains(&settings) => {}
            Ok(()) => drawn.push(settings),
        }
    }
    match unfit {
        _ if drawn.len() > 1 => Ok(drawn),
        Some(error) => Err(error),
        None => Err(Error::BadConfig("there is nothing to compare: the sweep has only the configured values".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(text: &str) -> Sweep {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn ranges_and_lists_are_read_as_they_are_written() {
        for (text, written) in [
            ("learning_rate", "learning_rate"),
            ("learning_rate=1e-4..1e-2", "learning_rate=1e-4..0.01:log"),
            ("learning_rate = 0.001 .. 0.005", "learning_rate=0.001..0.005:linear"),
            ("dropout=0..0.3", "dropout=0..0.3:linear"),
            ("weight_decay=0.001..1:linear", "weight_decay=0.001..1:linear"),
            ("n_layer=2..6:log", "n_layer=2..6:log"),
            ("n_embd=[32,64,64]", "n_embd=[32, 64]"),
            ("activation=[relu, gelu]", "activation=[\"relu\", \"gelu\"]"),
            ("beta2=[0, 0.99]", "beta2=[0.0, 0.99]"),
        ] {
            assert_eq!(sweep(text).to_string(), written);
            assert_eq!(sweep(written), sweep(text));
        }
    }

    #[test]
    fn what_makes_no_sweep_is_named() {
        for (text, message) in [
            ("learning_rat=1..2", "there is no configuration key \"learning_rat\"; did you mean learning_rate?"),
            (
                "seed=1..2",
                "seed cannot be tuned, because runs with different values cannot be compared; the \
                 keys that can be tuned are n_layer",
            ),
            ("block_size=[16, 32]", "block_size cannot be tuned"),
            ("data=[a]", "data cannot be tuned"),
            ("max_iters=1..2", "max_iters cannot be tuned"),
            ("dropout", "\"dropout\" does not have the form dropout=low..high"),
            ("dropout=0.1", "dropout=0.1: must be a range low..high or a list"),
            ("dropout=0.2..0.1", "dropout=0.2..0.1: the range is empty"),
            ("dropout=0.1..0.1", "the range is empty"),
            ("dropout=0..1", "dropout = 1: must be at least 0 and below 1"),
            ("dropout=0..0.5:log", "a logarithmic range must start above 0"),
            ("dropout=0..0.5:cubic", "the scale must be log or linear"),
            ("dropout=..0.5", "dropout = \"\": must be at least 0 and below 1"),
            ("learning_rate=nan..1", "learning_rate = nan: must be above 0, at most 10"),
            ("n_layer=1.5..3", "n_layer = 1.5: must be 1 to 256"),
            ("n_layer=[]", "this list is empty"),
            ("n_layer=[1, 0]", "n_layer = 0: must be 1 to 256"),
            ("activation=relu..gelu", "give its values as a list"),
        ] {
            let error = text.parse::<Sweep>().expect_err(text).to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn values_stay_in_their_range_and_reach_its_ends() {
        for text in ["learning_rate=1e-4..1e-2", "dropout=0..0.3", "n_layer=2..5", "batch_size=1..64:log"] {
            let Values::Between { low, high, .. } = sweep(text).values else { unreachable!() };
            let number = |value: toml::Value| value.as_float().unwrap_or_else(|| value.as_integer().unwrap() as f64);
            assert_eq!((number(sweep(text).at(0.0)), number(sweep(text).at(0.9999))), (low, high), "{text}");
            (0..100).for_each(|i| assert!((low..=high).contains(&number(sweep(text).at(f64::from(i) / 100.0)))));
        }
        assert_eq!(sweep("learning_rate=1e-4..1e-2").at(0.5), toml::Value::Float(1e-3));
    }

    #[test]
    fn settings_begin_with_the_configured_ones_are_spread_and_go_together() {
        let base = Config::default();
        let one = [sweep("learning_rate=1e-4..1e-2")];
        let drawn = draw(&base, &one, 9, |_| Ok(())).unwrap();
        assert_eq!(drawn[0], [toml::Value::Float(base.learning_rate)]);
        let mut logs: Vec<f64> = drawn[1..].iter().map(|set| set[0].as_float().unwrap().log10()).collect();
        logs.sort_by(f64::total_cmp);
        assert!(logs.windows(2).all(|pair| pair[1] - pair[0] < 0.5), "no gap of more than a quarter: {logs:?}");
        assert_eq!(drawn, draw(&base, &one, 9, |_| Ok(())).unwrap());
        assert_eq!(draw(&base, &one, 20, |_| Ok(())).unwrap()[..9], drawn, "more are the same and others");

        let fitting = draw(&base, &[sweep("n_head=1..8")], 9, |_| Ok(())).unwrap();
        assert!(fitting.iter().all(|set| 64 % set[0].as_integer().unwrap() == 0) && fitting.len() == 4, "{fitting:?}");
        let error = draw(&base, &[sweep("n_head=[5, 7]")], 9, |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("a divisor of n_embd"), "{error}");
        let error = draw(&base, &[sweep("n_head=[4]")], 9, |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("nothing to compare"), "{error}");
    }

    #[test]
    fn other_learning_rates_keep_their_proportion_unless_they_vary_too() {
        let base = Config::default().with(&["learning_rate=1e-3", "min_lr=1e-4"]).unwrap();
        let scaled = |base: &Config| apply(base, &[sweep("learning_rate")], &[toml::Value::Float(1e-2)]).unwrap();
        assert!((scaled(&base).min_lr - 1e-3).abs() < 1e-12);
        assert_eq!(scaled(&base).muon_lr, 0.02, "it is not in use");
        let muon = base.clone().with(&["optimizer=muon"]).unwrap();
        assert!((scaled(&muon).muon_lr - 0.2).abs() < 1e-12);
        let both = [sweep("learning_rate=1e-4..1e-2"), sweep("min_lr=0..1e-4")];
        let set = apply(&base, &both, &[toml::Value::Float(1e-2), toml::Value::Float(5e-5)]).unwrap();
        assert_eq!((set.learning_rate, set.min_lr), (1e-2, 5e-5));
        assert_eq!(apply(&base, &[sweep("dropout=0..0.5")], &[toml::Value::Float(0.5)]).unwrap().min_lr, 1e-4);
    }
}
