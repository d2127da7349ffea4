//! What the module `busway` does in a real interpreter: each claim is a Python test of `tests/python`, run by name.
#![expect(clippy::print_stdout, reason = "the test runner collects skips and evidence")]

#[path = "stage/interpreter.rs"]
mod interpreter;

use std::collections::BTreeSet;

use interpreter::{Interpreter, build_the_command};

/// The same claims in Python: `test_samples.Samples.test_NAME` for each.
macro_rules! claims {
    ($($case:literal: $(fn $name:ident();)+)+) => {
        $($(
            #[test]
            fn $name() {
                match Interpreter::find() {
                    Ok(interpreter) => {
                        if $case == "test_programs.Programs" {
                            build_the_command();
                        }
                        interpreter.claim(&format!("{}.test_{}", $case, stringify!($name)));
                    }
                    Err(reason) => println!("skipped: {reason}"),
                }
            }
        )+)+

        /// All of them, as Python names them.
        const CLAIMS: &[&str] = &[$($(concat!($case, ".test_", stringify!($name)),)+)+];
    };
}

claims! {
    "test_samples.Samples":
    fn a_message_of_more_than_96_bytes_is_shown_where_its_publisher_wrote_it();
    fn nobody_can_write_into_a_sample();
    fn a_sample_keeps_its_bytes_while_it_is_shown_and_others_come_and_go();
    fn a_sample_that_is_shown_is_not_released_and_one_that_is_released_is_not_shown();
    fn no_more_memory_is_held_than_was_allowed();
    fn a_sample_is_compared_measured_and_decoded_like_bytes();

    "test_loans.Loans":
    fn a_loan_is_written_where_it_is_read();
    fn a_loan_that_can_still_be_written_is_not_sent_and_one_that_was_sent_cannot_be_written();
    fn loans_that_are_dropped_give_their_memory_back();
    fn what_shows_its_memory_can_be_sent_and_nothing_else();

    "test_blocking.Blocking":
    fn a_program_without_a_name_is_called_python();
    fn a_time_that_is_over_is_told_and_one_that_is_no_number_is_refused();
    fn the_interpreter_is_free_while_a_thread_waits();
    fn an_interrupt_ends_a_wait();
    fn closing_ends_every_wait();
    fn threads_share_a_publisher_and_a_subscriber();
    fn a_publisher_that_waits_lets_the_interpreter_go();
    fn every_code_has_its_class_and_says_what_to_try();
    fn what_was_lost_is_told_and_the_account_closes();
    fn what_follows_a_batch_is_told_by_the_next_call();
    fn what_is_published_before_anybody_subscribes_waits_for_the_first();

    "test_asyncio.Asyncio":
    fn a_loop_receives_while_it_does_other_things();
    fn a_loop_is_woken_once_for_whatever_has_come();
    fn a_receive_that_is_cancelled_has_taken_nothing();
    fn a_task_that_is_quicker_does_not_take_the_wake_up_of_another();
    fn a_flood_does_not_stop_the_loop();
    fn a_publisher_that_must_wait_does_not_hold_the_loop_up();
    fn a_publisher_s_wait_that_is_cancelled_ends();
    fn each_loop_has_its_turn_and_two_at_a_time_are_refused();
    fn closing_ends_the_tasks_that_wait();
    fn what_is_closed_leaves_nothing_in_the_loop();

    "test_work.Work":
    fn a_task_is_shown_where_its_pusher_wrote_it_also_after_it_was_acknowledged();
    fn work_that_was_not_acknowledged_comes_back_and_no_other_does();
    fn an_acknowledgement_that_is_too_late_is_told_and_what_nobody_acknowledges_lies_with_the_dead();
    fn programs_share_work_and_what_a_killed_one_had_goes_to_another();
    fn a_wait_for_work_ends_with_time_interrupts_and_closing();
    fn a_pusher_without_room_says_so_and_does_not_hold_the_interpreter();
    fn memory_is_flat_over_a_hundred_thousand_tasks();
    fn a_loop_pulls_work_and_a_receive_that_is_cancelled_keeps_none();
    fn a_loop_that_waits_notices_what_others_have_had_for_too_long();
    fn loops_in_threads_share_work();

    "test_forks.Forks":
    fn a_forked_child_is_told_and_opens_a_bus_of_its_own();
    fn a_child_neither_finishes_nor_gives_back_the_work_of_its_parent();
    fn what_was_shown_before_a_fork_can_be_read_in_the_child();
    fn a_child_that_closes_does_not_make_its_parent_deaf();
    fn messages_that_share_pages_can_be_read_in_a_child();

    "test_programs.Programs":
    fn messages_go_between_two_interpreters_started_at_once();
    fn a_message_of_the_command_reaches_python();
    fn a_message_of_python_reaches_the_command();

    "test_words.Words":
    fn the_stubs_name_what_is_there();
    fn the_examples_of_the_documentation_run();
}

#[test]
fn every_claim_of_python_is_run_by_name() {
    let interpreter = match Interpreter::find() {
        Ok(interpreter) => interpreter,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let mut command = interpreter.command();
    command.args(["-m", "stage"]);
    let output = command.output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let there = String::from_utf8(output.stdout).expect("names are ASCII");
    let there: BTreeSet<&str> = there.lines().collect();
    assert_eq!(there, CLAIMS.iter().copied().collect());
}
