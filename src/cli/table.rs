//! Text in columns.

/// Minimum number of spaces between columns.
const GAP: usize = 3;

/// One line per name and value, with the values left-aligned.
pub(super) fn pairs(lines: &[(&str, String)]) -> String {
    let width = GAP + lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:<width$}{value}\n")).collect()
}

/// One line per row. The first column is left-aligned, the others are right-aligned. Cells beyond the first row's
/// columns are appended as notes.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(i, cell)| match widths.get(i) {
            Some(width) if i == 0 => format!("{cell:<width$}"),
            Some(width) => format!("{:GAP$}{cell:>width$}", ""),
            None => format!("  {cell}"),
        });
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
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
    }
}
