//! How a guest ends its machine: the ACPI sleep and reset registers and the panic port.

use crate::exit::{Exit, ExitCode};
use crate::x86_64::layout;

/// ACPI sleep control register (ACPI 6.5, 4.8.3.7): "sleep enable" and the place of the sleep type.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
/// pvpanic events: "panicked" and "crash kernel loaded" (only the first ends the machine).
const PANICKED: u8 = 1;

/// What reading the panic port gives: the events that are understood.
pub const PANIC_EVENTS: u8 = PANICKED;

/// What a write to one of the power ports means; `None`: nothing.
#[must_use]
pub fn write(port: u16, value: u8) -> Option<Exit> {
    let sleep_type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
    let (code, detail) = match port {
        layout::SLEEP_CONTROL_PORT
            if value & SLEEP_ENABLE != 0 && sleep_type == layout::SLEEP_TYPE_OFF =>
        {
            (ExitCode::Stopped, "the guest powered off")
        }
        layout::RESET_PORT if value == layout::RESET_VALUE => {
            (ExitCode::Reset, "the guest asked for a reset")
        }
        layout::PANIC_PORT if value & PANICKED != 0 => {
            (ExitCode::Panic, "the guest kernel panicked; its last words are in the serial log")
        }
        _ => return None,
    };
    Some(Exit { code, detail: detail.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_values_end_the_machine() {
        let mut ends = Vec::new();
        for port in [layout::SLEEP_CONTROL_PORT, layout::SLEEP_STATUS_PORT, layout::RESET_PORT] {
            for value in 0..=u8::MAX {
                if let Some(exit) = write(port, value) {
                    ends.push((port, value, exit.code));
                }
            }
        }
        assert!(ends.contains(&(layout::SLEEP_CONTROL_PORT, 0x34, ExitCode::Stopped)));
        assert!(ends.contains(&(layout::RESET_PORT, 1, ExitCode::Reset)));
        assert!(ends.iter().all(|(port, value, _)| match *port {
            layout::SLEEP_CONTROL_PORT => value & 0x3c == 0x34,
            layout::RESET_PORT => *value == 1,
            _ => false,
        }));
        assert_eq!(write(layout::PANIC_PORT, 1).map(|exit| exit.code), Some(ExitCode::Panic));
        assert_eq!(write(layout::PANIC_PORT, 2), None);
    }
}
