//! Parts of the agent in the test's own process: its endpoints, its view of sockets, its supervision.

mod server_endpoints;
mod sockets;
mod supervisor_lost;

use std::time::Duration;

/// Generous: only a test that fails waits as long.
const PATIENCE: Duration = Duration::from_secs(20);

async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, poll).await;
    assert!(came.is_ok(), "waited {PATIENCE:?} without success: {what}");
}
