//! The stages of a deploy.
