//! A look at columns whose place in a row is always the same, without taking the row apart.

use pgrx::pg_sys;

use super::equality::Kind;

/// A column behind none but columns of fixed width.
pub(super) struct Fixed {
    attnum: i16,
    /// Bytes from where the row's data begin, if none of its values is NULL.
    offset: usize,
    kind: Kind,
}

impl Fixed {
    /// `None` unless the column is a number and can be looked at. `columns` are those of the table, `kind` is the column's.
    pub(super) fn new(columns: &pgrx::PgTupleDesc<'_>, attnum: i16, kind: Kind) -> Option<Self> {
        if !kind.is_number() {
            return None;
        }
        let mut offset = 0_usize;
        for at in 0..attnum as usize {
            let column = columns.get(at)?;
            let width = usize::try_from(column.attlen).ok()?;
            offset = offset.next_multiple_of(match column.attalign as u8 {
                b'c' => 1,
                b's' => 2,
                b'i' => 4,
                _ => 8,
            });
            if at + 1 == attnum as usize {
                return (width == kind.width()).then_some(Fixed { attnum, offset, kind });
            }
            offset += width;
        }
        None
    }

    /// Its value; `None` if that can't be told from here: a value before it is NULL, or the row is older than the column.
    ///
    /// # Safety
    /// The tuple is a row of the table that the columns were of.
    pub(super) unsafe fn value(&self, tuple: pg_sys::HeapTuple) -> Option<Seen> {
        // SAFETY: by contract. Without NULLs before it a value lies where alignment and the widths before it put it; a row with
        // NULLs has a bit for each of its columns, set where there is a value.
        unsafe {
            let header = (*tuple).t_data;
            let columns = u32::from((*header).t_infomask2) & pg_sys::HEAP_NATTS_MASK;
            if columns < self.attnum as u32 {
                return None;
            }
            if u32::from((*header).t_infomask) & pg_sys::HEAP_HASNULL != 0 {
                let bits = (*header).t_bits.as_ptr();
                let last = self.attnum as usize - 1;
                let there = |at: usize| *bits.add(at / 8) & (1 << (at % 8)) != 0;
                if !(0..last).all(there) {
                    return None;
                }
                if !there(last) {
                    return Some(Seen::Null);
                }
            }
            let data = header.cast::<u8>().add(usize::from((*header).t_hoff) + self.offset);
            Some(Seen::Number(self.kind.read(data)))
        }
    }
}

/// What is in a column.
pub(super) enum Seen {
    Null,
    Number(i64),
}
