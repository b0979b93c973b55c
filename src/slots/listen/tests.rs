use std::net::{TcpListener, TcpStream};

use rustix::net::{AddressFamily, sockopt};

use super::*;
use crate::slots::PROBE_SOURCE;

fn free(host: &str) -> ListenAddress {
    let port = TcpListener::bind(format!("{host}:0")).unwrap().local_addr().unwrap().port();
    ListenAddress::try_from(format!("tcp://{host}:{port}")).unwrap()
}

fn tcp(address: &ListenAddress) -> SocketAddr {
    match address.place() {
        Place::Tcp(socket) => *socket,
        Place::Unix(..) => panic!("{address:?} is no TCP address"),
    }
}

fn connect(address: &ListenAddress, from: &str, class: u32) -> TcpStream {
    let port = tcp(address).port();
    let from: std::net::IpAddr = from.parse().unwrap();
    let v6 = from.is_ipv6();
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    if v6 {
        sockopt::set_ipv6_tclass(&socket, class).unwrap();
    }
    net::bind(&socket, &SocketAddr::new(from, 0)).unwrap();
    let to = if v6 { SocketAddr::new(from, port) } else { SocketAddr::from(([127, 0, 0, 1], port)) };
    net::connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}

fn reached(group: &Group) -> Vec<Slot> {
    Slot::ALL.into_iter().filter(|slot| group.empty(*slot) > 0).collect()
}

fn clients_and_probes_are_told_apart(host: &str, client: &str, probe: (&str, u32)) {
    let address = free(host);
    let group = Group::open(&address, Slot::A).unwrap();
    let to = |from: &str, class| {
        let _connections: Vec<_> = (0..8).map(|_| connect(&address, from, class)).collect();
        reached(&group)
    };
    assert_eq!((to(client, 0), to(probe.0, probe.1)), (vec![Slot::A], vec![Slot::A]));
    group.steer(Slot::A, Some((Slot::C, 0))).unwrap();
    assert_eq!((to(client, 0), to(probe.0, probe.1)), (vec![Slot::A], vec![Slot::C]));
    group.steer(Slot::C, None).unwrap();
    assert_eq!((to(client, 0), to(probe.0, probe.1)), (vec![Slot::C], vec![Slot::C]));
    group.steer(Slot::C, Some((Slot::B, 0))).unwrap();
    assert_eq!((to(client, 0), to(probe.0, probe.1)), (vec![Slot::C], vec![Slot::B]));
}

/// Five standard deviations: of a million such tests one fails.
#[test]
fn the_candidate_gets_its_share_of_new_connections() {
    const CONNECTIONS: u32 = 1_000;
    for (host, client) in [("0.0.0.0", "127.0.0.1"), ("[::]", "::1")] {
        let address = free(host);
        let group = Group::open(&address, Slot::A).unwrap();
        for permille in [50, 250, 500, 1_000, 0] {
            group.steer(Slot::A, Some((Slot::B, permille))).unwrap();
            let reached: usize = (0..CONNECTIONS / 100)
                .map(|_| {
                    let _connections: Vec<_> = (0..100).map(|_| connect(&address, client, 0)).collect();
                    let [live, reached, idle] = Slot::ALL.map(|slot| group.empty(slot));
                    assert_eq!((live + reached, idle), (100, 0), "nobody waits elsewhere");
                    reached
                })
                .sum();
            let share = f64::from(permille) / 1000.0;
            let deviation = (f64::from(CONNECTIONS) * share * (1.0 - share)).sqrt();
            let off = (reached as f64 - f64::from(CONNECTIONS) * share).abs();
            assert!(off <= 5.0 * deviation, "{reached} of {CONNECTIONS} at {permille} of 1000");
        }
    }
}

#[test]
fn clients_and_probes_are_told_apart_over_ipv4() {
    let source = PROBE_SOURCE.to_string();
    clients_and_probes_are_told_apart("0.0.0.0", "127.0.0.1", (&source, 0));
    clients_and_probes_are_told_apart("0.0.0.0", "127.0.0.2", (&source, 0));
}

#[test]
fn clients_and_probes_are_told_apart_on_a_dual_stack_socket() {
    let source = PROBE_SOURCE.to_string();
    clients_and_probes_are_told_apart("[::]", "127.0.0.1", (&source, 0));
    clients_and_probes_are_told_apart("[::]", "::1", (&source, 0));
}

#[test]
fn clients_and_probes_are_told_apart_over_ipv6() {
    clients_and_probes_are_told_apart("[::1]", "::1", ("::1", program::PROBE_TRAFFIC_CLASS.into()));
}

