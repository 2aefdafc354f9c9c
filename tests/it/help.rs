//! Help, completions, manual pages, and what is said to a command line that is not understood.

use crate::common::{cli::Cli, needs};
use kinglet::config::PRESETS;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// The help of every command, as the reference has it: the words of the command, and the text.
fn pages(cli: &Cli) -> Vec<(Vec<String>, String)> {
    let text = cli.ok(&["man", "--markdown"]);
    let page = |section: &str| {
        let (title, rest) = section.split_once('\n').unwrap();
        let text = rest.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
        (title.split(' ').skip(1).map(str::to_owned).collect(), text.to_owned())
    };
    text.split("\n## ").skip(1).map(page).collect()
}

/// The help of a command on a terminal that is `columns` wide; `None` if there is no program to make one.
fn on_terminal(cli: &Cli, words: &[String], columns: usize) -> Option<String> {
    let program = env!("CARGO_BIN_EXE_kinglet");
    let inside = format!("stty cols {columns} rows 50; exec {program} {} --help", words.join(" "));
    let mut command = Command::new("script");
    command.args(["-qec", &inside, "/dev/null"]).current_dir(cli.temp.path()).stdin(Stdio::null());
    let output = command.output().ok()?;
    assert!(output.status.success(), "{words:?}");
    Some(String::from_utf8(output.stdout).unwrap().replace('\r', ""))
}

#[test]
fn both_names_of_help_and_the_command_say_the_same() {
    let cli = Cli::new();
    let pages = pages(&cli);
    assert!(pages.len() > 15, "{}", pages.len());
    for (words, _) in &pages {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let long = cli.ok(&[&words[..], &["--help"]].concat());
        assert_eq!(long, cli.ok(&[&words[..], &["-h"]].concat()), "{words:?}");
        assert_eq!(long, cli.ok(&[&["help"], &words[..]].concat()), "{words:?}");
    }
    // No command at all is a question, not a mistake.
    let output = cli.run(&[]);
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), cli.ok(&["--help"]));
}

#[test]
fn an_option_looks_the_same_in_every_command() {
    let pages = pages(&Cli::new());
    let mut layout: BTreeMap<String, bool> = BTreeMap::new();
    for (words, text) in &pages {
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{words:?}: {line}");
            let Some(option) =
                line.strip_prefix("  ").filter(|rest| rest.starts_with('-') || rest.starts_with("    --"))
            else {
                continue;
            };
            // The name, and the description from column 28 on, or below.
            let (name, beside) = match option.char_indices().nth(26) {
                Some((at, _)) => (option[..at].trim(), !option[at..].starts_with(' ') && option[..at].ends_with(' ')),
                None => (option.trim(), false),
            };
            assert!(beside || name.chars().count() > 18, "{words:?}: {line}");
            assert_eq!(*layout.entry(name.to_owned()).or_insert(beside), beside, "{words:?}: {line}");
        }
    }
    assert!(layout.len() > 30, "{layout:?}");
}

#[test]
fn help_fits_the_terminal_and_breaks_no_command() {
    let cli = Cli::new();
    let pages = pages(&cli);
    let commands = |text: &str| -> Vec<String> {
        let is_command = |line: &&str| line.starts_with(' ') && line.trim_start().starts_with("kinglet ");
        let inline = text.split('`').skip(1).step_by(2).map(str::to_owned);
        text.lines().filter(is_command).map(|line| line.trim().to_owned()).chain(inline).collect()
    };
    for (words, _) in &pages {
        let Some(wide) = on_terminal(&cli, words, 200) else {
            needs::skip("there is no program script to make a terminal with");
            return;
        };
        for columns in [40, 80] {
            let text = on_terminal(&cli, words, columns).unwrap();
            assert_eq!(commands(&text), commands(&wide), "{words:?} at {columns}");
            for line in text.lines().filter(|line| line.chars().count() > columns) {
                let is_whole = line.contains("kinglet ") || !line.trim().contains(' ');
                assert!(columns == 40 && is_whole, "{words:?} at {columns}: {line}");
            }
        }
        let longest = wide.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 100, "{words:?}: {longest}");
    }
}

#[test]
fn environment_variables_that_are_read_are_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let main = Cli::new().ok(&["--help"]);
    let mut folders = vec![root.join("src"), root.join("crates/core/src"), root.join("crates/kernels/src")];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for rest in text.split("env::var").skip(1) {
                let rest = rest.strip_prefix("_os").unwrap_or(rest);
                let name = rest.strip_prefix("(\"").and_then(|rest| rest.split('"').next());
                let Some(name) = name else { panic!("{}: which variable is read?", path.display()) };
                // What a long name means is on the next line.
                let documented =
                    [' ', '\n'].map(|end| format!("\n  {name}{end}")).iter().any(|line| main.contains(line));
                assert!(documented, "{name}: {}", path.display());
                found += 1;
            }
        }
    }
    assert!(found >= 3, "{found}");
}

