//! Files of other programs, whole and damaged: nothing panics. The fuzz targets in `fuzz/` look longer for what these check in
//! every test run.

use crate::common::{
    damage::{changes, damage},
    foreign,
};
use proptest::prelude::*;
use std::{fs, path::Path};

type Read = fn(&[u8]) -> bool;

/// Each reader, and the good files in its folder of `fuzz/corpus`.
const READERS: [(&str, Read, &[&str]); 10] = [
    ("pytorch", foreign::pytorch, &["lecture", "legacy", "nanogpt"]),
    ("safetensors", foreign::safetensors, &["nanogpt", "half"]),
    ("gguf", foreign::gguf, &["llama", "gpt2-q8_0"]),
    ("llm_c", foreign::llm_c, &["version-3", "version-5"]),
    ("llama2_c", foreign::llama2_c, &["first", "version-1"]),
    ("int8", foreign::int8, &["lecture"]),
    ("unnamed", foreign::unnamed, &["llm_c", "gguf"]),
    ("hugging_face", foreign::hugging_face, &["llama"]),
    ("peft", foreign::peft, &["both", "lora"]),
    ("meta", foreign::meta, &["chars"]),
];

fn file(reader: &str, name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(reader).join(name)).unwrap()
}

#[test]
fn the_good_files_are_imported() {
    for (reader, read, good) in READERS {
        for name in good {
            assert!(read(&file(reader, name)), "{reader}/{name} is refused");
        }
    }
}

#[test]
fn what_the_fuzzer_kept_is_still_harmless() {
    for (reader, read, good) in READERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(reader);
        let files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        files.iter().for_each(|path| _ = read(&fs::read(path).unwrap()));
        let kept = files.len();
        assert!(kept >= good.len(), "{reader}");
    }
}

#[test]
fn files_that_are_cut_off_anywhere_are_refused() {
    for (reader, read, good) in READERS {
        // A description in JSON or a pickle may end early and still be whole; weights may not.
        if ["hugging_face", "meta", "peft"].contains(&reader) {
            continue;
        }
        for name in good {
            let whole = file(reader, name);
            let cuts = (0..whole.len()).step_by((whole.len() / 60).max(1));
            let imported: Vec<_> = cuts.filter(|&at| read(&whole[..at])).collect();
            assert!(imported.is_empty(), "{reader}/{name} of {} bytes, cut at {imported:?}", whole.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for (_, read, _) in READERS {
            read(&bytes);
        }
    }

    #[test]
    fn damaged_files(
        which in any::<prop::sample::Index>(),
        of in any::<prop::sample::Index>(),
        changes in changes(),
    ) {
        let (reader, read, good) = READERS[which.index(READERS.len())];
        let mut bytes = file(reader, good[of.index(good.len())]);
        damage(&mut bytes, changes);
        read(&bytes);
    }
}
