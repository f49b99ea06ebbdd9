//! Plans, summaries and pictures: no servers, no clock.

pub mod plan;
pub mod summary;
pub mod svg;
