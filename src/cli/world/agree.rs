//! What ranks agree on before they begin. Rank 0 decides: what it decides has to give the same bits on all of them.

use crate::cli::{program, terminal::status};
use crate::{backend::Cpu, error::Error, ranks::Team, threads::cores};
use anyhow::anyhow;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
};

/// How ranks talk to each other. Other numbers do not understand each other.
const PROTOCOL: u32 = 1;

/// Bytes of a message here, whatever the version.
const LEN: usize = 2048;

/// What a rank tells of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Process {
    pub(super) host: String,
    version: String,
    protocol: u32,
    /// A checksum of the program, if it can be read: one version may be compiled in many ways.
    build: Option<u32>,
    arch: String,
    /// Each instruction set, the fastest first, and its ways of multiplying bf16, the fastest last.
    isas: Vec<(String, Vec<String>)>,
    /// Threads that this process can keep busy.
    cores: usize,
    /// On which cores it may run.
    allowed: Allowed,
    /// On how many cores its parent may: those that the launcher divides.
    around: usize,
}

/// Cores that a process may run on.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
struct Allowed {
    /// A checksum of their list.
    which: u32,
    count: usize,
}

/// What a rank is told.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Terms {
    pub(super) isa: String,
    pub(super) bf16: String,
    pub(super) threads: usize,
    pub(super) patience_s: f64,
}

/// Ends this process with a status and without a message: rank 0 has one.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("rank 0 says why")]
pub(in crate::cli) struct Silent(pub(in crate::cli) u8);

impl Process {
    /// The cores that this process would have without a launcher.
    pub(super) fn around(&self) -> usize {
        self.around
    }

    /// This process's. `cores_of_job` is how many cores of the machine the job may use, if that is known.
    pub(super) fn mine(host: &str, cores_of_job: Option<usize>) -> Process {
        let isas = Cpu::all().into_iter().map(|be| {
            let ways = be.ways_of_bf16().into_iter().map(str::to_owned).collect();
            (be.isa().name().to_owned(), ways)
        });
        let allowed = Allowed::to("self").unwrap_or_default();
        let parent = fs::read_to_string("/proc/self/stat").ok();
        let parent = parent.as_deref().and_then(|stat| stat.rsplit_once(')')?.1.split_whitespace().nth(1));
        let around = parent.and_then(Allowed::to).map_or(0, |allowed| allowed.count);
        let around = around.min(cores_of_job.unwrap_or(usize::MAX));
        Process {
            // A name that takes no more than its share of the message.
            host: host.chars().take(100).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            build: checksum_of_code().ok(),
            arch: std::env::consts::ARCH.to_owned(),
            isas: isas.collect(),
            cores: cores(),
            around: around.max(allowed.count),
            allowed,
        }
    }

    fn ways(&self, isa: &str) -> Option<&[String]> {
        self.isas.iter().find(|(name, _)| name == isa).map(|(_, ways)| &ways[..])
    }

    fn program(&self) -> String {
        format!("kinglet {}", self.version)
    }
}

fn checksum_of_code() -> io::Result<u32> {
    let code = program::code().ok_or(io::ErrorKind::NotFound)?;
    let mut program = fs::File::open(code)?;
    let (mut hasher, mut bytes) = (crc32fast::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match program.read(&mut bytes)? {
            0 => return Ok(hasher.finalize()),
            n => hasher.update(&bytes[..n]),
        }
    }
}

impl Allowed {
    /// Those of a process, where the system tells.
    fn to(process: &str) -> Option<Allowed> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim();
        Some(Allowed { which: crc32fast::hash(list.as_bytes()), count: count(list)? })
    }
}

/// How many numbers there are in a list such as `0-3,8`.
fn count(list: &str) -> Option<usize> {
    let each = list.split(',').map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        Some((last + 1).saturating_sub(first))
    });
    each.sum()
}

/// A message of [`LEN`] bytes.
fn packed(what: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(what)?;
    if bytes.len() > LEN {
        return Err(anyhow!("what a rank tells of itself takes {} bytes, more than {LEN}", bytes.len()));
    }
    bytes.resize(LEN, b' ');
    Ok(bytes)
}

