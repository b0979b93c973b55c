//! What is decided without an app server: the core under scripts and models. Time is data: nothing waits.

mod drain_decision;
mod drain_states;
mod two_generations;
