//! The one table of routes. What is refused, what is counted, and what is described follow from it.

use super::{
    answer::{Answer, Asked, Failure},
    assets::{self, Asset},
    insight, memorized,
    metrics::{Label, Text},
    openai, runs, score,
    service::Service,
};
use crate::engine::Figures;
use hyper::Method;
use serde_json::json;
use std::{borrow::Cow, sync::atomic::Ordering::Relaxed, time::UNIX_EPOCH};

/// Answers a request.
pub(super) type Handler = fn(&Service, &Asked) -> Result<Answer, Failure>;

/// How a route is asked: GET, which includes HEAD, or POST with JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Reads; HEAD too.
    Get,
    /// Sends JSON.
    Post,
}

/// A route.
pub(super) struct Route {
    /// How it is asked.
    pub(super) verb: Verb,
    /// Its path; `{id}` stands for one part or more.
    pub(super) path: &'static str,
    /// Whether it is answered without a token.
    pub(super) public: bool,
    /// Whether it waits for nothing, and is answered at once, however many handlers are at work.
    pub(super) prompt: bool,
    /// Who answers.
    pub(super) handler: Handler,
}

/// All routes.
pub(super) const ROUTES: &[Route] = &[
    Route { verb: Verb::Get, path: "/", public: true, prompt: true, handler: page },
    Route { verb: Verb::Get, path: "/assets/{id}", public: true, prompt: true, handler: asset },
    Route { verb: Verb::Get, path: "/health", public: true, prompt: true, handler: health },
    Route { verb: Verb::Get, path: "/metrics", public: false, prompt: true, handler: metrics },
    Route { verb: Verb::Get, path: "/openapi.json", public: false, prompt: false, handler: openai::openapi },
    Route { verb: Verb::Get, path: "/v1/models", public: false, prompt: false, handler: openai::models },
    Route { verb: Verb::Get, path: "/v1/models/{id}", public: false, prompt: false, handler: openai::model },
    Route { verb: Verb::Post, path: "/v1/completions", public: false, prompt: false, handler: openai::completions },
    Route {
        verb: Verb::Post,
        path: "/v1/chat/completions",
        public: false,
        prompt: false,
        handler: openai::chat_completions,
    },
    Route { verb: Verb::Post, path: "/tokenize", public: false, prompt: false, handler: openai::tokenize },
    Route { verb: Verb::Post, path: "/detokenize", public: false, prompt: false, handler: openai::detokenize },
    Route { verb: Verb::Get, path: "/tokenizer_info", public: false, prompt: false, handler: openai::tokenizer_info },
    Route { verb: Verb::Post, path: "/api/score", public: false, prompt: false, handler: score::score },
    Route { verb: Verb::Post, path: "/api/attention", public: false, prompt: false, handler: insight::attention },
    Route { verb: Verb::Post, path: "/api/lens", public: false, prompt: false, handler: insight::lens },
    Route { verb: Verb::Post, path: "/api/memorized", public: false, prompt: false, handler: memorized::memorized },
    Route { verb: Verb::Get, path: "/api/runs", public: false, prompt: false, handler: runs::runs },
    Route { verb: Verb::Get, path: "/api/runs/{id}/events", public: false, prompt: false, handler: runs::events },
    Route { verb: Verb::Get, path: "/api/runs/{id}/config", public: false, prompt: false, handler: runs::config },
    Route { verb: Verb::Get, path: "/api/runs/{id}/samples", public: false, prompt: false, handler: runs::samples },
    Route { verb: Verb::Get, path: "/api/tune/{id}", public: false, prompt: false, handler: runs::tuning },
];

/// Where a path leads.
pub(super) struct Found {
    /// The places in the table of the routes with this path.
    pub(super) routes: Vec<usize>,
    /// What stands for `{id}`.
    pub(super) id: String,
}

impl Verb {
    /// As it is called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
        }
    }

    /// Whether a method is that.
    pub(super) fn is(self, method: &Method) -> bool {
        match self {
            Verb::Get => [Method::GET, Method::HEAD].contains(method),
            Verb::Post => method == Method::POST,
        }
    }
}

/// What counters call the routes.
pub(super) fn labels(routes: &[Route]) -> Vec<Label> {
    routes.iter().map(|route| (route.verb.name(), route.path)).collect()
}

/// Where a path leads, however many slashes are in it.
pub(super) fn find(routes: &[Route], path: &str) -> Found {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let path = format!("/{}", parts.join("/"));
    let mut found = Found { routes: Vec::new(), id: String::new() };
    for (at, route) in routes.iter().enumerate() {
        match route.path.split_once("{id}") {
            None if route.path == path => found.routes.push(at),
            None => {}
            Some((before, after)) => {
                let id = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                if let Some(id) = id.filter(|id| !id.is_empty()) {
                    found.routes.push(at);
                    found.id = decoded(id, false).into_owned();
                }
            }
        }
    }
    found
}

/// The methods of routes, as the header `Allow` says them.
pub(super) fn allowed(routes: &[Route], found: &Found) -> String {
    let verbs = found.routes.iter().map(|&at| match routes[at].verb {
        Verb::Get => "GET, HEAD",
        Verb::Post => "POST",
    });
    verbs.chain(["OPTIONS"]).collect::<Vec<_>>().join(", ")
}

