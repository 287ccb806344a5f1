//! A process inside a namespace and a cgroup: a container's program, a client outside, a process of the host. It takes
//! commands line by line and answers each with a line that starts with `> `.
//!
//! The process is this very test binary, started with the one ignored test below.

use crate::lab::pattern;
use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for an answer that should not come.
const BRIEF: Duration = Duration::from_millis(300);
static BRIEFLY: AtomicBool = AtomicBool::new(false);

fn patience() -> Duration {
    if BRIEFLY.load(Ordering::Acquire) { BRIEF } else { PATIENCE }
}

/// The handle that a test holds.
pub struct Actor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    name: String,
}

impl Actor {
    /// Starts a process in `netns`; in `cgroup` when there is one, else where the test itself is.
    pub fn start(name: &str, netns: &Path, cgroup: Option<&Path>) -> Self {
        let namespace = File::open(netns).expect("the namespace exists");
        let procs = cgroup.map(|dir| {
            std::fs::create_dir_all(dir).expect("cgroup directory");
            OpenOptions::new().write(true).open(dir.join("cgroup.procs")).expect("cgroup.procs opens")
        });
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command
            .args(["--ignored", "--exact", "--nocapture", "actor::the_process_inside"])
            .env("MUSTER_TEST_ACTOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let enter = move || {
            if let Some(procs) = &procs {
                (&*procs).write_all(b"0")?;
            }
            // SAFETY: a system call on a descriptor that is open.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: between fork and exec only two system calls are made, nothing is allocated or locked.
        unsafe { command.pre_exec(enter) };
        let mut child = command.spawn().expect("the test binary starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output, name: name.to_owned() }
    }

    /// One command, one answer.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer()
    }

    /// A command that must work; what follows the "ok".
    pub fn must(&mut self, command: &str) -> String {
        let answer = self.ask(command);
        answer.strip_prefix("ok").unwrap_or_else(|| panic!("{}: {command}: {answer}", self.name)).trim().to_owned()
    }

    /// A command that must fail; how.
    pub fn must_fail(&mut self, command: &str) -> String {
        let answer = self.ask(&format!("briefly {command}"));
        answer
            .strip_prefix("err")
            .unwrap_or_else(|| panic!("{}: {command} worked: {answer}", self.name))
            .trim()
            .to_owned()
    }

    pub fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("the process lives");
    }

    pub fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            let n = self.output.read_line(&mut line).expect("the process's output is text");
            assert!(n > 0, "{}: the process ended", self.name);
            if let Some(at) = line.find("> ") {
                return line[at + 2..].trim().to_owned();
            }
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "not a test: the process that tests start inside of namespaces"]
fn the_process_inside() {
    if std::env::var_os("MUSTER_TEST_ACTOR").is_none() {
        return;
    }
    let (mut stream, mut held) = (None, None);
    for line in io::stdin().lines() {
        let Ok(line) = line else { break };
        let mut words: Vec<&str> = line.split_whitespace().collect();
        BRIEFLY.store(words.first() == Some(&"briefly"), Ordering::Release);
        words.retain(|w| *w != "briefly");
        let answer = match obey(&words, &mut stream, &mut held) {
            Ok(text) => format!("ok {text}"),
            Err(e) => format!("err {:?} {e}", e.kind()),
        };
        println!("> {answer}");
        let _ = io::stdout().flush();
    }
    std::process::exit(0);
}

