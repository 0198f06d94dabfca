//! Services of a provider's that have one address in the world, reached by whoever takes this for their proxy.

use std::process::Command;

use super::{Authority, server::Server};

/// Takes requests to hosts, with a certificate that is in the folder: what is for those in `led` goes to a port of this
/// machine, and to the rest `answer` says from the first line and the content of a request the status, what kind of
/// content, and that.
const SCRIPT: &str = "\
import email.utils, os, socket, socketserver, ssl, sys, threading
folder = sys.argv[2]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(folder, 'server.pem'), os.path.join(folder, 'server.key'))
def lead(here, there):
    try:
        while data := here.recv(65536):
            there.sendall(data)
    except OSError:
        pass
    there.close()
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        connect = self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        host, _, port = connect.decode().split()[1].partition(':')
        if host not in hosts or port != '443':
            return
        self.wfile.write(b'HTTP/1.1 200 OK\\r\\n\\r\\n')
        with context.wrap_socket(self.connection, server_side=True) as connection:
            if host in led:
                there = socket.create_connection(('127.0.0.1', led[host]))
                threading.Thread(target=lead, args=(there, connection), daemon=True).start()
                return lead(connection, there)
            stream = connection.makefile('rwb')
            asked, length = stream.readline(), 0
            while line := stream.readline().strip():
                name, _, value = line.partition(b':')
                if name.lower() == b'content-length':
                    length = int(value)
            status, kind, content = answer(asked, stream.read(length))
            stream.write(b'HTTP/1.1 %d .\\r\\nContent-Type: %s\\r\\nConnection: close\\r\\n' % (status, kind))
            stream.write(b'Date: %s\\r\\n' % email.utils.formatdate(usegmt=True).encode())
            stream.write(b'Content-Length: %d\\r\\n\\r\\n' % len(content) + content)
            stream.flush()
class Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
";
const SERVE: &str = "Listener(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n";

/// Starts the service that is known as `host`, with a certificate of this authority. `answer` is a function of that name,
/// in Python. What is for hosts in `led` is led to servers at these ports of loopback.
///
/// # Panics
///
/// When it does not start: nothing that needs it is skipped.
pub(super) fn start(
    host: &str,
    authority: &Authority,
    answer: &str,
    led: &[(&str, u16)],
) -> Server {
    Server::start(host, |port, folder| {
        let hosts: Vec<_> = led.iter().map(|(host, _)| *host).chain([host]).collect();
        let names: Vec<_> = hosts.iter().map(|host| format!("DNS:{host}")).collect();
        authority.issue_for(&names.join(","), folder);
        let led: Vec<_> = led
            .iter()
            .map(|(host, port)| format!("'{host}': {port}"))
            .collect();
        let led = led.join(", ");
        let script = format!("{SCRIPT}hosts, led = {hosts:?}, {{{led}}}\n{answer}{SERVE}");
        let mut python = Command::new("python3");
        python.args(["-c", &script, &port.to_string()]).arg(folder);
        python
    })
}
