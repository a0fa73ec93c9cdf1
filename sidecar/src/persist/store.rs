//! The file: copies and the state they are of, replaced together, encrypted, and believed only as a whole.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use foreshard_protocol::{DISK_VERSION, KeptCopy, KeptState, decode, encode};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

#[cfg(test)]
use redb::StorageBackend;

use super::keys::{Key, KeyId, Keys, NONCE};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const COPIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("copies");
/// In `META`, readable without a key: the version and which key.
const HEAD: &str = "head";
/// In `META`, sealed: the state.
const STATE: &str = "state";
const MAGIC: &[u8; 8] = b"foreshar";
/// Larger copies are fetched again instead: the decoder takes nothing above 64 MiB.
const LARGEST: usize = 48 << 20;
/// Pages of the file in memory. Everything in it is in memory anyway.
const PAGE_CACHE: usize = 4 << 20;

/// Why what was in a file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// To be mended by the operator; the file stays as it is.
    #[error("{0}")]
    Refused(String),
    /// The file is of no use: it is thrown away.
    #[error("{0}")]
    Worthless(String),
}

/// An open file.
pub(crate) struct Store {
    database: Database,
    key: Key,
    /// What each entry adds to the digest.
    marks: HashMap<[u8; 16], u128>,
}

/// What a file held.
pub(crate) struct Kept {
    pub(crate) state: KeptState,
    pub(crate) copies: Vec<KeptCopy>,
}

/// One step: the copies that changed, and the state that all of them together are of.
pub(crate) struct Step {
    /// Everything that was kept before is gone.
    pub(crate) afresh: bool,
    pub(crate) put: Vec<KeptCopy>,
    pub(crate) removed: Vec<String>,
    /// Its `copies` and `digest` are filled in here.
    pub(crate) state: KeptState,
}

fn worthless(error: impl std::fmt::Display) -> Unusable {
    Unusable::Worthless(error.to_string())
}

