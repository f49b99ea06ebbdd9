//! .

#[allow(dead_code, unused_imports)]
pub(crate) mod auth;
#[allow(dead_code, unused_imports)]
pub(crate) mod sql;
