//! Configurations that nobody checked: a model of them is refused, not a panic.

use kinglet_core::{
    config::Config,
    model::Gpt,
    params::{
        Layout,
        edit::{add_tokens, merge},
    },
};

/// Makes a configuration one of no model.
type Change = fn(&mut Config);

#[test]
fn what_describes_no_model_is_refused() {
    let good = Config::default().with(&["vocab_size=7", "n_layer=1", "n_embd=8"]).unwrap();
    assert!(Gpt::new(&good).is_ok());
    let changes: [(&str, Change); 26] = [
        ("vocab_size", |c| c.vocab_size = 0),
        ("vocab_size", |c| c.vocab_size = usize::MAX),
        ("block_size", |c| c.block_size = 0),
        ("block_size", |c| c.block_size = usize::MAX),
        ("n_layer", |c| c.n_layer = 0),
        ("n_layer", |c| c.n_layer = usize::MAX),
        ("n_head", |c| c.n_head = 0),
        ("n_head", |c| c.n_head = 3),
        ("n_head", |c| c.n_head = usize::MAX),
        ("n_kv_head", |c| c.n_kv_head = 3),
        ("head_size", |c| c.head_size = usize::MAX),
        ("norm_eps", |c| c.norm_eps = 0.0),
        ("norm_eps", |c| c.norm_eps = f64::NAN),
        ("n_head", |c| (c.n_head, c.head_size) = (0, 8)),
        ("n_embd", |c| c.n_embd = 0),
        ("n_embd", |c| c.n_embd = usize::MAX),
        ("n_inner", |c| c.n_inner = usize::MAX),
        ("seed", |c| c.seed = u64::MAX),
        ("dropout", |c| c.dropout = f64::NAN),
        ("dropout", |c| c.dropout = 1.0),
        ("embd_dropout", |c| c.embd_dropout = f64::NAN),
        ("logit_softcap", |c| c.logit_softcap = f64::NAN),
        ("learning_rate", |c| c.learning_rate = f64::INFINITY),
        ("lora_rank", |c| c.lora_rank = usize::MAX),
        ("lora_dropout", |c| c.lora_dropout = f64::NAN),
        ("batch_size", |c| c.batch_size = 0),
    ];
    for (key, change) in changes {
        let mut config = good.clone();
        change(&mut config);
        let error = Layout::new(&config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key} = ")), "{key}: {error}");
        assert_eq!(Gpt::new(&config).unwrap_err().to_string(), error);
        assert_eq!(merge(&config, Vec::new()).unwrap_err().to_string(), error);
        if key != "vocab_size" {
            assert_eq!(add_tokens(&config, &[], 0, 7).unwrap_err().to_string(), error);
        }
    }
}
