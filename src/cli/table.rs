//! Text in columns.

use super::terminal;
use unicode_width::UnicodeWidthStr;

/// Minimum number of spaces between columns.
const GAP: usize = 3;

/// One line per name and value, with the values left-aligned.
pub(super) fn pairs(lines: &[(&str, String)]) -> String {
    let width = GAP + lines.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{}{value}\n", to_left(name, width))).collect()
}

/// Text with spaces behind it, up to a width in columns of a terminal.
pub(super) fn to_left(text: &str, width: usize) -> String {
    format!("{text}{:1$}", "", width.saturating_sub(text.width()))
}

/// Text with spaces before it, up to a width in columns of a terminal.
pub(super) fn to_right(text: &str, width: usize) -> String {
    format!("{:1$}{text}", "", width.saturating_sub(text.width()))
}

/// A name with `?` in the place of control characters, which a terminal would obey.
pub(super) fn visible(name: &str) -> String {
    name.replace(char::is_control, "?")
}

/// One line per row. The first column is left-aligned, the others are right-aligned. Cells beyond the first row's
/// columns are appended as notes. On a terminal, columns that do not fit on a line go below, with the first one
/// repeated.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    columns_in(rows, GAP, terminal::columns_out().unwrap_or(usize::MAX))
}

/// The same with gaps of that size, in lines of at most `width` characters.
pub(super) fn columns_in(rows: &[Vec<String>], gap: usize, width: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let size = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.width()).max().unwrap_or(0);
    let sizes: Vec<_> = (0..columns).map(size).collect();
    let mut blocks = Vec::new();
    let mut from = 1;
    loop {
        let mut used = sizes.first().copied().unwrap_or(0);
        let fitting = (from..columns).take_while(|&i| {
            used += gap + sizes[i];
            used <= width
        });
        // At least one column, however narrow the terminal.
        let to = (from + fitting.count().max(1)).min(columns.max(1));
        let line = |row: &Vec<String>| {
            let cell = |i: usize| row.get(i).map_or("", String::as_str);
            let mut text = to_left(cell(0), sizes.first().copied().unwrap_or(0));
            for (i, size) in sizes.iter().enumerate().take(to).skip(from) {
                text += &" ".repeat(gap);
                text += &to_right(cell(i), *size);
            }
            let notes = row.iter().skip(if to >= columns { columns } else { usize::MAX });
            notes.for_each(|note| text += &format!("  {note}"));
            text.trim_end().to_owned() + "\n"
        };
        blocks.push(rows.iter().map(line).collect::<String>());
        if to >= columns {
            return blocks.join("\n");
        }
        from = to;
    }
}

/// A row of [`columns`].
macro_rules! row {
    ($($cell:expr),+ $(,)?) => {
        vec![$($cell.to_string()),+]
    };
}

pub(super) use row;

#[cfg(test)]
mod tests {
    #[test]
    fn names_begin_and_numbers_end_below_each_other() {
        let lines = super::pairs(&[("a", "1".into()), ("longer", "two words".into())]);
        assert_eq!(lines, "a        1\nlonger   two words\n");
        let rows = [row!["", "train", "val"], row!["ä", 1, 20], row!["tokens", 100_000, 3, "best"]];
        assert_eq!(
            super::columns(&rows),
            "          train   val\nä             1    20\ntokens   100000     3  best\n"
        );
        assert_eq!(
            super::columns_in(&rows, 3, 20),
            "          train\nä             1\ntokens   100000\n\n         val\nä         20\ntokens     3  best\n"
        );
    }

    #[test]
    fn columns_are_those_of_a_terminal() {
        let rows = [row!["run", "val"], row!["ラベル", 1], row!["a\tb\x1b[1m", 20]];
        assert_eq!(super::columns_in(&rows, 1, 80), "run     val\nラベル    1\na?b?[1m  20\n");
        assert_eq!(super::pairs(&[("ラ", "1".into()), ("abc", "2".into())]), "ラ    1\nabc   2\n");
    }
}