fn obey(words: &[&str], stream: &mut Option<Stream>, held: &mut Option<TcpStream>) -> io::Result<String> {
    match *words {
        ["listen", "tcp", at, name] => listen_tcp(at, name.to_owned()),
        ["listen", "udp", at, name] => listen_udp(at, name.to_owned()),
        ["join", group] => join(group),
        ["tcp", to, n] => tcp(to, number(n)?),
        ["tcpfrom", port, to, n] => tcp_from(number(port)? as u16, to, number(n)?),
        ["udp", to, n, how] => udp(0, to, number(n)?, how == "connected"),
        ["udpfrom", port, to, n] => udp(number(port)? as u16, to, number(n)?, true),
        ["connects", to, n] => (0..number(n)?).try_for_each(|_| tcp(to, 1).map(drop)).map(|()| String::new()),
        ["crowd", to, n] => crowd(to, number(n)?),
        ["datagrams", to, n] => datagrams(to, number(n)?),
        ["udp6", to, n] => udp6(to, number(n)?),
        ["udpoptions", to, n] => udp_options(to, number(n)?),
        ["ping", to, n] => ping(to, number(n)?),
        ["stream", "start", to] => {
            *stream = Some(Stream::start(to)?);
            Ok(String::new())
        }
        ["stream", "datagrams", to] => {
            *stream = Some(Stream::datagrams(to)?);
            Ok(String::new())
        }
        ["stream", "count"] => Ok(stream.as_ref().map_or(0, |s| s.echoed.load(Ordering::Acquire)).to_string()),
        ["stream", "stop"] => stream.take().ok_or(io::Error::other("no stream"))?.stop(),
        ["toobig6", host, from, to, mtu] => {
            too_big6(host, number(from)? as u16, number(to)? as u16, number(mtu)? as u16)
        }
        ["toobig", host, from, to, mtu] => too_big(host, number(from)? as u16, number(to)? as u16, number(mtu)? as u16),
        ["hold", to] => {
            let connection = TcpStream::connect_timeout(&address(to)?, patience())?;
            BufReader::new(&connection).read_line(&mut String::new())?;
            echo(&connection)?;
            *held = Some(connection);
            Ok(String::new())
        }
        ["held"] => echo(held.as_ref().ok_or(io::Error::other("no connection is held"))?),
        ["flood", interface, what, n, hex] => flood(interface, what == "sources", number(n)?, unhex(hex)),
        ["assured", to, first, n] => assured(to, number(first)? as u16, number(n)? as u16),
        ["frame", interface, hex] => frame(interface, &unhex(hex)),
        ["datagram", to, hex] => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(&unhex(hex), address(to)?).map(|_| String::new())
        }
        _ => Err(io::Error::other(format!("no such command: {words:?}"))),
    }
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(io::Error::other)
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(io::Error::other)
}

/// Greets with its name and the peer's address, then echoes.
fn listen_tcp(at: &str, name: String) -> io::Result<String> {
    let listener = TcpListener::bind(address(at)?)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = name.clone();
            thread::spawn(move || {
                let _ = serve_tcp(stream, &name);
            });
        }
    });
    Ok(String::new())
}

fn serve_tcp(mut stream: TcpStream, name: &str) -> io::Result<()> {
    writeln!(stream, "{name} {}", stream.peer_addr()?.ip())?;
    let mut buffer = vec![0; 65536];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
    }
}

fn listen_udp(at: &str, name: String) -> io::Result<String> {
    let socket = UdpSocket::bind(address(at)?)?;
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((n, peer)) = socket.recv_from(&mut buffer) {
            let mut reply = format!("{name} {} ", peer.ip()).into_bytes();
            reply.extend_from_slice(&buffer[..n]);
            let _ = socket.send_to(&reply, peer);
        }
    });
    Ok(String::new())
}

/// Takes what is sent to a group of eth0, for all sockets of the namespace, until the process ends.
fn join(group: &str) -> io::Result<String> {
    match group.parse().map_err(io::Error::other)? {
        IpAddr::V4(group) => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?;
            std::mem::forget(socket);
        }
        IpAddr::V6(group) => {
            let socket = UdpSocket::bind("[::]:0")?;
            socket.join_multicast_v6(&group, nix::net::if_::if_nametoindex("eth0")?)?;
            std::mem::forget(socket);
        }
    }
    Ok(String::new())
}

/// Connects, reads the greeting, has `n` bytes echoed and compares them. Answers: greeting, getpeername.
fn tcp(to: &str, n: usize) -> io::Result<String> {
    converse(TcpStream::connect_timeout(&address(to)?, patience())?, n)
}