#[test]
fn an_address_that_somebody_has_is_named_also_where_he_would_share_it() {
    let address = free("127.0.0.1");
    for shared in [false, true] {
        let other = bind(&address, tcp(&address), shared).unwrap();
        net::listen(&other, 1).unwrap();
        let error = Group::open(&address, Slot::A).unwrap_err().to_string();
        assert!(error.contains(address.text()), "{error}");
    }
    Group::open(&address, Slot::A).unwrap();
}

#[test]
fn who_joins_between_the_two_binds_is_found() {
    for host in ["127.0.0.1", "[::1]"] {
        let address = free(host);
        let other = bind(&address, tcp(&address), true).unwrap();
        net::listen(&other, 1).unwrap();
        assert!(
            matches!(Group::shared(&address, tcp(&address), Slot::A), Err(ListenError::Taken(_))),
            "{host}"
        );
        drop(other);
        Group::shared(&address, tcp(&address), Slot::A).unwrap();
    }
}

#[test]
fn what_is_held_cannot_be_opened_by_others() {
    let address = free("127.0.0.1");
    let _group = Group::open(&address, Slot::A).unwrap();
    assert!(TcpListener::bind(tcp(&address)).is_err());
    assert!(matches!(Group::open(&address, Slot::A), Err(ListenError::Taken(_))));
}

#[test]
fn whoever_waits_is_seen_and_sent_away() {
    let address = free("127.0.0.1");
    let group = Group::open(&address, Slot::B).unwrap();
    assert!(Slot::ALL.into_iter().all(|slot| !group.waits(slot)));
    let _waiting = [connect(&address, "127.0.0.1", 0), connect(&address, "127.0.0.1", 0)];
    assert_eq!(Slot::ALL.map(|slot| group.waits(slot)), [false, true, false]);
    assert_eq!(Slot::ALL.map(|slot| group.empty(slot)), [0, 2, 0]);
    assert!(!group.waits(Slot::B));
}

#[test]
fn what_a_server_still_holds_is_reached_when_the_rest_is_closed() {
    for live in Slot::ALL {
        let address = free("127.0.0.1");
        let group = Group::open(&address, live).unwrap();
        let held = group.socket(live).unwrap().try_clone().unwrap();
        group.close(live);
        for _ in 0..8 {
            let _client = connect(&address, "127.0.0.1", 0);
            let mut fds = [PollFd::new(&held, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap();
            net::accept_with(&held, SocketFlags::CLOEXEC).unwrap();
        }
        drop(held);
        assert!(TcpStream::connect(tcp(&address)).is_err(), "nobody holds it any more");
    }
}

#[test]
fn each_server_behind_a_unix_socket_is_reached_by_its_own_path_and_the_live_one_by_the_public_name() {
    use std::os::unix::{fs::PermissionsExt, net::UnixStream};

    use crate::slots::candidate_socket;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("puma.sock");
    let address = ListenAddress::try_from(format!("unix://{}?umask=0117", path.display())).unwrap();
    let group = Group::open(&address, Slot::A).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(matches!(Group::open(&address, Slot::A), Err(ListenError::Taken(_))), "it is held");
    let to = |path: &std::path::Path| {
        let _client = UnixStream::connect(path).unwrap();
        reached(&group)
    };
    assert_eq!((to(&path), candidate_socket(&path).exists()), (vec![Slot::A], false));
    group.steer(Slot::A, Some((Slot::C, 0))).unwrap();
    assert_eq!((to(&path), to(&candidate_socket(&path))), (vec![Slot::A], vec![Slot::C]));
    let _waits = UnixStream::connect(&path).unwrap();
    group.steer(Slot::C, None).unwrap();
    assert_eq!(
        Slot::ALL.map(|slot| group.waits(slot)),
        [true, false, false],
        "whose queue it is in accepts it"
    );
    group.empty(Slot::A);
    assert_eq!((to(&path), candidate_socket(&path).exists()), (vec![Slot::C], false));
    let _knocked = group.knock(Slot::B, true).unwrap();
    assert_eq!(reached(&group), [Slot::B]);
    let held = group.socket(Slot::C).unwrap().try_clone().unwrap();
    group.close(Slot::C);
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["puma.sock"]);
    let _client = UnixStream::connect(&path).expect("the live server still listens");
    drop(held);
    assert!(UnixStream::connect(&path).is_err());
    Group::open(&address, Slot::A).expect("what an earlier container left is replaced");
}

#[test]
fn a_server_is_knocked_at_in_its_slot_alone() {
    for host in ["127.0.0.1", "0.0.0.0", "[::]", "[::1]"] {
        let address = free(host);
        let group = Group::open(&address, Slot::A).unwrap();
        group.steer(Slot::A, Some((Slot::B, 500))).unwrap();
        for (slot, candidate) in [(Slot::A, false), (Slot::B, true)] {
            let _knocked = group.knock(slot, candidate).unwrap();
            assert_eq!(reached(&group), [slot], "{host}");
        }
    }
}