fn unpacked<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// All tell rank 0 what they are; `decide` makes of it what each is told.
pub(super) fn agree(
    team: &Team,
    mine: &Process,
    decide: impl FnOnce(&[Process]) -> anyhow::Result<Vec<Terms>>,
) -> anyhow::Result<Terms> {
    let processes = team.gather(packed(mine)?, |_| LEN);
    if team.rank() > 0 {
        let answer: Option<Result<Terms, u8>> = unpacked(&team.receive(0, LEN));
        return answer.unwrap_or(Err(1)).map_err(|status| Silent(status).into());
    }
    let others = processes.iter().enumerate().map(|(i, bytes)| {
        let other = || anyhow!("rank {} runs another version of kinglet than rank 0: install one on all hosts", i + 1);
        unpacked::<Process>(bytes).ok_or_else(other)
    });
    let all: anyhow::Result<Vec<Process>> = std::iter::once(Ok(mine.clone())).chain(others).collect();
    let decided = all.and_then(|all| decide(&all));
    let answers: Vec<Result<&Terms, u8>> = match &decided {
        Ok(terms) => terms.iter().map(Ok).collect(),
        Err(error) => vec![Err(status(error)); team.size()],
    };
    for (rank, answer) in answers.into_iter().enumerate().skip(1) {
        team.send(rank, packed(&answer)?);
    }
    team.settle();
    decided.map(|mut terms| terms.swap_remove(0))
}

/// What all are told: they must be able to compute the same bits. `isa` is the instruction set that is asked for.
pub(super) fn decide(processes: &[Process], isa: Option<&str>, patience_s: f64) -> Result<Vec<Terms>, Error> {
    let named = |rank: usize| format!("rank {rank} (host {})", processes[rank].host);
    let first = &processes[0];
    for (rank, process) in processes.iter().enumerate() {
        let refused = |what: String| Err(Error::Ranks(format!("{} {what}", named(rank))));
        if (&process.version, process.protocol) != (&first.version, first.protocol) {
            let (theirs, ours) = (process.program(), first.program());
            return refused(format!("runs {theirs}, but {} runs {ours}: install one version on all hosts", named(0)));
        }
        if process.arch != first.arch {
            return refused(format!(
                "has a processor of another kind ({}) than {} ({}), so that it cannot compute the same bits",
                process.arch,
                named(0),
                first.arch
            ));
        }
        if process.build.zip(first.build).is_some_and(|(theirs, ours)| theirs != ours) {
            return refused(format!(
                "runs another build of {} than {}, which may compute other bits: copy one program to all hosts",
                process.program(),
                named(0)
            ));
        }
    }
    let common = |isa: &str| processes.iter().all(|process| process.ways(isa).is_some());
    let isa = match isa {
        Some(isa) => {
            if let Some(rank) = processes.iter().position(|process| process.ways(isa).is_none()) {
                let names: Vec<_> = processes[rank].isas.iter().map(|(name, _)| name.as_str()).collect();
                let has = names.join(", ");
                return Err(Error::BadConfig(format!("KINGLET_ISA = {isa}: {} supports {has}", named(rank))));
            }
            isa
        }
        None => first.isas.iter().map(|(name, _)| name.as_str()).find(|isa| common(isa)).expect("all have scalar"),
    };
    let ways = first.ways(isa).expect("all have it");
    let is_common =
        |way: &&String| processes.iter().all(|process| process.ways(isa).is_some_and(|ways| ways.contains(way)));
    let bf16 = ways.iter().rev().find(is_common).expect("all have f32");
    let threads = threads(processes).into_iter();
    Ok(threads.map(|threads| Terms { isa: isa.into(), bf16: bf16.clone(), threads, patience_s }).collect())
}

/// The threads of each rank: those that may run on the same cores of a machine share them.
fn threads(processes: &[Process]) -> Vec<usize> {
    let place = |process: &Process| (process.host.clone(), process.allowed.which);
    let mut sharing = BTreeMap::new();
    processes.iter().for_each(|process| *sharing.entry(place(process)).or_insert(0) += 1);
    processes.iter().map(|process| (process.cores / sharing[&place(process)]).max(1)).collect()
}

