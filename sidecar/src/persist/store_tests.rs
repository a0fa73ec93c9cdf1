use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use foreshard_protocol::{Column, ColumnKind, Lsn, RowOrder, Snapshot, Witness};
use redb::backends::InMemoryBackend;

use super::*;
use crate::fuzzing::fuzz;

fn keys(text: &str) -> Keys {
    Keys::parse(&text.repeat(32)).unwrap()
}

fn copy(k: u64, value: &str) -> KeptCopy {
    KeptCopy {
        instance: format!("cart?k={k}"),
        generation: 1,
        columns: vec![Column { name: "v".into(), kind: ColumnKind::Text }],
        identity: vec![0],
        order: RowOrder::Unsorted,
        rows: vec![vec![Some(value.into())]],
        snapshot: Snapshot::default(),
        settled_at: Lsn(1),
    }
}

fn step(position: u64, put: Vec<KeptCopy>, removed: &[u64]) -> Step {
    let state = KeptState {
        edge: "paris".into(),
        system: "7".into(),
        timeline: 1,
        slot: "foreshard_paris".into(),
        position: Lsn(position),
        acknowledged: Lsn(position),
        witness: Witness::default(),
        copies: 0,
        digest: [0; 16],
    };
    Step { afresh: false, put, removed: removed.iter().map(|k| format!("cart?k={k}")).collect(), state }
}

/// Position and values by key, as they are kept.
fn held(kept: &Kept) -> (u64, Vec<(String, String)>) {
    let value = |copy: &KeptCopy| (copy.instance.clone(), copy.rows[0][0].clone().unwrap());
    let mut copies: Vec<_> = kept.copies.iter().map(value).collect();
    copies.sort();
    (kept.state.position.0, copies)
}

fn pair(k: u64, value: &str) -> (String, String) {
    (format!("cart?k={k}"), value.into())
}

#[test]
fn what_was_written_last_is_read_and_nothing_of_it_can_be_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let (mut store, kept) = Store::open(&file, &keys("01")).unwrap();
    assert!(kept.is_none());
    store.write(step(10, vec![copy(1, "secret-one"), copy(2, "two")], &[])).unwrap();
    store.write(step(20, vec![copy(2, "deux"), copy(3, "three")], &[1])).unwrap();
    assert!(matches!(Store::open(&file, &keys("01")), Err(Unusable::Refused(why)) if why.contains("in use")));
    drop(store);
    let bytes = std::fs::read(&file).unwrap();
    for plain in ["secret-one", "deux", "cart", "paris"] {
        assert!(!bytes.windows(plain.len()).any(|window| window == plain.as_bytes()), "{plain}");
    }
    let (mut store, kept) = Store::open(&file, &keys("01")).unwrap();
    assert_eq!(held(&kept.unwrap()), (20, vec![pair(2, "deux"), pair(3, "three")]));
    store.write(Step { afresh: true, ..step(30, vec![copy(9, "nine")], &[]) }).unwrap();
    drop(store);
    let (store, kept) = Store::open(&file, &keys("01")).unwrap();
    drop(store);
    assert_eq!(held(&kept.unwrap()), (30, vec![pair(9, "nine")]));
    let (mut store, _) = Store::open(&file, &keys("01")).unwrap();
    store.forget().unwrap();
    drop(store);
    assert!(Store::open(&file, &keys("01")).unwrap().1.is_none(), "forgotten");
}

#[test]
fn another_key_is_refused_and_keys_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let (mut store, _) = Store::open(&file, &keys("01")).unwrap();
    store.write(step(10, vec![copy(1, "one")], &[])).unwrap();
    drop(store);
    assert!(
        matches!(Store::open(&file, &keys("02")), Err(Unusable::Refused(why)) if why.contains("another key"))
    );
    let both = Keys::parse(&format!("{}\n{}", "02".repeat(32), "01".repeat(32))).unwrap();
    let (mut store, kept) = Store::open(&file, &both).unwrap();
    let kept = kept.unwrap();
    assert!(!store.is_current(&both));
    store.rotate(&both);
    store.write(Step { afresh: true, ..step(10, kept.copies, &[]) }).unwrap();
    drop(store);
    let (_, kept) = Store::open(&file, &keys("02")).unwrap();
    assert_eq!(held(&kept.unwrap()), (10, vec![pair(1, "one")]));
}

/// Does something to the table of copies.
type Spoil<'a> = dyn Fn(&mut redb::Table<'_, &'static [u8], &'static [u8]>) + 'a;

/// Entries of an earlier moment are genuine, and still not believed.
#[test]
fn entries_of_another_moment_are_worthless() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let (mut store, _) = Store::open(&file, &keys("01")).unwrap();
    store.write(step(10, vec![copy(1, "old"), copy(2, "two")], &[])).unwrap();
    let place = store.key.place("cart?k=1");
    let entry = |store: &Store| {
        let read = store.database.begin_read().unwrap();
        read.open_table(COPIES).unwrap().get(&place[..]).unwrap().unwrap().value().to_vec()
    };
    let old = entry(&store);
    store.write(step(20, vec![copy(1, "new")], &[])).unwrap();
    let change = |store: &Store, act: &Spoil<'_>| {
        let write = store.database.begin_write().unwrap();
        act(&mut write.open_table(COPIES).unwrap());
        write.commit().unwrap();
    };
    let new = entry(&store);
    let spoils: [&Spoil<'_>; 2] = [&|table| drop(table.insert(&place[..], &old[..]).unwrap()), &|table| {
        drop(table.remove(&place[..]).unwrap())
    }];
    for spoil in spoils {
        change(&store, spoil);
        assert!(matches!(store.read(&keys("01")), Err(Unusable::Worthless(_))));
        store.marks.clear();
        change(&store, &|table| drop(table.insert(&place[..], &new[..]).unwrap()));
        assert!(store.read(&keys("01")).is_ok());
        store.marks.clear();
    }
}

