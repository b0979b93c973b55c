//! The program that gives each new connection to one socket of a group: classic BPF for SO_ATTACH_REUSEPORT_CBPF.
//! Its result is the index of a socket in the order in which they were bound.
//!
//! Without a program, or with a result that no socket has, the kernel chooses by hash: also a socket that nobody
//! accepts from. A load that fails ends the program with 0, the first socket.

use super::PROBE_SOURCE;

/// Probes to IPv6-only sockets have ::1 as their source and this traffic class.
pub(crate) const PROBE_TRAFFIC_CLASS: u8 = 0x04;

/// One instruction: `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    /// So many are skipped when the comparison holds.
    pub(crate) jt: u8,
    /// And so many when it does not.
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// Offsets from here on are in the packet's IP header: SKF_NET_OFF, -0x100000.
const NETWORK: u32 = 0xfff0_0000;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const SHIFT_RIGHT: u16 = 0x74;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Which sockets get connections, by their indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steering {
    pub(crate) live: u32,
    /// It gets the probes.
    pub(crate) candidate: Option<u32>,
}

/// The program for sockets of either family: connections to a dual-stack socket may have an IPv4 header.
pub(crate) fn of(steering: Steering) -> Vec<Instruction> {
    let Some(candidate) = steering.candidate else { return vec![give(steering.live)] };
    let v4 =
        [load(LOAD_WORD, 12), skip_unless(PROBE_SOURCE.to_bits(), 1), give(candidate), give(steering.live)];
    let is_loopback = [(8, 0), (12, 0), (16, 0), (20, 1)];
    let mut v6 = Vec::new();
    // Version and traffic class are the first twelve bits.
    let marked = 0x6000 | u32::from(PROBE_TRAFFIC_CLASS) << 4;
    let checks = [vec![load(LOAD_HALF, 0), step(AND, 0xfff0)]].into_iter().map(|loads| (loads, marked));
    let words = is_loopback.map(|(at, word)| (vec![load(LOAD_WORD, at)], word));
    for (loads, value) in checks.chain(words) {
        v6.extend(loads);
        // What does not match leaves by the return that follows the jump.
        v6.extend([skip_if(value, 1), give(steering.live)]);
    }
    v6.push(give(candidate));
    let mut program =
        vec![load(LOAD_BYTE, 0), step(SHIFT_RIGHT, 4), skip_unless(4, u8::try_from(v4.len()).unwrap_or(0))];
    program.extend(v4);
    program.extend(v6);
    program
}

fn load(code: u16, at: u32) -> Instruction {
    step(code, NETWORK + at)
}

fn give(index: u32) -> Instruction {
    step(RETURN, index)
}

fn step(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn skip_unless(k: u32, jf: u8) -> Instruction {
    Instruction { code: JUMP_IF_EQUAL, jt: 0, jf, k }
}

fn skip_if(k: u32, jt: u8) -> Instruction {
    Instruction { code: JUMP_IF_EQUAL, jt, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel runs it; a load beyond the packet ends it with 0.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            let bytes = |len: usize| {
                let from = usize::try_from(k.wrapping_sub(NETWORK)).unwrap();
                let bytes = packet.get(from..from + len)?;
                Some(bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)))
            };
            let loaded = match code {
                LOAD_WORD => bytes(4),
                LOAD_HALF => bytes(2),
                LOAD_BYTE => bytes(1),
                _ => Some(a),
            };
            let Some(loaded) = loaded else { return 0 };
            a = loaded;
            match code {
                SHIFT_RIGHT => a >>= k,
                AND => a &= k,
                JUMP_IF_EQUAL => at += usize::from(if a == k { jt } else { jf }),
                RETURN => return k,
                _ => {}
            }
            at += 1;
        }
    }

    fn v4(source: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[12..16].copy_from_slice(&source);
        packet
    }

    fn v6(source: std::net::Ipv6Addr, class: u8, flow: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60 | class >> 4;
        packet[1] = class << 4 | flow;
        packet[8..24].copy_from_slice(&source.octets());
        packet
    }

    const BOTH: Steering = Steering { live: 1, candidate: Some(2) };

    #[test]
    fn exactly_one_address_reaches_the_candidate() {
        let program = of(BOTH);
        assert_eq!(run(&program, &v4(PROBE_SOURCE.octets())), 2);
        for other in [[127, 0, 0, 1], [127, 97, 50, 2], [127, 97, 50, 0], [10, 1, 2, 3], [1, 50, 97, 127]] {
            assert_eq!(run(&program, &v4(other)), 1, "{other:?}");
        }
    }

    #[test]
    fn over_ipv6_it_takes_the_loopback_address_and_the_traffic_class() {
        let program = of(BOTH);
        let loopback = std::net::Ipv6Addr::LOCALHOST;
        for flow in 0..16 {
            assert_eq!(run(&program, &v6(loopback, PROBE_TRAFFIC_CLASS, flow)), 2, "a flow label is random");
        }
        for class in (0..=255).filter(|class| *class != PROBE_TRAFFIC_CLASS) {
            assert_eq!(run(&program, &v6(loopback, class, 0)), 1, "{class}");
        }
        for other in ["::", "::2", "1::1", "0:0:0:1::1", "::1:0:0:1", "fd00::7"] {
            assert_eq!(run(&program, &v6(other.parse().unwrap(), PROBE_TRAFFIC_CLASS, 3)), 1, "{other}");
        }
    }

    #[test]
    fn without_a_candidate_everything_goes_to_the_live_one() {
        let program = of(Steering { live: 2, candidate: None });
        assert_eq!(run(&program, &v4(PROBE_SOURCE.octets())), 2);
        assert_eq!(run(&program, &[]), 2);
    }

    #[test]
    fn each_path_through_it_ends_at_a_socket() {
        for (live, candidate) in [(0, 1), (1, 0), (2, 1)] {
            let program = of(Steering { live, candidate: Some(candidate) });
            assert!(program.len() < 64, "the kernel takes 4096");
            for first in 0..=255 {
                let packet = [vec![first], vec![0; 39]].concat();
                assert_eq!(run(&program, &packet), live);
            }
        }
    }
}
