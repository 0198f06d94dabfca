//! Whoever uses the application of the demo: an HTTP client over the loopback interface.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::app::{Order, Placed, Status};

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its errors come back from the requests.
        tokio::spawn(connection);
        Ok(Self { address, sender })
    }

    /// Places an order.
    pub(super) async fn place(&mut self, order: &Order) -> anyhow::Result<Placed> {
        self.request("POST", "/orders", serde_json::to_vec(order)?)
            .await
    }

    /// Asks how the backup is.
    pub(super) async fn backup(&mut self) -> anyhow::Result<Status> {
        self.request("GET", "/backup", Vec::new()).await
    }

    async fn request<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<T> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status == StatusCode::OK,
            "the application answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
        serde_json::from_slice(&body).context("the application's answer is not what was expected")
    }
}
