//! What every driver must do. The same bodies run for TCP by `epoll` and for the network in memory, smooth and
//! rough; a new driver adds a place, and a line at the end.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests unwrap and print their evidence")]

#[path = "conformance/claims.rs"]
mod claims;
#[path = "conformance/endings.rs"]
mod endings;
#[path = "conformance/place.rs"]
mod place;
#[path = "conformance/scene.rs"]
mod scene;

/// One module a kind of place, with each claim as a test.
macro_rules! conform {
    ($kind:ident, $places:expr, [$($file:ident :: $claim:ident),+ $(,)?]) => {
        mod $kind {
            $(
                #[test]
                fn $claim() {
                    for place in $places {
                        crate::$file::$claim(crate::scene::Scene::new(place));
                    }
                }
            )+
        }
    };
}

macro_rules! conform_all {
    ($kind:ident, $places:expr) => {
        conform!(
            $kind,
            $places,
            [
                claims::bytes_cross_both_ways_unchanged_whatever_their_sizes,
                claims::both_families_connect_and_tell_where_the_peer_comes_from,
                claims::a_burst_of_newcomers_is_taken_in_whole,
                claims::who_comes_while_the_listener_is_held_waits_and_is_then_taken_in,
                claims::a_read_fills_the_first_span_before_the_second,
                claims::more_pieces_than_one_write_takes_are_sent_by_the_next_ones,
                claims::a_write_waits_for_room_and_the_backlog_says_how_much_is_under_way,
                claims::an_idle_connection_is_watched_without_a_buffer,
                claims::who_waits_for_many_bytes_is_told_when_they_are_there_or_will_not_come,
                claims::a_wake_ends_a_poll_and_is_no_event,
                claims::what_cannot_be_done_gives_its_buffer_back_at_once,
                endings::a_dial_to_where_nobody_listens_is_refused_and_leaves_nothing,
                endings::an_address_that_cannot_be_listened_at_is_named_with_the_reason,
                endings::who_comes_after_the_end_of_listening_is_refused,
                endings::a_half_that_is_shut_ends_for_the_peer_who_may_go_on,
                endings::a_close_sends_what_was_written_and_then_the_end,
                endings::a_close_over_unread_bytes_is_a_reset_for_the_peer,
                endings::writing_to_a_peer_that_has_gone_is_a_fault,
                endings::a_close_gives_each_buffer_back_once_and_then_nothing_more_is_heard,
                endings::a_dial_that_is_closed_is_not_answered,
                endings::without_descriptors_newcomers_are_told_why_and_counted_until_there_are_some,
            ]
        );
    };
}

conform_all!(epoll, [crate::place::Tcp::new()]);
conform_all!(fake, [crate::place::Memory::smooth()]);
conform_all!(rough, (0..16).map(crate::place::Memory::rough));