#[test]
fn the_right_command_comes_back() {
    let cli = Cli::new();
    fs::write(cli.path("my text.txt"), "x").unwrap();
    for (typed, meant) in [
        (&["train", "my.txt", "--max_iters=100"][..], "train my.txt --set max_iters=100"),
        (&["train", "--max-iters", "100", "my.txt"], "train --set max_iters=100 my.txt"),
        (&["train", "--lr", "1e-3", "--n_layers=2"], "train --set learning_rate=1e-3 --set n_layer=2"),
        (&["train", "--learning-rate", "1e-3"], "train --set learning_rate=1e-3"),
        (&["train", "--tie_weights", "my.txt"], "train --set tie_weights=true my.txt"),
        (&["train", "--bias=[\"mlp\"]"], "train --set 'bias=[\"mlp\"]'"),
        (&["train", "my text.txt", "--max_iter", "9"], "train 'my text.txt' --set max_iters=9"),
        (&["train", "--out_dir=a", "--presset", "gpt2"], "train --out a --preset gpt2"),
        (&["--preset", "gpt2", "train", "a"], "train a --preset gpt2"),
        (&["sample", "mine", "--top_k", "4", "--num_samples=2"], "sample mine --top-k 4 --num 2"),
        (&["generate", "mine", "--max_new_tokens", "5"], "sample mine --tokens 5"),
        (&["trian", "my.txt", "--lr=1"], "train my.txt --set learning_rate=1"),
        (&["fine-tune", "mine", "a b"], "finetune mine 'a b'"),
        (&["evaluate", "mine"], "eval mine"),
        (&["test", "mine"], "eval mine"),
        (&["inference", "mine"], "sample mine"),
        (&["run", "mine"], "chat mine"),
        (&["resume"], "train --resume"),
        (&["prepare", "a"], "data prepare a"),
        (&["data", "prepaer", "a"], "data prepare a"),
        (&["my text.txt"], "train 'my text.txt'"),
        (&["gpt2"], "train --preset gpt2"),
    ] {
        let output = cli.run(typed);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{typed:?}: {stderr}");
        assert!(stderr.contains(&format!("\n    kinglet {meant}\n")), "{typed:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && !stderr.contains("Usage"), "{stderr}");
        // The program takes what it advises.
        let advised = format!("exec {} {meant} --help", env!("CARGO_BIN_EXE_kinglet"));
        let status = Command::new("sh").args(["-c", &advised]).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{meant}");
    }
    cli.fails(
        &["train", "max_iters=3"],
        2,
        "there is no file max_iters=3; to set a configuration key, use --set max_iters=3",
    );
    cli.fails(&["sample", "mine", "--block_size", "4"], 2, "block_size is a configuration key of a run");
    cli.fails(&["eval", "mine", "--foo"], 2, "kinglet eval has no option --foo; `kinglet eval --help` lists");
}

#[test]
fn errors_are_json_too() {
    let cli = Cli::new();
    for (args, status) in [
        (&["train", "missing.txt", "--json"][..], 1),
        (&["--json", "train", "--set", "n_layer=0"], 2),
        (&["nonsense", "--json"], 2),
        (&["train", "--json", "--foo"], 2),
        (&["merge", "--json"], 2),
        (&["eval", "--json", "--threads", "x"], 2),
    ] {
        let output = cli.run(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        assert!(last["event"] == "error" && last["exit_status"] == status, "{args:?}: {last}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.trim_end(), format!("error: {}", last["message"].as_str().unwrap()));
        // What stands behind -- is no option.
        let output = cli.run(&["train", "--foo", "--", "--json"]);
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn versions_are_short_or_long() {
    let cli = Cli::new();
    let short = format!("kinglet {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(cli.ok(&["--version"]), short);
    assert_eq!(cli.ok(&["-V"]), short);
    let output = cli.command(&["--version", "-v"]).env("KINGLET_ISA", "scalar").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), short + "instruction set: scalar\n");
}

#[test]
fn quiet_has_no_notes() {
    let cli = Cli::new();
    let bench = |more: &[&str]| {
        let args = [&["bench", "--quick", "--seconds", "0", "--set", "precision=bf16"], more].concat();
        let output = cli.command(&args).env("KINGLET_ISA", "scalar").output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(bench(&[]).starts_with("note: "));
    assert_eq!(bench(&["-q"]), "");
    cli.fails(&["bench", "-q", "-v"], 2, "cannot be used with");
}

#[test]
fn shells_load_their_completions() {
    let cli = Cli::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = cli.ok(&["completions", shell]);
        assert!(script.contains("finetune") && script.contains("skip-bad"), "{shell}");
    }
    fs::write(cli.path("completions"), cli.ok(&["completions", "bash"])).unwrap();
    let ask = |words: &str| {
        let inside = format!(
            ". ./completions && complete -p kinglet >&2 && COMP_WORDS=({words}) && COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) \
             && _kinglet kinglet \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\" && echo \"${{COMPREPLY[@]}}\""
        );
        Command::new("bash").args(["--norc", "-c", &inside]).current_dir(cli.temp.path()).output()
    };
    let Ok(output) = ask("kinglet train --preset ''") else {
        needs::skip("there is no bash");
        return;
    };
    let found = String::from_utf8(output.stdout).unwrap();
    let found: Vec<_> = found.split_whitespace().collect();
    assert_eq!(found, PRESETS.map(|preset| preset.name), "{}", String::from_utf8_lossy(&output.stderr));
    let output = ask("kinglet fine").unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "finetune\n");
}

#[test]
fn manual_pages_render() {
    let cli = Cli::new();
    cli.ok(&["man", "pages"]);
    let pages = pages(&cli);
    for (words, _) in &pages {
        let name = ["kinglet"].into_iter().chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
        assert!(cli.path(&format!("pages/{name}.1")).is_file(), "{name}");
    }
    fs::write(cli.path("kinglet.1"), cli.ok(&["man"])).unwrap();
    let mut man = Command::new("man");
    man.args(["--warnings", "-l", "kinglet.1"])
        .env("MANWIDTH", "80")
        .env("LC_ALL", "C.UTF-8")
        .current_dir(cli.temp.path());
    let Ok(output) = man.stdin(Stdio::null()).output() else {
        needs::skip("there is no program man");
        return;
    };
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    for part in ["kinglet-train(1)", "KINGLET_DATA_DIR", "Exit codes", "    kinglet tune my.txt --budget 10m\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
