//! `kinglet serve`

use super::{
    browser,
    choice::Threads,
    report,
    run_arg::{RunArg, folder},
    terminal::{self, Ended},
};
use crate::{
    error::Error,
    run::HOME,
    serve::{Options, Root, Server, addresses, random_hex},
};
use serde_json::json;
use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The heading of what concerns clients of elsewhere.
const ACCESS: &str = "Access";

/// So many models are named at the start.
const NAMED: usize = 8;

/// The fewest characters of a token.
const TOKEN: usize = 16;

/// Serve trained models: a page to look at them, and OpenAI's API
#[derive(clap::Args)]
#[command(after_help = "\
A model is called by the path of its run under the folder that is served; NAME@last and NAME@STEP select another \
checkpoint than the best. Models are loaded when they are first asked for. New runs are found, and runs that are being trained \
are renewed; nothing is written into a run. Without --host, only programs on this machine can connect. With it, a token is \
made and required.

Examples:
  kinglet serve --open
  kinglet serve mine --port 8000
  kinglet serve runs --host 0.0.0.0 --token-file token.txt")]
pub(super) struct Args {
    /// Runs or folders of runs [default: runs/]
    #[arg(value_name = "PATH")]
    paths: Vec<RunArg>,
    /// Port to listen on; 0 is any that is free [default: 7317]
    #[arg(short, long, value_name = "N", default_value_t = 7317, hide_default_value = true)]
    port: u16,
    /// Texts that are generated at the same time [default: 32]
    #[arg(long, value_name = "N", default_value_t = 32, hide_default_value = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Texts that may wait for their turn; more are refused [default: 128]
    #[arg(long, value_name = "N", default_value_t = 128, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=8192))]
    queue: u16,
    /// Models to keep in memory; for another, the one that was used least recently is unloaded [default: 4]
    #[arg(long, value_name = "N", default_value_t = 4, hide_default_value = true, value_parser = clap::value_parser!(u16).range(1..=256))]
    models_max: u16,
    #[command(flatten)]
    threads: Threads,
    /// Open the page in a browser
    #[arg(long)]
    open: bool,
    /// Serve no page, only the API
    #[arg(long, conflicts_with = "open")]
    no_page: bool,
    /// Address to listen on; 0.0.0.0 is all addresses of this machine [default: 127.0.0.1]
    #[arg(help_heading = ACCESS, long, value_name = "HOST", default_value = "127.0.0.1", hide_default_value = true)]
    host: String,
    /// File with the token that clients must send as their API key; if there is none yet, a token is made and written to it
    #[arg(help_heading = ACCESS, long, value_name = "FILE", conflicts_with = "no_auth")]
    token_file: Option<PathBuf>,
    /// Do not require a token, even where others can connect
    #[arg(help_heading = ACCESS, long)]
    no_auth: bool,
    /// Another name that clients may call this machine by; may be repeated
    #[arg(help_heading = ACCESS, long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Address of a web page that may use the server, such as http://localhost:3000
    #[arg(help_heading = ACCESS, long, value_name = "ORIGIN")]
    cors_origin: Option<String>,
}

/// The token that is demanded, if any, and whether it was made here.
struct Token {
    text: Option<String>,
    is_new: bool,
}

impl Token {
    /// The token, if nobody knows it yet.
    fn made(&self) -> Option<&str> {
        self.text.as_deref().filter(|_| self.is_new)
    }
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        let roots = self.roots()?;
        let token = self.token()?;
        let mut options = Options::default();
        (options.host, options.port) = (self.host.clone(), self.port);
        options.token.clone_from(&token.text);
        (options.allow_hosts, options.cors_origin) = (self.allow_host.clone(), self.cors_origin.clone());
        options.page = !self.no_page;
        options.models_max = self.models_max.into();
        (options.engine.parallel, options.engine.queue) = (self.parallel.into(), self.queue.into());
        options.engine.threads = self.threads.count();
        options.say = Arc::new(|line| terminal::tell(&format!("note: {line}")));
        let server = Server::start(roots, options)?;
        let stopper = server.stopper();
        report::on_signal(
            "Closing: what is being written may take 5 s more. Press Ctrl-C again to end at once.",
            move || {
                stopper.stop();
            },
        )?;
        let page = (!self.no_page).then(|| page(server.address(), &token));
        show(&server, &token, page.as_deref(), json)?;
        let is_secret = token.made().is_some();
        // What leads the browser to the page is removed when the server ends.
        let _leads = page.filter(|_| self.open).and_then(|page| browser::open(&page, is_secret));
        server.wait()?;
        // To end when it is told to is all that is asked of it: service managers take another status for a failure.
        Ok(Ended::Done)
    }

    /// What is served.
    fn roots(&self) -> anyhow::Result<Vec<Root>> {
        if self.paths.is_empty() {
            if !Path::new(HOME).is_dir() {
                let what =
                    format!("there are no runs in {HOME}/ yet: kinglet train creates one, or name the folder of a run");
                return Err(Error::Data(what).into());
            }
            return Ok(vec![PathBuf::from(HOME).into()]);
        }
        self.paths.iter().map(root).collect()
    }

    fn token(&self) -> anyhow::Result<Token> {
        if let Some(path) = &self.token_file {
            let is_new = !path.exists();
            let text = if is_new { write_token(path)? } else { read_token(path)? };
            return Ok(Token { text: Some(text), is_new });
        }
        let is_open = addresses(&self.host, self.port)?.iter().any(|address| !address.ip().is_loopback());
        if is_open && self.no_auth {
            terminal::tell("warning: everybody who can reach this machine can use the models: no token is demanded");
        }
        let is_new = is_open && !self.no_auth;
        Ok(Token { text: is_new.then(|| random_hex(24)).transpose()?, is_new })
    }
}

