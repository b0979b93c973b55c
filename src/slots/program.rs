//! The program that gives each new connection to one socket of a group: classic BPF for SO_ATTACH_REUSEPORT_CBPF.
//! Its result is the index of a socket in the order in which they were bound.
//!
//! Without a program, or with a result that no socket has, the kernel chooses by hash: also a socket that nobody
//! accepts from. A load that fails ends the program with 0, the first socket.

use std::net::Ipv4Addr;

use super::{LIVE_SOURCE, PROBE_SOURCE, WHOLE};

/// Probes to IPv6-only sockets have ::1 as their source and this traffic class.
pub(crate) const PROBE_TRAFFIC_CLASS: u8 = 0x04;
/// And this one where they are for the live server.
pub(crate) const LIVE_TRAFFIC_CLASS: u8 = 0x08;

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

/// A random word of the kernel's: SKF_AD_OFF + SKF_AD_RANDOM.
const RANDOM: u32 = 0xffff_f000 + 56;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const SHIFT_RIGHT: u16 = 0x74;
const AND: u16 = 0x54;
const MODULO: u16 = 0x94;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Which sockets get connections, by their indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steering {
    pub(crate) live: u32,
    pub(crate) candidate: Option<Candidate>,
}

/// It gets the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) index: u32,
    /// And so many of 1000 other connections.
    pub(crate) share: u32,
}

/// The program for sockets of either family: connections to a dual-stack socket may have an IPv4 header.
pub(crate) fn of(Steering { live, candidate }: Steering) -> Vec<Instruction> {
    let Some(Candidate { index, share }) = candidate else { return vec![give(live)] };
    let others = match share {
        0 => vec![give(live)],
        share => vec![
            step(LOAD_WORD, RANDOM),
            step(MODULO, WHOLE),
            Instruction { code: JUMP_IF_AT_LEAST, jt: 1, jf: 0, k: share },
            give(index),
            give(live),
        ],
    };
    let from = |address: Ipv4Addr| vec![(vec![load(LOAD_WORD, 12)], address.to_bits())];
    let marked = |class| {
        // Version and traffic class are the first twelve bits.
        let class = (vec![load(LOAD_HALF, 0), step(AND, 0xfff0)], 0x6000 | u32::from(class) << 4);
        let loopback = [(8, 0), (12, 0), (16, 0), (20, 1)];
        let words = loopback.map(|(at, word)| (vec![load(LOAD_WORD, at)], word));
        [class].into_iter().chain(words).collect()
    };
    let mut v4 = when(from(PROBE_SOURCE), index);
    let mut v6 = when(marked(PROBE_TRAFFIC_CLASS), index);
    if share > 0 {
        v4.extend(when(from(LIVE_SOURCE), live));
        v6.extend(when(marked(LIVE_TRAFFIC_CLASS), live));
    }
    v4.extend(&others);
    v6.extend(&others);
    let mut program = vec![load(LOAD_BYTE, 0), step(SHIFT_RIGHT, 4), skip_unless(4, &v4)];
    program.extend(v4);
    program.extend(v6);
    program
}

/// Gives the connection to this socket when each load has its value, and else goes on behind.
fn when(conditions: Vec<(Vec<Instruction>, u32)>, index: u32) -> Vec<Instruction> {
    let before = |rest: Vec<Instruction>, (mut loads, value): (Vec<Instruction>, u32)| {
        loads.push(skip_unless(value, &rest));
        loads.extend(rest);
        loads
    };
    conditions.into_iter().rev().fold(vec![give(index)], before)
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

fn skip_unless(k: u32, skipped: &[Instruction]) -> Instruction {
    let jf = u8::try_from(skipped.len()).unwrap_or(0);
    Instruction { code: JUMP_IF_EQUAL, jt: 0, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel runs it; a load beyond the packet ends it with 0.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        drawn(program, packet, 0)
    }

    fn drawn(program: &[Instruction], packet: &[u8], random: u32) -> u32 {
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            let bytes = |len: usize| {
                let from = usize::try_from(k.wrapping_sub(NETWORK)).unwrap();
                let bytes = packet.get(from..from + len)?;
                Some(bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)))
            };
            let loaded = match code {
                LOAD_WORD if k == RANDOM => Some(random),
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
                MODULO => a %= k,
                JUMP_IF_AT_LEAST => at += usize::from(if a >= k { jt } else { jf }),
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

    const BOTH: Steering = sharing(0);

    const fn sharing(share: u32) -> Steering {
        Steering { live: 1, candidate: Some(Candidate { index: 2, share }) }
    }

    #[test]
    fn a_share_is_drawn_and_probes_go_where_they_are_meant_to() {
        let loopback = std::net::Ipv6Addr::LOCALHOST;
        let clients = [v4([10, 1, 2, 3]), v6("fd00::7".parse().unwrap(), 0, 3), v6(loopback, 0, 0)];
        for share in [1, 100, 500, 999, 1000] {
            let program = of(sharing(share));
            for client in &clients {
                let reached = (0..2000).filter(|random| drawn(&program, client, *random) == 2).count();
                assert_eq!(reached, 2 * share as usize, "of 2000");
            }
            for random in 0..1000 {
                assert_eq!(drawn(&program, &v4(PROBE_SOURCE.octets()), random), 2);
                assert_eq!(drawn(&program, &v6(loopback, PROBE_TRAFFIC_CLASS, 3), random), 2);
                assert_eq!(drawn(&program, &v4(LIVE_SOURCE.octets()), random), 1);
                assert_eq!(drawn(&program, &v6(loopback, LIVE_TRAFFIC_CLASS, 3), random), 1);
            }
        }
    }

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
            for share in [0, 5] {
                let program = of(Steering { live, candidate: Some(Candidate { index: candidate, share }) });
                assert!(program.len() < 64, "the kernel takes 4096");
                for first in 0..=255 {
                    let packet = [vec![first], vec![0; 39]].concat();
                    assert_eq!(drawn(&program, &packet, 5), live);
                }
            }
        }
    }
}
