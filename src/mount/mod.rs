//! Assembly in start order, signals, tear-down in reverse.
