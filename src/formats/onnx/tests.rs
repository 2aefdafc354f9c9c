use super::*;
use crate::{
    system::disk::{Fault, with_fault},
    text::tokenizer::{CharTokenizer, Tokenizer},
};
use kinglet_core::{
    config::{Config, Quantization},
    params::Layout,
};
use prost::Message;
use std::collections::HashSet;

/// A file as it is read, with the parts that are written piece by piece.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opsets: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    tensors: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    outputs: Vec<String>,
    #[prost(string, tag = "4")]
    op: String,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    element: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw: Vec<u8>,
    #[prost(message, repeated, tag = "13")]
    elsewhere: Vec<Entry>,
    #[prost(int32, tag = "14")]
    location: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn model(settings: &[&str]) -> Portable {
    let mut config = Config::default();
    let small = ["vocab_size=9", "block_size=6", "n_embd=8", "n_layer=2", "n_head=2"];
    small.iter().chain(settings).for_each(|setting| config.set(setting).unwrap());
    let weights = Layout::new(&config).unwrap().init(1);
    Portable::new(config, weights, CharTokenizer::train("abcdefg").into()).unwrap()
}

fn written(model: &Portable, options: &Options) -> (Graph, Written) {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("out");
    let written = write(&folder, model, options).unwrap();
    let name = &written.files[0].0;
    for (name, size) in &written.files {
        assert_eq!(folder.join(name).metadata().unwrap().len(), *size, "{name}");
    }
    let file = Model::decode(&*fs::read(folder.join(name)).unwrap()).unwrap();
    let four = model.config.quantization == Quantization::W4;
    assert_eq!(file.opsets[0].version, if four { 21 } else { 17 });
    (file.graph.unwrap(), written)
}

/// Checks what a runtime checks when it loads a graph.
fn check(graph: &Graph) {
    let mut known: HashSet<&str> = HashSet::new();
    for tensor in &graph.tensors {
        let size = match tensor.element {
            1 | 6 => 4,
            7 => 8,
            _ => 1,
        };
        let numbers = tensor.dims.iter().product::<i64>();
        let bytes = if tensor.element == 22 { (numbers + 1) / 2 } else { size * numbers };
        assert_eq!(tensor.raw.len() as i64, bytes, "{}", tensor.name);
        assert!(known.insert(&tensor.name), "{}", tensor.name);
    }
    graph.inputs.iter().for_each(|input| assert!(known.insert(&input.name)));
    for node in &graph.nodes {
        node.inputs.iter().for_each(|input| assert!(known.contains(&**input), "{node:?}"));
        node.outputs.iter().for_each(|output| assert!(known.insert(output), "{node:?}"));
    }
    graph.outputs.iter().for_each(|output| assert!(known.contains(&*output.name)));
    let used: HashSet<&str> = graph.nodes.iter().flat_map(|node| node.inputs.iter().map(String::as_str)).collect();
    graph.tensors.iter().for_each(|tensor| assert!(used.contains(&*tensor.name), "{} is not used", tensor.name));
}

const SHAPES: [&[&str]; 5] = [
    &["bias=true", "activation=gelu_tanh", "tie_weights=true"],
    &["position=rotary", "norm=rmsnorm", "activation=swiglu", "n_kv_head=1", "qk_norm=true"],
    &["position=rotary", "head_size=6", "logit_softcap=5", "bias=[\"head\"]"],
    &["activation=relu_squared", "n_kv_head=1"],
    &["activation=gelu", "n_layer=1"],
];

