use proptest::prelude::*;

use super::*;

fn snapshot() -> Snapshot {
    let vcpu = || VcpuState {
        mp_state: Default::default(),
        regs: Default::default(),
        sregs: Default::default(),
        xsave: Default::default(),
        xcrs: Default::default(),
        debug: Default::default(),
        lapic: Default::default(),
        msrs: vec![Default::default(); 150],
        tsc: 1,
        tsc_offset: 2,
        tsc_deadline: 3,
        events: Default::default(),
    };
    let devices = [19, 4].map(|id| DeviceState {
        id,
        status: 15,
        driver_features: 1 << 32,
        device_features_select: 0,
        driver_features_select: 0,
        queue_select: 0,
        interrupt_status: 0,
        queues: vec![Default::default(); 3],
    });
    let body = Body {
        tsc_khz: 2_000_000,
        cpuid: vec![Default::default(); 40],
        vcpus: vec![vcpu(), vcpu()],
        vm: VmState { clock: Default::default(), irqchips: Default::default() },
        devices: devices.into(),
    };
    Snapshot { fingerprint: [9; 32], memory_bytes: 128 << 20, body }
}

#[test]
fn what_is_written_is_read() {
    let bytes = snapshot().encode().unwrap();
    let read = Snapshot::decode(&bytes).unwrap();
    assert_eq!(read.encode().unwrap(), bytes);
    assert_eq!((read.memory_bytes, read.body.vcpus.len()), (128 << 20, 2));
    assert_eq!(read.body.devices, snapshot().body.devices);
}

#[test]
fn the_largest_machine_fits() {
    let mut large = snapshot();
    let one = snapshot().body.vcpus.remove(0);
    large.body.vcpus =
        (0..MAX_VCPUS).map(|_| VcpuState { msrs: one.msrs.clone(), ..copy(&one) }).collect();
    assert!(large.encode().unwrap().len() < MAX_BYTES / 2);
}

fn copy(vcpu: &VcpuState) -> VcpuState {
    postcard::from_bytes(&postcard::to_allocvec(vcpu).unwrap()).unwrap()
}

#[test]
fn ten_thousand_flipped_bits_are_all_found() {
    let good = snapshot().encode().unwrap();
    let bits = good.len() * 8;
    // All of the header's, and places all over the rest.
    let header = 0..HEADER_BYTES * 8;
    let step = (bits - HEADER_BYTES * 8) / (10_000 - HEADER_BYTES * 8);
    let places: Vec<usize> = header.chain((HEADER_BYTES * 8..bits).step_by(step)).collect();
    assert!(places.len() >= 10_000, "{}", places.len());
    let mut bytes = good.clone();
    for bit in places {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = Snapshot::decode(&bytes).expect_err("a flipped bit was not found");
        match bit / 8 {
            0..8 => assert_eq!(error, SnapshotError::Magic),
            8..12 => assert!(matches!(error, SnapshotError::Version { .. })),
            12..16 => assert!(matches!(error, SnapshotError::Architecture { .. })),
            56..60 => assert!(matches!(error, SnapshotError::Truncated { .. })),
            _ => assert!(matches!(error, SnapshotError::Checksum { .. }), "{error}"),
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(bytes, good);
}

#[test]
fn every_cut_is_found() {
    let good = snapshot().encode().unwrap();
    for length in (0..good.len()).step_by(7).chain([good.len() - 1]) {
        assert!(Snapshot::decode(&good[..length]).is_err(), "{length}");
    }
}

/// The header of these bytes says that they are whole.
fn made_whole(body: &[u8]) -> Vec<u8> {
    with_header(&[9; 32], 128 << 20, body).unwrap()
}

#[test]
fn counts_beyond_what_is_there_take_no_memory() {
    // A tsc_khz, then the count of CPUID entries: the largest there is.
    let mut body = vec![1];
    body.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    assert_eq!(Snapshot::decode(&made_whole(&body)).unwrap_err(), SnapshotError::Body);
}

#[test]
fn a_shape_or_host_that_differs_is_named() {
    let saved = snapshot();
    let cpuid = saved.body.cpuid.clone();
    let spec = VmSpec { vcpus: 2, memory_mib: 128, extra_cmdline: String::new() };
    assert_eq!(saved.check_fits(&spec, &[9; 32], &cpuid, 2), Ok(()));
    let other = saved.check_fits(&spec, &[8; 32], &cpuid, 2);
    assert_eq!(other, Err(SnapshotError::Fingerprint));
    for (spec, devices) in [
        (VmSpec { vcpus: 1, ..spec.clone() }, 2),
        (VmSpec { memory_mib: 256, ..spec.clone() }, 2),
        (spec.clone(), 3),
    ] {
        let fits = saved.check_fits(&spec, &[9; 32], &cpuid, devices);
        assert!(matches!(fits, Err(SnapshotError::Shape { .. })), "{fits:?}");
    }
    let mut changed = cpuid.clone();
    changed[5].edx = 1;
    let more = [cpuid.clone(), vec![Default::default()]].concat();
    for table in [&changed[..], &more, &cpuid[..39]] {
        let fits = saved.check_fits(&spec, &[9; 32], table, 2);
        assert!(matches!(fits, Err(SnapshotError::Cpuid { .. })), "{fits:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_result(body in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _any = Snapshot::decode(&body);
        let _whole = Snapshot::decode(&made_whole(&body));
    }
}
