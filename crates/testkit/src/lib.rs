//! Helpers for tests: real servers, a database for each test, faults, and ways to wait.
//!
//! Servers are real, not mocked: a PostgreSQL runs in a temporary folder, and is removed when the test process ends,
//! for whatever reason.
//!
//! - [`servers`]: private PostgreSQL (also with a standby), NATS and Redis servers; a disk that can be filled up.
//! - [`db`]: a fresh database for each test, on either engine.
//! - [`proxy`]: a TCP proxy that can be cut, stalled, delayed and restored.
//! - [`clock`]: the wall clock of programs that a test starts, which can be set while they run.
//! - [`process`]: the `souk` binary as a child that can be killed and started again.
//! - [`hostile`]: a client that attacks a server, with limits on connections and time.
//! - [`find`]: finds programs that are installed.
//! - [`http2`]: HTTP/2 frame by frame.
//! - [`service`]: the services in the test's own process, and their callers; [`people`]: a user service with users in
//!   it; [`goods`]: products.
//! - [`stripe`]: a fake Stripe, with its HTTP API.
//! - [`tls`]: certificates signed by an authority of the test's own.
//! - [`tools`]: programs from PyPI that tests run.
//! - [`verbatim`]: gRPC messages as raw bytes.
//! - [`wait`]: waits on a condition with a deadline, instead of sleeping.
//!
//! Functions here panic with a full explanation instead of returning errors, as assertions do: a test without its
//! database has failed.

pub mod clock;
pub mod db;
pub mod find;
pub mod goods;
pub mod hostile;
pub mod http2;
pub mod people;
pub mod process;
pub mod proxy;
pub mod servers;
pub mod service;
pub mod stripe;
pub mod tls;
pub mod tools;
pub mod verbatim;
pub mod wait;
