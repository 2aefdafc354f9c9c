//! Measures a server with OpenAI's interface over blocking sockets, one thread a stream:
//! `cargo run --release --example serve_load -- 127.0.0.1:7317 --streams 1,8,32`
//!
//! It prints tokens per second of so many streams at once; the time to the first token, idle and while others write; the
//! time from a client's going until the server has counted it; and what one reader who does not read costs the others.
//! Every figure is a median of `--rounds`, which take turns. `--only rates,first,gone,stalled` leaves parts out, `--json`
//! prints one object, and `--open NAMES` names the gauges in the server's `/metrics` whose sum is how many texts have not
//! ended, and `--extra JSON` has more fields of a request, as `{"ignore_eos": true}` for llama.cpp's.

use serde_json::{Value, json};
use std::{
    error::Error,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long the server may take to notice a client's going before that counts as never.
const NEVER: Duration = Duration::from_secs(5);
/// Gauges in kinglet's `/metrics` whose sum is how many texts have not ended.
const OPEN: &str = "kinglet_engine_running,kinglet_engine_waiting,kinglet_engine_held";
/// How long nothing may run before it is believed that nothing will.
const QUIET: Duration = Duration::from_millis(100);

fn main() -> Outcome<()> {
    let target = Target::from_args(std::env::args().skip(1))?;
    let mut found = serde_json::Map::new();
    for (name, measure) in PARTS {
        if target.only.is_empty() || target.only.iter().any(|part| part == name) {
            found.insert((*name).to_owned(), measure(&target)?);
        }
    }
    if target.json {
        println!("{}", Value::Object(found));
    } else {
        found.iter().for_each(|(name, figures)| print_table(name, figures));
    }
    Ok(())
}

/// What can be measured.
type Part = (&'static str, fn(&Target) -> Outcome<Value>);
const PARTS: &[Part] = &[("rates", rates), ("first", first), ("gone", gone), ("stalled", stalled)];

/// What is asked of which server.
struct Target {
    address: String,
    model: String,
    token: Option<String>,
    prompt: String,
    tokens: u64,
    streams: Vec<usize>,
    rounds: usize,
    probes: usize,
    open: String,
    extra: Value,
    only: Vec<String>,
    json: bool,
}

impl Target {
    fn from_args(mut args: impl Iterator<Item = String>) -> Outcome<Target> {
        let mut target = Target {
            address: "127.0.0.1:7317".into(),
            model: String::new(),
            token: None,
            prompt: "The ".into(),
            tokens: 200,
            streams: vec![1, 8, 32],
            rounds: 3,
            probes: 50,
            open: OPEN.into(),
            extra: Value::Null,
            only: Vec::new(),
            json: false,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--model" => target.model = value()?,
                "--token" => target.token = Some(value()?),
                "--prompt" => target.prompt = value()?,
                "--tokens" => target.tokens = value()?.parse()?,
                "--streams" => target.streams = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--rounds" => target.rounds = value()?.parse()?,
                "--probes" => target.probes = value()?.parse()?,
                "--open" => target.open = value()?,
                "--extra" => target.extra = serde_json::from_str(&value()?)?,
                "--only" => target.only = value()?.split(',').map(str::to_owned).collect(),
                "--json" => target.json = true,
                _ if arg.starts_with("--") => return Err(format!("there is no option {arg}").into()),
                _ => target.address = arg.trim_start_matches("http://").trim_end_matches('/').into(),
            }
        }
        if target.model.is_empty() {
            let models: Value = serde_json::from_str(&Connection::open(&target)?.get(&target, "/v1/models")?)?;
            target.model = models["data"][0]["id"].as_str().ok_or("the server has no model")?.to_owned();
        }
        Ok(target)
    }

    /// The body of a completion.
    fn completion(&self, seed: u64, tokens: u64) -> Value {
        let mut body = json!({
            "model": self.model, "prompt": self.prompt, "max_tokens": tokens, "temperature": 1, "seed": seed,
            "stream": true, "stream_options": {"include_usage": true},
        });
        let extra = self.extra.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
        body.as_object_mut().expect("an object").extend(extra);
        body
    }
}

// ---- HTTP

/// A connection that is kept alive.
struct Connection {
    from: BufReader<TcpStream>,
}

impl Connection {
    fn open(target: &Target) -> io::Result<Connection> {
        let socket = TcpStream::connect(&target.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Connection { from: BufReader::new(socket) })
    }

    fn send(&mut self, target: &Target, method: &str, path: &str, body: Option<&Value>) -> io::Result<()> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let token = target.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{token}\r\n{body}",
            target.address,
            body.len()
        );
        self.from.get_mut().write_all(request.as_bytes())
    }

    /// The body of an answer that is not an error.
    fn answer(&mut self) -> Outcome<Body<'_>> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let status: u16 =
            line.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| format!("no answer: {line:?}"))?;
        let (mut left, mut chunked) = (0, false);
        loop {
            line.clear();
            self.from.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => left = value.trim().parse()?,
                "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
                _ => {}
            }
        }
        let mut body = Body { from: &mut self.from, left, chunked, begun: false };
        if status >= 400 {
            let mut said = String::new();
            body.read_to_string(&mut said)?;
            return Err(format!("{status}: {said}").into());
        }
        Ok(body)
    }

    fn get(&mut self, target: &Target, path: &str) -> Outcome<String> {
        self.send(target, "GET", path, None)?;
        let mut text = String::new();
        self.answer()?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Asks for a completion as a stream, and reads until `go_on` says no or it has ended.
    fn stream(&mut self, target: &Target, seed: u64, tokens: u64, mut go_on: impl FnMut() -> bool) -> Outcome<Took> {
        let begun = Instant::now();
        self.send(target, "POST", "/v1/completions", Some(&target.completion(seed, tokens)))?;
        let (mut first, mut written) = (None, 0);
        for line in BufReader::new(self.answer()?).lines() {
            let line = line?;
            let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
            let event: Value = serde_json::from_str(data)?;
            if event.get("error").is_some() {
                return Err(format!("in the stream: {event}").into());
            }
            if event["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()) {
                first.get_or_insert_with(|| begun.elapsed());
            }
            written = event["usage"]["completion_tokens"].as_u64().unwrap_or(written);
            if !go_on() {
                break;
            }
        }
        let ended = Instant::now();
        Ok(Took { begun, ended, first: first.unwrap_or(ended - begun), tokens: written })
    }
}

