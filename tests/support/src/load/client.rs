use std::time::Instant;

use tokio::time::timeout;

use super::{
    Plan, Record,
    connection::{Answer, Connection, Lost},
};

/// One request on a connection of its own.
pub async fn request_once(plan: &Plan, path: &str) -> Record {
    let began = Instant::now();
    let result = timeout(plan.patience, on_fresh(plan, path, &mut None, true)).await;
    record(began, path, result.unwrap_or_else(|_| Err(too_late(plan))))
}

/// One request on the kept connection, or on a fresh one that is kept from then on.
pub async fn request(plan: &Plan, path: &str, kept: &mut Option<Connection>) -> Record {
    let began = Instant::now();
    let (mut reused, mut reset) = (false, false);
    let result = timeout(plan.patience, async {
        let Some(mut connection) = reusable(kept).await else {
            return on_fresh(plan, path, kept, false).await;
        };
        reused = true;
        match connection.get(path, false).await {
            // What every proxy does: the server may have closed an idle connection at the very
            // moment at which the request was sent on it.
            Err(lost) if lost.before_any_byte => {
                reset = true;
                on_fresh(plan, path, kept, false).await
            }
            answered => {
                *kept = answered.is_ok().then_some(connection);
                answered
            }
        }
    })
    .await
    .unwrap_or_else(|_| Err(too_late(plan)));
    Record { reused, reset, ..record(began, path, result) }
}

async fn reusable(kept: &mut Option<Connection>) -> Option<Connection> {
    let mut connection = kept.take()?;
    connection.usable().await.then_some(connection)
}

async fn on_fresh(
    plan: &Plan,
    path: &str,
    kept: &mut Option<Connection>,
    close: bool,
) -> Result<Answer, Lost> {
    let mut connection = Connection::open(plan.from, plan.port).await?;
    let answer = connection.get(path, close).await?;
    *kept = Some(connection);
    Ok(answer)
}

fn too_late(plan: &Plan) -> Lost {
    Lost { why: format!("no whole answer within {:?}", plan.patience), before_any_byte: false }
}

fn record(began: Instant, path: &str, result: Result<Answer, Lost>) -> Record {
    let (status, release, lost) = match result {
        Ok(answer) => (Some(answer.status), answer.release, None),
        Err(lost) => (None, None, Some(lost.why)),
    };
    let took = began.elapsed();
    Record {
        path: path.into(),
        began,
        took,
        status,
        release,
        lost,
        reused: false,
        reset: false,
        steady: true,
    }
}
