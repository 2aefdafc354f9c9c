//! What is served, and how it is described.

use super::*;
use crate::{
    engine,
    serve::{
        answer::Asked,
        openai,
        options::{self, Root},
        routes::{Handler, ROUTES, labels},
        service::Service,
    },
    train::{self, Job},
};
use std::{collections::BTreeSet, path::Path};

fn train(run: &Path) {
    let config = Config::default().with(&[
        "max_iters=2",
        "eval_interval=1",
        "eval_iters=1",
        "n_layer=1",
        "n_head=2",
        "n_embd=8",
    ]);
    let config = config.unwrap().with(&["block_size=16", "batch_size=2"]).unwrap();
    let job = Job::start_on_text(&"abc def.\n".repeat(200), config, run).unwrap();
    train::run(job, Cpu::new().unwrap(), &train::Options::default().threads(1), |_| ()).unwrap();
}

fn json_of(answer: Answer) -> Value {
    match answer {
        Answer::Whole { kind: "application/json", body } => serde_json::from_slice(&body).unwrap(),
        pending => whole(pending).unwrap(),
    }
}

fn call(service: &Service, handler: Handler, body: Value) -> Result<Value, Failure> {
    let asked = Asked { body: body.to_string().into_bytes(), ..Asked::default() };
    handler(service, &asked).map(json_of)
}

#[test]
fn models_are_listed_and_found() {
    let folder = tempfile::tempdir().unwrap();
    train(&folder.path().join("one"));
    let start = || {
        let options = options::Options { engine: engine::Options::default(), ..options::Options::default() };
        Service::start(vec![Root::from(folder.path().to_owned())], options, labels(ROUTES)).unwrap()
    };
    let service = start();
    let list = call(&service, openai::models, json!({})).unwrap();
    let one = &list["data"][0];
    assert_eq!((&list["object"], list["data"].as_array().unwrap().len()), (&json!("list"), 1));
    assert_eq!([&one["id"], &one["object"], &one["owned_by"]], [&json!("one"), &json!("model"), &json!("kinglet")]);
    assert!(one["created"].as_u64().unwrap() > 1_700_000_000);
    let Value::Object(about) = &one["kinglet"] else { panic!("{one}") };
    assert_eq!(
        about.keys().collect::<Vec<_>>(),
        ["params", "block_size", "tokenizer", "chat", "step", "val_loss", "notes"]
    );
    assert_eq!(
        (&about["block_size"], &about["tokenizer"], &about["chat"]),
        (&json!(16), &json!("char"), &json!(false))
    );
    assert!(about["params"].as_u64().unwrap() > 100 && about["val_loss"].as_f64().unwrap() > 0.1);
    let named = |id: &str| openai::model(&service, &Asked { id: id.to_owned(), ..Asked::default() }).map(json_of);
    assert_eq!(named("one").unwrap(), *one);
    let last = named("one@last").unwrap();
    assert_eq!((&last["id"], &last["kinglet"]["step"]), (&json!("one@last"), &json!(2)));
    let missing = named("two").unwrap_err();
    assert_eq!((missing.status, missing.code, missing.param.as_deref()), (404, Some("model_not_found"), Some("model")));

    // The only model needs no name.
    let request = json!({"prompt": "abc", "max_tokens": 5, "seed": 1});
    let answer = call(&service, openai::completions, request.clone()).unwrap();
    let model = Model::open(folder.path().join("one")).unwrap();
    assert_eq!(answer["choices"][0]["text"], model.generate("abc").max_tokens(5).seed(1).text().unwrap());
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
    let mut wrong = request.clone();
    wrong["model"] = json!("two");
    assert_eq!(call(&service, openai::completions, wrong.clone()).unwrap_err().code, Some("model_not_found"));
    wrong["model"] = json!(2);
    assert_eq!(call(&service, openai::completions, wrong).unwrap_err().code, Some("invalid_type"));
    assert_eq!(call(&service, openai::tokenize, json!({"prompt": "abc"})).unwrap()["count"], 3);
    assert_eq!(call(&service, openai::detokenize, json!({"tokens": []})).unwrap(), json!({"prompt": ""}));
    assert_eq!(call(&service, openai::tokenizer_info, json!({})).unwrap()["model_max_length"], 16);
    let query = vec![("model".to_owned(), "two".to_owned())];
    let asked = Asked { query, ..Asked::default() };
    assert_eq!(openai::tokenizer_info(&service, &asked).map(json_of).unwrap_err().status, 404);

    // One of several does.
    train(&folder.path().join("two"));
    let service = start();
    let failure = call(&service, openai::completions, request).unwrap_err();
    let found = (failure.status, failure.code, failure.param.as_deref());
    assert_eq!(found, (400, Some("missing_required_parameter"), Some("model")));
}

#[test]
fn the_description_has_exactly_the_routes() {
    let described: Value = serde_json::from_str(openai::OPENAPI).unwrap();
    let mut found = BTreeSet::new();
    for (path, about) in described["paths"].as_object().unwrap() {
        for (verb, operation) in about.as_object().unwrap() {
            found.insert((verb.to_uppercase(), path.as_str()));
            assert_eq!(operation["requestBody"].is_object(), verb == "post", "{path}");
            assert!(operation["responses"]["200"]["content"].is_object(), "{path}");
        }
    }
    // Described before it is there.
    found.retain(|(_, path)| *path != "/api/score" || ROUTES.iter().any(|route| route.path == *path));
    let routes: BTreeSet<_> = ROUTES.iter().map(|route| (route.verb.name().to_owned(), route.path)).collect();
    assert_eq!(found, routes);
    // What is referred to is there.
    let text = openai::OPENAPI;
    for name in text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(described["components"]["schemas"][name].is_object(), "{name}");
    }
}
