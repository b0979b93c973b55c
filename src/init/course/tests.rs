use super::*;

const LIMITS: Limits =
    Limits { sidecar: false, stop_is_success: false, hold_ms: 18_000, grace_ms: 30_000, reserve_ms: 10_000 };

struct Life {
    course: Course,
    now: Moment,
}

impl Life {
    fn new() -> Self {
        let mut life = Self { course: Course::new(Moment(0), LIMITS, false), now: Moment(0) };
        assert_eq!(life.take(Input::Tick), [Act::StartAgent, Act::Ask(Question::Startup)]);
        life
    }

    fn serving() -> Self {
        let mut life = Self::new();
        assert_eq!(life.yes(Question::Startup), [Act::StartCommand(Why::Ready)]);
        life
    }

    fn holding() -> Self {
        let mut life = Self::serving();
        assert_eq!(
            life.take(Input::Stop(Signal::TERM)),
            [Act::Hold(Signal::TERM), Act::Ask(Question::Drain)]
        );
        life
    }

    fn take(&mut self, input: Input) -> Vec<Act> {
        self.course.take(self.now, input)
    }

    fn after(&mut self, ms: u64) -> Vec<Act> {
        self.now = self.now.plus(ms);
        self.take(Input::Tick)
    }

    fn yes(&mut self, question: Question) -> Vec<Act> {
        self.take(Input::Answered(question, Answer::Yes("drained".into())))
    }

    /// What is done when time passes up to the next thing that is due.
    fn next(&mut self) -> Vec<Act> {
        self.now = self.course.due().expect("something is due").max(self.now);
        self.take(Input::Tick)
    }
}

fn passed(why: Why) -> [Act; 2] {
    [Act::PassOn(Signal::TERM, why), Act::EndAgent]
}

#[test]
fn the_command_starts_when_the_release_is_in_place() {
    let mut life = Life::new();
    assert_eq!(life.take(Input::Answered(Question::Startup, Answer::No)), []);
    assert_eq!(life.next(), [Act::Ask(Question::Startup)]);
    assert_eq!(life.yes(Question::Startup), [Act::StartCommand(Why::Ready)]);
    assert_eq!(life.course.due(), None);
}

#[test]
fn the_command_starts_without_a_release_when_none_comes() {
    assert_eq!(Life::new().after(FIRST_RELEASE_MS), [Act::StartCommand(Why::Time)]);
}

#[test]
fn a_configuration_that_allows_no_deploys_delays_nothing() {
    let mut course = Course::new(Moment(0), LIMITS, true);
    let acts = course.take(Moment(0), Input::Tick);
    assert!(acts.contains(&Act::StartCommand(Why::NoDeploys)) && acts.contains(&Act::StartAgent), "{acts:?}");
    let mut life = Life::new();
    assert_eq!(life.take(Input::AgentEnded(CONFIG)), [Act::StartCommand(Why::NoDeploys)]);
    assert_eq!(life.next(), [Act::StartAgent], "beside the command it may stay");
}

#[test]
fn sigterm_is_held_back_until_the_drain_is_over() {
    let mut life = Life::holding();
    assert_eq!(life.after(9_000), []);
    assert_eq!(life.yes(Question::Drain), passed(Why::Answered("drained".into())));
    assert_eq!(life.take(Input::CommandEnded(0)), [Act::Ended(0), Act::EndLeftovers]);
    assert_eq!(life.take(Input::AgentEnded(0)), [], "not started again");
    life.take(Input::Alone);
    assert_eq!(life.course.over(), Some(0));
}

#[test]
fn nobody_is_waited_for_longer_than_the_drain_may_take() {
    let mut life = Life::holding();
    assert_eq!(life.next(), passed(Why::Time));
    assert_eq!(life.now, Moment(19_000));
}

#[test]
fn an_agent_that_dies_in_mid_drain_is_started_again_and_asked_again() {
    let mut life = Life::holding();
    life.now = life.now.plus(3_000);
    assert_eq!(life.take(Input::AgentEnded(137)), []);
    assert_eq!(life.take(Input::Answered(Question::Drain, Answer::No)), []);
    let acts = [life.next(), life.next()].concat();
    assert!(acts.contains(&Act::StartAgent) && acts.contains(&Act::Ask(Question::Drain)), "{acts:?}");
    assert!(life.now.since(Moment(3_000)) <= Pauses::new().in_a_hurry());
    assert_eq!(life.yes(Question::Drain), passed(Why::Answered("drained".into())));
}