#[test]
fn files_of_other_versions_and_other_programs_are_worthless() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let (mut store, _) = Store::open(&file, &keys("01")).unwrap();
    store.write(step(10, vec![copy(1, "one")], &[])).unwrap();
    let [mine, _] = DISK_VERSION.to_le_bytes();
    let of_version = |version: u8, key: &[u8]| [&b"foreshar"[..], &[version, 0], key].concat();
    let (earlier, later) = (of_version(mine - 1, b"abcdefgh"), of_version(mine + 1, b"abcdefgh"));
    let torn = of_version(mine, b"abc");
    for bad in [&earlier[..], &later, &torn, b"somebody", b"foreshar", b""] {
        let write = store.database.begin_write().unwrap();
        write.open_table(META).unwrap().insert(HEAD, bad).unwrap();
        write.commit().unwrap();
        assert!(matches!(store.read(&keys("01")), Err(Unusable::Worthless(_))), "{bad:?}");
    }
    drop(store);
    std::fs::write(&file, "this is a text").unwrap();
    assert!(matches!(Store::open(&file, &keys("01")), Err(Unusable::Worthless(_))));
}

/// Storage that takes so many bytes and no more, then loses what was not synchronised, or fails from then on.
#[derive(Debug)]
struct Limited {
    inner: InMemoryBackend,
    left: Arc<AtomicI64>,
}

impl StorageBackend for Limited {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        if self.left.fetch_sub(data.len() as i64, Ordering::Relaxed) < data.len() as i64 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.inner.write(offset, data)
    }
}

#[test]
fn a_full_disk_is_an_error_and_no_panic() {
    let left = Arc::new(AtomicI64::new(i64::MAX));
    let storage = Limited { inner: InMemoryBackend::new(), left: left.clone() };
    let (mut store, _) = Store::on(storage, &keys("01")).unwrap();
    store.write(step(10, vec![copy(1, "one")], &[])).unwrap();
    left.store(50_000, Ordering::Relaxed);
    let error =
        (20..).map(|at| store.write(step(at, vec![copy(at, &"x".repeat(9_000))], &[]))).find_map(Result::err);
    assert!(error.is_some_and(|error| !error.is_empty()));
}

/// Whatever happens to the bytes of the file, what is read is one of the steps that were written, or nothing.
#[test]
fn fuzz_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let (mut store, _) = Store::open(&file, &keys("01")).unwrap();
    let mut genuine = Vec::new();
    let mut images = Vec::new();
    for at in 1..=4_u64 {
        let put = (0..at * 3).map(|k| copy(k, &format!("value {k} of {at}"))).collect();
        store.write(step(at * 10, put, &[at])).unwrap();
        images.push(std::fs::read(&file).unwrap());
    }
    drop(store);
    images.push(std::fs::read(&file).unwrap());
    for image in &images {
        std::fs::write(&file, image).unwrap();
        if let Ok((_, Some(kept))) = Store::open(&file, &keys("01")) {
            genuine.push(held(&kept));
        }
    }
    assert!(!genuine.is_empty());
    let bent = dir.path().join("bent");
    // Panics of the storage library are caught and count as damage; their words would bury everything else.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(|| {
        let (mut opened, mut believed) = (0_u64, 0_u64);
        fuzz("the persistent file", &[b"\x00\x00\x00\x01".to_vec(), vec![7; 40]], &[], |plan| {
            std::fs::write(&bent, damaged(plan, &images)).unwrap();
            match Store::open(&bent, &keys("01")) {
                Ok((_, Some(kept))) => {
                    believed += 1;
                    assert!(genuine.contains(&held(&kept)), "{:?}", held(&kept));
                }
                Ok((_, None)) => opened += 1,
                Err(Unusable::Worthless(_)) => {}
                // The identifier of the key is in the open.
                Err(Unusable::Refused(_)) => {}
            }
            true
        });
        eprintln!("believed {believed}, empty {opened}");
    }));
    std::panic::set_hook(hook);
    result.unwrap();
}

/// An image with damage as `plan` says: pages of another moment, cut off, bits flipped, zeroes.
fn damaged(plan: &[u8], images: &[Vec<u8>]) -> Vec<u8> {
    let number = |at: usize| plan.get(at).map_or(0, |byte| usize::from(*byte));
    let mut image = images[number(0) % images.len()].clone();
    for chunk in plan.get(1..).unwrap_or_default().chunks(4) {
        let at = |i: usize| chunk.get(i).map_or(0, |byte| usize::from(*byte));
        let place = (at(1) << 8 | at(2)) * 61 % image.len().max(1);
        let page = place / 4096 * 4096;
        match at(0) % 5 {
            0 if !image.is_empty() => image[place] ^= 1 << (at(3) % 8),
            1 => image.truncate(place),
            2 => {
                let other = &images[at(3) % images.len()];
                let end = (page + 4096).min(image.len()).min(other.len());
                if page < end {
                    image[page..end].copy_from_slice(&other[page..end]);
                }
            }
            3 => {
                let end = (page + 4096).min(image.len());
                image[page..end].fill(0);
            }
            _ => {
                let end = (place + at(3)).min(image.len());
                image[place..end].reverse();
            }
        }
    }
    image
}
