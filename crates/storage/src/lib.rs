//! Put, get, list and delete the LTX files of a replica, anywhere.
