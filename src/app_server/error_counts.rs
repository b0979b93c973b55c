//! Whether a share of the traffic is judged by its errors.

use crate::finding::{Check, Code, Finding};

const ABOUT: &str = "errors";

/// Of a server that serves: what its middleware has counted.
pub(super) fn check(errors: Option<u64>) -> Check {
    match errors {
        Some(_) => {
            Check::fine(ABOUT, "counted by the app's middleware: a share of the traffic is judged by them")
        }
        None => Check::found(
            ABOUT,
            Finding::note(
                Code::ErrorsNotCounted,
                "restart.shift gives a new release a share of the requests, and nobody counts its errors: it is \
                 judged by its health alone",
                "put the file that `pitstop middleware` prints into the app, as its first Rack middleware",
            ),
        ),
    }
}
