//! Conversations as the data of a command: which preset holds them, and how long they are.

use super::table::{columns, row};
use crate::{
    config::{Config, PRESETS},
    data::{Chats, Origin},
    text::source::{Corpus, DATES},
};
use serde_json::{Value, json};
use std::path::Path;

/// The preset for conversations.
const PRESET: &str = "chat";

/// The preset where none is named, and a note where that is no matter of course: the first of all or, where the data begin with a
/// conversation, the one for these. The others see too little at once.
pub(super) fn default_preset(
    data: &[String],
    origin: &Origin,
    set: &[String],
    field: Option<&str>,
) -> (&'static str, Option<String>) {
    let usual = (PRESETS[0].name, None);
    let mut config = Config::default();
    config.data_field = field.unwrap_or(&config.data_field).to_owned();
    // What is wrong with it is said when all of it is set.
    set.iter().for_each(|setting| drop(config.set(setting)));
    let corpus = match origin {
        Origin::Named => {
            // A stream can be read only once, and a folder may hold very many files.
            let Some(first) = data.first().filter(|name| Path::new(name).is_file() || *name == DATES) else {
                return usual;
            };
            Corpus::named(std::slice::from_ref(first), &config)
        }
        in_memory => in_memory.corpus(&config),
    };
    if !corpus.is_ok_and(|corpus| corpus.begins_with_a_conversation()) {
        return usual;
    }
    let usual = usual.0;
    let note =
        format!("these are conversations, so the preset is {PRESET} instead of {usual} (choose another with --preset)");
    (PRESET, Some(note))
}

/// What `data stats` says of conversations.
pub(super) fn text(chats: &Chats) -> String {
    let roles: Vec<_> = chats.roles.iter().map(|(role, n)| format!("{role} {n}")).collect();
    let mut lines = vec![
        row!["conversations", chats.count()],
        row!["messages", chats.messages, roles.join(", ")],
        row!["answers to learn", chats.answers],
        row!["conversations with several answers", chats.several_answers],
        row!["tokens of the median conversation", chats.median()],
        row!["tokens of the longest conversation", chats.longest()],
    ];
    lines.extend(
        chats
            .by_block_size()
            .into_iter()
            .map(|(block_size, n)| row![format!("fit into block_size = {block_size}"), n, share(n, chats)]),
    );
    let most = match chats.block_size() {
        Some(block_size) => format!("The smallest block_size that holds 99 % of them: {block_size}\n"),
        None => "No allowed block_size holds 99 % of them.\n".to_owned(),
    };
    columns(&lines) + &most
}

fn share(n: usize, chats: &Chats) -> String {
    format!("{:.1} %", 100.0 * n as f64 / chats.count().max(1) as f64)
}

/// The same as JSON.
pub(super) fn json(chats: &Chats) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(chats)?;
    let fits = chats.by_block_size().into_iter().map(|(block_size, n)| {
        json!({"block_size": block_size, "conversations": n, "share": n as f64 / chats.count().max(1) as f64})
    });
    value["conversations"] = json!(chats.count());
    value["median_tokens"] = json!(chats.median());
    value["longest_tokens"] = json!(chats.longest());
    value["fits"] = fits.collect();
    value["block_size"] = json!(chats.block_size());
    Ok(value)
}