/// A run, a checkpoint of it, or a folder of runs.
fn root(path: &RunArg) -> anyhow::Result<Root> {
    let error = match path.found() {
        Ok((path, which)) => return Ok(Root { path, which }),
        Err(error) => error,
    };
    Ok(folder(path.as_path()).map_err(|_| error)?.into())
}

/// Makes a token, and a file with it that only this user can read.
fn write_token(path: &Path) -> anyhow::Result<String> {
    let token = random_hex(24)?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(Error::io("write", path))?;
    file.write_all(format!("{token}\n").as_bytes()).map_err(Error::io("write", path))?;
    Ok(token)
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    // What is no text is no token either.
    let text = String::from_utf8_lossy(&bytes);
    let token = text.trim();
    if token.len() < TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = format!("{}: a token has at least {TOKEN} characters of ASCII, without spaces", path.display());
        return Err(Error::BadConfig(what).into());
    }
    Ok(token.to_owned())
}

/// Where the page is, for a browser on this machine. What stands behind `#` is not sent to any server; it is a secret on a
/// command line all the same.
fn page(address: SocketAddr, token: &Token) -> String {
    let ip = match address.ip() {
        // All addresses are not one that leads anywhere.
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let token = token.made().map(|token| format!("#token={token}")).unwrap_or_default();
    format!("http://{}/{token}", SocketAddr::new(ip, address.port()))
}

/// Where it listens, what is there, and how to try it.
fn show(server: &Server, token: &Token, page: Option<&str>, json: bool) -> anyhow::Result<()> {
    let (address, names) = (server.address(), server.models());
    let url = format!("http://{address}");
    let new = token.made();
    if json {
        let about = json!({
            "event": "serving", "page": page, "url": url, "host": address.ip().to_string(), "port": address.port(), "models": names,
            "authenticated": token.text.is_some(), "token": new,
        });
        return terminal::print_json(&about);
    }
    let mut text = page.map(|page| format!("{:<10}{page}\n", "page")).unwrap_or_default();
    text += &format!("{:<10}{url}/v1\n", "API");
    for name in names.iter().take(NAMED) {
        text += &format!("{:<10}{name}\n", "model");
    }
    if names.len() > NAMED {
        text += &format!("{:<10}{} more\n", "", names.len() - NAMED);
    }
    if names.is_empty() {
        terminal::note([&"there is no run with a checkpoint yet; runs are served as soon as they have one".to_owned()]);
    }
    if let Some(token) = new {
        text += &format!("{:<10}{token}\n", "token");
    }
    terminal::print(&text)?;
    let bearer = match (&token.text, token.is_new) {
        (Some(token), true) => format!(" -H 'Authorization: Bearer {token}'"),
        (Some(_), false) => " -H 'Authorization: Bearer TOKEN'".to_owned(),
        (None, _) => String::new(),
    };
    let name = names.first().map_or("NAME", String::as_str);
    let body = json!({"model": name, "prompt": "The ", "max_tokens": 50}).to_string();
    let curl =
        format!("curl {url}/v1/completions{bearer} -H 'Content-Type: application/json' -d {}", terminal::quoted(body));
    Ok(terminal::hints(&[("try it", curl), ("stop it", "Ctrl-C".to_owned())])?)
}
