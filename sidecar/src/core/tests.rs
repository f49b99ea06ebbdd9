//! The cores together.

mod simulation;
