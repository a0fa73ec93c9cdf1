//! Where values come from, and how a mistake in one is told.

use std::collections::BTreeMap;
use std::path::Path;

use super::settings::{SETTINGS, Setting};

/// Values by setting name, with the place each came from for error messages.
pub(super) type Values = BTreeMap<&'static str, (String, String)>;

/// The defaults.
pub(super) fn defaults() -> Values {
    SETTINGS.iter().map(|s| (s.name, (s.default.to_owned(), "default".to_owned()))).collect()
}

/// Reads checked values out, and collects what is wrong with the others.
pub(super) struct Reader<'a> {
    pub(super) values: &'a Values,
    pub(super) mistakes: Vec<String>,
}

impl Reader<'_> {
    pub(super) fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (text, source) = self.values.get(name)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(mistake) if source == "default" => {
                self.mistakes.push(format!("{name}: {mistake}"));
                None
            }
            Err(mistake) => {
                self.mistakes.push(format!("{name} ({source}): {mistake}"));
                None
            }
        }
    }
}

/// The settings of a TOML file.
pub(super) fn read_file(path: &Path, values: &mut Values, mistakes: &mut Vec<String>) -> Result<(), String> {
    let shown = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Err(format!("{shown}: cannot be read: {error}")),
    };
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            let before = |span: std::ops::Range<usize>| text.as_bytes()[..span.start.min(text.len())].iter();
            let line = error.span().map_or(1, |span| before(span).filter(|byte| **byte == b'\n').count() + 1);
            return Err(format!("{shown}, line {line}: {}", error.message()));
        }
    };
    for (name, value) in table {
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => value.to_string(),
            _ => {
                mistakes.push(format!("{name} ({shown}): expected a single value"));
                continue;
            }
        };
        match SETTINGS.iter().find(|setting| setting.name == name) {
            Some(setting) => {
                values.insert(setting.name, (value, shown.clone()));
            }
            None => mistakes.push(format!("{name} ({shown}): no such setting{}", nearest(&name))),
        }
    }
    Ok(())
}

fn nearest(name: &str) -> String {
    let common =
        |setting: &&Setting| setting.name.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
    match SETTINGS.iter().max_by_key(common) {
        Some(setting) if common(&setting) >= 3 => format!("; did you mean {}?", setting.name),
        _ => String::new(),
    }
}
