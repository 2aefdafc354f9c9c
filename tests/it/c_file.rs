//! A model as a C file: it compiles without a warning, and writes what kinglet writes.

use crate::common::needs::skip;
use kinglet::{
    Model,
    backend::Cpu,
    config::{Config, Quantization},
    formats::{Portable, c},
    params::Layout,
    rng::{Purpose, Rng},
    run::{RunDir, Which},
    text::tokenizer::{CharTokenizer, END_OF_TEXT, Tokenizer},
    train::{self, Job, Options},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// As strict as compilers are asked to be, and with what finds reads and writes that are not allowed.
const STRICT: [&str; 8] = [
    "-std=c99",
    "-O1",
    "-Wall",
    "-Wextra",
    "-pedantic",
    "-Werror",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
];

/// The compilers that there are.
fn compilers() -> Vec<&'static str> {
    let there = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|run| run.status.success());
    let found: Vec<_> = ["gcc", "clang"].into_iter().filter(there).collect();
    if found.is_empty() {
        skip("there is no C compiler");
    }
    found
}

/// Compiles `sources` of a folder.
fn compile(compiler: &str, folder: &Path, flags: &[&str], sources: &[&str]) -> PathBuf {
    let program = folder.join(format!("program-{compiler}"));
    let files = sources.iter().map(|source| folder.join(source));
    let run = Command::new(compiler).args(flags).args(files).arg("-lm").arg("-o").arg(&program).output().unwrap();
    assert!(run.status.success(), "{compiler}: {}", String::from_utf8_lossy(&run.stderr));
    program
}

/// What a program prints.
fn output(program: &Path, arguments: &[&str]) -> Vec<u8> {
    let run = Command::new(program).args(arguments).output().unwrap();
    assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

/// A model of random weights: more than a new one has, so that no bias is zero and no norm is one.
fn random(settings: &[&str], tokenizer: &Tokenizer) -> Portable {
    let mut config = Config::default();
    let small = ["block_size=7", "n_embd=24", "n_layer=2", "n_head=4", "vocab_size=300"];
    small.iter().chain(settings).for_each(|setting| config.set(setting).unwrap());
    let mut rng = Rng::new(5, Purpose::Init, 0, 1 << 20);
    let weights = Layout::new(&config).unwrap().init(3);
    let weights = weights.iter().map(|w| w + 0.1 * rng.normal() as f32).collect();
    Portable::new(config, weights, tokenizer.clone()).unwrap()
}

fn kinglet(model: &Portable) -> Model {
    Model::from_weights(Cpu::new().unwrap(), model.config.clone(), model.tokenizer.clone(), &model.weights).unwrap()
}

/// What `kinglet sample` prints.
fn sampled(model: &Model, prompt: &str, temperature: f64, tokens: usize) -> Vec<u8> {
    let text = model.generate(prompt).max_tokens(tokens).temperature(temperature).text().unwrap();
    format!("{prompt}{text}\n").into_bytes()
}

/// What is compared: the programs of these compilers, with these flags.
struct Trial<'a> {
    compilers: &'a [&'static str],
    flags: &'a [&'static str],
    prompts: &'a [&'static str],
    temperatures: &'a [f64],
    tokens: usize,
}

/// Writes a model as C, and compares what its programs print.
fn compare(model: &Portable, expected: &Model, trial: &Trial) {
    let Trial { compilers, flags, prompts, temperatures, tokens } = *trial;
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("c");
    c::write(&folder, model).unwrap();
    for compiler in compilers {
        let program = compile(compiler, &folder, &[flags, &["-DKINGLET_MAIN"]].concat(), &["model.c"]);
        for prompt in prompts {
            for &temperature in temperatures {
                let (count, shown) = (tokens.to_string(), temperature.to_string());
                let got = output(&program, &["--prompt", prompt, "--tokens", &count, "--temperature", &shown]);
                let want = sampled(expected, prompt, temperature, tokens);
                let (got, want) = (String::from_utf8_lossy(&got), String::from_utf8_lossy(&want));
                assert_eq!(got, want, "{compiler}, {prompt:?}, temperature {temperature}");
            }
        }
    }
}

