//! The registers against a model of the specification that shares no code with them.

use proptest::prelude::*;

use super::*;

const SIZES: &[u16] = &[128, 8];

fn registers() -> Registers {
    Registers::new(Facts { id: 19, features: 1 << 5, queue_sizes: SIZES, config: vec![3, 0, 0, 0] })
}

/// What the specification says, in the plainest form: status bits and numbers by register.
#[derive(Debug, Default)]
struct Model {
    status: u32,
    select: [u32; 3],
    driver_features: [u32; 2],
    /// Of each queue: size, ready, then the six address words.
    queues: [[u32; 8]; 2],
    interrupt: u32,
    rejected: u64,
    started: u64,
}

impl Model {
    const OFFERED: [u32; 2] = [(1 << 5) | (1 << 29), 1];

    fn write(&mut self, at: u64, value: u32) {
        let configuring = self.status == 11;
        let queue = self.select[2] as usize;
        let accepted = match at {
            0x14 => {
                self.select[0] = value;
                true
            }
            0x24 if self.status == 3 => {
                self.select[1] = value;
                true
            }
            0x20 if self.status == 3 && self.select[1] < 2 => {
                self.driver_features[self.select[1] as usize] = value;
                true
            }
            0x20 => self.status == 3 && value == 0,
            0x30 => {
                self.select[2] = value;
                true
            }
            0x44 if queue < 2 => {
                let ready = &mut self.queues[queue][1];
                let allowed = (configuring && value < 2) || (*ready == 0 && value == 0);
                if allowed {
                    *ready = value;
                }
                allowed
            }
            0x50 => value < 2 && (self.status == 15 || self.status == 79),
            0x64 => {
                if value < 4 {
                    self.interrupt &= !value;
                }
                value < 4
            }
            0xac => true,
            0x70 => self.write_status(value),
            _ => self.configure(at, value, queue, configuring),
        };
        self.rejected += u64::from(!accepted);
    }

    fn configure(&mut self, at: u64, value: u32, queue: usize, configuring: bool) -> bool {
        let place = match at {
            0x38 => 0,
            0x80 => 2,
            0x84 => 3,
            0x90 => 4,
            0x94 => 5,
            0xa0 => 6,
            0xa4 => 7,
            _ => return false,
        };
        if !configuring
            || queue >= 2
            || self.queues[queue][1] == 1
            || (place == 0 && value > 0xffff)
        {
            return false;
        }
        self.queues[queue][place] = value;
        true
    }

    fn write_status(&mut self, value: u32) -> bool {
        if value == 0 {
            let (rejected, started) = (self.rejected, self.started);
            *self = Self { rejected, started, ..Self::default() };
            return true;
        }
        if value == self.status {
            return true;
        }
        if value == self.status | 128 {
            self.status = value;
            return true;
        }
        match (self.status, value) {
            (0, 1) | (1, 3) => self.status = value,
            (3, 11) => {
                let known = (0..2).all(|i| self.driver_features[i] & !Self::OFFERED[i] == 0);
                if known && self.driver_features[1] & 1 == 1 {
                    self.status = 11;
                }
            }
            (11, 15) => {
                self.status = 15;
                self.started += 1;
            }
            _ => return false,
        }
        true
    }

