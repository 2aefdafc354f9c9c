//! One way down: a room imports only rooms below it, and no two files import each other, however many are between them.
//! docs/DESIGN.md draws the house.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The crates and their rooms, lowest first: a room is a folder or file directly below a crate's `src`.
const FLOORS: [(&str, &str, &[&str]); 4] = [
    ("kinglet_kernels", "crates/kernels/src", &[]),
    (
        "kinglet_core",
        "crates/core/src",
        &[
            "error", "config", "rng", "threads", "ngram", "batch", "params", "quant", "backend", "model", "sample",
            "ranks", "shards", "optim", "masters", "replica", "guard",
        ],
    ),
    ("kinglet_mpi", "crates/mpi/src", &["calls", "launch", "library", "messages", "mpi"]),
    (
        "kinglet",
        "src",
        &[
            "system",
            "text",
            "data",
            "run",
            "report",
            "train",
            "hands",
            "tune",
            "grid",
            "inference",
            "quantize",
            "formats",
            "engine",
            "serve",
            "cli",
            "main",
        ],
    ),
];

/// A source file: which crate it is of, its module's path in it, and what is in it.
struct Source {
    krate: usize,
    module: Vec<String>,
    path: PathBuf,
    text: String,
}

/// An import: from which file, by which line, of which file.
#[derive(Clone, Debug)]
struct Import {
    from: usize,
    line: String,
    to: usize,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for (krate, (_, folder, _)) in FLOORS.iter().enumerate() {
        let mut folders = vec![root.join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let inside = path.strip_prefix(root.join(FLOORS[krate].1)).unwrap().with_extension("");
                    let names = inside.iter().map(|name| name.to_string_lossy().into_owned());
                    let module = names.filter(|name| name != "lib").collect();
                    let text = fs::read_to_string(&path).unwrap();
                    found.push(Source { krate, module, path, text });
                }
            }
        }
    }
    found
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expand(tree: &str, prefix: &str, out: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((before, inside)) = tree.split_once('{') else { return out.push(format!("{prefix}{tree}")) };
    let (prefix, mut depth, mut from) = (format!("{prefix}{}", before.trim()), 0, 0);
    let inside = inside.trim_end().strip_suffix('}').expect("braces are closed");
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&inside[from..at], &prefix, out);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !inside[from..].trim().is_empty() {
        expand(&inside[from..], &prefix, out);
    }
}

/// A path that a file names, and where.
struct Named {
    line: String,
    path: Vec<String>,
    /// Whether it is a `pub use`.
    shown: bool,
}