#[test]
fn every_shape_writes_the_text_that_kinglet_writes() {
    use Quantization::{W4, W8};
    let compilers = compilers();
    let tokenizer = Tokenizer::from(CharTokenizer::train("abcdefghijklmnopqrstuvwxyz ;é\n"));
    let shapes = [
        (&["bias=[\"proj\",\"mlp\",\"head\",\"norm\"]", "attention_scale=n_embd"][..], None),
        (&["bias=true", "activation=gelu_tanh", "tie_weights=true"], Some(W8)),
        (&["activation=gelu", "bias=[\"qkv\"]", "norm_eps=0.01"], None),
        (&["activation=relu_squared", "norm=rmsnorm", "bias=true"], None),
        (&["position=rotary", "norm=rmsnorm", "activation=swiglu", "n_kv_head=2", "qk_norm=true"], Some(W8)),
        (&["position=rotary", "activation=swiglu", "bias=[\"qkv\",\"proj\",\"mlp\",\"head\",\"norm\"]"], Some(W4)),
        (&["position=rotary", "logit_softcap=3", "tie_weights=true", "bias=[\"head\"]", "rope_theta=100"], None),
        (&["position=rotary", "head_size=10", "n_kv_head=1", "n_inner=37", "n_head=3"], Some(W4)),
        (&["head_size=5", "qk_norm=true", "block_size=1"], None),
        (&["position=rotary", "qkv_conv=3", "n_kv_head=2", "qk_norm=true"], Some(W8)),
        (&["qkv_conv=4"], None),
        (&["position=rotary", "res_conv=3", "qkv_conv=2", "bias=true"], None),
        (&["res_conv=2"], Some(W4)),
    ];
    // The compilers take turns.
    for ((settings, scheme), compiler) in shapes.into_iter().zip(compilers.chunks(1).cycle()) {
        let mut model = random(settings, &tokenizer);
        let config = model.config.clone();
        if let Some(scheme) = scheme {
            model = model.round(scheme).unwrap();
        }
        // The same numbers, multiplied out.
        let expected = kinglet(&Portable { config, ..model.clone() });
        // Within the block and far past it, and from a prompt that is longer than it.
        let prompts = &["", "a bébé", "once the long winter; goe"];
        let trial = Trial { compilers: compiler, flags: &STRICT, prompts, temperatures: &[0.0, 0.8], tokens: 60 };
        compare(&model, &expected, &trial);
    }
}

/// Reads lines of ids or of bytes in hexadecimal; prints the text of the ids, or the ids of the text.
const HARNESS: &str = r#"
#include "model.h"
#include <stdio.h>
#include <stdlib.h>

static kinglet k;
static char line[1 << 20], text[1 << 19], piece[KINGLET_TEXT];
static uint32_t ids[1 << 19];

