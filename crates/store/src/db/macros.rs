//! `read!`, `snapshot!`, `write!` and `single!`: run one body with the query module of either engine.

/// Runs read-only statements without a transaction: `read!(db, |conn, q| body)`. See [`db`](crate::db).
///
/// If several statements must see the same snapshot, use [`snapshot!`](crate::db::snapshot).
#[doc(hidden)]
#[macro_export]
macro_rules! __db_read {
    ($db:expr, |$conn:ident, $q:ident| -> $result:ty $body:block) => {
        $crate::__db_run!(Read, $db, $conn, $q, [$result], $body)
    };
    ($db:expr, |$conn:ident, $q:ident| $body:expr) => {
        $crate::__db_run!(Read, $db, $conn, $q, [::core::result::Result<_, _>], $body)
    };
}

/// Runs read-only statements in one snapshot: `snapshot!(db, |conn, q| body)`. See [`db`](crate::db).
#[doc(hidden)]
#[macro_export]
macro_rules! __db_snapshot {
    ($db:expr, |$conn:ident, $q:ident| -> $result:ty $body:block) => {
        $crate::__db_run!(Snapshot, $db, $conn, $q, [$result], $body)
    };
    ($db:expr, |$conn:ident, $q:ident| $body:expr) => {
        $crate::__db_run!(Snapshot, $db, $conn, $q, [::core::result::Result<_, _>], $body)
    };
}

/// Runs statements in one transaction: `write!(db, |conn, q| body)`. See [`db`](crate::db).
///
/// The body may run more than once, so it must clone the values that it passes on, and change nothing outside the
/// database.
#[doc(hidden)]
#[macro_export]
macro_rules! __db_write {
    ($db:expr, |$conn:ident, $q:ident| -> $result:ty $body:block) => {
        $crate::__db_run!(Write, $db, $conn, $q, [$result], $body)
    };
    ($db:expr, |$conn:ident, $q:ident| $body:expr) => {
        $crate::__db_run!(Write, $db, $conn, $q, [::core::result::Result<_, _>], $body)
    };
}

/// Runs one statement that writes: `single!(db, |conn, q| body)`. See [`db`](crate::db).
#[doc(hidden)]
#[macro_export]
macro_rules! __db_single {
    ($db:expr, |$conn:ident, $q:ident| -> $result:ty $body:block) => {
        $crate::__db_run!(Single, $db, $conn, $q, [$result], $body)
    };
    ($db:expr, |$conn:ident, $q:ident| $body:expr) => {
        $crate::__db_run!(Single, $db, $conn, $q, [::core::result::Result<_, _>], $body)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __db_run {
    ($mode:ident, $db:expr, $conn:ident, $q:ident, [$result:ty], $body:expr) => {
        match $crate::db::Db::pools(&$db) {
            $crate::db::Pools::Postgres(pool) => {
                #[allow(unused_imports, reason = "a body may need no query of ours")]
                use postgres::queries as $q;
                $crate::__db_run!(@ $mode, pool, $conn, [$result], $body)
            }
            $crate::db::Pools::Sqlite(pool) => {
                #[allow(unused_imports, reason = "a body may need no query of ours")]
                use sqlite::queries as $q;
                $crate::__db_run!(@ $mode, pool, $conn, [$result], $body)
            }
        }
    };
    (@ $mode:ident, $pool:ident, $conn:ident, [$result:ty], $body:expr) => {{
        let mut attempts = $crate::db::Attempts::default();
        loop {
            let mut session = match $pool.session($crate::db::Mode::$mode, &attempts).await {
                ::core::result::Result::Ok(session) => session,
                ::core::result::Result::Err(error) => {
                    break ::core::result::Result::Err(::core::convert::From::from(error));
                }
            };
            let ended = $pool.run(async {
                if let ::core::result::Result::Err(error) = session.begin().await {
                    let error = ::core::result::Result::Err(::core::convert::From::from(error));
                    return ::core::ops::ControlFlow::Break(error);
                }
                let result: $result = async {
                    let $conn = session.conn()?;
                    $body
                }
                .await;
                session.end(result, &mut attempts).await
            });
            match ended.await {
                ::core::ops::ControlFlow::Break(result) => break result,
                ::core::ops::ControlFlow::Continue(()) => {}
            }
        }
    }};
}