/// So many connections at once. Answers: milliseconds until the last was greeted, the names of those that greeted.
fn crowd(to: &str, n: usize) -> io::Result<String> {
    let to = address(to)?;
    let began = Instant::now();
    let connect = move || -> io::Result<String> {
        let stream = TcpStream::connect_timeout(&to, 2 * PATIENCE)?;
        let mut greeting = String::new();
        BufReader::new(stream).read_line(&mut greeting)?;
        Ok(greeting.split(' ').next().unwrap_or_default().to_owned())
    };
    let threads: Vec<_> = (0..n).map(|_| thread::spawn(connect)).collect();
    let mut names = BTreeSet::new();
    for thread in threads {
        names.insert(thread.join().map_err(|_| io::Error::other("a connection's thread panicked"))??);
    }
    Ok(format!("{} {}", began.elapsed().as_millis(), names.into_iter().collect::<Vec<_>>().join(" ")))
}

/// The same from a source port of our choice.
fn tcp_from(port: u16, to: &str, n: usize) -> io::Result<String> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    let to = address(to)?;
    let family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any_like(to), port)))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    converse(TcpStream::from(fd), n)
}

fn converse(stream: TcpStream, n: usize) -> io::Result<String> {
    stream.set_read_timeout(Some(patience()))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut greeting = String::new();
    reader.read_line(&mut greeting)?;
    let mut writer = stream.try_clone()?;
    let sender = thread::spawn(move || writer.write_all(&pattern(0, n)));
    let mut echoed = vec![0; n];
    reader.read_exact(&mut echoed)?;
    sender.join().map_err(|_| io::Error::other("the sender panicked"))??;
    if echoed != pattern(0, n) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes came back"));
    }
    Ok(format!("{} peer={}", greeting.trim(), stream.peer_addr()?))
}

fn udp(port: u16, to: &str, n: usize, connected: bool) -> io::Result<String> {
    let to = address(to)?;
    let socket = UdpSocket::bind((any_like(to), port))?;
    socket.set_broadcast(true)?;
    let data = pattern(0, n);
    if connected {
        socket.connect(to)?;
        socket.send(&data)?;
    } else {
        socket.send_to(&data, to)?;
    }
    udp_answer(&socket, &data)
}

/// Many datagrams by one socket that never connects: all must be answered by the same server.
fn datagrams(to: &str, n: usize) -> io::Result<String> {
    let to = address(to)?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut first = None;
    for _ in 0..n {
        socket.send_to(b"x", to)?;
        let answer = udp_answer(&socket, b"x")?;
        if *first.get_or_insert_with(|| answer.clone()) != answer {
            return Err(io::Error::other(format!("{first:?}, then {answer}")));
        }
    }
    Ok(first.unwrap_or_default())
}

fn any_like(to: SocketAddr) -> IpAddr {
    if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// A datagram that has destination options in front of its UDP header (RFC 3542, section 9): four bytes of padding.
fn udp_options(to: &str, n: usize) -> io::Result<String> {
    let socket = UdpSocket::bind("[::]:0")?;
    let options = [0u8, 0, 1, 4, 0, 0, 0, 0];
    // SAFETY: the descriptor is open, the option's value is that array.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_DSTOPTS,
            options.as_ptr().cast(),
            options.len() as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    let data = pattern(0, n);
    socket.send_to(&data, address(to)?)?;
    udp_answer(&socket, &data)
}

/// An IPv6 socket that sends to an IPv4 address.
fn udp6(to: &str, n: usize) -> io::Result<String> {
    let socket = UdpSocket::bind("[::]:0")?;
    let data = pattern(0, n);
    socket.send_to(&data, address(to)?)?;
    udp_answer(&socket, &data)
}

fn udp_answer(socket: &UdpSocket, data: &[u8]) -> io::Result<String> {
    socket.set_read_timeout(Some(patience()))?;
    let mut buffer = vec![0; 65536];
    let (got, from) = socket.recv_from(&mut buffer)?;
    let reply = &buffer[..got];
    let Some(head) = reply.strip_suffix(data) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes came back"));
    };
    Ok(format!("{} peer={from}", String::from_utf8_lossy(head).trim()))
}

