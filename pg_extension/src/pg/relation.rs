//! What a relation looks like, as the catalogs say under the snapshot in force.

use pgrx::{PgTupleDesc, pg_sys};

use super::Oid;
use super::scan::catalog_rows;
use super::value::text_of;

/// An open relation, closed on drop.
pub(super) struct Opened(pub(super) pg_sys::Relation);

impl Opened {
    /// Without a lock, as decoding does: the catalogs as of the snapshot in force tell what the rows look like.
    pub(super) fn unlocked(oid: Oid) -> Option<Self> {
        // SAFETY: inside a transaction; a missing relation gives NULL.
        let relation = unsafe { pg_sys::RelationIdGetRelation(oid) };
        if relation.is_null() { None } else { Some(Opened(relation)) }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened by `unlocked`. While an ERROR unwinds the resource owner closes it instead, later; closing here as well
        // is still in order then, because the reference is forgotten at once.
        unsafe { pg_sys::RelationClose(self.0) }
    }
}

/// Everything of a relation whose change makes copies of its rows worthless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) oid: Oid,
    kind: u8,
    persistence: u8,
    row_security: bool,
    /// Another file means rewritten rows.
    file: u32,
    pub(crate) columns: Vec<ColumnShape>,
}

/// A column, dropped ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnShape {
    pub(crate) attnum: i16,
    pub(crate) name: String,
    pub(crate) column_type: Oid,
    typmod: i32,
    pub(crate) collation: Oid,
    pub(crate) dropped: bool,
    generated: u8,
}

impl ColumnShape {
    /// Whether its values are computed when they are read: then no row in the log has them.
    pub(crate) fn is_virtual(&self) -> bool {
        self.generated == b'v'
    }

    /// The type modifier, as the length of char(n); −1 for none.
    pub(crate) fn typmod(&self) -> i32 {
        self.typmod
    }
}

impl Shape {
    /// `None` if there is no such relation any more.
    pub(crate) fn of(oid: Oid) -> Option<Shape> {
        let relation = Opened::unlocked(oid)?;
        // SAFETY: the relation is open, so its descriptor and its pg_class row are alive; both are only read.
        unsafe {
            let class = &*(*relation.0).rd_rel;
            let mut columns = Vec::new();
            for column in PgTupleDesc::from_pg_unchecked((*relation.0).rd_att).iter() {
                columns.push(ColumnShape {
                    attnum: column.attnum,
                    name: text_of(column.attname.data.as_ptr()),
                    column_type: column.atttypid,
                    typmod: column.atttypmod,
                    collation: column.attcollation,
                    dropped: column.attisdropped,
                    generated: column.attgenerated as u8,
                });
            }
            Some(Shape {
                oid,
                kind: class.relkind as u8,
                persistence: class.relpersistence as u8,
                row_security: class.relrowsecurity,
                file: u32::from(class.relfilenode),
                columns,
            })
        }
    }

    /// Whether policies decide which rows a role sees.
    pub(crate) fn row_security(&self) -> bool {
        self.row_security
    }

    /// Whether the log has its changes: those of unlogged and foreign tables are nowhere, and copies would stay as they are.
    pub(crate) fn is_logged(&self) -> bool {
        let table = [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&self.kind);
        table && self.persistence == pg_sys::RELPERSISTENCE_PERMANENT
    }

    /// Whether rows live in partitions.
    pub(crate) fn is_partitioned(&self) -> bool {
        self.kind == pg_sys::RELKIND_PARTITIONED_TABLE
    }

    /// The column of that number, unless dropped.
    pub(crate) fn column(&self, attnum: i16) -> Option<&ColumnShape> {
        self.columns.iter().find(|column| column.attnum == attnum && !column.dropped)
    }

    /// The column of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&ColumnShape> {
        self.columns.iter().find(|column| column.name == name && !column.dropped)
    }
}

/// pg_inherits, and its index on the parent.
const INHERITS: (Oid, (Oid, i16)) = (Oid::from_u32(2611), (Oid::from_u32(2187), 2));

/// A relation and everything below it, itself first: what a SELECT of it reads under the catalogs' snapshot. A partition whose
/// concurrent detachment still waits for old readers is none any more. PostgreSQL's own function asks the active snapshot for that, which a
/// walsender has none of.
pub(crate) fn with_partitions(root: Oid) -> Vec<Oid> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        let mut below = Vec::new();
        catalog_rows(INHERITS.0, INHERITS.1, parent, |row| {
            below.extend(row.oid(1).filter(|_| row.boolean(4) != Some(true)));
        });
        below.sort_unstable_by_key(|oid| u32::from(*oid));
        found.extend(below);
        at += 1;
    }
    found
}

/// The OID of a table of the extension, `None` if the extension is not there (under the snapshot in force).
pub(crate) fn own_table(name: &std::ffi::CStr) -> Option<Oid> {
    // SAFETY: syscache lookups inside a transaction with NUL-terminated names.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"foreshard".as_ptr(), true);
        if schema == Oid::INVALID {
            return None;
        }
        let table = pg_sys::get_relname_relid(name.as_ptr(), schema);
        (table != Oid::INVALID).then_some(table)
    }
}

/// Schema-qualified name, quoted where needed; the number where the relation is gone.
pub(crate) fn qualified_name(oid: Oid) -> String {
    // SAFETY: catalog lookups inside a transaction; results are NUL-terminated strings in the current memory context or NULL.
    unsafe {
        let name = pg_sys::get_rel_name(oid);
        if name.is_null() {
            return u32::from(oid).to_string();
        }
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(oid));
        text_of(pg_sys::quote_qualified_identifier(schema, name))
    }
}
