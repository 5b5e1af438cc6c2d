//! An embedded S3 server for demonstrations and tests. Not for production.
