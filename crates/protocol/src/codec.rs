//! The one place that knows the encoding: bincode 2, standard configuration, with a limit on what is decoded.
//!
//! The crate is complete but no longer maintained (see deny.toml), which is why nothing else in the project names it
//! beyond deriving its traits: a compatible successor replaces it here.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};

/// No length inside a message can make the decoder reserve more than this.
const MAX_MESSAGE: usize = 64 << 20;
/// A message of more bytes than this may honestly hold values that take more than [`MAX_MESSAGE`] in memory: of short strings, twenty times
/// its own length.
const LONG: usize = 1 << 20;
/// What a long message can make the decoder reserve.
const MAX_LONG_MESSAGE: usize = 2 << 30;

const CONFIG: Configuration<LittleEndian, Varint, Limit<MAX_MESSAGE>> =
    bincode::config::standard().with_limit::<MAX_MESSAGE>();

/// A value that crosses the wire.
pub trait Wire: Encode + Decode<()> {}
impl<T: Encode + Decode<()>> Wire for T {}

/// The bytes were not the encoding of the expected value.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Truncated, over the limit, or not of this type.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The value ended before the bytes did.
    #[error("malformed message: {0} bytes too many")]
    Trailing(usize),
}

/// The bytes of `value`.
pub fn encode<T: Wire>(value: &T) -> Vec<u8> {
    // Encoding into memory fails only for types this crate does not have (unsized sequences, poisoned locks).
    bincode::encode_to_vec(value, CONFIG.with_no_limit()).unwrap_or_default()
}

/// The value of `bytes`, all of them.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    let read = if bytes.len() > LONG {
        bincode::decode_from_slice(bytes, CONFIG.with_limit::<MAX_LONG_MESSAGE>())
    } else {
        bincode::decode_from_slice(bytes, CONFIG)
    };
    let (value, used) = read.map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if used == bytes.len() { Ok(value) } else { Err(DecodeError::Trailing(bytes.len() - used)) }
}

/// Builds the encoding of [`FetchPart::Rows`](crate::FetchPart::Rows) value by value, without making the rows first.
#[derive(Debug, Default)]
pub struct RowsWriter {
    body: Vec<u8>,
    rows: u64,
}

impl RowsWriter {
    /// Begins a row of so many values.
    pub fn row(&mut self, values: usize) {
        self.rows += 1;
        self.put(&(values as u64));
    }

