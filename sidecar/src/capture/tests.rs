//! The gate against a real PostgreSQL and a log in memory that can hold back, refuse, and lose.

mod fixture;
mod gate;
mod large;
mod log;
mod measure;
mod trouble;
