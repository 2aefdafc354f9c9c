//! Who started this process, told from its environment, and which MPI library belongs to that.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Environment variables, by name.
pub type Variables = BTreeMap<String, OsString>;

/// The start of this process as one of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// How many processes the launcher promises; `None` if only MPI knows.
    pub size: Option<usize>,
    /// Which of them this one is.
    pub rank: usize,
    /// Whether it is the first of them on its machine, as far as the launcher tells.
    pub is_first_here: bool,
    /// Cores of this machine that the job may use, where Slurm tells.
    pub cores: Option<usize>,
    /// Whether Slurm's `srun` started it, which may or may not speak MPI's language.
    pub by_slurm: bool,
    /// Where the library may be, the likeliest first.
    pub libraries: Vec<Library>,
}

/// Where an MPI library may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Library {
    /// Where the system looks for libraries.
    Named(String),
    /// This file.
    At(PathBuf),
}

impl Library {
    /// The name or path to open.
    pub fn path(&self) -> &Path {
        match self {
            Library::Named(name) => Path::new(name),
            Library::At(path) => path,
        }
    }
}

/// The folders beside a launcher's where its library may be.
const BESIDE: [&str; 2] = ["lib", "lib64"];

impl Launch {
    /// How this process was started, if that was as one of several. `launcher` is the program that started it, if that is known: its
    /// own library is the first choice.
    ///
    /// `KINGLET_MPI` is the path of a library to use instead, or `none`, which means that there is no launcher.
    pub fn of(variables: &Variables, launcher: Option<&Path>) -> Option<Launch> {
        let text = |name: &str| variables.get(name).and_then(|value| value.to_str());
        let number = |name: &str| text(name).and_then(|value| value.trim().parse::<usize>().ok());
        let first = |names: &[&str]| names.iter().find_map(|name| number(name));
        let chosen = variables.get("KINGLET_MPI").filter(|path| !path.is_empty());
        if chosen.is_some_and(|path| path == "none") {
            return None;
        }
        let has = |names: &[&str]| names.iter().any(|name| variables.contains_key(*name));
        let by_open_mpi = has(&["OMPI_COMM_WORLD_SIZE"]);
        let by_pmi = has(&["PMI_SIZE", "PMI_RANK"]);
        let by_pmix = has(&["PMIX_RANK"]);
        // Only a step of Slurm's has several processes: a script of `sbatch` runs once, whatever its job may use.
        let by_slurm = number("SLURM_STEP_NUM_TASKS").is_some() && !by_open_mpi;
        let size =
            if by_open_mpi { number("OMPI_COMM_WORLD_SIZE") } else { first(&["PMI_SIZE", "SLURM_STEP_NUM_TASKS"]) };
        if size == Some(1) || size.is_none() && !by_open_mpi && !by_pmi && !by_pmix {
            return None;
        }
        let rank = first(&["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"]).unwrap_or(0);
        let here = first(&["OMPI_COMM_WORLD_LOCAL_RANK", "PMIX_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"]);
        let is_first_here = rank == 0 || here == Some(0);
        let libraries = match chosen {
            Some(path) => vec![Library::At(path.into())],
            None => libraries(by_open_mpi || by_pmix && !by_pmi, launcher),
        };
        let cores = number("SLURM_CPUS_ON_NODE");
        Some(Launch { size, rank, is_first_here, cores, by_slurm, libraries })
    }
}

/// The libraries that may belong to a launcher: first those beside it, then the system's.
fn libraries(open_mpi: bool, launcher: Option<&Path>) -> Vec<Library> {
    let file = |name: &str, version: u32| match cfg!(target_os = "macos") {
        true => format!("{name}.{version}.dylib"),
        false => format!("{name}.so.{version}"),
    };
    let (open, standard) = (file("libmpi", 40), file("libmpi_abi", 1));
    // The last is MPICH's in Debian.
    let mpich = [file("libmpi", 12), file("libmpich", 12)];
    let names: Vec<String> = match open_mpi {
        true => [open, standard].into_iter().chain(mpich).collect(),
        false => [standard].into_iter().chain(mpich).chain([open]).collect(),
    };
    let prefix = launcher.and_then(|launcher| launcher.parent()?.parent());
    let folders = prefix.iter().flat_map(|prefix| BESIDE.map(|folder| prefix.join(folder)));
    let beside: Vec<Library> =
        folders.flat_map(|folder| names.iter().map(move |n| Library::At(folder.join(n)))).collect();
    beside.into_iter().chain(names.iter().cloned().map(Library::Named)).collect()
}