    /// The next value of the row.
    pub fn value(&mut self, value: Option<&str>) {
        self.put(&value);
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// The message with all rows so far, and an empty start for the next; `None` without rows.
    pub fn take(&mut self, index: u32) -> Option<Vec<u8>> {
        if self.rows == 0 {
            return None;
        }
        // An empty message has the variant and the index in front, and a count of none, one byte, at its end.
        let mut message = encode(&crate::FetchPart::Rows { index, rows: Vec::new() });
        message.pop();
        // The same buffers serve for message after message.
        let rows = bincode::encode_to_vec(std::mem::take(&mut self.rows), CONFIG.with_no_limit());
        message.extend(rows.unwrap_or_default());
        message.extend_from_slice(&self.body);
        self.body.clear();
        Some(message)
    }

    fn put<T: Encode>(&mut self, value: &T) {
        // As in `encode`: writing to memory does not fail.
        let _ = bincode::encode_into_std_write(value, &mut self.body, CONFIG.with_no_limit());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::*;

    #[test]
    fn what_is_long_may_hold_much_and_what_is_short_may_not_claim_it() {
        let rows: Vec<Vec<Option<String>>> = (0..400_000).map(|_| vec![Some("1".to_owned()); 8]).collect();
        let bytes = encode(&rows);
        assert!(bytes.len() < MAX_MESSAGE / 4, "only in memory is it more than the limit of short messages");
        assert_eq!(decode::<Vec<Vec<Option<String>>>>(&bytes).unwrap(), rows);
        let mut claim = encode(&(1_u64 << 40));
        claim.extend([0; 64]);
        assert!(decode::<Vec<u64>>(&claim).is_err());
    }

    fn sample() -> Frame {
        Frame {
            xid: 795,
            commit_lsn: Lsn(0x100),
            end_lsn: Lsn(0x130),
            commit_time: 1_700_000_000_000_000,
            events: vec![
                Event::Shard { shard: "products".into(), change: KeyChange::Whole(WholeReason::Rows) },
                Event::Shard {
                    shard: "cart".into(),
                    change: KeyChange::Keys(vec![vec![KeyPart {
                        column: "c".into(),
                        value: Some("42".into()),
                    }]]),
                },
                Event::Shard {
                    shard: "cart".into(),
                    change: KeyChange::Rows(Deltas {
                        generation: 3,
                        columns: 0x0102_0304_0506_0708,
                        instances: vec![InstanceRows {
                            key: vec![KeyPart { column: "c".into(), value: None }],
                            rows: vec![
                                RowChange::Put { row: vec![Some("7".into()), None] },
                                RowChange::Remove { identity: vec![Some("8".into())] },
                            ],
                        }],
                    }),
                },
                Event::Catalog(CatalogChange::FunctionUnmapped("f".into())),
                Event::Unsettled(vec![790, 794]),
                Event::Schedule(Schedule {
                    id: 1,
                    starts_at: 0,
                    ends_at: 60,
                    entries: vec![ScheduleEntry {
                        function_id: "f".into(),
                        shard_list: vec!["products".into()],
                        confidence: 0.5,
                    }],
                }),
            ],
        }
    }

    /// The first message of an instance, of which a sidecar must understand every field.
    fn first_part() -> FetchPart {
        let column = |name: &str, kind| Column { name: name.into(), kind };
        FetchPart::Instance {
            index: 2,
            canonical: "cart?c=42".into(),
            generation: 3,
            columns: vec![column("id", ColumnKind::Int), column("at", ColumnKind::TimestampTz)],
            identity: vec![0],
            order: RowOrder::By(vec![(0, Comparison::Number), (1, Comparison::Time)]),
        }
    }

    fn hex<T: Wire>(value: &T) -> String {
        encode(value).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes of protocol version 2. If this fails, the change needs a new `PROTOCOL_VERSION`.
    #[test]
    fn golden_frame() {
        assert_eq!(
            hex(&sample()),
            "fb1b03fb0001fb3001fd00803c3048140c0006000870726f647563747300000004636172740101010163010234320004636172740203fd0807060504\
             0302010101016300020002010137000101010138010301660302fb1603fb1a0302020078010166010870726f6475637473000000000000e03f"
        );
    }

    #[test]
    fn golden_fetch_part() {
        assert_eq!(hex(&first_part()), "010209636172743f633d3432030202696400026174070100010200000102");
        assert_eq!((hex(&ColumnKind::Padded), hex(&ColumnKind::Opaque)), ("08".into(), "12".into()));
        let mappings = vec![Mapping { function_id: "f".into(), shards: vec!["cart".into()] }];
        let horizon = FetchPart::Horizon(Horizon { flushed: Lsn(5), settled: true, mappings });
        assert_eq!(hex(&horizon), "040501010166010463617274");
        assert_eq!(decode::<FetchPart>(&encode(&horizon)).unwrap(), horizon);
    }

    #[test]
    fn rows_written_value_by_value_are_the_same_message() {
        let mut writer = RowsWriter::default();
        for count in [1_u32, 3, 300] {
            let row = |number: u32| vec![Some(number.to_string()), None, Some("x".repeat(number as usize))];
            let rows: Vec<Row> = (0..count).map(row).collect();
            for row in &rows {
                writer.row(row.len());
                row.iter().for_each(|value| writer.value(value.as_deref()));
            }
            assert_eq!(writer.take(count), Some(encode(&FetchPart::Rows { index: count, rows })));
            assert_eq!((writer.take(0), writer.size()), (None, 0));
        }
    }

    #[test]
    fn messages_round_trip() {
        assert_eq!(decode::<Frame>(&encode(&sample())).unwrap(), sample());
        assert_eq!(decode::<FetchPart>(&encode(&first_part())).unwrap(), first_part());
    }

    /// Held by copies and compared with what the stream says, so it must stay what it is.
    #[test]
    fn golden_fingerprint() {
        let FetchPart::Instance { columns, identity, order, .. } = first_part() else { unreachable!() };
        let it = fingerprint(&columns, &identity, &order);
        assert_eq!(it, 933_676_308_161_054_649);
        for other in [
            fingerprint(&columns[..1], &identity, &order),
            fingerprint(&columns, &[1], &order),
            fingerprint(&columns, &identity, &RowOrder::Hidden),
            fingerprint(
                &columns,
                &identity,
                &RowOrder::By(vec![(0, Comparison::Number), (1, Comparison::Opaque)]),
            ),
        ] {
            assert_ne!(it, other);
        }
    }

    #[test]
    fn every_truncation_and_a_surplus_are_refused() {
        let bytes = encode(&sample());
        for end in 0..bytes.len() {
            assert!(decode::<Frame>(&bytes[..end]).is_err(), "{end}");
        }
        let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
        assert!(matches!(decode::<Frame>(&longer), Err(DecodeError::Trailing(1))));
    }

    #[test]
    fn a_length_beyond_the_limit_reserves_nothing() {
        let huge = [0xFD, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F];
        assert!(decode::<Vec<u64>>(&huge).is_err());
        assert!(decode::<String>(&huge).is_err());
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Frame>(&bytes);
            let _ = decode::<FetchPart>(&bytes);
            let _ = decode::<CatalogSnapshot>(&bytes);
        }
    }
}
