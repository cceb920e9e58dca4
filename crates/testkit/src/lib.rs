//! What tests stand on: real servers, a database for each test, faults, and ways to wait.
//!
//! Nothing here imitates a peer. A PostgreSQL is a PostgreSQL, started in a temporary folder and
//! gone when the test process is gone, however that ends.
//!
//! - [`servers`]: private PostgreSQL (with a standby, too), NATS and Redis servers; a disk that can be filled up.
//! - [`db`]: a fresh database for each test, on either engine.
//! - [`proxy`]: a TCP proxy that can be cut, stalled, delayed and restored.
//! - [`clock`]: a wall clock of programs that a test starts, set while they run.
//! - [`process`]: the `souk` binary as a child that can be killed and started again.
//! - [`hostile`]: a client that holds, floods and breaks what it can, bounded in number and time.
//! - [`find`]: programs that are installed.
//! - [`http2`]: HTTP/2 frame by frame.
//! - [`service`]: the services in the test's own process, and their callers; [`people`]: a user service with users in it;
//!   [`goods`]: products.
//! - [`stripe`]: a stand-in for Stripe, which speaks its HTTP API.
//! - [`tls`]: certificates signed by an authority of the test's own.
//! - [`tools`]: programs from PyPI that tests run.
//! - [`verbatim`]: gRPC messages as bytes.
//! - [`wait`]: wait on a condition with a deadline, never sleep for luck.
//!
//! Functions here panic with a full explanation instead of returning errors, as assertions do:
//! a test that cannot have its database has failed.

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
