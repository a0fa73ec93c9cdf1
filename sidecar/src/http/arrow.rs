//! Rows as an Arrow IPC stream.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Date32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};
use foreshard_protocol::{Column, ColumnKind, Row};

/// Rows in one record batch.
const BATCH: usize = 16_384;

/// The stream, or the name of the column with a value that its Arrow type has no room for.
pub(super) fn to_arrow(columns: &[Column], rows: &[&Row]) -> Result<Vec<u8>, String> {
    let fields: Vec<Field> = columns.iter().map(field).collect();
    let schema = Arc::new(Schema::new(fields));
    let failed = |error: ArrowError| error.to_string();
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(failed)?;
    for part in rows.chunks(BATCH) {
        let array = |(at, column): (usize, &Column)| {
            array(column.kind, part.iter().map(|row| row.get(at).and_then(Option::as_deref)))
                .ok_or_else(|| column.name.clone())
        };
        let arrays = columns.iter().enumerate().map(array).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(part.len()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), arrays, &options).map_err(failed)?;
        writer.write(&batch).map_err(failed)?;
    }
    writer.into_inner().map_err(failed)
}

fn field(column: &Column) -> Field {
    let (kind, of) = match column.kind.written() {
        ColumnKind::Int => (DataType::Int64, "int"),
        // Text, because no binary type has room for every numeric: NaN, the infinities, a hundred thousand digits.
        ColumnKind::Number => (DataType::Utf8, "number"),
        ColumnKind::Bool => (DataType::Boolean, "bool"),
        ColumnKind::Json => (DataType::Utf8, "json"),
        ColumnKind::Date => (DataType::Date32, "date"),
        ColumnKind::Timestamp => (DataType::Timestamp(TimeUnit::Microsecond, None), "timestamp"),
        ColumnKind::TimestampTz => {
            (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), "timestamptz")
        }
        _ => (DataType::Utf8, "text"),
    };
    let metadata = HashMap::from([("foreshard.kind".to_owned(), of.to_owned())]);
    Field::new(&column.name, kind, true).with_metadata(metadata)
}

fn array<'a>(kind: ColumnKind, values: impl Iterator<Item = Option<&'a str>>) -> Option<ArrayRef> {
    macro_rules! build {
        ($builder:expr, $read:expr) => {{
            let mut builder = $builder;
            for value in values {
                match value {
                    None => builder.append_null(),
                    Some(text) => builder.append_value($read(text)?),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    Some(match kind.written() {
        ColumnKind::Int => build!(Int64Builder::new(), |text: &str| text.parse::<i64>().ok()),
        ColumnKind::Bool => build!(BooleanBuilder::new(), |text: &str| text.parse::<bool>().ok()),
        ColumnKind::Date => build!(Date32Builder::new(), date),
        ColumnKind::Timestamp => build!(TimestampMicrosecondBuilder::new(), moment),
        ColumnKind::TimestampTz => {
            build!(TimestampMicrosecondBuilder::new().with_timezone("UTC"), moment)
        }
        _ => build!(StringBuilder::new(), Some),
    })
}

/// Days since 1970. The infinities are the outermost values, as inside PostgreSQL.
fn date(text: &str) -> Option<i32> {
    match text {
        "infinity" => Some(i32::MAX),
        "-infinity" => Some(i32::MIN),
        text => i32::try_from(days(text)?).ok(),
    }
}

/// Microseconds since 1970. The infinities are the outermost values, as inside PostgreSQL.
fn moment(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (text, era) = match text.strip_suffix(" BC") {
        Some(text) => (text, " BC"),
        None => (text, ""),
    };
    let (day, time) = text.split_once(['T', ' '])?;
    // The origin writes times with an offset in UTC.
    let time = time.trim_end_matches("+00:00").trim_end_matches("+00");
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = clock.split(':').map(|part| part.parse::<i64>().ok());
    let (Some(Some(hours)), Some(Some(minutes)), Some(Some(seconds)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").parse().ok()?;
    let seconds = days(&format!("{day}{era}"))?.checked_mul(86_400)? + hours * 3600 + minutes * 60 + seconds;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar, of any year that PostgreSQL knows.
fn days(text: &str) -> Option<i64> {
    let (text, before_christ) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let mut parts = text.split('-').map(|part| part.parse::<i64>().ok());
    let (Some(Some(year)), Some(Some(month)), Some(Some(day)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(1..=6_000_000).contains(&year) {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    // Years begin in March here, so that the leap day is a year's last one.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Date32Type, Int64Type, TimestampMicrosecondType};
    use arrow_ipc::reader::StreamReader;

    use super::*;

    #[test]
    fn a_stream_reads_back() {
        let column = |name: &str, kind| Column { name: name.into(), kind };
        let columns = [
            column("id", ColumnKind::Int),
            column("price", ColumnKind::Number),
            column("ok", ColumnKind::Bool),
            column("day", ColumnKind::Date),
            column("at", ColumnKind::TimestampTz),
        ];
        let row = |values: [&str; 5]| -> Row { values.iter().map(|text| Some((*text).to_owned())).collect() };
        let rows = [
            row(["9223372036854775807", "NaN", "true", "2024-02-29", "2024-02-03T04:05:06.7+00:00"]),
            vec![None; 5],
        ];
        let bytes = to_arrow(&columns, &rows.iter().collect::<Vec<_>>()).unwrap();
        let batches: Vec<_> = StreamReader::try_new(&bytes[..], None).unwrap().map(Result::unwrap).collect();
        let batch = &batches[0];
        assert_eq!((batches.len(), batch.num_rows(), batch.column(0).null_count()), (1, 2, 1));
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), i64::MAX);
        assert_eq!(batch.column(1).as_string::<i32>().value(0), "NaN");
        assert!(batch.column(2).as_boolean().value(0));
        assert_eq!(batch.column(3).as_primitive::<Date32Type>().value(0), 19_782);
        assert_eq!(
            batch.column(4).as_primitive::<TimestampMicrosecondType>().value(0),
            1_706_933_106_700_000
        );
        assert_eq!(batch.schema().field(1).metadata()["foreshard.kind"], "number");
        let empty = to_arrow(&columns, &[]).unwrap();
        assert_eq!(StreamReader::try_new(&empty[..], None).unwrap().count(), 0);
        let bad = [row(["x", "1", "true", "2024-01-01", "infinity"])];
        assert_eq!(to_arrow(&columns, &bad.iter().collect::<Vec<_>>()), Err("id".into()));
    }

    #[test]
    fn dates_of_every_age() {
        for (text, expected) in [
            ("1970-01-01", 0),
            ("2000-03-01", 11_017),
            ("1969-12-31", -1),
            ("0001-01-01", -719_162),
            ("0001-12-31 BC", -719_163),
            ("4714-11-24 BC", -2_440_588),
            ("5874897-12-31", 2_145_042_905),
            ("infinity", i32::MAX),
            ("-infinity", i32::MIN),
        ] {
            assert_eq!(date(text), Some(expected), "{text}");
        }
        assert_eq!(moment("0001-12-31T23:59:59.999999 BC"), Some(-719_162 * 86_400_000_000 - 1));
        assert_eq!(moment("1970-01-01T00:00:01"), Some(1_000_000));
        for bad in ["", "2024", "2024-13-01", "2024-01-01x", "2024-01-01T1:2", "2024-01-01T00:00:00.1234567"]
        {
            assert!(moment(bad).is_none(), "{bad}");
        }
    }
}