/// ICMP echo with `n` bytes of data, over a raw socket.
fn ping(to: &str, n: usize) -> io::Result<String> {
    let to: IpAddr = to.parse().map_err(io::Error::other)?;
    let id = (std::process::id() as u16).to_be_bytes();
    // A raw socket of IPv4 gives us the IP header too; one of IPv6 makes and checks the sum (RFC 3542, section 3.1).
    let (ask, answer, head) = if to.is_ipv6() { (128, 129, 0) } else { (8, 0, 20) };
    let mut request = vec![ask, 0, 0, 0, id[0], id[1], 0, 1];
    request.extend(pattern(0, n));
    let sum = checksum(&request).to_be_bytes();
    request[2..4].copy_from_slice(&sum);
    let socket = raw_icmp(to.is_ipv6())?;
    socket.set_read_timeout(Some(patience()))?;
    socket.connect((to, 0))?;
    socket.send(&request)?;
    let deadline = Instant::now() + patience();
    let mut buffer = vec![0; 65536];
    while Instant::now() < deadline {
        let got = socket.recv(&mut buffer)?;
        let reply = buffer[..got].get(head..).unwrap_or_default();
        if reply.len() >= 8 && reply[0] == answer && reply[4..6] == id && reply[8..] == request[8..] {
            return Ok(String::new());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// What a router says whose next link is narrower (RFC 1191), about a datagram from `host`:`from` to our port `to`.
fn too_big(host: &str, from: u16, to: u16, mtu: u16) -> io::Result<String> {
    let host: Ipv4Addr = host.parse().map_err(io::Error::other)?;
    let mut quoted = vec![0x45, 0, 5, 0xaa, 0, 1, 0x40, 0, 63, 17, 0, 0];
    quoted.extend(host.octets());
    quoted.extend([192, 168, 50, 100]);
    let sum = checksum(&quoted).to_be_bytes();
    quoted[10..12].copy_from_slice(&sum);
    quoted.extend(from.to_be_bytes());
    quoted.extend(to.to_be_bytes());
    quoted.extend([0; 4]);
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quoted);
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let socket = raw_icmp(false)?;
    socket.connect((host, 0))?;
    socket.send(&message)?;
    Ok(String::new())
}

/// The same of IPv6 (RFC 8201).
fn too_big6(host: &str, from: u16, to: u16, mtu: u16) -> io::Result<String> {
    let host: Ipv6Addr = host.parse().map_err(io::Error::other)?;
    let mut message = vec![2, 0, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend([0x60, 0, 0, 0, 5, 0xaa, 17, 63]);
    message.extend(host.octets());
    message.extend(crate::lab::CLIENT6.parse::<Ipv6Addr>().map_err(io::Error::other)?.octets());
    message.extend(from.to_be_bytes());
    message.extend(to.to_be_bytes());
    message.extend([0; 4]);
    let socket = raw_icmp(true)?;
    socket.connect((host, 0))?;
    socket.send(&message)?;
    Ok(String::new())
}

/// A raw ICMP socket in the clothes of a UDP one: connect, send and recv are the same system calls.
fn raw_icmp(v6: bool) -> io::Result<UdpSocket> {
    use std::os::fd::FromRawFd;
    let (family, protocol) =
        if v6 { (libc::AF_INET6, libc::IPPROTO_ICMPV6) } else { (libc::AF_INET, libc::IPPROTO_ICMP) };
    // SAFETY: the descriptor is new and nobody else's.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(UdpSocket::from_raw_fd(fd)) }
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex digits")).collect()
}

/// A few bytes there and back.
fn echo(mut connection: &TcpStream) -> io::Result<String> {
    connection.set_read_timeout(Some(patience()))?;
    connection.write_all(b"echo")?;
    let mut back = [0; 4];
    connection.read_exact(&mut back)?;
    if &back == b"echo" { Ok(String::new()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The frame `n` times, each of another flow: another source port, and when those are all used another source address, or else another
/// destination port.
fn flood(interface: &str, sources: bool, n: usize, mut bytes: Vec<u8>) -> io::Result<String> {
    let link = Link::open(interface)?;
    let v4 = bytes[14] >> 4 == 4;
    let (source_at, ports_at) = if v4 { (28, 34) } else { (36, 54) };
    let port = u16::from_be_bytes([bytes[ports_at + 2], bytes[ports_at + 3]]);
    for i in 0..n {
        let (own, round) = ((1024 + i % 50_000) as u16, (i / 50_000) as u16);
        bytes[ports_at..ports_at + 2].copy_from_slice(&own.to_be_bytes());
        if sources {
            bytes[source_at..source_at + 2].copy_from_slice(&(0x3310 + round).to_be_bytes());
            if v4 {
                bytes[24..26].fill(0);
                let sum = checksum(&bytes[14..34]).to_be_bytes();
                bytes[24..26].copy_from_slice(&sum);
            }
        } else {
            bytes[ports_at + 2..ports_at + 4].copy_from_slice(&port.wrapping_add(round).to_be_bytes());
        }
        // Twice: an entry that is met again counts as one in use.
        link.send(&bytes)?;
        link.send(&bytes)?;
    }
    Ok(String::new())
}

/// Flows of datagrams from `n` ports on, each of which is answered and goes on after that.
fn assured(to: &str, first: u16, n: u16) -> io::Result<String> {
    let to = address(to)?;
    for port in first..first + n {
        let socket = UdpSocket::bind((any_like(to), port))?;
        socket.connect(to)?;
        for _ in 0..2 {
            socket.send(b"x")?;
            udp_answer(&socket, b"x")?;
        }
    }
    Ok(String::new())
}

/// Sends a raw Ethernet frame.
fn frame(interface: &str, bytes: &[u8]) -> io::Result<String> {
    Link::open(interface)?.send(bytes)?;
    Ok(String::new())
}

/// A packet socket and the interface that it sends by.
struct Link {
    socket: std::os::fd::OwnedFd,
    to: libc::sockaddr_ll,
}

impl Link {
    fn open(interface: &str) -> io::Result<Self> {
        use std::os::fd::FromRawFd;
        let name = std::ffi::CString::new(interface).map_err(io::Error::other)?;
        // SAFETY: plain system calls on values that live during them; the descriptor is new and nobody else's.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let mut to: libc::sockaddr_ll = std::mem::zeroed();
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            Ok(Self { socket: std::os::fd::OwnedFd::from_raw_fd(fd), to })
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let (to, size) = ((&raw const self.to).cast(), size_of_val(&self.to) as libc::socklen_t);
        // SAFETY: a system call on values that live during it.
        let sent = unsafe { libc::sendto(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, to, size) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// A connection that has a pattern echoed and compared without end.
struct Stream {
    stop: Arc<AtomicBool>,
    echoed: Arc<AtomicU64>,
    worker: thread::JoinHandle<io::Result<()>>,
}

impl Stream {
    fn start(to: &str) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address(to)?, patience())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (stop, echoed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop2, echoed2) = (stop.clone(), echoed.clone());
        let worker = thread::spawn(move || Self::work(stream, &stop2, &echoed2));
        Ok(Self { stop, echoed, worker })
    }

    /// Datagrams one after the other, none of which may get lost: nothing sends them again.
    fn datagrams(to: &str) -> io::Result<Self> {
        let to = address(to)?;
        let socket = UdpSocket::bind((any_like(to), 0))?;
        socket.connect(to)?;
        let (stop, echoed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop2, echoed2) = (stop.clone(), echoed.clone());
        let worker = thread::spawn(move || {
            let mut round = 0;
            while !stop2.load(Ordering::Acquire) {
                let data = pattern(round, 1000);
                socket.send(&data)?;
                udp_answer(&socket, &data)?;
                echoed2.fetch_add(1000, Ordering::AcqRel);
                round += 1;
                thread::sleep(Duration::from_millis(1)); // leaves the processors to others
            }
            Ok(())
        });
        Ok(Self { stop, echoed, worker })
    }

    fn work(stream: TcpStream, stop: &AtomicBool, echoed: &AtomicU64) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        reader.read_line(&mut String::new())?;
        let mut writer = stream;
        let mut round = 0usize;
        while !stop.load(Ordering::Acquire) {
            let data = pattern(round, 16384);
            writer.write_all(&data)?;
            let mut back = vec![0; data.len()];
            reader.read_exact(&mut back)?;
            if back != data {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes came back"));
            }
            echoed.fetch_add(data.len() as u64, Ordering::AcqRel);
            round += 1;
            thread::sleep(Duration::from_millis(1)); // leaves the processors to others
        }
        Ok(())
    }

    fn stop(self) -> io::Result<String> {
        self.stop.store(true, Ordering::Release);
        self.worker.join().map_err(|_| io::Error::other("the stream's thread panicked"))??;
        Ok(self.echoed.load(Ordering::Acquire).to_string())
    }
}
