use foreshard_protocol::{Column, ColumnKind, Row};

/// Rows as a JSON array of objects, byte for byte what `json_agg(row_to_json(…))` holds, without white space.
pub fn to_json<'a>(columns: &[Column], rows: impl Iterator<Item = &'a Row>) -> Vec<u8> {
    let mut out = vec![b'['];
    let names = names(columns);
    for (i, row) in rows.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        object(&mut out, columns, &names, row);
    }
    out.push(b']');
    out
}

/// Rows as newline-delimited JSON objects.
pub fn to_ndjson<'a>(columns: &[Column], rows: impl Iterator<Item = &'a Row>) -> Vec<u8> {
    let mut out = Vec::new();
    let names = names(columns);
    for row in rows {
        object(&mut out, columns, &names, row);
        out.push(b'\n');
    }
    out
}

/// `"name":` for every column.
fn names(columns: &[Column]) -> Vec<Vec<u8>> {
    let name = |column: &Column| {
        let mut name = Vec::new();
        string(&mut name, &column.name);
        name.push(b':');
        name
    };
    columns.iter().map(name).collect()
}

fn object(out: &mut Vec<u8>, columns: &[Column], names: &[Vec<u8>], row: &Row) {
    out.push(b'{');
    for (i, ((column, name), value)) in columns.iter().zip(names).zip(row).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        match value {
            None => out.extend_from_slice(b"null"),
            Some(text) => scalar(out, column.kind, text),
        }
    }
    out.push(b'}');
}

fn scalar(out: &mut Vec<u8>, kind: ColumnKind, text: &str) {
    let raw = match kind {
        ColumnKind::Int | ColumnKind::Bool | ColumnKind::Json => true,
        // NaN and the infinities are no JSON numbers and start with a letter (after a sign).
        ColumnKind::Number => text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()),
        _ => false,
    };
    if raw { out.extend_from_slice(text.as_bytes()) } else { string(out, text) }
}

/// A JSON string, escaped as PostgreSQL does: the two-character forms where JSON has them, `\u00XX` for other control
/// characters, everything else as it is.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut from = 0;
    for (i, byte) in text.bytes().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x08 => b"\\b",
            0x0C => b"\\f",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[from..i]);
        if escape.is_empty() {
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            out.extend_from_slice(escape);
        }
        from = i + 1;
    }
    out.extend_from_slice(&text.as_bytes()[from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(name: &str, kind: ColumnKind) -> Column {
        Column { name: name.into(), kind }
    }

    fn one(kind: ColumnKind, text: Option<&str>) -> String {
        let rows = [vec![text.map(str::to_owned)]];
        String::from_utf8(to_json(&[column("v", kind)], rows.iter())).unwrap()
    }

    #[test]
    fn scalars_as_row_to_json_writes_them() {
        for (kind, text, json) in [
            (ColumnKind::Int, "-7", "-7"),
            (ColumnKind::Number, "1.50", "1.50"),
            (ColumnKind::Number, "1e+30", "1e+30"),
            (ColumnKind::Number, "NaN", "\"NaN\""),
            (ColumnKind::Number, "-Infinity", "\"-Infinity\""),
            (ColumnKind::Bool, "true", "true"),
            (ColumnKind::Json, "{\"a\": [1,2]}", "{\"a\": [1,2]}"),
            (
                ColumnKind::Text,
                "a\"b\\c\n\t\u{8}\u{c}\r\u{1}é\u{7f}",
                "\"a\\\"b\\\\c\\n\\t\\b\\f\\r\\u0001é\u{7f}\"",
            ),
            (ColumnKind::Timestamp, "2013-01-01T05:17:00", "\"2013-01-01T05:17:00\""),
        ] {
            assert_eq!(one(kind, Some(text)), format!("[{{\"v\":{json}}}]"));
        }
        assert_eq!(one(ColumnKind::Text, None), "[{\"v\":null}]");
        assert_eq!(to_json(&[], [].iter()), b"[]");
    }

    proptest! {
        #[test]
        fn any_text_is_valid_json_and_comes_back(name in "\\PC{0,8}", text in any::<String>()) {
            let rows = [vec![Some(text.clone())], vec![None]];
            let columns = [column(&name, ColumnKind::Text)];
            let json: serde_json::Value = serde_json::from_slice(&to_json(&columns, rows.iter())).unwrap();
            prop_assert_eq!(json[0][&name].as_str(), Some(text.as_str()));
            prop_assert!(json[1][&name].is_null());
            let lines = to_ndjson(&columns, rows.iter());
            prop_assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 2);
        }
    }
}
