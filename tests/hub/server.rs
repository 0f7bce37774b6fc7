//! A Hub of its own for each test, and the store that it redirects to, on ports of this machine.
//!
//! As the real one does, it redirects within itself for small files, which it serves with a short
//! `ETag`, and to another server for large ones, whose SHA-256 it names. The store knows ranges.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The commit that the branch `main` points to.
pub(crate) const COMMIT: &str = "0b2714987fa478483af9968de7c934580d0bb9a2";

/// What the signature in a redirect stands for.
const SIGNATURE: &str = "signature=secret";

/// How the server fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// The Hub refuses.
    Status(u16),
    /// The Hub takes the connection and says nothing.
    Silent,
    /// A login page answers in the Hub's place.
    LoginPage,
    /// The store closes the connection after so many bytes of the training images.
    CutAfter(usize),
    /// The store says nothing after so many bytes of the training images.
    StallAfter(usize),
    /// The store sends the training images slowly, so that a test can act meanwhile.
    Slow,
    /// The store sends another byte at the end of the training images.
    Damaged,
    /// The store knows no ranges and sends the whole file.
    NoRanges,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Whether the store got it, not the Hub.
    pub(crate) by_store: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

pub(crate) struct Server {
    state: Arc<State>,
    pub(crate) endpoint: String,
}

struct State {
    store: String,
    fault: Mutex<Fault>,
    requests: Mutex<Vec<Request>>,
}

impl Server {
    pub(crate) fn start(fault: Fault) -> Self {
        let [hub, store] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let state = Arc::new(State {
            store: format!("http://{}", store.local_addr().unwrap()),
            fault: Mutex::new(fault),
            requests: Mutex::default(),
        });
        let endpoint = format!("http://{}", hub.local_addr().unwrap());
        for (listener, is_store) in [(hub, false), (store, true)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that goes away is no failure of the server's.
                    std::thread::spawn(move || drop(state.answer(stream, is_store)));
                }
            });
        }
        Self { state, endpoint }
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = fault;
    }

    /// The requests so far; the list starts anew.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }
}

/// The bytes of a file of the Hub.
pub(crate) fn file(path: &str) -> Option<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hub");
    fs_err::read(folder.join(path)).ok()
}

/// How the Hub names contents that lie in its large-file store.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex: Vec<_> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.concat()
}

impl State {
    fn answer(&self, stream: TcpStream, by_store: bool) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut next = || lines.next().unwrap_or(Ok(String::new()));
        let first = next()?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let mut headers = Vec::new();
        loop {
            let line = next()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let request = Request {
            by_store,
            method,
            path,
            headers,
        };
        self.requests.lock().unwrap().push(request.clone());
        let fault = *self.fault.lock().unwrap();
        if by_store {
            store(stream, &request, fault)
        } else {
            self.hub(stream, &request, fault)
        }
    }

    fn hub(&self, mut stream: TcpStream, request: &Request, fault: Fault) -> std::io::Result<()> {
        match fault {
            Fault::Status(status) => {
                return write!(
                    stream,
                    "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
            }
            Fault::LoginPage => {
                return write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlogin"
                );
            }
            Fault::Silent => return hold(&stream),
            _ => {}
        }
        let cached = request.path.strip_prefix("/api/resolve-cache/");
        let asked = request.path.strip_prefix("/datasets/uoft-cs/");
        let asked = asked.and_then(|path| path.split_once("/resolve/"));
        let asked = asked.and_then(|(_, path)| path.split_once('/'));
        // The second file is asked for by the commit of the first.
        let known = asked.filter(|(revision, _)| ["main", COMMIT].contains(revision));
        let name = cached.or(known.map(|(_, name)| name));
        let Some((name, bytes)) = name.and_then(|name| Some((name, file(name)?))) else {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        };
        let commit = format!("X-Repo-Commit: {COMMIT}\r\nConnection: close\r\n");
        if name.contains("train") {
            let (digest, len, store) = (sha256(&bytes), bytes.len(), &self.store);
            return write!(
                stream,
                "HTTP/1.1 302 Found\r\n{commit}X-Linked-ETag: \"{digest}\"\r\n\
                 X-Linked-Size: {len}\r\nLocation: {store}/{name}?{SIGNATURE}\r\n\
                 Content-Length: 0\r\n\r\n"
            );
        }
        if cached.is_none() {
            return write!(
                stream,
                "HTTP/1.1 307 Temporary Redirect\r\n{commit}Location: /api/resolve-cache/{name}\r\n\
                 Content-Length: 0\r\n\r\n"
            );
        }
        let (etag, len) = (&sha256(&bytes)[..40], bytes.len());
        write!(
            stream,
            "HTTP/1.1 200 OK\r\n{commit}ETag: W/\"{etag}\"\r\nContent-Length: {len}\r\n\r\n"
        )?;
        if request.method == "GET" {
            stream.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// Sends training images, or the part of them that was asked for.
fn store(mut stream: TcpStream, request: &Request, fault: Fault) -> std::io::Result<()> {
    let (path, query) = request.path.split_once('?').unwrap_or_default();
    let file = file(path.trim_start_matches('/')).filter(|_| query == SIGNATURE);
    let Some(mut bytes) = file else {
        return write!(
            stream,
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    };
    let total = bytes.len();
    if fault == Fault::Damaged {
        bytes[total - 1] ^= 1;
    }
    let range = request.header("Range").filter(|_| fault != Fault::NoRanges);
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let start = start.map(|start| start.parse::<usize>().unwrap());
    let (status, range) = match start {
        Some(start) => (
            "206 Partial Content",
            format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1),
        ),
        None => ("200 OK", String::new()),
    };
    let rest = &bytes[start.unwrap_or_default()..];
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{range}Content-Length: {}\r\nConnection: close\r\n\r\n",
        rest.len()
    )?;
    match fault {
        Fault::CutAfter(len) => stream.write_all(&rest[..len]),
        Fault::StallAfter(len) => {
            stream.write_all(&rest[..len])?;
            hold(&stream)
        }
        Fault::Slow => rest.iter().try_for_each(|byte| {
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(&[*byte])
        }),
        _ => stream.write_all(rest),
    }
}

/// Keeps the connection open until the other side gives up.
fn hold(stream: &TcpStream) -> std::io::Result<()> {
    let mut rest = BufReader::new(stream);
    while !rest.fill_buf()?.is_empty() {
        let len = rest.buffer().len();
        rest.consume(len);
    }
    Ok(())
}