int main(void)
{
    printf("%lu\n", (unsigned long)(sizeof(kinglet) - sizeof k.keys - sizeof k.values));
    kinglet_init(&k, 1);
    while (fgets(line, sizeof line, stdin)) {
        size_t n = 0, i;
        char *at = line + 1;
        if (line[0] == 't') {
            long count;
            for (; *at != '\n'; at += 2) {
                char digits[3] = {at[0], at[1], 0};
                text[n++] = (char)strtoul(digits, 0, 16);
            }
            count = kinglet_encode(text, n, ids);
            printf("%ld", count);
            for (i = 0; count > 0 && i < (size_t)count; i++)
                printf(" %lu", (unsigned long)ids[i]);
        } else {
            while (*at != '\n') {
                size_t length = kinglet_decode(&k, (uint32_t)strtoul(at, &at, 10), piece);
                for (i = 0; i < length; i++)
                    printf("%02x", (unsigned char)piece[i]);
            }
            n = kinglet_finish(&k, piece);
            for (i = 0; i < n; i++)
                printf("%02x", (unsigned char)piece[i]);
        }
        putchar('\n');
    }
    return 0;
}
"#;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lines that the harness of a model prints, without the first.
fn harness(model: &Portable, lines: &[String]) -> Vec<(&'static str, Vec<String>)> {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("c");
    c::write(&folder, model).unwrap();
    fs::write(folder.join("harness.c"), HARNESS).unwrap();
    fs::write(folder.join("input"), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let run = |compiler| {
        let program = compile(compiler, &folder, &STRICT, &["model.c", "harness.c"]);
        let input = fs::File::open(folder.join("input")).unwrap();
        let run = Command::new(program).stdin(input).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        (compiler, String::from_utf8(run.stdout).unwrap().lines().map(str::to_owned).collect())
    };
    compilers().into_iter().map(run).collect()
}

/// Texts of characters that tokenizers tell apart.
fn texts() -> Vec<String> {
    let parts = [
        " ",
        " ",
        "  ",
        "\n",
        "\t",
        "\u{a0}",
        "\u{3000}",
        "'",
        "'s",
        "'ll",
        "'LL",
        "a",
        "b",
        "the",
        "kinglet",
        "Z",
        "é",
        "e\u{301}",
        "日本",
        "Ω",
        "1",
        "23",
        "½",
        "Ⅷ",
        "٣",
        ".",
        ",;",
        "!",
        "🐦",
        "👩\u{200d}👧",
        "\u{85}",
        "\u{1c}",
        "\u{0}",
        "<|endoftext|>",
        "<|endof",
        "\u{e000}",
        "\u{10ffff}",
    ];
    let mut rng = Rng::new(1, Purpose::Corpus, 0, 0);
    let one = |rng: &mut Rng| (0..rng.below(16)).map(|_| parts[rng.below(parts.len() as u64) as usize]).collect();
    (0..1500).map(|_| one(&mut rng)).collect()
}

fn compare_tokens(tokenizer: &Tokenizer, texts: &[String]) {
    let model = random(&["n_layer=1"], tokenizer);
    let mut rng = Rng::new(2, Purpose::Corpus, 0, 0);
    let any = |rng: &mut Rng| (0..rng.below(12)).map(|_| rng.below(tokenizer.vocab_size() as u64) as u32).collect();
    let ids: Vec<Vec<u32>> = (0..1500).map(|_| any(&mut rng)).collect();
    let shown = |ids: &[u32]| ids.iter().map(|id| format!(" {id}")).collect::<String>();
    let lines: Vec<String> = texts
        .iter()
        .map(|text| format!("t{}", hex(text.as_bytes())))
        .chain(ids.iter().map(|ids| format!("i{}", shown(ids))))
        .collect();
    for (compiler, found) in harness(&model, &lines) {
        let (encoded, decoded) = found[1..].split_at(texts.len());
        for (text, found) in texts.iter().zip(encoded) {
            let want = match tokenizer.encode(text) {
                Ok(ids) => format!("{}{}", ids.len(), shown(&ids)),
                // The first character that is unknown.
                Err(_) => {
                    let chars = tokenizer.chars().unwrap();
                    // As long as it is: its characters are no text.
                    let end = "a".repeat(END_OF_TEXT.len());
                    let text =
                        if chars.end_of_text().is_some() { text.replace(END_OF_TEXT, &end) } else { text.clone() };
                    let unknown = text.char_indices().find(|(_, c)| chars.chars().all(|known| known != *c));
                    format!("-{}", unknown.unwrap().0 + 1)
                }
            };
            assert_eq!(*found, want, "{compiler}: {text:?}");
        }
        for (ids, found) in ids.iter().zip(decoded) {
            assert_eq!(*found, hex(tokenizer.decode(ids).as_bytes()), "{compiler}: {ids:?}");
        }
    }
}

#[test]
fn characters_and_bytes_are_encoded_and_decoded_as_kinglet_does() {
    let known: String = texts().concat().replace("<|endoftext|>", "").chars().filter(|c| *c != 'Ω').collect();
    let chars = Tokenizer::from(CharTokenizer::train(&known));
    compare_tokens(&chars, &texts().iter().map(|text| text.replace("<|endof", "")).collect::<Vec<_>>());
    let ended = chars.extended([], true);
    let whole =
        |text: String| text.replace("<|endoftext|>", "\u{1}").replace("<|endof", "").replace('\u{1}', "<|endoftext|>");
    compare_tokens(&ended, &texts().into_iter().map(whole).collect::<Vec<_>>());
    compare_tokens(&Tokenizer::byte(), &texts());
}

#[test]
fn words_are_encoded_and_decoded_as_kinglet_does() {
    let learned = Tokenizer::train_bpe([texts().concat().replace("<|endoftext|>", "")].into_iter(), 299).unwrap();
    compare_tokens(&learned, &texts());
}

#[test]
fn a_tokenizer_that_c_does_not_have_leaves_ids() {
    let words = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1, "b": 2}}}"#;
    let model = random(&["vocab_size=3"], &Tokenizer::from_json(words).unwrap());
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("c");
    let written = c::write(&folder, &model).unwrap();
    assert!(written.limits[0].starts_with("the program reads and writes ids"), "{:?}", written.limits);
    let mut text = kinglet(&model).generate_after(&[1, 2, 2]).max_tokens(20).temperature(0.0);
    let ids: Vec<u32> = (&mut text).flat_map(|piece| piece.unwrap().ids().collect::<Vec<_>>()).collect();
    let want = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    for compiler in compilers() {
        let program = compile(compiler, &folder, &[&STRICT[..], &["-DKINGLET_MAIN"]].concat(), &["model.c"]);
        let got = output(&program, &["--ids", "1,2,2", "--tokens", "20", "--temperature", "0"]);
        assert_eq!(String::from_utf8(got).unwrap().trim(), want);
    }
}