#[test]
fn graphs_of_all_shapes_have_every_value_before_it_is_used_and_none_twice() {
    for settings in SHAPES {
        let model = model(settings);
        let cached = Options::default();
        for (scheme, options) in [
            (Quantization::None, cached.clone()),
            (Quantization::W8, Options { ids: Ids::Int32, ..cached.clone() }),
            (Quantization::W4, cached.clone()),
            (Quantization::None, Options { plain: true, ..cached.clone() }),
            (Quantization::W4, Options { fixed: true, ..cached.clone() }),
        ] {
            let plain = model.clone();
            let model = if scheme == Quantization::None { plain } else { plain.round(scheme).unwrap() };
            let (graph, _) = written(&model, &options);
            check(&graph);
            let names = |values: &[Value]| values.iter().map(|value| value.name.clone()).collect::<Vec<_>>();
            let layers = if options.cached() { model.config.n_layer } else { 0 };
            assert_eq!((graph.inputs.len(), graph.outputs.len()), (1 + 2 * layers + 2 * layers.min(1), 1 + 2 * layers));
            assert_eq!(graph.inputs[0].name, "input_ids");
            assert!(names(&graph.outputs).contains(&"logits".to_owned()));
            if options.cached() {
                assert_eq!(names(&graph.inputs)[1..4], ["attention_mask", "position_ids", "past_key_values.0.key"]);
                assert!(names(&graph.outputs).contains(&"present.0.value".to_owned()));
            }
            // What runtimes on phones lack.
            let new = ["Attention", "RotaryEmbedding", "RMSNormalization", "Gelu"];
            assert!(!graph.nodes.iter().any(|node| new.contains(&&*node.op)));
        }
    }
}

#[test]
fn weights_are_those_of_the_model_transposed_and_in_eight_bits_within_half_a_step() {
    let model = model(&["bias=true"]);
    let name = "transformer.h.1.mlp.c_fc.weight";
    let want = model.tensor(name).unwrap();
    let tensor = |graph: &Graph, name: &str| graph.tensors.iter().find(|tensor| tensor.name == name).unwrap().clone();
    let floats = |raw: &[u8]| raw.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>();
    let (graph, _) = written(&model, &Options::default());
    let found = tensor(&graph, name);
    assert_eq!(found.dims, [8, 32]);
    assert!(floats(&found.raw).iter().enumerate().all(|(at, x)| *x == want[at % 32 * 8 + at / 32]));
    let rounded = model.clone().round(Quantization::W8).unwrap();
    let (graph, _) = written(&rounded, &Options::default());
    let (bytes, scales) = (tensor(&graph, name).raw, floats(&tensor(&graph, &format!("{name}.scale")).raw));
    for (at, byte) in bytes.iter().enumerate() {
        let (o, i) = (at % 32, at / 32);
        assert!((f32::from(*byte as i8) * scales[o] - want[o * 8 + i]).abs() <= 0.501 * scales[o]);
        assert_eq!(*byte as i8, rounded.rounded[name].codes()[o * 8 + i]);
    }
    assert_eq!(scales, rounded.rounded[name].scales());
}

/// 40 columns are two groups, the second of them of eight.
#[test]
fn weights_in_four_bits_are_those_of_the_model_two_to_a_byte() {
    let model = model(&["n_embd=40", "n_layer=1"]).round(Quantization::W4).unwrap();
    let name = "transformer.h.0.attn.c_attn.weight";
    let (graph, written) = written(&model, &Options::default());
    assert_eq!(written.files[0].0, "onnx/model_q4.onnx");
    let tensor = |name: &str| graph.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let (codes, scales) = (tensor(name), tensor(&format!("{name}.scale")));
    assert_eq!((&codes.dims[..], codes.element, &scales.dims[..]), (&[40, 120][..], 22, &[2, 120][..]));
    let scale = |at: usize| f32::from_le_bytes(scales.raw.as_chunks().0[at]);
    for (at, want) in model.tensor(name).unwrap().iter().enumerate() {
        let (o, i) = (at / 40, at % 40);
        let place = i * 120 + o;
        let nibble = codes.raw[place / 2] >> (place % 2 * 4) & 15;
        let code = (nibble << 4) as i8 >> 4;
        assert_eq!(f32::from(code) * scale(i / 32 * 120 + o), *want, "{o} {i}");
    }
}

