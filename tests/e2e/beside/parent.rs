//! The parent: what it does when it is asked, and what it does when nobody asks.

use super::container::{CLIENT, PROBE_SOURCE, Parent, plain};

#[test]
fn e2e_parent_a_second_server_is_checked_alone_then_steered_to_and_the_first_one_ended() {
    let parent = Parent::serving(plain());
    let run = parent.candidate_in("b");
    parent.assert_answers(CLIENT, "v1");
    parent.assert_answers(PROBE_SOURCE, "v2");
    parent.steer(run);
    parent.assert_answers(CLIENT, "v2");
    parent.assert_answers(PROBE_SOURCE, "v2");
    parent.stop(1);
    parent.wait_until_ended("a");
    parent.assert_answers(CLIENT, "v2");
    parent.term();
    parent.wait_for_end();
    assert!(parent.get(CLIENT).is_none());
}