/// The MPI launcher among the programs from which this one descends.
#[cfg(target_os = "linux")]
pub(crate) fn launcher() -> Option<PathBuf> {
    /// Programs between it and this one that are looked at: a shell or `numactl`.
    const BETWEEN: usize = 4;
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may contain anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let ancestors = std::iter::successors(Some(std::process::id()), |&pid| parent(pid)).skip(1).take(BETWEEN);
    let programs = ancestors.filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
    programs.into_iter().find(|program| {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        ["hydra", "mpirun", "mpiexec", "orte", "prte", "prun"].iter().any(|launcher| name.starts_with(launcher))
    })
}

/// Elsewhere it is not known.
#[cfg(not(target_os = "linux"))]
pub(crate) fn launcher() -> Option<PathBuf> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<Launch> {
        Launch::of(&variables.iter().map(|(name, value)| ((*name).into(), value.into())).collect(), None)
    }

    fn first(variables: &[(&str, &str)]) -> (Option<usize>, usize, String) {
        let Launch { size, rank, libraries, .. } = of(variables).unwrap();
        (size, rank, libraries[0].path().display().to_string())
    }

    #[test]
    fn one_process_needs_no_mpi() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("KINGLET_MPI", "/opt/libmpi.so")]), None);
        for size in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"] {
            assert_eq!(of(&[(size, "1"), ("PMIX_RANK", "0")]), None, "{size}");
        }
        // A script of sbatch, which runs once.
        assert_eq!(of(&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")]), None);
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "4"), ("PMI_SIZE", "3"), ("KINGLET_MPI", "none")]), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_launcher_has_its_library() {
        let open = [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "2"), ("PMIX_RANK", "2")];
        assert_eq!(first(&open), (Some(4), 2, "libmpi.so.40".into()));
        let hydra = [("PMI_SIZE", "3"), ("PMI_RANK", "1"), ("PMI_FD", "6")];
        assert_eq!(first(&hydra), (Some(3), 1, "libmpi_abi.so.1".into()));
        let names: Vec<_> = of(&hydra).unwrap().libraries.iter().map(|l| l.path().display().to_string()).collect();
        assert_eq!(names, ["libmpi_abi.so.1", "libmpi.so.12", "libmpich.so.12", "libmpi.so.40"]);
        // srun with PMIx, with PMI-2, and with neither.
        let slurm = [("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_PROCID", "5")];
        let pmix = [slurm[0], slurm[1], ("PMIX_RANK", "5")];
        assert_eq!(first(&pmix), (Some(8), 5, "libmpi.so.40".into()));
        let pmi = [slurm[0], slurm[1], ("PMI_RANK", "5"), ("PMI_SIZE", "8")];
        assert_eq!(first(&pmi), (Some(8), 5, "libmpi_abi.so.1".into()));
        assert!(of(&slurm).is_some_and(|launch| launch.by_slurm && launch.size == Some(8) && launch.rank == 5));
        // mpirun inside of a step of Slurm's.
        let inside: Vec<_> = open.iter().chain([&("SLURM_STEP_NUM_TASKS", "1")]).copied().collect();
        assert!(of(&inside).is_some_and(|launch| !launch.by_slurm && launch.size == Some(4)));
        // Only MPI knows how many there are.
        assert_eq!(first(&[("PMIX_RANK", "1")]), (None, 1, "libmpi.so.40".into()));
    }

    #[test]
    fn a_path_goes_before_all_else() {
        let chosen = of(&[("PMI_SIZE", "2"), ("KINGLET_MPI", "/opt/lib/libmpi.so")]).unwrap();
        assert_eq!(chosen.libraries, [Library::At("/opt/lib/libmpi.so".into())]);
    }

    #[test]
    fn the_library_beside_the_launcher_goes_before_the_system_s() {
        let variables = [("PMI_SIZE".into(), "2".into())].into();
        let launch = Launch::of(&variables, Some(Path::new("/venv/bin/hydra_pmi_proxy"))).unwrap();
        let system = launch.libraries.iter().position(|library| matches!(library, Library::Named(_))).unwrap();
        let beside = launch.libraries[..system].iter().map(Library::path);
        assert!(beside.clone().all(|path| path.starts_with("/venv/lib") || path.starts_with("/venv/lib64")));
        assert_eq!((system, launch.libraries.len()), (8, 12));
    }
}