#[test]
fn numbers_that_are_too_many_for_one_file_are_beside_it() {
    let (model, options) = (model(&["tie_weights=true"]), Options::default());
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("out");
    let file = File::new(&model, &options).external_from(1000);
    let names = |written: &Written| written.files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let written_apart = write_file(&folder, &model, &options, &file).unwrap();
    assert_eq!(names(&written_apart)[..2], ["onnx/model.onnx", "onnx/model.onnx_data"]);
    assert!(fs::read_to_string(folder.join("config.json")).unwrap().contains("use_external_data_format"));
    let data = fs::read(folder.join("onnx/model.onnx_data")).unwrap();
    let apart = Model::decode(&*fs::read(folder.join("onnx/model.onnx")).unwrap()).unwrap().graph.unwrap();
    let (whole, _) = written(&model, &options);
    for (tensor, whole) in apart.tensors.iter().zip(&whole.tensors) {
        let values: Vec<&str> = tensor.elsewhere.iter().map(|entry| &*entry.value).collect();
        let (at, len): (usize, usize) = (values[1].parse().unwrap(), values[2].parse().unwrap());
        assert_eq!((values[0], tensor.location, tensor.raw.len()), ("model.onnx_data", 1, 0));
        assert_eq!(data[at..at + len], whole.raw, "{}", tensor.name);
    }
}

#[test]
fn limits_are_said() {
    let limits = |settings: &[&str], options: &Options| written(&model(settings), options).1.limits.join("\n");
    let cached = Options::default();
    assert!(limits(&[], &cached).contains("the graph ends at 6 tokens"));
    assert!(
        limits(&[], &cached).contains("no end-of-text token") && limits(&[], &cached).contains("2 ids are no tokens")
    );
    assert!(limits(&["position=rotary"], &cached).contains("the last 6, as kinglet does"));
    assert!(limits(&[], &Options { fixed: true, ..cached.clone() }).contains("exactly 6 tokens"));
    let long = model(&["block_size=4097", "n_layer=1"]);
    let temp = tempfile::tempdir().unwrap();
    let error = write(&temp.path().join("out"), &long, &Options { fixed: true, ..cached }).unwrap_err().to_string();
    assert!(error.contains("at most 4096 positions, but block_size is 4097"), "{error}");
}

#[test]
fn the_folder_is_whole_or_absent_and_nothing_of_others_is_touched() {
    let mut damaged = model(&[]);
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("out");
    let options = Options::default();
    let mut reached = 0;
    loop {
        let (result, fault) = with_fault(Fault::At(reached), || write(&folder, &damaged, &options));
        if !fault {
            result.unwrap();
            break;
        }
        if result.is_err() {
            assert!(!folder.exists(), "write number {reached}");
        } else {
            fs::remove_dir_all(&folder).unwrap();
        }
        reached += 1;
    }
    assert!(reached > 6, "{reached}");
    assert!(write(&folder, &damaged, &options).unwrap_err().to_string().contains("not empty"));
    damaged.weights[5] = f32::NAN;
    let error = write(&temp.path().join("other"), &damaged, &options).unwrap_err().to_string();
    assert!(error.starts_with("transformer.wte.weight has values that are not finite"), "{error}");
}

#[test]
fn small_files_name_the_ends_and_the_sizes() {
    let ended = Tokenizer::from(CharTokenizer::train("abcdefg")).extended([], true);
    let mut model = model(&["position=rotary", "head_size=6", "n_kv_head=1"]);
    for (tokenizer, end) in [(model.tokenizer.clone(), serde_json::Value::Null), (ended, 7.into())] {
        model.tokenizer = tokenizer;
        let files = folder::files(&model, &Options::default(), "onnx/model.onnx", false).unwrap();
        let file = |wanted: &str| -> serde_json::Value {
            serde_json::from_str(&files.iter().find(|(name, _)| *name == wanted).unwrap().1).unwrap()
        };
        let config = file("config.json");
        assert_eq!(
            (&config["eos_token_id"], &config["head_dim"], &config["num_key_value_heads"]),
            (&end, &6.into(), &1.into())
        );
        assert_eq!(file("generation_config.json")["eos_token_id"], end);
        // Never an id that means something else, as where consumers fall back to those of their own models.
        let genai = file("genai_config.json");
        assert_eq!(genai["model"]["eos_token_id"], if end.is_null() { serde_json::json!([]) } else { end });
    }
}
