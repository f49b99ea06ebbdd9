//! The sidecar's configuration file.
