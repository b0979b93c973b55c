use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    sync::{LazyLock, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::Dice;

/// Below the ports that the kernel gives to outgoing connections.
const FIRST: u64 = 20_000;
const COUNT: u64 = 12_000;
const TRIES: u32 = 1000;

/// Held until this process ends: who starts later may need the port's old owner to be gone.
static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Where a rig's own listen, and are asked: 127.0.0.1, or ::1 in a network that has no IPv4.
pub fn loopback() -> IpAddr {
    static ADDRESS: LazyLock<IpAddr> = LazyLock::new(|| match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) {
        Ok(_) => Ipv4Addr::LOCALHOST.into(),
        Err(_) => Ipv6Addr::LOCALHOST.into(),
    });
    *ADDRESS
}

/// A port of loopback that nobody listens on, and that no other rig is given while this process lives.
/// Whoever asks the kernel for one only learns what was free a moment ago: tests that run at the same time
/// would now and then talk to each other's Pumas.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let mut dice = Dice(u64::from(std::process::id()) << 32 | u64::from(now));
    let mut ports = (0..TRIES).map(|_| u16::try_from(FIRST + dice.below(COUNT)).expect("a port"));
    ports.find(|port| take(*port)).expect("a free port")
}

fn take(port: u16) -> bool {
    let dir = std::env::temp_dir().join("pitstop-rig-ports");
    let _ = fs::create_dir_all(&dir);
    let Ok(file) = File::create(dir.join(port.to_string())) else { return false };
    if file.try_lock().is_err() || TcpListener::bind(("0.0.0.0", port)).is_err() {
        return false;
    }
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(file);
    true
}
