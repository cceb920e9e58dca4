#![doc = include_str!("../README.md")]

#[cfg(test)]
mod fuzz;
pub mod message;
pub mod openapi;
pub mod percent;
pub mod routes;
mod rules;
mod shorten;