impl Store {
    /// Opens or makes the file. What it held, if it was whole, of this version, and encrypted with one of the keys.
    pub(crate) fn open(file: &Path, keys: &Keys) -> Result<(Self, Option<Kept>), Unusable> {
        let open = || {
            let mut builder = Database::builder();
            builder.set_cache_size(PAGE_CACHE).set_check_integrity_on_open(true);
            builder.create(file)
        };
        // The library may panic on a file that somebody else has written to.
        let database = catch_unwind(AssertUnwindSafe(open)).map_err(|_| worthless("the file is damaged"))?;
        match database {
            Ok(database) => Self::over(database, keys),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => Err(Unusable::Refused(format!(
                "{} is in use by another process: every sidecar needs a cache_dir of its own",
                file.display()
            ))),
            Err(redb::DatabaseError::Storage(redb::StorageError::Io(error)))
                if error.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Err(Unusable::Refused(format!("{}: {error}", file.display())))
            }
            Err(error) => Err(worthless(error)),
        }
    }

    /// On another kind of storage: for tests of storage that fails.
    #[cfg(test)]
    fn on(storage: impl StorageBackend, keys: &Keys) -> Result<(Self, Option<Kept>), Unusable> {
        let database = Database::builder().set_cache_size(PAGE_CACHE).create_with_backend(storage);
        Self::over(database.map_err(worthless)?, keys)
    }

    fn over(database: Database, keys: &Keys) -> Result<(Self, Option<Kept>), Unusable> {
        let mut store = Store { database, key: keys.current().clone(), marks: HashMap::new() };
        let kept = catch_unwind(AssertUnwindSafe(|| store.read(keys)));
        let kept = kept.unwrap_or_else(|_| Err(worthless("the file is damaged")))?;
        Ok((store, kept))
    }

    fn read(&mut self, keys: &Keys) -> Result<Option<Kept>, Unusable> {
        let transaction = self.database.begin_read().map_err(worthless)?;
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(worthless(error)),
        };
        let get = |name: &str| -> Result<Vec<u8>, Unusable> {
            let value = meta.get(name).map_err(worthless)?;
            value.map(|value| value.value().to_vec()).ok_or_else(|| worthless("the file is not complete"))
        };
        let id = head(&get(HEAD)?)?;
        let key = keys.by_id(id).cloned().ok_or_else(|| {
            Unusable::Refused("it is encrypted with another key: give that key too (the first one encrypts, all decrypt), or remove the file".into())
        })?;
        self.key = key;
        let state =
            self.key.open(STATE.as_bytes(), &get(STATE)?).ok_or_else(|| worthless("the state is damaged"))?;
        let state: KeptState = decode(&state).map_err(worthless)?;
        let table = transaction.open_table(COPIES).map_err(worthless)?;
        let count = table.len().map_err(worthless)?;
        let mut copies = Vec::with_capacity(usize::try_from(count.min(state.copies)).unwrap_or_default());
        for entry in table.iter().map_err(worthless)? {
            let (place, sealed) = entry.map_err(worthless)?;
            let (place, sealed) = (place.value(), sealed.value());
            let plain = self.key.open(place, sealed).ok_or_else(|| worthless("a copy is damaged"))?;
            let copy: KeptCopy = decode(&plain).map_err(worthless)?;
            if self.key.place(&copy.instance) != *place {
                return Err(worthless("a copy is in the place of another"));
            }
            self.marks.insert(self.key.place(&copy.instance), self.key.mark(place, &sealed[..NONCE]));
            copies.push(copy);
        }
        // Every entry may be genuine and still be of another moment.
        if copies.len() as u64 != state.copies || self.digest() != state.digest {
            return Err(worthless("copies are missing, or of another moment than the state"));
        }
        Ok(Some(Kept { state, copies }))
    }

    /// Over all entries, in whatever order they came.
    fn digest(&self) -> [u8; 16] {
        self.marks.values().fold(0, |sum, mark| sum ^ mark).to_le_bytes()
    }

    /// Writes one step. When this returns it is durable; if it fails, the file must not be used any more.
    pub(crate) fn write(&mut self, step: Step) -> Result<(), String> {
        let written = catch_unwind(AssertUnwindSafe(|| self.commit(step)));
        written.unwrap_or_else(|_| Err("the storage library panicked".into()))
    }

    fn commit(&mut self, step: Step) -> Result<(), String> {
        fn failed(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        let Step { afresh, put, removed, mut state } = step;
        let transaction = self.database.begin_write().map_err(failed)?;
        if afresh {
            transaction.delete_table(COPIES).map_err(failed)?;
            self.marks.clear();
        }
        {
            let mut table = transaction.open_table(COPIES).map_err(failed)?;
            for instance in removed {
                let place = self.key.place(&instance);
                table.remove(&place[..]).map_err(failed)?;
                self.marks.remove(&place);
            }
            for copy in put {
                let place = self.key.place(&copy.instance);
                let plain = encode(&copy);
                if plain.len() > LARGEST {
                    table.remove(&place[..]).map_err(failed)?;
                    self.marks.remove(&place);
                    continue;
                }
                let sealed = self.key.seal(&place, &plain);
                self.marks.insert(place, self.key.mark(&place, &sealed[..NONCE]));
                table.insert(&place[..], &sealed[..]).map_err(failed)?;
            }
            (state.copies, state.digest) = (self.marks.len() as u64, self.digest());
            let mut meta = transaction.open_table(META).map_err(failed)?;
            meta.insert(HEAD, &[&MAGIC[..], &DISK_VERSION.to_le_bytes(), &self.key.id()].concat()[..])
                .map_err(failed)?;
            meta.insert(STATE, &self.key.seal(STATE.as_bytes(), &encode(&state))[..]).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    /// Makes sure that nothing of what is kept is ever found again.
    pub(crate) fn forget(&mut self) -> Result<(), String> {
        self.marks.clear();
        let forget = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            transaction.delete_table(META)?;
            transaction.delete_table(COPIES)?;
            Ok(transaction.commit()?)
        };
        let forgotten = catch_unwind(AssertUnwindSafe(forget));
        forgotten
            .unwrap_or_else(|_| Err(redb::Error::Corrupted(String::new())))
            .map_err(|error| error.to_string())
    }

    /// Whether what is written now is encrypted with the first of these keys.
    pub(crate) fn is_current(&self, keys: &Keys) -> bool {
        self.key.id() == keys.current().id()
    }

    /// From the next step on, which has to be `afresh`, the first of these keys encrypts.
    pub(crate) fn rotate(&mut self, keys: &Keys) {
        self.key = keys.current().clone();
    }
}

fn head(bytes: &[u8]) -> Result<KeyId, Unusable> {
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| worthless("it is not a file of foreshard"))?;
    let (version, id) = rest.split_first_chunk().ok_or_else(|| worthless("the head is damaged"))?;
    match u16::from_le_bytes(*version) {
        DISK_VERSION => id.try_into().map_err(|_| worthless("the head is damaged")),
        version => Err(worthless(format!("it is of version {version}, and this is version {DISK_VERSION}"))),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
