//! Uploads in parts, as S3 and Alibaba's OSS have them.

/// Bytes in a part of an upload; what is smaller goes in one request. With the largest number of parts that both
/// allow, 10,000, an object has 68 GiB.
pub(super) const SIZE: u64 = 7 << 20;
/// What S3 allows; OSS allows smaller ones, of which nobody has any use.
const SIZES: std::ops::RangeInclusive<u64> = (5 << 20)..=(5 << 30);
const MOST_AT_A_TIME: usize = 64;

/// What of these choices cannot work.
pub(super) fn check(size: Option<u64>, at_a_time: Option<usize>) -> Result<(), &'static str> {
    if size.is_some_and(|size| !SIZES.contains(&size)) {
        return Err("the size of parts is not from 5 MiB to 5 GiB");
    }
    if at_a_time.is_some_and(|parts| !(1..=MOST_AT_A_TIME).contains(&parts)) {
        return Err("the parts at a time are not from 1 to 64");
    }
    Ok(())
}
