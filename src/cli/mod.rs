//! Commands, output, exit codes.