#[test]
fn a_trained_model_writes_a_thousand_tokens_as_kinglet_does_in_little_memory() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let settings = ["data=[\"builtin\"]", "max_iters=300", "eval_interval=300", "eval_iters=2", "shards=1"];
    let config = Config::preset("big-0.2m").unwrap().with(&settings).unwrap();
    train::run(Job::start(config, &run).unwrap(), Cpu::new().unwrap(), &Options::default(), |_| ()).unwrap();
    let mut opened = RunDir::open(&run).unwrap();
    let layout = Layout::new(&opened.config).unwrap();
    let weights = opened.load_weights(&layout, None, Which::Last).unwrap().1;
    let model = Portable::new(opened.config.clone(), weights, opened.tokenizer.clone()).unwrap();
    // As users compile it; what is not allowed would have been found with smaller models.
    let flags = &["-std=c99", "-O2"];
    let trial = Trial { compilers: &compilers(), flags, prompts: &["The "], temperatures: &[0.0], tokens: 1000 };
    compare(&model, &kinglet(&model), &trial);
    for (_, lines) in harness(&model, &[]) {
        let beside: usize = lines[0].parse().unwrap();
        assert!(beside < 40_000, "{beside} bytes beside keys, values and weights");
    }
}

#[test]
fn what_no_compiler_takes_is_refused() {
    let tokenizer = Tokenizer::from(CharTokenizer::train("ab"));
    let temp = tempfile::tempdir().unwrap();
    let mut model = random(&["vocab_size=2"], &tokenizer);
    let last = model.weights.len() - 1;
    model.weights[last] = f32::INFINITY;
    let error = c::write(&temp.path().join("c"), &model).unwrap_err().to_string();
    assert!(error.starts_with("lm_head.weight has values that are not finite"), "{error}");
    let large = random(&["n_embd=4096", "n_layer=1", "vocab_size=2"], &tokenizer);
    let error = c::write(&temp.path().join("c"), &large).unwrap_err().to_string();
    assert!(error.contains("a C file is for small models"), "{error}");
    assert!(!temp.path().join("c").exists());
}

#[test]
fn the_program_refuses_numbers_that_are_none() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("c");
    let model = random(&["vocab_size=2"], &Tokenizer::from(CharTokenizer::train("ab")));
    c::write(&folder, &model).unwrap();
    for compiler in compilers() {
        let program = compile(compiler, &folder, &[&STRICT[..], &["-DKINGLET_MAIN"]].concat(), &["model.c"]);
        let run = |arguments: &[&str]| Command::new(&program).args(arguments).output().unwrap().status.code();
        for wrong in [
            "--temperature abc",
            "--temperature -1",
            "--temperature nan",
            "--temperature inf",
            "--seed abc",
            "--seed -1",
            "--tokens -1",
            "--tokens 3x",
            "--tokens 99999999999999999999999",
            "--seed",
        ] {
            assert_eq!(run(&wrong.split(' ').collect::<Vec<_>>()), Some(2), "{wrong}");
        }
        assert_eq!(run(&["--temperature", "0.5", "--seed", "7", "--tokens", "3"]), Some(0));
    }
}