/// All paths that a file names, tests apart, and whether it has nothing but `mod` and `use`: then it is the face of its room.
fn paths(source: &Source) -> (Vec<Named>, bool) {
    let code = source.text.split("#[cfg(test)]\nmod ").next().unwrap();
    let (mut found, mut is_face) = (Vec::new(), true);
    let mut name = |line: &str, path: &str, shown| {
        let names = path.split("::").map(|name| name.split_whitespace().next().unwrap_or_default());
        let path = names.map(|name| name.trim_start_matches("r#").to_owned()).collect();
        found.push(Named { line: line.trim().to_owned(), path, shown });
    };
    let mut lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let children: Vec<&str> =
        code.lines().filter_map(|line: &str| Some(line.strip_suffix(';')?.rsplit_once("mod ")?.1)).collect();
    while let Some(line) = lines.next() {
        let imported = line.trim_start().split_once("use ").filter(|(before, tree)| {
            let path = tree.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            (before.is_empty() || before.starts_with("pub")) && path.starts_with("::")
        });
        if let Some((before, tree)) = imported {
            let mut tree = tree.to_owned();
            while !tree.contains(';') {
                tree += lines.next().expect("a use ends");
            }
            let mut leaves = Vec::new();
            expand(tree.split(';').next().unwrap(), "", &mut leaves);
            leaves.iter().for_each(|leaf| name(&format!("use {leaf}"), leaf, !before.is_empty()));
            continue;
        }
        let word = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        is_face &= word.is_empty() || word.starts_with("mod ") || line.starts_with('#');
        let roots = ["crate", "super"].into_iter().chain(children.iter().copied());
        for (at, root) in roots.flat_map(|root| line.match_indices(root)) {
            // Not the second of `super::super`, nor the end of another name, nor who may see something.
            let before = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if line[at + root.len()..].starts_with("::") && !before && !line[..at].ends_with("in ") {
                let end = line[at..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
                name(line, &line[at..end.map_or(line.len(), |end| at + end)], false);
            }
        }
    }
    (found, is_face)
}

/// The module and the names in it that a path in a file leads to, from the root of a crate.
fn absolute(source: &Source, path: &[String]) -> (usize, Vec<String>) {
    let (first, rest) = path.split_first().expect("a path has a name");
    match first.as_str() {
        "crate" => (source.krate, rest.to_vec()),
        "self" => (source.krate, [&source.module, rest].concat()),
        "super" => {
            let ups = path.iter().take_while(|name| *name == "super").count();
            let module = &source.module[..source.module.len().saturating_sub(ups)];
            (source.krate, [module, &path[ups..]].concat())
        }
        name => match FLOORS.iter().position(|(krate, ..)| *krate == name) {
            Some(krate) => (krate, rest.to_vec()),
            None => (source.krate, [&source.module[..], path].concat()),
        },
    }
}

/// Every import between the files. What a face shows is imported from the file that it is in.
fn imports(sources: &[Source]) -> Vec<Import> {
    let files: BTreeMap<(usize, &[String]), usize> =
        sources.iter().enumerate().map(|(i, source)| ((source.krate, &source.module[..]), i)).collect();
    let file_of = |krate: usize, path: &[String]| {
        (0..=path.len())
            .rev()
            .find_map(|len| files.get(&(krate, &path[..len])).map(|&file| (file, path[len..].to_vec())))
    };
    let named: Vec<_> = sources.iter().map(paths).collect();
    let mut shown: BTreeMap<(usize, &str), (usize, Vec<String>)> = BTreeMap::new();
    for (i, (paths, is_face)) in named.iter().enumerate() {
        for Named { path, .. } in paths.iter().filter(|named| *is_face && named.shown) {
            shown.insert((i, path.last().unwrap()), absolute(&sources[i], path));
        }
    }
    let mut found = Vec::new();
    for (from, (paths, is_face)) in named.iter().enumerate() {
        for Named { line, path, .. } in paths.iter().filter(|named| !(*is_face && named.shown)) {
            let (krate, names) = absolute(&sources[from], path);
            let Some((mut to, mut rest)) = file_of(krate, &names) else { continue };
            while let Some((krate, path)) = rest.first().and_then(|name| shown.get(&(to, name.as_str()))) {
                let Some(next) = file_of(*krate, path) else { break };
                (to, rest) = next;
            }
            // A name without a path is of the file itself, or of a crate from elsewhere.
            let elsewhere = to == from
                || sources[to].module.is_empty()
                    && path[0] != "crate"
                    && path[0] != "super"
                    && krate == sources[from].krate;
            if !elsewhere {
                found.push(Import { from, line: line.clone(), to });
            }
        }
    }
    found.dedup_by_key(|import| (import.from, import.line.clone(), import.to));
    found
}

/// What runs up: an import of a higher crate, or of a higher room of the same one.
fn runs_up(sources: &[Source], imports: &[Import]) -> Vec<String> {
    let floor = |source: &Source| {
        let rooms = FLOORS[source.krate].2;
        let room = source.module.first().and_then(|room| rooms.iter().position(|name| name == room));
        assert!(
            rooms.is_empty() || source.module.is_empty() || room.is_some(),
            "{} is in no room",
            source.path.display()
        );
        (source.krate, room.unwrap_or(0))
    };
    let up = |import: &&Import| floor(&sources[import.to]) > floor(&sources[import.from]);
    imports.iter().filter(up).map(|import| told(sources, import)).collect()
}

/// The imports that are part of a circle of files.
fn circles(sources: &[Source], imports: &[Import]) -> Vec<String> {
    let mut below: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    imports.iter().for_each(|import| _ = below.entry(import.from).or_default().insert(import.to));
    let reaches = |from: usize, to: usize| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            if seen.insert(at) {
                next.extend(below.get(&at).into_iter().flatten());
            }
        }
        seen.contains(&to)
    };
    imports.iter().filter(|import| reaches(import.to, import.from)).map(|import| told(sources, import)).collect()
}

fn told(sources: &[Source], Import { from, line, to }: &Import) -> String {
    format!("{} imports {}: {line}", sources[*from].path.display(), sources[*to].path.display())
}

#[test]
fn every_import_runs_down_and_none_in_a_circle() {
    let sources = sources();
    let imports = imports(&sources);
    assert!(sources.len() > 60 && imports.len() > 200, "{} files, {} imports", sources.len(), imports.len());
    let (up, circles) = (runs_up(&sources, &imports), circles(&sources, &imports));
    assert!(up.is_empty() && circles.is_empty(), "up:\n{}\ncircles:\n{}", up.join("\n"), circles.join("\n"));
}

#[test]
fn what_is_planted_is_found() {
    let plant = |name: &str, text: &str| {
        let mut sources = sources();
        sources.iter_mut().find(|source| source.path.ends_with(name)).unwrap().text.insert_str(0, text);
        let imports = imports(&sources);
        (runs_up(&sources, &imports), circles(&sources, &imports))
    };
    let (up, circles) = plant("src/text/tokenizer.rs", "use crate::{\n    run::RunDir,\n    text::chat,\n};\n");
    assert!(up.len() == 1 && up[0].ends_with("src/run/dir.rs: use crate::run::RunDir"), "{up:?}");
    assert!(circles.iter().any(|line| line.contains("run/dir.rs imports")), "runs have tokenizers: {circles:?}");
    let (up, circles) = plant("core/src/batch.rs", "fn f() {\n    let x = crate::shards::LARGE;\n}\n");
    assert!(up.len() == 1 && up[0].contains("crate::shards::LARGE") && !circles.is_empty(), "{up:?}");
    let (up, _) = plant("core/src/error.rs", "use kinglet::Model;\n");
    assert_eq!(up.len(), 1, "{up:?}");
    let (up, circles) = plant("src/train/event.rs", "use super::job::{self, Job};\n");
    assert!(up.is_empty() && circles.is_empty(), "inside a room, and no circle: {circles:?}");
    let (_, circles) = plant("src/train/plan.rs", "use super::job::Job;\nuse super::measure;\n");
    assert!(circles.iter().any(|line| line.contains("plan.rs imports")), "{circles:?}");
}
