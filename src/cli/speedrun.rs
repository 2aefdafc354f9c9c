//! `kinglet speedrun`

mod forecast;
mod records;
mod rules;
mod sessions;
mod track;

use super::{
    choice::PresetName,
    report::{optional, stop_team_on_signal},
    seeded::{self, How, Seeded},
    table::columns,
    terminal::{self, Ended},
    world::World,
};
use crate::{
    config::{Config, PRESETS},
    error::Error,
    hands::Hands,
    run::read_config,
    text::source::TINY_SHAKESPEARE,
};
use anyhow::bail;
use clap::builder::PossibleValuesParser;
use forecast::Forecast;
use records::Entry;
use sessions::Machine;
use std::path::{Path, PathBuf};
use track::{TRACKS, Track};

/// The name of all tracks together.
const ALL: &str = "all";

/// Train for a loss in the fewest seconds, or the lowest loss in a budget, by fixed rules
#[derive(clap::Args)]
#[command(after_help = "\
A track is a target (1.7088, 1.5611, 1.4697: reach this loss) or a budget (10s, 60s, 300s: seconds
of training), and a recipe: the preset `speedrun-` with the track's name. The text is Tiny
Shakespeare, and losses are exact ones of its validation split. docs/RECIPES.md has the rules and
the records. A track that is missed ends with status 1.
    kinglet speedrun
    kinglet speedrun --track all --note \"rotary positions\"
    kinglet speedrun --track 10s --recipe kinglet-0.2m --set max_iters=1500")]
pub(super) struct Args {
    /// Track to run; may be repeated; `all` is every track
    // The shortest: whoever tries the command sees what it does within a minute, and all tracks take most of an hour.
    #[arg(long, value_name = "NAME", default_value = "10s",
          value_parser = PossibleValuesParser::new(TRACKS.map(|track| track.name).into_iter().chain([ALL])))]
    track: Vec<String>,
    /// Number of runs per track, with seeds 1, 2, ...; a record needs 3
    #[arg(long, value_name = "N", default_value_t = records::SEEDS as u64, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Another recipe for the track: a preset, or a configuration file
    #[arg(long, value_name = "PRESET|FILE.toml", value_parser = PresetName, hide_possible_values = true)]
    recipe: Option<String>,
    /// Set a configuration key of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// What is new about the recipe, for the table of records
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Commit that the program was built from, for the table of records
    #[arg(long, value_name = "HASH", value_parser = commit)]
    commit: Option<String>,
    /// Only check that everything works, with 20 steps, no judgement and no records
    #[arg(long)]
    quick: bool,
    /// Folder for the runs and the records; complete runs are kept, interrupted ones are resumed
    #[arg(short, long, value_name = "DIR", default_value = "runs/speedrun")]
    out: PathBuf,
    /// Number of threads; results do not depend on it, but their time does
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
}

