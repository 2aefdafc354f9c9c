//! The documents: links that lead somewhere, names that exist. The commands in them are run by `scripts/docs.py`.

use kinglet::config::{Config, FIELDS, PRESETS};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder of the repository that has one of these endings.
fn files(folder: &str, ends: &[&str]) -> Vec<PathBuf> {
    let walk = walkdir(&root().join(folder));
    let is_wanted =
        |path: &PathBuf| path.extension().and_then(|end| end.to_str()).is_some_and(|end| ends.contains(&end));
    walk.into_iter().filter(is_wanted).collect()
}

fn walkdir(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walkdir(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The pages that people read.
fn pages() -> Vec<PathBuf> {
    let top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    top.into_iter().chain(files("docs", &["md"])).collect()
}

/// The targets of a page's links, and what it shows, also in the HTML of pictures that have a light and a dark form.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let marked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let within = |attribute| text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next());
    marked.chain(within(" src=\"")).chain(within(" srcset=\""))
}

/// A heading as the end of a link to it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn has_anchor(page: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(page).unwrap();
    text.lines().any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let (mut count, mut broken) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in links(&text).filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let to = if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            if !to.exists() || !(heading.is_empty() || has_anchor(&to, heading)) {
                broken.push(format!("{}: {target}", page.display()));
            }
            count += 1;
        }
    }
    assert!(count > 80, "only {count} links found");
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_page_can_be_found_from_the_index() {
    let index = root().join("docs/README.md");
    let text = fs::read_to_string(&index).unwrap();
    let linked: BTreeSet<_> = links(&text).map(|target| index.with_file_name(target)).collect();
    for page in files("docs", &["md"]).into_iter().filter(|page| *page != index) {
        assert!(linked.contains(&page), "docs/README.md does not mention {}", page.display());
    }
}

#[test]
fn pictures_are_shown_somewhere() {
    let shown: BTreeSet<_> = pages()
        .iter()
        .flat_map(|page| {
            let text = fs::read_to_string(page).unwrap();
            links(&text)
                .filter_map(|target| page.with_file_name("").join(target).canonicalize().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    for picture in files("docs/img", &["svg", "png"]) {
        assert!(shown.contains(&picture.canonicalize().unwrap()), "no page shows {}", picture.display());
    }
}

#[test]
fn documents_that_the_source_mentions_exist() {
    let mut count = 0;
    let folders = ["src", "crates", "tests", "examples", "scripts"];
    let sources = folders.iter().flat_map(|folder| files(folder, &["rs", "py", "toml", "md"]));
    for source in sources.chain(
        [".ci/run", ".github/workflows/ci.yml", ".github/workflows/release.yml", "Cargo.toml", "fuzz/Cargo.toml"]
            .map(|name| root().join(name)),
    ) {
        let text = fs::read_to_string(&source).unwrap();
        for (at, _) in text.match_indices("docs/") {
            let name = text[at..].split(|c: char| !(c.is_alphanumeric() || "/._-".contains(c))).next().unwrap();
            if name.ends_with(".md") {
                assert!(root().join(name).exists(), "{}: there is no {name}", source.display());
                count += 1;
            }
        }
    }
    assert!(count > 5, "only {count} documents mentioned");
}

/// The words behind an option, in the blocks of commands.
fn values<'a>(text: &'a str, option: &'a str) -> impl Iterator<Item = &'a str> {
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(move |block| block.split(option).skip(1)).filter_map(|rest| {
        rest.strip_prefix([' ', '='])?.split(char::is_whitespace).next().map(|word| word.trim_matches(['"', '\'']))
    })
}

/// Also in blocks that are not run.
#[test]
fn presets_and_keys_in_commands_exist() {
    let (mut presets, mut keys) = (0, 0);
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for name in values(&text, "--preset") {
            assert!(PRESETS.iter().any(|preset| preset.name == name), "{}: no preset {name}", page.display());
            presets += 1;
        }
        for setting in values(&text, "--set") {
            let (key, value) = setting.split_once('=').unwrap_or_else(|| panic!("{}: {setting}", page.display()));
            assert!(FIELDS.iter().any(|field| field.key == key), "{}: no key {key}", page.display());
            // What concerns two keys is checked when all are known.
            Config::default().set(setting).unwrap_or_else(|error| panic!("{}: {value}: {error}", page.display()));
            keys += 1;
        }
    }
    assert!(presets > 10 && keys > 10, "{presets} presets and {keys} keys found");
}

#[test]
fn nothing_is_left_to_be_filled_in() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for word in ["TODO", "FIXME", "XXX"] {
            assert!(!text.split(|c: char| !c.is_ascii_uppercase()).any(|w| w == word), "{}: {word}", page.display());
        }
    }
}
