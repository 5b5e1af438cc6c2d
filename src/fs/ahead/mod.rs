//! Small files fetched before they are opened.
mod course;
