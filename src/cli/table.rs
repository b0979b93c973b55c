//! Columns of text for a terminal.

use super::console::one_line;

/// A heading and rows of as many cells. What cells say was said elsewhere: it stays in its cell.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = std::iter::once(heading.map(str::to_owned))
        .chain(rows.iter().cloned())
        .map(|row| row.map(|cell| one_line(&cell).into_owned()))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A cell of which nothing is known.
pub(super) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".into(), |text| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_no_cell_leaves_its_own() {
        let rows = [["web-0".into(), "v41\nweb-9  v42".into()], ["übrig".into(), or_dash(None::<u8>)]];
        insta::assert_snapshot!(table(["POD", "RUNS"], &rows), @r"
        POD    RUNS
        web-0  v41\nweb-9  v42
        übrig  -
        ");
    }
}