/// What an answer took.
struct Took {
    begun: Instant,
    ended: Instant,
    first: Duration,
    tokens: u64,
}

/// The body of an answer, read to its end and not beyond.
struct Body<'a> {
    from: &'a mut BufReader<TcpStream>,
    left: usize,
    chunked: bool,
    begun: bool,
}

impl Read for Body<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.chunked {
            let mut line = String::new();
            if std::mem::replace(&mut self.begun, true) {
                self.from.read_line(&mut line)?;
                line.clear();
            }
            self.from.read_line(&mut line)?;
            self.left = usize::from_str_radix(line.trim(), 16)
                .map_err(|_| io::Error::other(format!("a chunk's size is {line:?}")))?;
            if self.left == 0 {
                self.chunked = false;
                self.from.read_line(&mut line)?;
            }
        }
        let room = into.len().min(self.left);
        let read = if room == 0 { 0 } else { self.from.read(&mut into[..room])? };
        if room > 0 && read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read;
        Ok(read)
    }
}

// ---- tokens per second

fn rates(target: &Target) -> Outcome<Value> {
    let mut found = vec![Vec::new(); target.streams.len()];
    // What is loaded or allocated at the first request is not measured.
    rate(target, 1, 16)?;
    for _ in 0..target.rounds {
        for (found, &streams) in found.iter_mut().zip(&target.streams) {
            found.push(rate(target, streams, target.tokens)?);
        }
    }
    let rows = target.streams.iter().zip(found);
    Ok(rows.map(|(streams, found)| json!({"streams": streams, "tokens_per_s": median(found)})).collect())
}

