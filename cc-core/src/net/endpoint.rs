//! QUIC endpoints with the transport settings that measured best.
//!
//! Where the numbers are from: a two-core machine, quinn 0.11, one-way bulk. Windows of 1 to
//! 2 MiB beat larger ones (64 MiB costs a third); the connection's own window stays at quinn's
//! default. Jumbo datagrams help up to what the link carries, and segmentation offload only
//! while ten datagrams stay under 64 KiB.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ids::{Handle, NodeIndex};
use crate::limits;
use crate::net::identity::{self, Credentials, IdentityError, Role, Subject};

/// The window of one stream, in bytes.
const STREAM_WINDOW: u32 = 2 << 20;
/// What may be sent and not acknowledged, in bytes.
const SEND_WINDOW: u64 = 2 << 20;
/// Kernel buffers of the UDP socket, in bytes; the kernel may give less.
const SOCKET_BUFFER: usize = 4 << 20;
/// Datagrams over loopback: the largest that IPv4's loopback carries.
const LOOPBACK_MTU: u16 = 65_507;
/// What may be under way at first over loopback, in bytes. A probe for the largest datagram alone
/// would exceed the usual 14 KiB and hold up everything else, a connection's close included.
const LOOPBACK_INITIAL_WINDOW: u64 = 4 * LOOPBACK_MTU as u64;
/// Datagrams over a network: jumbo frames less headers; path discovery finds what passes.
const NETWORK_MTU: u16 = 6_500;

/// The priority of lanes over all other streams of a connection, which have quinn's default of 0.
pub const LANE_PRIORITY: i32 = 1;

/// An endpoint that could not be made, or a connection that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The socket.
    #[error("UDP socket {0}: {1}")]
    Socket(SocketAddr, std::io::Error),
    /// The credentials.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The attempt could not start.
    #[error("connect to {0}: {1}")]
    Connect(SocketAddr, quinn::ConnectError),
    /// The handshake failed.
    #[error("connect to {0}: {1}")]
    Handshake(SocketAddr, quinn::ConnectionError),
    /// No answer in time.
    #[error("connect to {0}: no answer within {1} s")]
    Timeout(SocketAddr, u64),
}

fn transport(loopback: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(if loopback { LOOPBACK_MTU } else { NETWORK_MTU });
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(SEND_WINDOW)
        .mtu_discovery_config(Some(mtu))
        .enable_segmentation_offload(!loopback)
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(limits::KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(limits::IDLE).ok());
    if loopback {
        let mut cubic = quinn::congestion::CubicConfig::default();
        cubic.initial_window(LOOPBACK_INITIAL_WINDOW);
        config.congestion_controller_factory(Arc::new(cubic));
    }
    config
}

fn socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // A smaller buffer than asked for is slower and not an error.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn endpoint(
    address: SocketAddr,
    server: Option<quinn::ServerConfig>,
) -> Result<quinn::Endpoint, EndpointError> {
    let failed = |e| EndpointError::Socket(address, e);
    let socket = socket(address).map_err(failed)?;
    let mut config = EndpointConfig::default();
    // The error is for sizes below 1200.
    let _ = config.max_udp_payload_size(LOOPBACK_MTU);
    quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime)).map_err(failed)
}

/// An agent's endpoint: accepts drivers, tools and other agents of its cluster.
///
/// # Errors
/// Fails when the address cannot be bound or the credentials cannot be read.
pub fn serve(
    address: SocketAddr,
    credentials: &Credentials,
) -> Result<quinn::Endpoint, EndpointError> {
    let tls = identity::server_tls(credentials)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport(address.ip().is_loopback())));
    endpoint(address, Some(config))
}

/// An endpoint that only connects.
///
/// # Errors
/// Fails when no socket can be had.
pub fn client(towards: IpAddr) -> Result<quinn::Endpoint, EndpointError> {
    let any: IpAddr = match towards {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    endpoint(SocketAddr::new(any, 0), None)
}

/// Settings for connections to the agents of one cluster.
///
/// # Errors
/// Fails when the credentials cannot be read.
pub fn client_config(
    credentials: &Credentials,
    loopback: bool,
) -> Result<quinn::ClientConfig, EndpointError> {
    let mut config = quinn::ClientConfig::new(Arc::new(identity::client_tls(credentials)?));
    config.transport_config(Arc::new(transport(loopback)));
    Ok(config)
}

/// Connects to the agent of a node, whose certificate must say that it is that node's.
///
/// # Errors
/// Fails when there is no answer within [`limits::CONNECT_WAIT`], or another one than the
/// node's.
pub async fn connect(
    endpoint: &quinn::Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
    handle: Handle,
    node: NodeIndex,
) -> Result<quinn::Connection, EndpointError> {
    let name = Subject {
        handle,
        role: Role::Agent(node),
    }
    .dns_name();
    let connecting = endpoint
        .connect_with(config, address, &name)
        .map_err(|e| EndpointError::Connect(address, e))?;
    tokio::time::timeout(limits::CONNECT_WAIT, connecting)
        .await
        .map_err(|_| EndpointError::Timeout(address, limits::CONNECT_WAIT.as_secs()))?
        .map_err(|e| EndpointError::Handshake(address, e))
}
