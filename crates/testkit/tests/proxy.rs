//! What the fault proxy does to requests, seen by a client that knows no more than sockets.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use evertide_testkit::{Fault, FaultProxy, Weather};

/// A server that answers each connection's first request with the length of its body, twelve times over.
fn server() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let Some(body) = read_message(&mut connection) else {
                continue;
            };
            let answer = format!("{:04}", body.len()).repeat(12);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            let _ = connection.write_all(format!("{head}{answer}").as_bytes());
        }
    });
    address
}

/// The body of a request or answer; `None` if it ends before its time.
fn read_message(connection: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap_or("0");
            let length: usize = length.lines().next()?.parse().ok()?;
            if body.len() >= length {
                return Some(body.to_owned());
            }
        }
        let mut buffer = [0; 4096];
        match connection.read(&mut buffer) {
            Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
}

/// The body of the answer, if all of it comes.
fn ask(proxy: &FaultProxy) -> Option<String> {
    let mut connection = TcpStream::connect(proxy.address()).unwrap();
    let request = "PUT /key HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789";
    connection.write_all(request.as_bytes()).unwrap();
    read_message(&mut connection)
}

#[test]
fn each_fault_does_what_it_says_and_no_more() {
    let proxy = FaultProxy::start(server(), 1).unwrap();
    let whole = "0010".repeat(12);
    for fault in Fault::ALL {
        proxy.set_weather(Weather::Next(fault, 1));
        let answer = ask(&proxy);
        let reached = proxy.take_answered().len();
        let expected = match fault {
            Fault::Slow | Fault::VerySlow => (Some(whole.clone()), 1),
            Fault::InternalError | Fault::Unavailable | Fault::TooManyRequests => {
                (Some(String::new()), 0)
            }
            Fault::AnswerLost | Fault::AnswerCut => (None, 1),
            Fault::Refused | Fault::RequestCut => (None, 0),
            Fault::Silent => unreachable!("it is not among those that come to an end"),
        };
        assert_eq!((answer, reached), expected, "{fault:?}");
        let answer = ask(&proxy);
        assert_eq!(answer, Some(whole.clone()), "after {fault:?}");
        assert_eq!(proxy.take_answered()[0].uri, "/key");
        assert_eq!(proxy.faults()[&fault], 1);
    }
}

#[test]
fn a_seed_draws_the_same_faults_again() {
    let run = |seed| {
        let proxy = FaultProxy::start(server(), seed).unwrap();
        proxy.set_weather(Weather::Mixed(50));
        let answers: Vec<_> = (0..15).map(|_| ask(&proxy)).collect();
        (answers, proxy.faults())
    };
    let first = run(7);
    assert!(first.1.len() > 3, "{:?}", first.1);
    assert_eq!(run(7), first);
}