/// Tokens per second of so many streams that begin together.
fn rate(target: &Target, streams: usize, tokens: u64) -> Outcome<f64> {
    let barrier = Barrier::new(streams);
    let took: Vec<Outcome<Took>> = thread::scope(|scope| {
        let write = |seed| {
            let connection = Connection::open(target);
            barrier.wait();
            connection?.stream(target, seed, tokens, || true)
        };
        let threads: Vec<_> = (0..streams as u64).map(|seed| scope.spawn(move || write(seed))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a stream's thread")).collect()
    });
    let took = took.into_iter().collect::<Outcome<Vec<_>>>()?;
    let begun = took.iter().map(|took| took.begun).min().expect("at least one stream");
    let ended = took.iter().map(|took| took.ended).max().expect("at least one stream");
    Ok(took.iter().map(|took| took.tokens as f64).sum::<f64>() / (ended - begun).as_secs_f64())
}

// ---- the first token

fn first(target: &Target) -> Outcome<Value> {
    let most = target.streams.iter().copied().max().unwrap_or(1);
    let idle = probe(target)?;
    // One of the streams is the one that is measured.
    let busy = beside(target, most - 1, || probe(target))?;
    let row = |streams: usize, mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
        json!({"streams": streams, "p50_ms": at(0.5), "p99_ms": at(0.99)})
    };
    Ok(json!([row(1, idle), row(most, busy)]))
}

/// Milliseconds to the first token of requests, one after the other, with a pause before each.
fn probe(target: &Target) -> Outcome<Vec<f64>> {
    let one = |seed| {
        // Not in step with the others.
        thread::sleep(Duration::from_millis(20 + seed * 7 % 13));
        // Not every server keeps a connection that streamed.
        Ok(Connection::open(target)?.stream(target, seed, 8, || true)?.first.as_secs_f64() * 1e3)
    };
    (0..target.probes as u64).map(one).collect()
}

/// Does something while so many streams write, each a new text once one has ended.
fn beside<T>(target: &Target, streams: usize, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let over = AtomicBool::new(false);
    let write = |seed: u64| -> Outcome<()> {
        for round in 0.. {
            if over.load(Relaxed) {
                break;
            }
            Connection::open(target)?.stream(target, seed + 1000 * round, target.tokens, || true)?;
        }
        Ok(())
    };
    let write = &write;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..streams as u64).map(|seed| scope.spawn(move || write(seed))).collect();
        thread::sleep(Duration::from_millis(200));
        let done = work();
        over.store(true, Relaxed);
        for thread in threads {
            thread.join().expect("a stream's thread")?;
        }
        done
    })
}

// ---- a client that goes

/// How a client goes, and when.
const WAYS: [(&str, bool, bool); 4] = [
    ("close in the prompt", false, false),
    ("close in the stream", true, false),
    ("reset in the prompt", false, true),
    ("reset in the stream", true, true),
];

fn gone(target: &Target) -> Outcome<Value> {
    let mut found = vec![Vec::new(); WAYS.len()];
    for _ in 0..target.rounds.max(5) {
        for (found, &(_, in_stream, reset)) in found.iter_mut().zip(&WAYS) {
            found.push(leave(target, in_stream, reset)?);
        }
    }
    let rows = WAYS.iter().zip(found);
    Ok(rows.map(|((name, ..), found)| json!({"client": name, "worst_ms": found.iter().copied().fold(0.0, f64::max), "median_ms": median(found)})).collect())
}

