//! Upgrade steps. A step is written by hand where tables change; functions, views, triggers and comments are replaced as a
//! whole, and a line in the step stands for all of them as `sql/` has them. A released step has them written out.

/// The line that is replaced.
const REPLACEABLE: &str = "-- xtask: functions, views, triggers and comments of sql/ follow";

/// The step as it is installed.
pub(crate) fn complete(step: &str, install_script: &str) -> String {
    if !step.lines().any(|line| line == REPLACEABLE) {
        return step.to_owned();
    }
    let replaced: Vec<String> = statements(install_script).into_iter().filter_map(replacement).collect();
    step.replace(REPLACEABLE, &replaced.join("\n\n"))
}

/// The statement that brings an existing object to what this one would make, if one can.
fn replacement(statement: &str) -> Option<String> {
    for kind in ["FUNCTION", "VIEW", "TRIGGER"] {
        if let Some(rest) = statement.strip_prefix(&format!("CREATE {kind} ")) {
            return Some(format!("CREATE OR REPLACE {kind} {rest};"));
        }
    }
    if let Some(rest) = statement.strip_prefix("CREATE EVENT TRIGGER ") {
        let name = rest.split_whitespace().next()?;
        return Some(format!("DROP EVENT TRIGGER IF EXISTS {name};\n{statement};"));
    }
    // When they fire is set anew with them.
    if statement.starts_with("ALTER EVENT TRIGGER ") || statement.contains(" ENABLE ALWAYS TRIGGER ") {
        return Some(format!("{statement};"));
    }
    statement.starts_with("COMMENT ON ").then(|| format!("{statement};"))
}

/// Splits a script at its semicolons, those in quotes, bodies and comments aside; comments before a statement are left out.
fn statements(script: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < script.len() {
        let rest = &script[at..];
        let skip_to =
            |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |to| from + to + end.len());
        if rest.starts_with("--") || rest.starts_with("\\echo") {
            at += skip_to("\n", 0);
            if script[start..at].lines().all(|line| line.trim().is_empty() || line.starts_with(['-', '\\'])) {
                start = at;
            }
        } else if let Some(quote) = ["'", "\""].into_iter().find(|quote| rest.starts_with(quote)) {
            at += skip_to(quote, 1);
        } else if let Some(tag) = dollar_tag(rest) {
            at += skip_to(tag, tag.len());
        } else if rest.starts_with(';') {
            found.push(script[start..at].trim());
            at += 1;
            start = at;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

/// `$$` or `$name$` at the start of a text.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = text.strip_prefix('$')?.find('$')? + 2;
    let name = &text[1..end - 1];
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\\echo x \\quit\n-- a; comment\nCREATE TABLE t (a text DEFAULT ';');\n\n-- why\nCREATE FUNCTION f() RETURNS int AS $$\n\
        -- b;\n SELECT 1; $$;\nCOMMENT ON FUNCTION f() IS 'it''s; f';\nCREATE VIEW \"a;b\" AS SELECT 1;\n";

    #[test]
    fn scripts_are_split_at_the_ends_of_statements() {
        let found = statements(SCRIPT);
        assert_eq!(found.len(), 4, "{found:#?}");
        assert_eq!(found[0], "CREATE TABLE t (a text DEFAULT ';')");
        assert!(found[1].starts_with("CREATE FUNCTION") && found[1].ends_with("$$"));
        assert_eq!(found[2], "COMMENT ON FUNCTION f() IS 'it''s; f'");
    }

    #[test]
    fn what_can_be_replaced_is_replaced() {
        let step = complete(&format!("before;\n{REPLACEABLE}\nafter;\n"), SCRIPT);
        assert!(step.starts_with("before;\nCREATE OR REPLACE FUNCTION f()"), "{step}");
        assert!(step.contains("CREATE OR REPLACE VIEW \"a;b\" AS SELECT 1;\nafter;"), "{step}");
        assert!(!step.contains("CREATE TABLE"));
        assert_eq!(complete("released;", SCRIPT), "released;");
    }
}
