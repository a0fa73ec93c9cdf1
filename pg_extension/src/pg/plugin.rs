//! The output plugin's callbacks: each only turns PostgreSQL's pointers into what `output_plugin` works with.

use std::ffi::{CStr, c_int};

use foreshard_protocol::Lsn;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};

use super::change::RowChange;
use super::context::{Context, Switched};
use super::linger::Pace;
use super::{Oid, invalidation, log, settings};
use crate::catalog::POSTGRES_EPOCH;
use crate::output_plugin::{Commit, Session, options};

/// A session with the context that everything decoded for it is worked on in.
struct Decoding {
    session: Session,
    scratch: Context,
    changes: u32,
    pace: Pace,
}

/// After so many changes without output the connection is given a sign of life, as pgoutput does.
const CHANGES_BETWEEN_SIGNS_OF_LIFE: u32 = 100;

/// Called by the server when a slot with this plugin is used.
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn _PG_output_plugin_init(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    // SAFETY: the server passes a zeroed struct to fill. Streaming and two-phase callbacks stay unset: transactions are
    // decoded when they have committed, spilling to disk before that.
    let callbacks = unsafe { &mut *callbacks };
    callbacks.startup_cb = Some(startup);
    callbacks.begin_cb = Some(begin);
    callbacks.change_cb = Some(change);
    callbacks.truncate_cb = Some(truncate);
    callbacks.commit_cb = Some(commit);
    callbacks.filter_by_origin_cb = Some(filter_by_origin);
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(
    ctx: *mut pg_sys::LogicalDecodingContext,
    output: *mut pg_sys::OutputPluginOptions,
    is_init: bool,
) {
    // SAFETY: both pointers are the server's for this session. The decoding is dropped with the session's memory context.
    unsafe {
        (*output).output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT;
        (*output).receive_rewrites = false;
        let slot = lossy(CStr::from_ptr((*(*ctx).slot).data.name.data.as_ptr()));
        if is_init {
            // Only the slot is created, for which there are no options; who may read from it is asked when somebody does.
            return in_transaction(|| Session::check_slot(&slot));
        }
        let options = options::parse(&option_list((*ctx).output_plugin_options));
        in_transaction(|| Session::check(&options, &slot));
        invalidation::listen();
        let decoding = Decoding {
            session: Session::new(options, slot),
            scratch: Context::new(c"foreshard decoding"),
            changes: 0,
            pace: Pace::default(),
        };
        (*ctx).output_plugin_private =
            PgMemoryContexts::For((*ctx).context).leak_and_drop_on_delete(decoding).cast();
    }
}

/// START_REPLICATION runs outside any transaction, where catalogs can't be read.
unsafe fn in_transaction(work: impl FnOnce()) {
    // SAFETY: what starting and committing make current is set back. Catalog caches filled here show the present, and decoding
    // looks at the past: they are thrown away.
    unsafe {
        if pg_sys::IsTransactionState() {
            return work();
        }
        let _back = Switched::to(pg_sys::CurrentMemoryContext);
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::StartTransactionCommand();
        work();
        pg_sys::CommitTransactionCommand();
        pg_sys::CurrentResourceOwner = owner;
        pg_sys::InvalidateSystemCaches();
    }
}

/// Called for every record of the log, outside the transactions that are decoded: the one place where a running stream can see the
/// present. What its role may do counts as of now and not as of then, or a right that was taken and given back would end every stream that
/// has yet to come past that. Nothing is filtered.
#[pg_guard]
unsafe extern "C-unwind" fn filter_by_origin(
    ctx: *mut pg_sys::LogicalDecodingContext,
    _origin: pg_sys::RepOriginId,
) -> bool {
    // A function that reads a slot is in a transaction, and has asked when it began.
    // SAFETY: a callback of the server. Catalog caches may hold the past, so they are emptied before.
    unsafe {
        if invalidation::roles_changed() && !pg_sys::IsTransactionState() {
            if let Some(decoding) = decoding(ctx) {
                pg_sys::InvalidateSystemCaches();
                in_transaction(|| decoding.session.check_role());
            }
            invalidation::roles_looked_at();
        }
    }
    false
}

/// # Safety
/// `list` is the list of options that the server parsed.
unsafe fn option_list(list: *mut pg_sys::List) -> Vec<(String, Option<String>)> {
    // SAFETY: by contract its elements are DefElem, their values string nodes or NULL.
    unsafe {
        (0..pg_sys::list_length(list))
            .map(|index| {
                let option = &*pg_sys::list_nth(list, index).cast::<pg_sys::DefElem>();
                let value = (!option.arg.is_null())
                    .then(|| CStr::from_ptr(pg_sys::defGetString(pg_sys::list_nth(list, index).cast())));
                (lossy(CStr::from_ptr(option.defname)), value.map(lossy))
            })
            .collect()
    }
}

fn lossy(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

/// # Safety
/// `ctx` is the context of a session that `startup` has seen, and no other reference from here is alive.
unsafe fn decoding<'a>(ctx: *mut pg_sys::LogicalDecodingContext) -> Option<&'a mut Decoding> {
    // SAFETY: by contract the private pointer is ours or NULL (while a slot is created).
    unsafe { (*ctx).output_plugin_private.cast::<Decoding>().as_mut() }
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(
    ctx: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
) {
    // SAFETY: a callback of the server; see `decoding`.
    let Some(decoding) = (unsafe { decoding(ctx) }) else { return };
    let Decoding { session, scratch, .. } = decoding;
    settings::forget();
    if scratch.run(|| session.begin()) {
        scratch.reset();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn change(
    ctx: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
    relation: pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: a callback of the server; the row change lives inside it.
    unsafe {
        let Some(decoding) = decoding(ctx) else { return };
        let Decoding { session, scratch, changes, .. } = decoding;
        sign_of_life(ctx, changes);
        let row = RowChange::new(relation, change);
        if scratch.run(|| session.change(&row)) {
            scratch.reset();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn truncate(
    ctx: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
    count: c_int,
    relations: *mut pg_sys::Relation,
    _change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: a callback of the server with `count` open relations.
    unsafe {
        let Some(decoding) = decoding(ctx) else { return };
        let tables: Vec<Oid> = (0..count as usize).map(|index| (**relations.add(index)).rd_id).collect();
        decoding.session.truncate(&tables);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn commit(
    ctx: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    commit_lsn: pg_sys::XLogRecPtr,
) {
    // SAFETY: a callback of the server; `out` is the buffer between prepare and write.
    unsafe {
        let Some(decoding) = decoding(ctx) else { return };
        let Decoding { session, scratch, changes, pace } = decoding;
        settings::release();
        *changes = 0;
        if !session.has_news() {
            pg_sys::OutputPluginUpdateProgress(ctx, true);
            return pace.linger(ctx);
        }
        let commit = Commit {
            xid: log::widen((*txn).xid),
            commit_lsn: Lsn(commit_lsn),
            end_lsn: Lsn((*txn).end_lsn),
            commit_time: (*txn).xact_time.commit_time.saturating_add(POSTGRES_EPOCH),
        };
        let frame = scratch.run(|| session.commit(&commit));
        scratch.reset();
        match frame {
            Some(bytes) => {
                pg_sys::OutputPluginPrepareWrite(ctx, true);
                pg_sys::appendBinaryStringInfo((*ctx).out, bytes.as_ptr().cast(), bytes.len() as c_int);
                pg_sys::OutputPluginWrite(ctx, true);
            }
            None => pg_sys::OutputPluginUpdateProgress(ctx, true),
        }
        pace.linger(ctx);
    }
}

/// A long transaction that concerns nothing must not look like a dead connection.
unsafe fn sign_of_life(ctx: *mut pg_sys::LogicalDecodingContext, changes: &mut u32) {
    *changes += 1;
    if *changes >= CHANGES_BETWEEN_SIGNS_OF_LIFE {
        *changes = 0;
        // SAFETY: inside a callback of this context.
        unsafe { pg_sys::OutputPluginUpdateProgress(ctx, false) };
    }
}