    fn read(&mut self, at: u64) -> u32 {
        let queue = self.queues.get(self.select[2] as usize);
        match at {
            0x00 => u32::from_le_bytes(*b"virt"),
            0x04 => 2,
            0x08 => 19,
            0x0c => u32::from_le_bytes(*b"CLST"),
            0x10 => Self::OFFERED.get(self.select[0] as usize).copied().unwrap_or(0),
            0x34 => SIZES.get(self.select[2] as usize).map_or(0, |size| u32::from(*size)),
            0x44 => queue.map_or(0, |queue| queue[1]),
            0x60 => self.interrupt,
            0x70 => self.status,
            0xb0 | 0xb4 | 0xb8 | 0xbc => u32::MAX,
            0xfc => 0,
            0x100 => 3,
            _ => {
                self.rejected += 1;
                0
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u32),
    Read(u64),
    /// A step that a correct driver would make next.
    Onward,
    Odd(u64, Vec<u8>),
    Raise(u32),
    BreakDown,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = prop_oneof![
        8 => (0_u64..0x42).prop_map(|word| word * 4),
        4 => prop::sample::select(vec![0x70_u64, 0x30, 0x44, 0x38, 0x20, 0x24, 0x50, 0x64, 0x80]),
    ];
    let value = prop_oneof![
        4 => 0_u32..20,
        2 => prop::sample::select(vec![0_u32, 1, 3, 11, 15, 79, 128, 131, 143, 207, 1 << 29]),
        1 => any::<u32>(),
    ];
    let step = prop_oneof![
        6 => (at.clone(), value).prop_map(|(at, value)| Step::Write(at, value)),
        3 => at.prop_map(Step::Read),
        6 => Just(Step::Onward),
        1 => (0_u64..0x120, prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(at, data)| Step::Odd(at, data)),
        1 => (1_u32..4).prop_map(Step::Raise),
        1 => Just(Step::BreakDown),
    ];
    prop::collection::vec(step, 1..200)
}

/// The writes that bring a driver one step on.
fn onward(status: u32) -> Vec<(u64, u32)> {
    match status {
        0 => vec![(0x70, 1)],
        1 => vec![(0x70, 3)],
        3 => vec![(0x24, 0), (0x20, 1 << 29), (0x24, 1), (0x20, 1), (0x70, 11)],
        11 => vec![(0x30, 0), (0x38, 64), (0x80, 0x1000), (0x84, 1), (0x44, 1), (0x70, 15)],
        15 => vec![(0x50, 1)],
        _ => vec![(0x70, 0)],
    }
}

#[derive(Debug)]
struct Both {
    real: Registers,
    model: Model,
    started: u64,
}

impl Both {
    fn write(&mut self, at: u64, value: u32) {
        let running = self.model.status == 15;
        self.model.write(at, value);
        match self.real.write(at, &value.to_le_bytes()) {
            Effect::Start => self.started += 1,
            Effect::Notify(queue) => assert!(running && queue < SIZES.len()),
            Effect::Stop => assert!(value == 0 || value & 128 != 0),
            Effect::None => {}
        }
        assert_eq!(self.started, self.model.started);
    }

    fn read(&mut self, at: u64) {
        let mut data = [0xaa; 4];
        self.real.read(at, &mut data);
        assert_eq!(u32::from_le_bytes(data), self.model.read(at), "at {at:#x}");
    }

    /// Neither a width that is no register's nor a misaligned offset changes anything.
    fn odd(&mut self, at: u64, data: &[u8]) {
        if data.len() == 4 || at >= 0x100 {
            return;
        }
        assert_eq!(self.real.write(at, data), Effect::None);
        let mut back = data.to_vec();
        self.real.read(at, &mut back);
        assert!(back.iter().all(|byte| *byte == 0));
        self.model.rejected += 2;
    }

    fn compare(&self) {
        assert_eq!(self.real.phase().status(), self.model.status);
        assert_eq!(self.real.rejected(), self.model.rejected);
        for (real, model) in self.real.queues().iter().zip(&self.model.queues) {
            let word = |low: usize| u64::from(model[low]) | (u64::from(model[low + 1]) << 32);
            assert_eq!(u32::from(real.size), model[0]);
            assert_eq!(u32::from(real.ready), model[1]);
            assert_eq!(real.descriptors, word(2));
            assert_eq!(real.driver_area, word(4));
            assert_eq!(real.device_area, word(6));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_order_of_accesses_is_as_in_the_model(steps in steps()) {
        let mut both = Both { real: registers(), model: Model::default(), started: 0 };
        for step in steps {
            let (running, frozen) = (both.model.status & 4, both.real.queues().to_vec());
            match step {
                Step::Write(at, value) => both.write(at, value),
                Step::Read(at) => both.read(at),
                Step::Onward => {
                    for (at, value) in onward(both.model.status) {
                        both.write(at, value);
                    }
                }
                Step::Odd(at, data) => both.odd(at, &data),
                Step::Raise(bits) => {
                    both.real.raise(bits);
                    both.model.interrupt |= bits;
                }
                Step::BreakDown => {
                    prop_assert_eq!(both.real.break_down(), both.model.status == 15);
                    if both.model.status == 15 {
                        both.model.status = 79;
                        both.model.interrupt |= 2;
                    }
                }
            }
            both.compare();
            if running & both.model.status != 0 {
                prop_assert_eq!(frozen.as_slice(), both.real.queues());
            }
        }
    }
}

#[test]
fn linux_brings_it_up_without_a_rejected_access() {
    let mut registers = registers();
    let writes = [
        (0x70, 0),
        (0x70, 1),
        (0x70, 3),
        (0x14, 1),
        (0x14, 0),
        (0x24, 1),
        (0x20, 1),
        (0x24, 0),
        (0x20, 1 << 29),
        (0x70, 11),
        (0x30, 0),
        (0x38, 128),
        (0x80, 0x1000),
        (0x84, 0),
        (0x90, 0x2000),
        (0x94, 0),
        (0xa0, 0x3000),
        (0xa4, 0),
        (0x44, 1),
    ];
    for (at, value) in writes {
        assert_eq!(
            registers.write(at, &u32::to_le_bytes(value)) == Effect::Stop,
            (at, value) == (0x70, 0)
        );
    }
    assert_eq!(registers.write(0x70, &15_u32.to_le_bytes()), Effect::Start);
    assert!(registers.event_index());
    assert_eq!(registers.write(0x50, &1_u32.to_le_bytes()), Effect::Notify(1));
    assert_eq!(registers.write(0x70, &0_u32.to_le_bytes()), Effect::Stop);
    // As Linux takes its queues down after the reset.
    assert_eq!(registers.write(0x30, &0_u32.to_le_bytes()), Effect::None);
    assert_eq!(registers.write(0x44, &0_u32.to_le_bytes()), Effect::None);
    assert_eq!(registers.rejected(), 0);
}
