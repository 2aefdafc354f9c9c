//! What there is to choose from: presets, keys, and a configuration of one's own.

use crate::common::cli::Cli;
use kinglet::config::{Config, FIELDS, PRESETS};
use serde_json::Value;
use std::{fs, path::Path};

/// The objects of a command's output.
fn objects(cli: &Cli, args: &[&str]) -> Vec<Value> {
    let text = cli.ok(&[args, &["--json"]].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Settings of a training that is over soon.
const SHORT: [&str; 8] =
    ["--set", "max_iters=2", "--set", "eval_iters=1", "--set", "eval_interval=2", "--set", "n_layer=1"];

#[test]
fn pages_of_the_reference_are_what_the_program_prints() {
    let cli = Cli::new();
    for (name, args) in
        [("commands", ["man", "--markdown"]), ("keys", ["keys", "--markdown"]), ("presets", ["presets", "--markdown"])]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/reference/{name}.md"));
        let printed = cli.ok(&args);
        if std::env::var_os("KINGLET_UPDATE_DOCS").is_some() {
            fs::write(&path, &printed).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap();
        assert!(
            written == printed,
            "{} is out of date: KINGLET_UPDATE_DOCS=1 cargo test --test it pages_of_the_reference",
            path.display()
        );
    }
}

#[test]
fn every_preset_is_listed_and_printed_as_it_is() {
    let cli = Cli::new();
    let (text, listed) = (cli.ok(&["presets"]), objects(&cli, &["presets"]));
    assert_eq!(listed.len(), PRESETS.len());
    for (preset, about) in PRESETS.iter().zip(&listed) {
        assert_eq!(text.lines().filter(|line| line.split(' ').next() == Some(preset.name)).count(), 2, "{text}");
        assert!(text.contains(preset.about) && about["preset"] == preset.name && about["about"] == preset.about);
        assert_eq!(about["block_size"], preset.config().unwrap().block_size);
        let info = &objects(&cli, &["info", preset.name])[0];
        assert!(info["params"] == about["params"] && info["preset"] == preset.name, "{info}");
        assert_eq!(cli.ok(&["presets", preset.name]), preset.toml);
        assert_eq!(objects(&cli, &["presets", preset.name])[0]["toml"], preset.toml);
    }
    cli.fails(&["presets", "gpt-2"], 2, "there is no preset \"gpt-2\"; did you mean gpt2?");
    cli.fails(&["info", "gpt-2"], 2, "there is no preset \"gpt-2\", nor a run of this name; did you mean gpt2?");
}

/// The losses of presets, with those in the documents.
#[test]
fn losses_of_presets_are_those_that_were_measured() {
    let read = |name| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap();
    let (results, recipes) = (read("RESULTS.md"), read("RECIPES.md"));
    let cell = |text: &str, row: &str, column: usize| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(row))?;
        line.split('|').nth(column)?.split('±').next()?.trim().parse().ok()
    };
    for preset in &PRESETS {
        let published = cell(&results, &format!("| {} |", preset.name), 6);
        let measured = published.or_else(|| cell(&recipes, &format!("| `{}` |", preset.name), 4));
        assert_eq!(preset.val_loss, measured, "{}", preset.name);
    }
}