/// Milliseconds from a client's going until `/metrics` has no text that is being written, and none begins any more.
fn leave(target: &Target, in_stream: bool, reset: bool) -> Outcome<f64> {
    let mut watch = Connection::open(target)?;
    let mut is_running =
        || Ok::<_, Box<dyn Error + Send + Sync>>(gauge(&watch.get(target, "/metrics")?, &target.open)? > 0.0);
    let mut client = Connection::open(target)?;
    if reset && !in_stream {
        // A socket that is closed with bytes unread resets its connection.
        client.send(target, "GET", "/health", None)?;
        client.from.get_ref().peek(&mut [0])?;
    }
    client.send(target, "POST", "/v1/completions", Some(&target.completion(1, 60_000)))?;
    if in_stream {
        let begun = Instant::now();
        while !is_running()? {
            if begun.elapsed() > NEVER {
                return Err(format!("{} stay 0 while a text is written", target.open).into());
            }
        }
        // What has come is read; for a reset, what comes then is not.
        client.from.fill_buf()?;
        if reset {
            client.from.get_ref().peek(&mut [0])?;
        } else {
            client.from.get_ref().set_nonblocking(true)?;
            while client.from.get_mut().read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {}
        }
    }
    let gone = Instant::now();
    drop(client);
    let mut seen = Duration::ZERO;
    // A request that was sent a moment ago may begin only now.
    while gone.elapsed() < seen + QUIET {
        if is_running()? {
            seen = gone.elapsed();
            if seen > NEVER {
                return Err(format!("{NEVER:?} after its client has gone, a text is still written").into());
            }
        }
    }
    Ok(seen.as_secs_f64() * 1e3)
}

/// The sum of gauges in the text of `/metrics`.
fn gauge(metrics: &str, names: &str) -> Outcome<f64> {
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok())
    };
    let missing =
        |name| format!("/metrics has no {name}: name the gauges of texts that have not ended with --open").into();
    names.split(',').map(|name| value(name).ok_or_else(|| missing(name))).sum()
}

// ---- a reader who does not read

fn stalled(target: &Target) -> Outcome<Value> {
    let streams = target.streams.iter().copied().max().unwrap_or(1);
    let (mut reading, mut not_reading) = (Vec::new(), Vec::new());
    for _ in 0..target.rounds {
        reading.push(others(target, streams - 1, true)?);
        not_reading.push(others(target, streams - 1, false)?);
    }
    let (with, without) = (median(reading), median(not_reading));
    Ok(
        json!([{"streams": streams, "all_read_tokens_per_s": with, "one_stalled_tokens_per_s": without, "lost_percent": 100.0 * (1.0 - without / with)}]),
    )
}

/// Tokens per second of so many streams beside one long one, whose client reads or does not.
fn others(target: &Target, streams: usize, reads: bool) -> Outcome<f64> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let extra = scope.spawn(|| -> Outcome<()> {
            let mut connection = Connection::open(target)?;
            while reads && !over.load(Relaxed) {
                connection.stream(target, 99, 60_000, || !over.load(Relaxed))?;
                connection = Connection::open(target)?;
            }
            if !reads {
                connection.send(target, "POST", "/v1/completions", Some(&target.completion(99, 60_000)))?;
                while !over.load(Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Ok(())
        });
        thread::sleep(Duration::from_millis(50));
        let found = rate(target, streams, target.tokens);
        over.store(true, Relaxed);
        extra.join().expect("the extra reader's thread")?;
        found
    })
}

// ---- figures

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Rows of figures as a Markdown table.
fn print_table(name: &str, rows: &Value) {
    let rows: Vec<&serde_json::Map<String, Value>> =
        rows.as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let Some(heads) = rows.first().map(|row| row.keys().cloned().collect::<Vec<_>>()) else { return };
    println!("{name}\n| {} |\n|{}", heads.join(" | ").replace('_', " "), "---|".repeat(heads.len()));
    for row in rows {
        let cell = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or(f64::NAN)),
            other => other.to_string(),
        };
        println!("| {} |", row.values().map(cell).collect::<Vec<_>>().join(" | "));
    }
    println!();
}
