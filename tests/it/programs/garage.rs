//! The same over Garage, which ignores conditions on writes.

use crate::programs::{Twins, databases, editing, trees};
use crate::support::Foreign;

fn twins(options: &[&str]) -> Twins<Foreign> {
    Twins::over(Foreign::garage(), options)
}

#[test]
fn git_over_garage() {
    databases::git(&mut twins(&["--commit=background"]));
}

#[test]
fn sqlite_over_garage() {
    databases::every_journal_mode(&mut twins(&["--commit=background"]));
}

#[test]
fn archives_and_copies_over_garage() {
    trees::tar(&mut twins(&[]));
    trees::cp_a(&mut twins(&[]));
}

#[test]
fn rsync_over_garage() {
    trees::rsync_twice(&mut twins(&[]));
}

#[test]
fn make_over_garage() {
    trees::make(&mut twins(&["--commit=background"]));
}

#[test]
fn editors_and_loggers_over_garage() {
    editing::editors(&mut twins(&[]));
    editing::two_writers(&mut twins(&["--commit=background"]));
    editing::header(&mut twins(&["--part-size=5M"]));
}