/// What is worth knowing of what was decided.
pub(super) fn notes(processes: &[Process], terms: &Terms, threads_are_given: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some((best, _)) = processes[0].isas.first().filter(|(best, _)| *best != terms.isa)
        && let Some(rank) = processes.iter().position(|process| process.ways(best).is_none())
    {
        let host = &processes[rank].host;
        notes.push(format!("all ranks compute with {}: rank {rank} (host {host}) has no {best}", terms.isa));
    }
    let hosts: BTreeSet<&str> = processes.iter().map(|process| process.host.as_str()).collect();
    for host in hosts.into_iter().filter(|_| !threads_are_given) {
        let here = || processes.iter().filter(|process| process.host == host);
        let used: BTreeMap<u32, usize> = here().map(|process| (process.allowed.which, process.allowed.count)).collect();
        let (used, around) = (used.values().sum::<usize>(), here().map(|process| process.around).max().unwrap_or(0));
        if used < around {
            notes.push(format!(
                "the launcher lets the ranks of host {host} use {used} of its {around} cores: `mpirun --bind-to none`, or \
                 `srun --cpus-per-task`, gives them more"
            ));
            break;
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks;

    fn process(host: &str, isas: &[(&str, &[&str])], (cores, which): (usize, u32)) -> Process {
        let isas = isas.iter().map(|(isa, ways)| ((*isa).into(), ways.iter().map(|way| (*way).into()).collect()));
        let allowed = Allowed { which, count: cores };
        let mine = Process { build: Some(7), ..Process::mine("", None) };
        Process { host: host.into(), isas: isas.collect(), cores, around: cores, allowed, ..mine }
    }

    const PLAIN: &[(&str, &[&str])] = &[("avx2", &["f32"]), ("scalar", &["f32"])];
    const WIDE: &[(&str, &[&str])] = &[("avx512", &["f32", "vectors"]), ("avx2", &["f32"]), ("scalar", &["f32"])];
    const TILES: &[(&str, &[&str])] =
        &[("avx512", &["f32", "vectors", "tiles"]), ("avx2", &["f32"]), ("scalar", &["f32"])];

    /// Each rank in a thread; what each is told, or the error of rank 0 and the statuses of the others.
    fn told(processes: &[Process], isa: Option<&str>) -> Vec<Result<Terms, String>> {
        let teams: Vec<Team> = ranks::threads(processes.len()).into_iter().map(Team::new).collect();
        std::thread::scope(|scope| {
            let each = teams.iter().zip(processes).map(|(team, process)| {
                scope.spawn(|| agree(team, process, |processes| Ok(decide(processes, isa, 600.0)?)))
            });
            let each: Vec<_> = each.collect();
            let shown = |error: anyhow::Error| match error.downcast_ref() {
                Some(Silent(status)) => status.to_string(),
                None => error.to_string(),
            };
            each.into_iter().map(|rank| rank.join().unwrap().map_err(shown)).collect()
        })
    }

    #[test]
    fn the_best_that_all_have_is_used_by_all() {
        for (processes, isa, bf16) in [
            ([PLAIN, PLAIN], "avx2", "f32"),
            ([TILES, TILES], "avx512", "tiles"),
            ([TILES, WIDE], "avx512", "vectors"),
            ([WIDE, TILES], "avx512", "vectors"),
            ([TILES, PLAIN], "avx2", "f32"),
            ([PLAIN, WIDE], "avx2", "f32"),
            ([PLAIN, &PLAIN[1..]], "scalar", "f32"),
        ] {
            let processes = processes.map(|isas| process("a", isas, (4, 0)));
            let told = told(&processes, None);
            let terms = Terms { isa: isa.into(), bf16: bf16.into(), threads: 2, patience_s: 600.0 };
            assert_eq!(told, [Ok(terms.clone()), Ok(terms.clone())]);
            let notes = notes(&processes, &terms, false);
            assert_eq!(notes.len(), usize::from(processes[0].isas[0].0 != isa), "{notes:?}");
        }
        let processes = [process("a", TILES, (1, 0)), process("b", WIDE, (1, 0)), process("c", PLAIN, (1, 0))];
        assert!(told(&processes, Some("avx2")).iter().all(|told| told.as_ref().is_ok_and(|terms| terms.isa == "avx2")));
        let told = told(&processes, Some("avx512"));
        let expected = "KINGLET_ISA = avx512: rank 2 (host c) supports avx2, scalar";
        assert_eq!(told, [Err(expected.to_owned()), Err("2".into()), Err("2".into())]);
    }

    #[test]
    fn ranks_that_could_compute_other_bits_are_refused() {
        let refused = |change: fn(&mut Process)| {
            let mut processes = vec![process("a", PLAIN, (1, 0)); 3];
            (processes[2].host, processes[1].host) = ("c".into(), "b".into());
            change(&mut processes[2]);
            let told = told(&processes, None);
            assert_eq!(told[1..], [Err("1".to_owned()), Err("1".to_owned())]);
            told[0].clone().unwrap_err()
        };
        let version = refused(|process| process.version = "9.9.9".into());
        assert!(
            version.starts_with("rank 2 (host c) runs kinglet 9.9.9, but rank 0 (host a) runs kinglet "),
            "{version}"
        );
        assert!(refused(|process| process.protocol += 1).contains("install one version"));
        assert!(refused(|process| process.build = Some(process.build.unwrap() ^ 1)).contains("another build"));
        assert!(refused(|process| process.arch = "abacus".into()).contains("of another kind (abacus)"));
        // A program that cannot be read is not held against it.
        let mut processes = vec![process("a", PLAIN, (1, 0)); 2];
        processes[1].build = None;
        assert!(told(&processes, None).iter().all(Result::is_ok));
    }

    #[test]
    fn ranks_on_the_same_cores_share_them() {
        let of = |places: &[(&str, usize, u32)]| {
            let processes = places.iter().map(|&(host, cores, which)| process(host, PLAIN, (cores, which)));
            threads(&processes.collect::<Vec<_>>())
        };
        assert_eq!(of(&[("a", 8, 0); 3]), [2, 2, 2]);
        assert_eq!(of(&[("a", 2, 0); 3]), [1, 1, 1]);
        assert_eq!(of(&[("a", 8, 0), ("b", 8, 0)]), [8, 8], "two machines");
        assert_eq!(of(&[("a", 4, 1), ("a", 4, 2)]), [4, 4], "each has cores of its own");
        assert_eq!(of(&[("a", 4, 1), ("a", 4, 1), ("b", 16, 1)]), [2, 2, 16]);
    }

    #[test]
    fn cores_that_the_launcher_keeps_from_all_are_noted() {
        let mut processes = [process("a", PLAIN, (1, 1)), process("a", PLAIN, (1, 2))];
        let terms = decide(&processes, None, 1.0).unwrap().remove(0);
        assert_eq!((notes(&processes, &terms, false).len(), terms.threads), (0, 1));
        processes.iter_mut().for_each(|process| process.around = 16);
        let notes = notes(&processes, &terms, false);
        assert!(notes.len() == 1 && notes[0].contains("2 of its 16 cores"), "{notes:?}");
        assert!(super::notes(&processes, &terms, true).is_empty());
    }

    #[test]
    fn lists_of_cores_are_counted() {
        let lists =
            [("0", Some(1)), ("0-3", Some(4)), ("0-3,8,10-11", Some(7)), ("", None), ("x", None), ("3-0", Some(0))];
        lists.iter().for_each(|(list, n)| assert_eq!(count(list), *n, "{list}"));
        assert!(count(&"0-1,".repeat(3)).is_none());
    }

    #[test]
    fn a_rank_that_says_something_else_has_another_version() {
        let mut teams: Vec<Team> = ranks::threads(2).into_iter().map(Team::new).collect();
        let other = teams.pop().unwrap();
        other.send(0, vec![b'?'; LEN]);
        let error = agree(&teams[0], &process("a", PLAIN, (1, 0)), |_| unreachable!()).unwrap_err();
        assert!(error.to_string().contains("another version"), "{error}");
        assert_eq!(unpacked::<Result<Terms, u8>>(&other.receive(0, LEN)), Some(Err(1)));
    }
}