/// A commit from a command line.
fn commit(text: &str) -> Result<String, String> {
    let is_hash = (7..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { Ok(text.to_lowercase()) } else { Err("must be 7 to 40 hexadecimal digits".into()) }
}

/// A track and what it is run with.
struct Entrant {
    track: &'static Track,
    /// A preset or a file.
    recipe: String,
    /// Without a seed.
    config: Config,
    runs: Vec<Seeded>,
}

impl Args {
    /// The number of threads of a process.
    pub(super) fn threads(&self) -> usize {
        self.threads.into()
    }

    pub(super) fn run(&self, json: bool, world: &World) -> anyhow::Result<Ended> {
        world.lead_or_serve(self.threads(), |threads| {
            world.with_hands(threads, |hands| self.speedrun(json, world, hands, threads))
        })
    }

    fn speedrun(&self, json: bool, world: &World, hands: &mut Hands, threads: usize) -> anyhow::Result<Ended> {
        let mut entrants = self.entrants(world)?;
        stop_team_on_signal(world.team())?;
        if !json && !terminal::is_quiet() {
            terminal::print(&self.heading(&entrants, threads))?;
        }
        if !self.quick {
            self.forecast(json, &entrants, hands, threads)?;
        }
        let be = world.cpu()?;
        let machine = Machine::here(be, threads, hands.count(), self.commit.clone());
        let opened = &mut |run: &Seeded| match self.quick {
            true => Ok(()),
            false => sessions::note(&self.out, run, be, &machine),
        };
        let how = How { json, out: &self.out, loss: "val_loss_exact", skip_report: true, opened };
        let runs = entrants.iter_mut().flat_map(|entrant| entrant.runs.drain(..)).collect();
        let Some(runs) = seeded::train(runs, how, world, hands)? else { return Ok(Ended::Interrupted) };
        let mut results = Vec::new();
        for (entrant, runs) in entrants.iter().zip(runs.chunks(usize::try_from(self.seeds)?)) {
            let Entrant { track, recipe, .. } = entrant;
            let (set, note, quick, out) = (&self.set, self.note.as_deref(), self.quick, &self.out);
            let machines = if quick { (vec![machine.clone()], None) } else { sessions::of(out, runs)? };
            results.push(Entry { track, recipe, set, note, quick, out }.result(runs, machines)?);
        }
        let page = if self.quick { None } else { Some(records::keep(&self.out, &results)?) };
        let misses: Vec<_> = results.iter().filter_map(records::miss).collect();
        if json {
            results.iter().try_for_each(terminal::print_json)?;
        } else {
            let misses = optional(Some(&misses).filter(|all| !all.is_empty()), |all| format!("\n{}\n", all.join("\n")));
            let page = optional(page, |page| format!("\nwritten to {}\n", page.display()));
            terminal::print(&format!("\n{}{misses}{page}", columns(&records::table(&results))))?;
        }
        Ok(if misses.is_empty() { Ended::Done } else { Ended::Missed })
    }

    /// The tracks that are asked for, each once, with their recipes and runs.
    fn entrants(&self, world: &World) -> anyhow::Result<Vec<Entrant>> {
        if Path::new(TINY_SHAKESPEARE).exists() {
            bail!(
                "{TINY_SHAKESPEARE} is a file here, and would be read as the text: start the command in another folder"
            );
        }
        let asked = |name: &str| self.track.iter().any(|asked| asked == name || asked == ALL);
        let tracks: Vec<_> = TRACKS.iter().filter(|track| asked(track.name)).collect();
        let own = self.recipe.is_some() || !self.set.is_empty();
        if own && tracks.len() > 1 {
            let what = "--recipe and --set are for one track: name it with --track";
            return Err(Error::BadConfig(what.into()).into());
        }
        let mut entrants = Vec::new();
        for track in tracks {
            let recipe = self.recipe.clone().unwrap_or_else(|| track.recipe.to_owned());
            let config = self.config(&recipe)?;
            let mut runs = Vec::new();
            for seed in 1..=self.seeds {
                let mut config = config.clone();
                config.seed = seed;
                let name = format!("{} with seed {seed}", track.name);
                runs.push(Seeded::new(name, config, self.folder(track, seed), world)?);
            }
            entrants.push(Entrant { track, recipe, config, runs });
        }
        Ok(entrants)
    }

    /// The configuration of a recipe, which keeps to the rules.
    fn config(&self, recipe: &str) -> anyhow::Result<Config> {
        let is_preset = PRESETS.iter().any(|preset| preset.name == recipe);
        let is_file = !is_preset && (recipe.ends_with(".toml") || Path::new(recipe).is_file());
        let mut config = if is_file { read_config(Path::new(recipe))? } else { Config::preset(recipe)? };
        self.set.iter().try_for_each(|setting| config.set(setting))?;
        let mut config = rules::checked(config)?;
        if self.quick {
            (config.max_iters, config.eval_iters) = (20, 2);
            config.warmup_iters = config.warmup_iters.min(2);
        }
        Ok(config)
    }

    /// The folder of a run: the track's, and what is other than its own recipe.
    fn folder(&self, track: &Track, seed: u64) -> PathBuf {
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() || "._=".contains(c) { c } else { '-' }).collect()
        };
        let recipe = self.recipe.as_deref().map(|recipe| recipe.strip_suffix(".toml").unwrap_or(recipe));
        let parts = recipe.into_iter().chain(self.set.iter().map(String::as_str)).map(plain);
        let mut name = [track.name.to_owned()].into_iter().chain(parts).collect::<Vec<_>>().join("-");
        // File systems have a limit; runs that differ in what is cut off are told apart by their configurations.
        name.truncate(150);
        let quick = if self.quick { "-quick" } else { "" };
        self.out.join(format!("{name}-seed{seed}{quick}"))
    }

    /// The rules, and what each track is.
    fn heading(&self, entrants: &[Entrant], threads: usize) -> String {
        let seeds = if self.seeds == 1 { "seed 1".to_owned() } else { format!("seeds 1 to {}", self.seeds) };
        let threads = terminal::count(threads as u64, "thread");
        let mut text = format!("{}\n", rules::RULES.replace('\n', " "));
        for Entrant { track: Track { name, goal, about, .. }, recipe, .. } in entrants {
            text += &format!("{name}: {} ({about}); {recipe}, {seeds}, {threads}\n", goal.text());
        }
        text
    }

    /// Says how long the runs that are left take, and whether this machine is fast enough.
    fn forecast(&self, json: bool, entrants: &[Entrant], hands: &Hands, threads: usize) -> anyhow::Result<()> {
        let mut all = Forecast::default();
        for Entrant { track, config, runs, .. } in entrants {
            let left = runs.iter().filter(|run| !run.is_done()).count();
            if left > 0 {
                all.measure(track, config, left, threads)?;
            }
        }
        all.show(json, hands.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn folders_say_what_was_tried() {
        let folder = |words: &[&str]| {
            let args = Alone::parse_from([&["speedrun", "-o", "o"], words].concat()).args;
            args.folder(&TRACKS[3], 2).display().to_string()
        };
        assert_eq!(folder(&[]), "o/10s-seed2".replace('/', std::path::MAIN_SEPARATOR_STR));
        for (words, name) in [
            (&["--quick"][..], "10s-seed2-quick"),
            (&["--recipe", "a/b.toml", "--set", "max_iters=9"], "10s-a-b-max_iters=9-seed2"),
            (&["--set", "bias=[\"qkv\"]"], "10s-bias=--qkv---seed2"),
        ] {
            assert!(folder(words).ends_with(name), "{words:?}");
        }
        assert!(folder(&["--set", &"x".repeat(400)]).len() < 170);
    }

    #[test]
    fn a_commit_is_a_hash() {
        assert_eq!(commit("B22857b"), Ok("b22857b".to_owned()));
        for wrong in ["b22857", "main", "", &"a".repeat(41)] {
            assert!(commit(wrong).is_err(), "{wrong}");
        }
    }
}
