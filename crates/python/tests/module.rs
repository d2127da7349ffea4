//! What the modules `busway` and `message_bus` do in a real interpreter: each claim is a Python test of `tests/python`, run by name.
#![expect(clippy::print_stdout, reason = "the test runner collects skips and evidence")]

#[path = "stage/interpreter.rs"]
mod interpreter;

use std::collections::BTreeSet;

use interpreter::{Interpreter, build_the_command};

/// Claims of programs that the command is one of, or has the node of.
const NEED_THE_COMMAND: &[&str] = &[
    "test_programs.Programs",
    "test_bus_nodes.Nodes",
    "test_artifacts.Artifacts",
    "test_artifacts.Waits",
    "test_words.Words",
];

/// The same claims in Python: `test_samples.Samples.test_NAME` for each.
macro_rules! claims {
    ($($case:literal: $(fn $name:ident();)+)+) => {
        $($(
            #[test]
            fn $name() {
                match Interpreter::find() {
                    Ok(interpreter) => {
                        if NEED_THE_COMMAND.contains(&$case) {
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
    fn bytes_that_hold_no_json_and_values_that_are_none_are_errors_of_the_bus();

    "test_loans.Loans":
    fn a_loan_is_written_where_it_is_read();
    fn a_loan_that_can_still_be_written_is_not_sent_and_one_that_was_sent_cannot_be_written();
    fn loans_that_are_dropped_give_their_memory_back();
    fn what_shows_its_memory_can_be_sent_and_nothing_else();

    "test_blocking.Blocking":
    fn a_program_without_a_name_is_called_python();
    fn a_time_that_is_over_is_told_and_one_that_is_no_number_is_refused();
    fn a_message_says_its_id_and_its_trace();
    fn the_interpreter_is_free_while_a_thread_waits();
    fn an_interrupt_ends_a_wait();
    fn closing_ends_every_wait();
    fn a_list_is_sent_whole_and_in_order_and_who_refuses_it_says_how_much_was_sent();
    fn a_number_that_fits_no_setting_is_refused_as_a_setting();
    fn threads_share_a_publisher_and_a_subscriber();
    fn who_looks_at_a_port_does_not_take_it_from_who_sends();
    fn a_publisher_that_waits_lets_the_interpreter_go();
    fn every_code_has_its_class_and_says_what_to_try();
    fn what_was_lost_is_told_and_the_account_closes();
    fn what_follows_a_batch_is_told_by_the_next_call();
    fn what_is_published_before_anybody_subscribes_waits_for_the_first();
    fn what_a_process_counts_is_a_dict();

    "test_asyncio.Asyncio":
    fn a_loop_sends_a_list_and_goes_on_while_there_is_no_room();
    fn a_loop_receives_while_it_does_other_things();
    fn a_loop_is_woken_once_for_whatever_has_come();
    fn a_loop_that_receives_much_is_not_woken_for_it();
    fn a_receive_that_is_cancelled_has_taken_nothing();
    fn a_task_that_is_quicker_does_not_take_the_wake_up_of_another();
    fn a_flood_does_not_stop_the_loop();
    fn a_publisher_that_must_wait_does_not_hold_the_loop_up();
    fn a_send_that_is_cancelled_is_not_sent();
    fn who_waits_for_room_leaves_the_threads_to_who_makes_it();
    fn a_send_that_waits_says_when_its_time_or_that_of_its_port_is_over();
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
    fn a_task_that_stands_in_a_variable_does_not_hold_up_who_waits_for_the_next();
    fn a_loop_that_keeps_a_task_in_a_variable_gets_the_next();
    fn a_puller_that_acknowledges_otherwise_than_its_group_is_told();

    "test_requests.Requests":
    fn what_is_asked_and_replied_is_shown_where_it_was_written();
    fn each_way_in_which_a_request_ends_has_its_class();
    fn a_wait_for_a_reply_or_a_request_ends_with_time_interrupts_and_closing();
    fn threads_ask_and_answer_at_once();
    fn a_loop_has_thousands_of_requests_under_way();
    fn a_loop_is_told_how_each_request_ends();
    fn tasks_that_wait_for_a_place_are_told_when_the_one_who_answers_dies();
    fn a_place_that_is_given_up_is_the_next_ones_and_who_waits_for_one_has_its_own_time();
    fn closing_ends_the_tasks_that_wait_for_replies_and_for_requests();
    fn a_requester_goes_from_loop_to_loop_and_nothing_is_left_behind();
    fn memory_is_flat_over_a_hundred_thousand_requests();
    fn nothing_of_a_request_is_kept_by_a_cycle_or_at_the_end_of_the_interpreter();
    fn who_looks_at_a_request_while_its_lane_is_opened_leaves_the_interpreter_to_others();

    "test_handlers.Handlers":
    fn as_many_handlers_run_at_once_as_may_and_no_more_is_taken();
    fn what_a_handler_raises_is_told_and_ends_nothing_else();
    fn handlers_that_are_cancelled_leave_their_requests_unanswered_and_their_work_to_others();
    fn work_that_fails_is_tried_again_and_the_rest_is_acknowledged();
    fn who_holds_as_much_as_it_may_goes_on_when_a_handler_has_let_go();

    "test_forks.Forks":
    fn a_forked_child_is_told_and_opens_a_bus_of_its_own();
    fn a_child_neither_finishes_nor_gives_back_the_work_of_its_parent();
    fn a_child_neither_answers_nor_cancels_the_requests_of_its_parent();
    fn a_child_that_closes_a_requester_leaves_its_parent_s_loop_alone();
    fn what_was_shown_before_a_fork_can_be_read_in_the_child();
    fn a_child_that_closes_does_not_make_its_parent_deaf();
    fn messages_that_share_pages_can_be_read_in_a_child();

    "test_programs.Programs":
    fn messages_go_between_two_interpreters_started_at_once();
    fn a_message_of_the_command_reaches_python();
    fn a_message_of_python_reaches_the_command();

    "test_pairs.Pairs":
    fn no_first_message_is_lost_between_two_fresh_interpreters();
    fn no_first_message_is_lost_between_two_fresh_programs_of_message_bus();

    "test_flights.Flights":
    fn four_programs_group_the_flights_of_a_year_and_a_fifth_adds_them_up();

    "test_bus_handlers.Handlers":
    fn a_handler_is_given_the_whole_message();
    fn what_can_be_awaited_is_awaited_and_the_rest_is_called_in_a_thread();
    fn a_handler_that_does_not_return_stops_neither_the_loop_nor_other_topics();
    fn as_many_handlers_run_at_once_as_were_allowed();
    fn as_many_threads_are_at_it_as_handlers_were_allowed();
    fn what_waits_for_a_thread_at_the_end_is_counted_as_dropped();
    fn its_own_handler_comes_before_patterns_and_the_last_one_wins();
    fn a_handler_that_fails_is_counted_and_told_and_the_next_message_handled();
    fn a_handler_that_is_removed_is_called_no_more();
    fn ten_thousand_handlers_that_come_and_go_leave_the_process_as_it_was();
    fn a_topic_without_a_handler_is_told_at_the_level_that_was_set();
    fn a_flood_makes_no_task_and_no_future_for_each_message();
    fn messages_of_one_publisher_and_topic_come_in_order_and_once();
    fn a_bus_is_built_anywhere_and_used_in_one_loop_after_the_other();

    "test_bus_document.Document":
    fn the_lifespan_of_our_page_answers();
    fn our_page_names_every_key_with_its_default_every_count_and_every_difference();
    fn the_quick_start_runs_as_it_stands_and_leaves_nothing();
    fn its_names_are_ours();
    fn its_handlers_handle();
    fn its_state_bus_answers_once_it_has_imported_what_it_uses();
    fn its_result_bus_prints_and_its_extension_echoes();
    fn its_serializer_and_its_lifecycle_are_as_it_says();
    fn its_web_service_answers();

    "test_bus_events.Events":
    fn what_is_published_before_its_subscriber_s_task_runs_arrives();
    fn a_subscriber_of_another_process_that_comes_late_gets_what_was_kept_for_it();
    fn messages_of_a_new_topic_are_kept_as_long_as_was_said();
    fn every_text_is_a_topic_and_every_beginning_of_one_a_subscription();
    fn a_name_stands_for_a_port_however_it_is_written();
    fn each_loop_of_a_port_has_its_own_topics_and_a_message_comes_once();
    fn ports_are_spaces_and_any_number_of_buses_publish_on_one();
    fn other_programs_of_the_bus_read_and_write_the_same_messages();
    fn a_message_of_any_size_comes_whole();
    fn a_stalled_handler_has_its_queue_and_its_publisher_waits_no_longer_than_was_said();
    fn counts_do_not_fall_when_a_slow_subscriber_leaves();
    fn a_policy_that_drops_makes_nobody_wait();
    fn an_odd_bus_name_is_a_name();

    "test_bus_requests.Requests":
    fn a_request_is_answered_whoever_came_first();
    fn what_nobody_overrides_says_so_and_a_plain_method_is_called_in_a_thread();
    fn a_hundred_requests_are_under_way_at_once_and_each_has_its_own_answer();
    fn a_request_that_is_late_returns_none_and_locks_nothing();
    fn the_time_of_a_request_is_shared_or_halved_as_was_said();
    fn that_nobody_answers_is_known_before_the_time_is_over();
    fn requests_of_a_port_that_failed_are_left_alone_and_counted_and_come_back();
    fn whatever_an_answer_comes_to_the_loop_goes_on();
    fn a_requester_that_gives_up_or_dies_does_not_end_the_loop();
    fn a_loop_to_which_no_request_comes_ticks_and_goes_on();
    fn an_answer_that_cannot_be_sent_in_time_is_dropped_and_the_loop_goes_on();
    fn a_bus_that_is_cleaned_up_answers_and_asks_no_more();
    fn one_bus_asks_from_one_loop_after_the_other();

    "test_bus_processes.Processes":
    fn sync_handlers_run_in_processes_that_end_with_the_bus();
    fn as_many_processes_are_at_it_as_handlers_were_allowed();
    fn what_a_killed_process_leaves_at_the_end_is_counted_as_dropped();
    fn what_another_process_cannot_find_is_refused_where_it_is_registered();
    fn a_process_that_is_killed_costs_what_it_had_and_the_next_message_has_another();
    fn no_process_outlives_the_program_that_it_works_for();

    "test_bus_results.Results":
    fn results_that_were_pushed_before_anybody_pulled_reach_who_pulls();
    fn each_result_goes_to_one_of_those_who_pull();
    fn a_full_queue_makes_who_pushes_wait_no_longer_than_was_said();
    fn a_result_that_fails_or_cannot_be_read_does_not_end_the_loop();
    fn a_plain_method_is_called_in_a_thread_and_what_nobody_overrides_logs();
    fn a_loop_whose_results_are_slow_takes_one_at_a_time();
    fn a_loop_that_is_cancelled_leaves_what_it_had_taken_to_the_next();
    fn a_result_is_handled_or_counted_as_dropped_and_never_both();
    fn results_are_pushed_in_a_flood_and_leave_nothing();

    "test_bus_reading.Reading":
    fn what_is_decoded_while_it_is_taken_is_what_others_read();
    fn a_reader_is_called_while_another_reads();
    fn a_serializer_reads_whatever_comes_after_it_was_set();
    fn what_there_is_no_memory_for_costs_one_message_and_no_other();
    fn a_message_without_memory_is_counted_and_the_loop_goes_on();
    fn a_message_comes_alike_whether_it_was_decoded_while_it_was_taken_or_not();

    "test_bus_settings.Settings":
    fn the_twelve_keys_have_the_defaults_that_programs_know();
    fn an_unknown_key_is_told_once_with_what_was_meant();
    fn a_value_that_cannot_be_meant_is_refused_where_it_is_given();
    fn serializers_read_what_the_others_wrote_and_a_missing_one_is_told();
    fn what_json_has_no_words_for_is_neither_written_nor_read();
    fn domains_are_apart_and_sync_handlers_run_where_was_said();
    fn a_strict_bus_raises_what_others_count();
    fn nothing_is_logged_by_itself_and_nothing_opened_by_building();
    fn a_context_is_taken_and_said_not_to_be_used();

    "test_bus_lives.Lives":
    fn there_are_nine_counts_and_more_for_who_asks();
    fn what_is_cleaned_up_leaves_nothing_and_may_be_cleaned_up_again();
    fn two_buses_share_what_a_process_has_and_the_last_one_leaves();
    fn cleanup_has_an_end_whatever_is_under_way();
    fn what_is_sent_just_before_a_cleanup_waits_for_the_first_who_comes();
    fn a_cleanup_waits_for_nobody_and_a_bus_that_is_made_later_begins_with_nothing_of_it();
    fn so_many_ports_wait_beyond_a_cleanup_and_none_where_there_can_be_no_thread();
    fn a_program_that_ends_stays_until_somebody_has_come_for_what_it_sent_or_the_time_for_it_is_over();
    fn what_outlives_a_cleanup_brings_no_thread_back();
    fn what_is_refused_does_not_hold_the_loop_up();
    fn what_was_sent_has_the_linger_to_be_read();
    fn handlers_that_are_not_to_be_cancelled_come_to_their_end();
    fn requests_and_results_that_are_not_to_be_cancelled_come_to_their_end();
    fn a_handler_may_clean_up_its_own_bus();
    fn a_forked_child_has_a_bus_that_has_done_nothing();
    fn an_endpoint_that_fails_is_left_alone_and_comes_back_by_itself();
    fn a_subscription_that_cannot_be_opened_is_tried_again();
    fn a_breaker_knows_no_wall_clock_and_lets_one_probe_through();
    fn who_was_let_through_before_a_breaker_opened_decides_nothing_any_more();
    fn what_takes_longer_than_the_pause_and_ends_well_closes_a_breaker();
    fn a_cause_is_told_now_and_then_with_how_often_it_was_not();
    fn threads_publish_through_one_bus();
    fn a_cleanup_that_is_cancelled_goes_on_and_the_next_call_waits_for_its_end();
    fn a_cleanup_whose_loop_has_ended_is_finished_by_the_next();

    "test_bus_threads.Threads":
    fn a_port_that_another_thread_has_for_a_moment_is_no_fault();
    fn handlers_in_another_thread_s_loop_come_to_their_end_or_are_cancelled_with_the_bus();
    fn results_that_loops_of_several_threads_take_are_handled_once_and_no_loop_ends();
    fn threads_that_publish_and_one_that_looks_at_the_counts_cost_each_other_nothing();

    "test_bus_limits.Limits":
    fn the_eleventh_result_meets_a_limit_of_ten();
    fn the_eleventh_event_meets_a_limit_of_ten();
    fn what_is_too_large_is_dropped_by_that_name();
    fn a_limit_of_0_is_the_most_that_a_queue_may_have();
    fn who_pulls_and_who_answers_has_as_much_in_hand_as_was_said();
    fn who_pushes_waits_as_long_as_was_said_and_not_at_all_where_that_is_0();
    fn who_publishes_waits_as_long_as_was_said_and_not_at_all_where_that_is_0();
    fn an_answer_has_the_time_that_was_said_and_hardly_any_where_that_is_0();
    fn what_is_published_in_one_turn_goes_as_one_batch_and_the_first_at_once();
    fn a_batch_for_which_there_is_no_room_after_all_waits_for_it_in_its_order();
    fn what_a_loop_leaves_unsent_is_sent_by_the_next_or_counted();
    fn what_another_loop_sends_is_not_put_into_the_batch_of_one_that_stands_still();
    fn what_waits_for_room_at_the_end_has_the_linger_and_one_time_for_all();
    fn what_comes_after_a_batch_without_room_waits_behind_it();
    fn nothing_overtakes_a_batch_while_another_thread_waits_for_room();
    fn who_waits_for_room_looks_at_once_for_a_moment_but_not_behind_a_reader_that_was_slow();

    "test_bus_care.Care":
    fn hooks_see_each_message_in_their_order_and_may_change_or_refuse_it();
    fn a_hook_whose_work_is_cancelled_refuses_that_message_and_stops_nothing();
    fn a_handler_that_fails_is_tried_again_as_often_as_was_said_and_then_its_message_is_a_dead_letter();
    fn a_handler_of_dead_letters_that_fails_buries_nothing_again();
    fn dead_letters_of_handlers_that_bury_in_each_other_go_no_further_than_once();
    fn no_hook_makes_a_dead_letter_another_message();
    fn a_message_of_the_program_that_looks_like_a_dead_letter_is_none();
    fn a_handler_that_fails_again_and_again_is_left_alone_and_others_are_not();
    fn a_slow_handler_is_told_with_the_time_of_99_of_100_calls();
    fn a_pattern_that_can_match_nothing_is_refused();
    fn what_fails_is_sent_again_as_often_as_was_said_with_the_same_id();
    fn a_retry_whose_first_attempt_arrived_is_handled_once();

    "test_bus_nodes.Nodes":
    fn a_program_joins_a_node_and_all_patterns_cross();
    fn a_program_joins_a_node_over_tls_by_its_certificate();
    fn a_program_shows_a_token_in_place_of_a_certificate();
    fn programs_that_join_the_same_node_share_the_link_and_one_is_enough();
    fn a_node_that_is_forgotten_keeps_no_other_thread_from_python();
    fn a_child_made_by_fork_is_refused_a_node_of_its_parents_bus();
    fn what_is_said_of_a_node_is_looked_at_where_it_is_given_and_shows_no_token();

    "test_bus_traces.Traces":
    fn what_a_handler_sends_belongs_to_the_trace_of_its_message();
    fn what_is_no_trace_is_none_and_one_of_the_program_is_carried_as_it_is();

    "test_bus_payloads.Counts":
    fn what_became_of_what_was_sent_is_told_and_adds_up();
    fn the_counts_are_text_and_found_at_an_address_with_no_code();
    fn an_address_that_another_program_has_does_not_end_the_bus();
    fn clients_of_the_address_cost_one_thread_and_keep_nobody_from_it();

    "test_bus_payloads.Payloads":
    fn bytes_go_as_they_are_and_what_is_none_is_refused();
    fn bytes_that_are_no_message_are_refused_whatever_they_are();
    fn what_nests_claims_or_has_no_bound_is_refused_and_the_next_is_handled();
    fn messagepack_and_tables_go_where_their_packages_are();
    fn a_package_that_is_not_installed_is_named_with_how_to_get_it();

    "test_bus_check.Check":
    fn where_all_is_well_the_check_says_so_and_leaves_nothing();
    fn a_message_bus_in_the_folder_of_the_program_is_told();
    fn what_is_not_well_is_told_with_what_to_try();

    "test_log.Log":
    fn a_warning_of_the_rust_side_is_a_record_of_the_logger_busway();
    fn levels_are_those_of_logging_and_what_the_logger_does_not_want_is_not_told();
    fn where_logging_is_not_configured_nothing_is_said_and_no_thread_is_left();
    fn who_says_a_line_waits_for_no_handler_and_what_is_lost_is_counted();
    fn the_first_line_is_told_however_many_buses_before_it_said_nothing();
    fn a_line_that_is_said_while_the_thread_ends_is_told();
    fn what_the_thread_leaves_when_it_ends_is_counted_and_told();
    fn a_child_made_by_fork_says_its_own_and_a_program_that_ends_amid_lines_ends();

    "test_artifacts.Artifacts":
    fn a_file_of_one_program_is_whole_in_another_by_a_node_in_a_third();
    fn bytes_buffers_files_and_readers_are_offered_as_they_are_at_the_call();
    fn a_file_object_that_raises_or_lies_offers_nothing();
    fn what_cannot_be_offered_or_fetched_has_its_code();
    fn who_knows_an_id_is_given_none_of_its_bytes_on_another_topic();
    fn an_offer_stands_until_its_end_and_says_how_far_it_has_come();
    fn a_function_of_interest_decides_and_what_it_raises_is_raised_where_it_is_called();
    fn a_function_of_interest_that_blocks_holds_up_nobody_else();
    fn a_large_one_is_read_as_it_arrives_and_says_how_much_is_here();

    "test_artifacts.Waits":
    fn interrupts_closing_and_the_end_of_the_node_end_each_wait();
    fn a_loop_offers_is_given_fetches_reads_and_is_told();
    fn what_a_loop_s_function_raises_is_raised_by_its_receive_and_a_loop_that_ends_while_it_waits_ends();
    fn a_child_made_by_fork_is_told_and_takes_nothing_from_its_parent();
    fn ten_thousand_small_offers_leave_nothing_and_who_never_receives_holds_up_nobody();

    "test_words.Words":
    fn the_stubs_name_what_is_there();
    fn the_examples_of_the_documentation_run();
    fn the_example_programs_say_what_they_do();
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