#[test]
fn keys_are_found_by_name_section_and_part() {
    let cli = Cli::new();
    let found = |names: &[&str]| -> Vec<String> {
        let objects = objects(&cli, &[&["keys"], names].concat());
        objects.iter().map(|object| object["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found(&[]), FIELDS.iter().map(|field| field.key).collect::<Vec<_>>());
    assert_eq!(found(&["n_layer"]), ["n_layer"]);
    assert_eq!(found(&["N-Layer", "n_head=4"]), ["n_layer", "n_head"]);
    assert_eq!(found(&["beta"]), ["beta1", "beta2"]);
    assert_eq!(found(&["lr"]).iter().filter(|key| *key == "learning_rate").count(), 1);
    assert_eq!(found(&["steps"]), ["gradient_accumulation_steps", "max_iters", "muon_ns_steps"]);
    let of_section = FIELDS.iter().filter(|field| field.section == "finetuning").map(|field| field.key);
    assert_eq!(found(&["finetuning"]), of_section.collect::<Vec<_>>());
    cli.fails(&["keys", "activatoin"], 2, "there is no configuration key \"activatoin\"; did you mean activation?");
    cli.fails(&["keys", "epochs"], 2, "a run is as long as max_iters says");
    cli.fails(&["keys", ""], 2, "there is no configuration key");
}

#[test]
fn a_key_says_what_it_may_be_and_which_preset_sets_it() {
    let cli = Cli::new();
    for field in FIELDS {
        let text = cli.ok(&["keys", "--quiet", field.key]);
        let about = objects(&cli, &["keys", field.key]).into_iter().find(|about| about["key"] == field.key).unwrap();
        assert!(about["allowed"] == field.allowed && about["help"] == field.help && text.contains(field.help));
        for preset in &PRESETS {
            let value = preset.config().unwrap().value(field.key);
            let said = about["presets"].get(preset.name);
            let want = (value != field.default_value()).then(|| serde_json::to_value(&value).unwrap());
            assert_eq!(said, want.as_ref(), "{}: {}", preset.name, field.key);
        }
        // `data` and `optimizer` are sections too, which are listed without what is allowed.
        if !FIELDS.iter().any(|other| other.section == field.key) {
            assert!(text.contains(field.allowed), "{text}");
        }
    }
    let text = cli.ok(&["keys", "position"]);
    assert!(text.contains("\"rotary\" in kinglet-0.2m, kinglet-2.7m, llama-tiny, chat"), "{text}");
}

#[test]
fn a_written_configuration_is_the_preset_with_all_keys() {
    let cli = Cli::new();
    for preset in &PRESETS {
        let path = format!("{}.toml", preset.name);
        cli.ok(&["init", "--preset", preset.name, "-o", &path]);
        let text = fs::read_to_string(cli.path(&path)).unwrap();
        let config = Config::from_toml(&text).unwrap();
        assert_eq!(config, preset.config().unwrap(), "{}", preset.name);
        // Comments begin with "# ", settings that are off with "#".
        let on: Vec<_> = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        assert_eq!(Config::from_toml(&on.join("\n")).unwrap(), config, "{}", preset.name);
        let settings =
            |lines: &[&str]| lines.iter().filter(|line| !line.starts_with('#') && line.contains(" = ")).count();
        let keys = FIELDS.iter().filter(|field| !field.is_settled_by_run()).count();
        let of_preset = usize::from(preset.name == "gpt2");
        assert_eq!(settings(&on), 1 + keys + of_preset, "{}", preset.name);
        // What the preset names is on, even at its default.
        for key in Config::keys_in(preset.toml).unwrap() {
            assert!(text.contains(&format!("\n{key} = ")), "{}: {key}", preset.name);
        }
        for field in
            FIELDS.iter().filter(|field| on.contains(&format!("{} = {}", field.key, config.value(field.key)).as_str()))
        {
            assert!(text.contains(&format!("# {}\n# Allowed: {}.\n", field.help, field.allowed)), "{}", field.key);
        }
    }
}

#[test]
fn a_written_configuration_trains_and_an_edit_takes_effect() {
    let cli = Cli::new();
    fs::write(cli.path("my text.txt"), "A kinglet is a very small bird. ".repeat(100)).unwrap();
    let init = ["init", "my text.txt", "--tokenizer", "byte", "--set", "seed=5"];
    let text = cli.ok(&[&init[..], &SHORT].concat());
    assert!(text.starts_with("kinglet.toml\n") && text.contains("kinglet train --config kinglet.toml\n"), "{text}");
    let written = fs::read_to_string(cli.path("kinglet.toml")).unwrap();
    for line in ["data = [\"my text.txt\"]", "tokenizer = \"byte\"", "seed = 5", "max_iters = 2", "#patience = 0"] {
        assert!(written.lines().any(|other| other == line), "{line}: {written}");
    }
    for key in ["vocab_size", "data_sha256", "template_time", "new_tokens"] {
        assert!(!written.contains(&format!("{key} =")), "{key}");
    }
    cli.ok(&["train", "--config", "kinglet.toml", "--out", "a"]);
    fs::write(
        cli.path("edited.toml"),
        written.replace("#dropout = 0.0", "dropout = 0.25").replace("dropout = 0.0", "dropout = 0.25"),
    )
    .unwrap();
    cli.ok(&["train", "--config", "edited.toml", "--out", "b"]);
    let config = |run: &str| objects(&cli, &["info", run])[0]["config"].clone();
    assert_eq!((&config("a")["dropout"], &config("b")["dropout"]), (&Value::from(0.0), &Value::from(0.25)));
    // A run's file begins another one, without what belongs to the run.
    cli.ok(&["init", "--config", "a/config.toml", "-o", "again.toml"]);
    let again = fs::read_to_string(cli.path("again.toml")).unwrap();
    assert!(!again.contains("sha256") && !again.contains("vocab_size ="), "{again}");
    assert!(again.contains("\nseed = 5\n") && again.contains("\n#batch_size = 16\n"), "{again}");
    assert_eq!(objects(&cli, &["init", "-o", "x.toml"])[0]["out"], "x.toml");
}

#[test]
fn a_file_that_is_there_is_not_overwritten() {
    let cli = Cli::new();
    fs::write(cli.path("kinglet.toml"), "mine").unwrap();
    cli.fails(&["init"], 2, "kinglet.toml is there already: --force overwrites it");
    assert_eq!(fs::read_to_string(cli.path("kinglet.toml")).unwrap(), "mine");
    cli.ok(&["init", "--force"]);
    assert!(fs::read_to_string(cli.path("kinglet.toml")).unwrap().contains("[model]"));
    cli.fails(&["init", "--set", "n_head=5", "-o", "no.toml"], 2, "n_head = 5: must be a divisor of n_embd = 64");
    cli.fails(&["init", "--set", "zebra=5", "-o", "no.toml"], 2, "there is no configuration key \"zebra\"");
    assert!(!cli.path("no.toml").exists());
    cli.fails(&["init", "-o", "missing/no.toml"], 1, "cannot write missing/no.toml");
}

#[test]
fn info_says_what_differs_and_how_far_a_run_is() {
    let cli = Cli::new();
    cli.ok(&[&["train", "--name", "a"], &SHORT[..]].concat());
    let info = &objects(&cli, &["info", "a"])[0];
    assert!(info["run"] == "runs/a" && info["step"] == 2 && info["preset"].is_null(), "{info}");
    assert!(info["best_step"] == 2 && info["best_val_loss"].is_number() && info["published"].is_null(), "{info}");
    assert_eq!((&info["config"]["n_layer"], &info["config"]["max_iters"]), (&Value::from(1), &Value::from(2)));
    let parts = info["memory_parts_mib"].as_object().unwrap().values().map(|mib| mib.as_f64().unwrap()).sum::<f64>();
    assert!((parts - info["training_mib"].as_f64().unwrap()).abs() < 1e-6, "{info}");
    let text = cli.ok(&["info", "a"]);
    let has =
        |text: &str, line: &[&str]| text.lines().any(|other| other.split_whitespace().collect::<Vec<_>>() == line);
    assert!(
        has(&text, &["n_layer", "1", "(default", "4)"]) && has(&text, &["steps", "done", "2", "of", "2"]),
        "{text}"
    );
    assert!(!text.contains("published") && !text.contains("batch_size"), "{text}");
    assert!(text.contains("kinglet init --config runs/a/config.toml\n"), "{text}");
    let preset = cli.ok(&["info", "big-2.7m"]);
    assert!(preset.contains("published size") && has(&preset, &["dropout", "0.1", "(default", "0.0)"]), "{preset}");
    assert!(!cli.ok(&["info", "kinglet-0.2m"]).contains("published size"));
    cli.fails(&["info", "a@2"], 2, "a@2 is a checkpoint, but this command needs a run: name runs/a");
    cli.fails(&["info", "nope"], 2, "there is no preset \"nope\", nor a run of this name");
}

#[test]
fn the_plan_says_how_much_the_checkpoints_take() {
    let cli = Cli::new();
    let settings = ["--set", "max_iters=4", "--set", "eval_interval=1", "--set", "eval_iters=1"];
    for more in [&["--set", "keep_last=3"][..], &["--preset", "kinglet-0.2m"], &["--set", "eval_interval=4"]] {
        let settings = [&settings, more].concat();
        let plan = &objects(&cli, &[&["plan", "--seconds", "0"], &settings[..]].concat())[0];
        cli.ok(&[&["train", "--out", "run"], &settings[..]].concat());
        let files =
            |folder: &Path| -> Vec<_> { fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect() };
        let bytes: u64 = files(&cli.path("run/checkpoints"))
            .iter()
            .flat_map(|checkpoint| files(checkpoint))
            .map(|file| file.metadata().unwrap().len())
            .sum();
        let (said, is) = (plan["disk_mib"].as_f64().unwrap(), bytes as f64 / f64::from(1 << 20));
        // The best is one of the last here or not: one checkpoint more or less.
        let kept = files(&cli.path("run/checkpoints")).len() as f64;
        assert!(said > 0.93 * is && said < 1.07 * is * (kept + 1.0) / kept, "{more:?}: {said} {is}");
        assert!(plan["preset"].is_string() && plan["memory_mib"].is_number() && plan["memory_bytes"].is_null());
        fs::remove_dir_all(cli.path("run")).unwrap();
    }
    assert!(cli.ok(&["plan", "--seconds", "0"]).contains("checkpoints: 7.20 MiB on disk in the end\n"));
}
