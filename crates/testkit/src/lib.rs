//! Real programs, databases and writers for the tests of Evertide.
