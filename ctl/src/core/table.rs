//! Plain text tables: a header, rows, columns as wide as their widest cell.

/// Left for names, right for numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Lines without a line feed at the end of the last one. Rows shorter than the header are filled with empty cells.
#[must_use]
pub fn render(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |nth: usize| {
        let cells = rows.iter().filter_map(|row| row.get(nth)).map(|cell| cell.chars().count());
        cells.chain([columns[nth].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let header: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut lines = Vec::with_capacity(rows.len() + 1);
    for row in std::iter::once(&header).chain(rows) {
        let cells = columns.iter().zip(&widths).enumerate().map(|(nth, ((_, align), width))| {
            let cell = row.get(nth).map_or("", String::as_str);
            match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            }
        });
        lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "1000".to_owned()]];
        assert_eq!(render(&[("node", Align::Left), ("n", Align::Right)], &rows), "node     n\na        1\nlong  1000");
    }
}
