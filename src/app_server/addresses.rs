//! An image is told from the next one by its random addresses: does the kernel give it such?

use std::io;

use crate::finding::{Check, Code, Finding};

const RESTARTS: &str = "restarts";

/// The kernel gives every image the same addresses.
pub(super) fn same_addresses() -> bool {
    address_setting().is_ok_and(|setting| setting.trim() == "0")
}

fn address_setting() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/randomize_va_space")
}

/// Whether an exec can be recognised by a random address; `name` is what people call the server.
pub(super) fn random_addresses(name: &str) -> Check {
    placed(name, address_setting())
}

fn placed(name: &str, setting: io::Result<String>) -> Check {
    match setting.as_deref().map(str::trim) {
        Ok("0") => Check::found(
            RESTARTS,
            Finding::broken(
                Code::AddressSpaceNotRandom,
                format!(
                    "the kernel loads every program at the same addresses, so pitstop cannot see whether {name} has restarted"
                ),
                "set kernel.randomize_va_space to 2 on the node",
            ),
        ),
        Ok(_) => {
            Check::fine(RESTARTS, "can be recognised: the kernel loads each program at random addresses")
        }
        Err(error) => Check::unknown(RESTARTS, format!("/proc/sys/kernel/randomize_va_space: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_gives_every_image_the_same_addresses_is_found() {
        let fixed = placed("Puma", Ok("0\n".into()));
        assert_eq!(fixed.finding().unwrap().code.code(), "ADDRESS_SPACE_NOT_RANDOM");
        assert!(placed("Puma", Ok("2\n".into())).finding().is_none());
    }
}