#[test]
fn the_same_signal_twice_at_once_is_one_and_later_means_now() {
    let mut life = Life::holding();
    assert_eq!(life.take(Input::Stop(Signal::TERM)), []);
    life.after(SAME_MS);
    assert_eq!(life.take(Input::Stop(Signal::TERM)), passed(Why::Again));
    assert_eq!(life.take(Input::Stop(Signal::INT)), [Act::PassOn(Signal::INT, Why::Again)]);
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_when_the_grace_is_over() {
    let mut life = Life::holding();
    life.yes(Question::Drain);
    assert_eq!(life.next(), [Act::Kill]);
    assert_eq!(life.now, Moment(30_000));
    life.take(Input::CommandEnded(KILLED));
    life.take(Input::Alone);
    assert_eq!(life.course.over(), Some(KILLED));
}

#[test]
fn what_hangs_in_the_kernel_is_not_waited_for() {
    let mut life = Life::holding();
    life.yes(Question::Drain);
    life.next();
    life.next();
    assert_eq!(life.course.over(), Some(KILLED));
}

#[test]
fn after_the_commands_own_end_the_agent_may_put_current_back() {
    let mut life = Life::serving();
    assert_eq!(life.take(Input::CommandEnded(1)), [Act::Ended(1), Act::Ask(Question::Settled)]);
    assert_eq!(life.take(Input::Answered(Question::Settled, Answer::No)), []);
    assert_eq!(life.next(), [Act::Ask(Question::Settled)]);
    assert_eq!(life.yes(Question::Settled), [Act::EndAgent, Act::EndLeftovers]);
}

#[test]
fn but_not_for_ever() {
    let mut life = Life::serving();
    life.take(Input::CommandEnded(1));
    assert_eq!(life.next(), [Act::EndAgent, Act::EndLeftovers]);
    assert_eq!(life.now, Moment(SETTLE_MS));
    let mut life = Life::serving();
    life.take(Input::CommandEnded(1));
    assert_eq!(
        life.take(Input::Stop(Signal::TERM)),
        [Act::EndAgent, Act::EndLeftovers],
        "nor against SIGTERM"
    );
}

#[test]
fn what_the_command_leaves_behind_is_killed_in_the_end() {
    let mut life = Life::serving();
    life.take(Input::CommandEnded(0));
    life.yes(Question::Settled);
    assert_eq!(life.next(), [Act::Kill]);
    assert_eq!(life.now, Moment(LIMITS.reserve_ms));
    life.next();
    assert_eq!(life.course.over(), Some(0));
}

#[test]
fn sigterm_before_the_command_has_started_is_the_end() {
    let mut life = Life::new();
    assert_eq!(life.take(Input::Stop(Signal::TERM)), [Act::EndAgent, Act::EndLeftovers]);
    life.take(Input::Alone);
    assert_eq!(life.course.over(), Some(143));
}

#[test]
fn an_agent_that_keeps_dying_is_started_less_and_less_often() {
    let mut life = Life::serving();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let died = life.now;
        life.take(Input::AgentEnded(1));
        assert_eq!(life.next(), [Act::StartAgent]);
        pauses.push(life.now.since(died));
    }
    assert!(pauses.is_sorted() && pauses[0] < pauses[7], "{pauses:?}");
}

#[test]
fn an_end_that_was_asked_for_is_a_success_where_that_is_wanted_and_no_other_end_is() {
    let ended = |stop: bool, code: u8| {
        let mut life = Life::serving();
        life.course.limits.stop_is_success = true;
        if stop {
            life.take(Input::Stop(Signal::TERM));
            life.yes(Question::Drain);
        }
        life.take(Input::CommandEnded(code));
        life.yes(Question::Settled);
        life.take(Input::Alone);
        life.course.over()
    };
    assert_eq!([ended(true, 143), ended(true, 130), ended(true, 0)], [Some(0); 3]);
    assert_eq!([ended(true, 1), ended(true, 137)], [Some(1), Some(137)]);
    assert_eq!(ended(false, 143), Some(143), "somebody else's signal");
}

#[test]
fn an_answer_to_an_earlier_question_is_none() {
    let mut life = Life::holding();
    assert_eq!(life.yes(Question::Startup), []);
    assert_eq!(life.course.over(), None);
}
