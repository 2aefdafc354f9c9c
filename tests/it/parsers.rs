//! Bytes from outside, random and mutated: nothing panics, and what is read is read back the same. The fuzz targets in
//! `fuzz/` look longer for what these check in every test run.

use crate::common::{
    damage::{changes, damage},
    parsers,
};
use kinglet::{
    Model,
    config::{Config, Quantization},
    run::{State, read_tensors},
    text::tokenizer::CharTokenizer,
};
use proptest::prelude::*;
use std::{fs, io::Cursor, path::Path, sync::LazyLock};

type Parse = fn(&[u8]);

/// All parsers, with the names of their fuzz targets.
const PARSERS: [(&str, Parse); 8] = [
    ("config", parsers::config),
    ("tokenizer", parsers::tokenizer),
    ("state", parsers::state),
    ("tensors", parsers::tensors),
    ("metrics", parsers::metrics),
    ("corpus", parsers::corpus),
    ("ids", parsers::ids),
    ("template", parsers::template),
];

/// Good files of each kind, to be damaged.
static GOOD: LazyLock<Vec<(Parse, Vec<u8>)>> = LazyLock::new(|| {
    vec![
        (parsers::config as Parse, Config::preset("gpt2").unwrap().to_toml().into_bytes()),
        (
            parsers::config,
            b"n_layer = 3\n[a]\nbias = [\"mlp\"]\ndata = [\"x\", \"-\"]\nlearning_rate = 1e-3\n".to_vec(),
        ),
        (parsers::tokenizer, CharTokenizer::train("abc \u{1f426}\n\"\\").to_json().into_bytes()),
        (parsers::state, serde_json::to_vec(&State::default()).unwrap()),
        (parsers::tensors, weights()),
        (parsers::corpus, b"{\"text\": \"a\"}\n{\"prompt\": \"b\", \"response\": \"c\"}\n".to_vec()),
        (parsers::corpus, b"id,text\n1,\"a, b\"\n2,c\n".to_vec()),
        (parsers::corpus, b"prompt\tresponse\tsystem\na\t\"b\t\n".to_vec()),
        (parsers::corpus, b"\xff\xfea\0\n\0\x3d\xd8\x26\xdc".to_vec()),
        (parsers::corpus, b"[{\"text\": \"a\\ud83d\\udc26\", \"n\": [NaN, -1.5e3]},\n {\"text\": null}]".to_vec()),
        (
            parsers::corpus,
            b"{\"system\": \"s\", \"conversations\": [{\"from\": \"human\", \"value\": [{\"type\": \"text\", \"text\": \"a\"}]}, \
              {\"from\": \"gpt\", \"value\": \"b\", \"weight\": 0}]}"
                .to_vec(),
        ),
        (parsers::corpus, b"{\"instruction\": \"a\", \"input\": 3, \"output\": true, \"history\": [[\"b\", \"c\"]]}".to_vec()),
        (
            parsers::corpus,
            b"[{\"mapping\": {\"r\": {\"message\": null}, \"a\": {\"parent\": \"r\", \"message\": {\"author\": {\"role\": \"user\"}, \
              \"content\": {\"content_type\": \"text\", \"parts\": [\"q\", {}]}}}, \"b\": {\"parent\": \"a\", \"message\": \
              {\"author\": {\"role\": \"assistant\"}, \"content\": {\"content_type\": \"text\", \"parts\": [\"w\"]}, \
              \"recipient\": \"all\"}}}, \"current_node\": \"b\"}]"
                .to_vec(),
        ),
        (parsers::ids, [b"KINGLET\0", &[1, 0, 0, 0, 2, 0, 0, 0, 2][..], &[0; 111], &[5, 0, 6, 0]].concat()),
        (parsers::template, kinglet::text::chat::DEFAULT_TEMPLATE.as_bytes().to_vec()),
        (parsers::template, GENERATION.as_bytes().to_vec()),
        (parsers::tensors, include_bytes!("../../fuzz/corpus/tensors/w8").to_vec()),
        (parsers::tensors, include_bytes!("../../fuzz/corpus/tensors/w4").to_vec()),
        (parsers::metrics, include_bytes!("../../fuzz/corpus/metrics/run").to_vec()),
    ]
});

/// A template that says itself what is learned.
const GENERATION: &str = "{% for m in messages %}{{ m.role }}{%- if m.role == 'assistant' -%}{% generation %}{{ m.content }}</s>\
     {% endgeneration %}{% else %}{{ m.content | tojson }}{% endif %}{% endfor %}";

/// A safetensors file as one is specified: the header's length, the header, the numbers.
fn weights() -> Vec<u8> {
    let mut entries = Vec::new();
    for tensor in &parsers::layout().tensors {
        let (start, end) = (4 * tensor.span.start, 4 * tensor.span.range().end);
        entries.push(format!(
            "\"{}\":{{\"dtype\":\"F32\",\"shape\":{:?},\"data_offsets\":[{start},{end}]}}",
            tensor.name, tensor.shape
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend((0..parsers::layout().len()).flat_map(|i| (i as f32).to_le_bytes()));
    bytes
}

#[test]
fn the_good_files_are_good() {
    for (parse, bytes) in &*GOOD {
        parse(bytes);
    }
    let (lines, damaged) = kinglet::run::parse_metrics(&GOOD.last().unwrap().1);
    assert!(lines.len() > 3 && damaged == 0);
    let layout = parsers::layout();
    let mut numbers = Vec::new();
    read_tensors(&mut Cursor::new(weights()), &layout.stored(), "", |_, x| numbers.extend_from_slice(x)).unwrap();
    assert_eq!(numbers, (0..layout.len()).map(|i| i as f32).collect::<Vec<_>>());
}

/// The files in few bits that the fuzzer begins with are models of their scheme, and of no other.
#[test]
fn files_in_few_bits_are_of_their_scheme() {
    for (name, scheme) in [("w8", Quantization::W8), ("w4", Quantization::W4)] {
        let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tensors").join(name)).unwrap();
        for told in parsers::SCHEMES {
            let made = Model::from_parts(parsers::config_of(told), CharTokenizer::train("a").into(), &bytes);
            match told == scheme {
                true => assert_eq!(made.unwrap().config().quantization, scheme),
                false => assert!(made.unwrap_err().to_string().contains("other weights are in few bits"), "{told:?}"),
            }
        }
    }
}

#[test]
fn what_the_fuzzer_kept_is_still_harmless() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut files = 0;
    for (name, parse) in PARSERS {
        for entry in corpus.join(name).read_dir().unwrap() {
            parse(&fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
    }
    assert!(files > 20, "{files} files");
}

#[test]
fn a_header_that_claims_huge_sizes_takes_no_memory() {
    let layout = parsers::layout();
    for header in [
        "{\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}",
        "{\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[1000000000000],\"data_offsets\":[0,4000000000000]}}",
        "{\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[18446744073709551615,3]}}",
    ] {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
        read_tensors(&mut Cursor::new(bytes), &layout.stored(), "", |_, _| ()).unwrap_err();
    }
    // The length of the header itself.
    let bytes = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    read_tensors(&mut Cursor::new(bytes), &layout.stored(), "", |_, _| ()).unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for (_, parse) in PARSERS {
            parse(&bytes);
        }
    }

    #[test]
    fn damaged_files(
        which in 0..GOOD.len(),
        changes in changes(),
    ) {
        let (parse, mut bytes) = GOOD[which].clone();
        damage(&mut bytes, changes);
        parse(&bytes);
    }
}
