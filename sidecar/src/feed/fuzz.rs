//! What arrives on the stream and from fetches, damaged.

use foreshard_protocol::{
    CatalogChange, CatalogSnapshot, Column, ColumnKind, Comparison, Deltas, Event, FetchFailure, FetchHeader,
    FetchPart, Frame, InstanceRows, KeyChange, KeyPart, Lsn, Mapping, RowChange, RowOrder, Schedule,
    ScheduleEntry, ShardDef, Snapshot, WholeReason, Wire, decode, encode,
};

use crate::fuzzing::fuzz;

fn key(value: Option<&str>) -> Vec<KeyPart> {
    vec![KeyPart { column: "customer_id".into(), value: value.map(Into::into) }]
}

fn schedule() -> Schedule {
    let entry = ScheduleEntry {
        function_id: "checkout".into(),
        shard_list: vec!["products".into(), "cart?customer_id=42".into()],
        confidence: 0.75,
    };
    Schedule { id: 9, starts_at: 0, ends_at: 60_000_000, entries: vec![entry] }
}

fn frames() -> Vec<Frame> {
    let shard = |change| Event::Shard { shard: "cart".into(), change };
    let rows = vec![
        RowChange::Put { row: vec![Some("7".into()), None, Some("{\"a\": 1}".into())] },
        RowChange::Remove { identity: vec![Some("8".into())] },
    ];
    let instances =
        vec![InstanceRows { key: key(Some("42")), rows }, InstanceRows { key: key(None), rows: vec![] }];
    let mapping = Mapping { function_id: "checkout".into(), shards: vec!["cart".into()] };
    let events = [
        vec![shard(KeyChange::Whole(WholeReason::Coarsened))],
        vec![shard(KeyChange::Keys(vec![key(Some("42")), key(None)]))],
        vec![shard(KeyChange::Rows(Deltas { generation: 3, columns: u64::MAX, instances }))],
        vec![Event::Catalog(CatalogChange::Shard(definition())), Event::Unsettled(vec![700, 1 << 40])],
        vec![
            Event::Catalog(CatalogChange::ShardDropped("cart".into())),
            Event::Catalog(CatalogChange::Function(mapping)),
            Event::Catalog(CatalogChange::FunctionUnmapped("checkout".into())),
            Event::Catalog(CatalogChange::EdgeDropped),
            Event::Schedule(schedule()),
        ],
    ];
    let frame = |events| Frame {
        xid: 795,
        commit_lsn: Lsn(0x16_0000_0100),
        end_lsn: Lsn(0x16_0000_0130),
        commit_time: 1_700_000_000_000_000,
        events,
    };
    events.into_iter().map(frame).collect()
}

fn definition() -> ShardDef {
    let key = vec!["customer_id".into()];
    ShardDef { name: "cart".into(), generation: 3, source: "public.cart_line".into(), key }
}

fn parts() -> Vec<FetchPart> {
    let snapshot = Snapshot { xmin: 700, xmax: 800, in_progress: vec![700, 750] };
    let column = |name: &str, kind| Column { name: name.into(), kind };
    vec![
        FetchPart::Header(FetchHeader { snapshot, wal_lsn: Lsn(1 << 40) }),
        FetchPart::Instance {
            index: 0,
            canonical: "cart?customer_id=42".into(),
            generation: 3,
            columns: vec![column("id", ColumnKind::Int), column("at", ColumnKind::TimestampTz)],
            identity: vec![0],
            order: RowOrder::By(vec![(0, Comparison::Number), (1, Comparison::Time)]),
        },
        FetchPart::Rows { index: 0, rows: vec![vec![Some("7".into()), None]; 3] },
        FetchPart::Failed { index: 1, failure: FetchFailure::TooLarge, message: "too large".into() },
    ]
}

fn snapshot() -> CatalogSnapshot {
    CatalogSnapshot {
        snapshot: Snapshot { xmin: 700, xmax: 800, in_progress: vec![] },
        wal_lsn: Lsn(77),
        unsettled: vec![799],
        shards: vec![definition()],
        mappings: vec![Mapping { function_id: "checkout".into(), shards: vec!["cart".into()] }],
        schedules: vec![schedule()],
    }
}

/// What decodes must say the same after another round.
fn survives<T: Wire>(input: &[u8]) -> bool {
    let Ok(value) = decode::<T>(input) else { return false };
    let bytes = encode(&value);
    let again = decode::<T>(&bytes).map(|value| encode(&value));
    assert_eq!(again.ok().as_ref(), Some(&bytes), "what was decoded can be sent on");
    true
}

#[test]
fn fuzz_messages() {
    let mut samples: Vec<Vec<u8>> = frames().iter().map(encode).collect();
    samples.extend(parts().iter().map(encode));
    samples.push(encode(&snapshot()));
    for sample in &samples {
        let known = survives::<Frame>(sample) || survives::<FetchPart>(sample);
        assert!(known || survives::<CatalogSnapshot>(sample), "a sample that nothing decodes");
    }
    // Lengths as the encoding has them: of two, four and eight bytes, small and absurd.
    let words: [&[u8]; 6] = [
        b"\xfb\xff\xff",
        b"\xfc\xff\xff\xff\xff",
        b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xfd\x00\x00\x00\x00\x00\x00\x00\x01",
        b"\xfc\x00\x00\x00\x04",
        b"\xff\xfe",
    ];
    fuzz("messages", &samples, &words, |input| {
        survives::<Frame>(input) | survives::<FetchPart>(input) | survives::<CatalogSnapshot>(input)
    });
}
