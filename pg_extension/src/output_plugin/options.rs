use foreshard_protocol::PROTOCOL_VERSION;
use pgrx::PgSqlErrorCode;

use crate::catalog::fail;

/// What a consumer asks for with START_REPLICATION.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// The edge it follows for.
    pub(crate) edge: String,
    /// It wants to know what becomes of rows, not only where something changed.
    pub(crate) deltas: bool,
}

/// Why the options don't do.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: PgSqlErrorCode,
    message: String,
}

/// The options, or an ERROR that says which are wanted.
pub(crate) fn parse(given: &[(String, Option<String>)]) -> Options {
    read(given).unwrap_or_else(|refusal| {
        fail(
            refusal.code,
            refusal.message,
            &format!("Options of the plugin foreshard: \"edge\" 'NAME', \"protocol\" '{PROTOCOL_VERSION}', and \"deltas\" 'on' for changes of rows."),
        )
    })
}

fn read(given: &[(String, Option<String>)]) -> Result<Options, Refusal> {
    let refuse =
        |message: String| Err(Refusal { code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message });
    let (mut edge, mut protocol, mut deltas) = (None, None, None);
    for (name, value) in given {
        let place = match name.as_str() {
            "edge" => &mut edge,
            "protocol" => &mut protocol,
            "deltas" => &mut deltas,
            _ => return refuse(format!("unknown option \"{name}\" for output plugin foreshard")),
        };
        let Some(value) = value else { return refuse(format!("option \"{name}\" needs a value")) };
        if place.replace(value.clone()).is_some() {
            return refuse(format!("option \"{name}\" is given twice"));
        }
    }
    let Some(edge) = edge else { return refuse("option \"edge\" is missing".into()) };
    let Some(protocol) = protocol else { return refuse("option \"protocol\" is missing".into()) };
    if protocol != PROTOCOL_VERSION.to_string() {
        return Err(Refusal {
            code: PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            message: format!("protocol \"{protocol}\" is not supported, only {PROTOCOL_VERSION}"),
        });
    }
    let deltas = match deltas.as_deref() {
        None | Some("off") => false,
        Some("on") => true,
        Some(other) => return refuse(format!("option \"deltas\" is on or off, not \"{other}\"")),
    };
    Ok(Options { edge, deltas })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(options: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
        options.iter().map(|(name, value)| ((*name).into(), value.map(Into::into))).collect()
    }

    #[test]
    fn what_may_be_asked_for() {
        let ok = given(&[("protocol", Some("2")), ("edge", Some("jfk"))]);
        assert_eq!(read(&ok), Ok(Options { edge: "jfk".into(), deltas: false }));
        for (word, deltas) in [("on", true), ("off", false)] {
            let asked = given(&[("protocol", Some("2")), ("edge", Some("jfk")), ("deltas", Some(word))]);
            assert_eq!(read(&asked), Ok(Options { edge: "jfk".into(), deltas }));
        }
        for wrong in [
            given(&[]),
            given(&[("edge", Some("jfk"))]),
            given(&[("protocol", Some("2"))]),
            given(&[("edge", None), ("protocol", Some("2"))]),
            given(&[("edge", Some("a")), ("edge", Some("b")), ("protocol", Some("2"))]),
            given(&[("edge", Some("a")), ("protocol", Some("1"))]),
            given(&[("edge", Some("a")), ("protocol", Some("2")), ("deltas", Some("yes"))]),
            given(&[("edge", Some("a")), ("protocol", Some("2")), ("x", Some("1"))]),
        ] {
            assert!(read(&wrong).is_err(), "{wrong:?}");
        }
    }
}