/// The pairs of a query.
pub(super) fn pairs(query: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key, true).into_owned(), decoded(value, true).into_owned())
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// Text of an address without `%XX`, and in a query `+` for a space. What is no UTF-8 becomes U+FFFD.
fn decoded(text: &str, in_query: bool) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        rest = after;
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            (b'+', ..) if in_query => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// The page.
fn page(service: &Service, _: &Asked) -> Result<Answer, Failure> {
    shown(service, Some(assets::page()))
}

/// What the page is made of.
fn asset(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    shown(service, assets::find(&asked.id))
}

fn shown(service: &Service, asset: Option<&'static Asset>) -> Result<Answer, Failure> {
    let none = |what: &str| Failure::of(404, "not_found", what);
    if !service.options.page {
        return Err(none("there is no page here: the server was started with --no-page"));
    }
    asset.map(Answer::Asset).ok_or_else(|| none("the page has no such file"))
}

/// Whether the server takes work.
fn health(service: &Service, _: &Asked) -> Result<Answer, Failure> {
    if service.closing.load(Relaxed) {
        return Err(Failure::of(503, "server_closing", "the server was told to end"));
    }
    if !service.engine.is_running() {
        let what = "what computes has failed: start the server again; its own output says why";
        return Err(Failure::of(503, "engine_failed", what));
    }
    Ok(Answer::json(&json!({"status": "ok"})))
}

/// Everything that is counted.
fn metrics(service: &Service, _: &Asked) -> Result<Answer, Failure> {
    let mut text = Text::default();
    text.about("kinglet_build_info", "gauge", "The version that runs.");
    text.value("kinglet_build_info", concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), 1);
    let since = service.since.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    text.one("process_start_time_seconds", "gauge", "When the server was started.", since);
    service.metrics.write(&mut text);
    text.one("kinglet_models_loaded", "gauge", "Models in memory.", service.models.loaded());
    let help = "Training texts that are being searched.";
    text.one("kinglet_searches_running", "gauge", help, service.searches.load(Relaxed));
    computed(&mut text, &service.engine.figures());
    Ok(Answer::Whole { kind: Text::KIND, body: text.0.into_bytes() })
}

/// What the engine does and has done.
fn computed(text: &mut Text, figures: &Figures) {
    for (name, help, value) in [
        ("running", "Texts that are being computed.", figures.running),
        ("waiting", "Texts that wait for a place.", figures.waiting),
        ("held", "Texts and scorings whose clients do not read, so that nothing is computed for them.", figures.held),
        ("scoring", "Scorings and looks into models that are being computed, or wait for their turn.", figures.scoring),
    ] {
        text.one(&format!("kinglet_engine_{name}"), "gauge", help, value);
    }
    for (name, help, value) in [
        ("prompt_tokens", "Tokens of the prompts of texts that have begun.", figures.prompt_tokens),
        ("generated_tokens", "Tokens that were drawn.", figures.generated_tokens),
        ("scored_tokens", "Tokens that were scored.", figures.scored_tokens),
        ("refused", "Texts and scorings that were refused, because too many were there already.", figures.refused),
        ("passes", "Passes through models that drew tokens.", figures.passes),
        ("rows", "Texts in those passes together.", figures.rows),
    ] {
        text.one(&format!("kinglet_engine_{name}_total"), "counter", help, value);
    }
    let (name, help) = ("kinglet_engine_busy_seconds_total", "Seconds in which something was computed.");
    text.one(name, "counter", help, figures.busy.as_secs_f64());
    let name = "kinglet_engine_ended_total";
    text.about(
        name,
        "counter",
        "Texts, scorings and looks, by how they ended; cancelled are those whose client had left.",
    );
    for (how, count) in figures.ended.by_name() {
        text.value(name, &format!("how=\"{how}\""), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_routes() {
        fn none(_: &Service, _: &Asked) -> Result<Answer, Failure> {
            unreachable!()
        }
        let route = |verb, path| Route { verb, path, public: false, prompt: false, handler: none };
        let routes = [
            route(Verb::Get, "/v1/models"),
            route(Verb::Get, "/v1/models/{id}"),
            route(Verb::Get, "/api/runs/{id}/events"),
            route(Verb::Post, "/v1/models"),
        ];
        for (path, at, id) in [
            ("/v1/models", &[0, 3][..], ""),
            ("//v1///models//", &[0, 3], ""),
            ("/v1/models/mine", &[1], "mine"),
            ("/v1/models/group/mine%40last", &[1], "group/mine@last"),
            ("/v1/models/group%2Fmine", &[1], "group/mine"),
            ("/v1/models/a+b%zz%e7%8c%ab%", &[1], "a+b%zz猫%"),
            ("/api/runs/a/b/events", &[2], "a/b"),
            ("/api/runs/events", &[], ""),
            ("/", &[], ""),
            ("/v1", &[], ""),
            ("/V1/models", &[], ""),
        ] {
            let found = find(&routes, path);
            assert!(found.routes == at && found.id == id, "{path}: {:?} {}", found.routes, found.id);
        }
        assert_eq!(allowed(&routes, &find(&routes, "/v1/models")), "GET, HEAD, POST, OPTIONS");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            pairs("a=1&b&c=x+y%2Bz&=&a=2"),
            [pair("a", "1"), pair("b", ""), pair("c", "x y+z"), pair("", ""), pair("a", "2")]
        );
    }
}
