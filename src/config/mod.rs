//! One checked configuration, from defaults, file, environment and flags.
