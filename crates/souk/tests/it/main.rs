//! Tests of the whole system: the `souk` binary, alone or as a cluster, on both engines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod clock;
mod cluster;
mod command_line;
mod compose;
mod cuts;
mod demo;
mod ended;
mod failover;
mod full;
mod goldens;
mod grpc;
mod hostile;
mod import;
mod kill;
mod limits;
mod manual;
mod matrix;
mod race;
mod replicas;
mod rest;
mod shop;
mod stop;
mod tour;
mod traces;
mod watch;
