//! What goes wrong, and how often.

/// What can happen to a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// The connection ends before anything of the request is read.
    Refused,
    /// It ends after half of the request's body has reached the server.
    RequestCut,
    /// The server does what was asked; the connection ends before the answer.
    AnswerLost,
    /// The connection ends after half of the answer's body.
    AnswerCut,
    /// Status 500, without asking the server.
    InternalError,
    /// Status 503, without asking the server.
    Unavailable,
    /// Status 429 with `Retry-After: 1`, without asking the server.
    TooManyRequests,
    /// Up to half a second before the server is asked.
    Slow,
    /// Three seconds before the server is asked.
    VerySlow,
    /// Nothing is answered, nor the server asked, for as long as the client waits.
    Silent,
}

impl Fault {
    /// All that come to an end.
    pub const ALL: [Self; 9] = [
        Self::Refused,
        Self::RequestCut,
        Self::AnswerLost,
        Self::AnswerCut,
        Self::InternalError,
        Self::Unavailable,
        Self::TooManyRequests,
        Self::Slow,
        Self::VerySlow,
    ];
}

/// What happens to requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    /// Nothing.
    Fair,
    /// Any fault, to so many of a hundred requests.
    Mixed(u8),
    /// This fault, to every request.
    Only(Fault),
    /// This fault, to so many requests, and then nothing.
    Next(Fault, u32),
    /// Nothing to so many requests, then this fault to one, and then nothing.
    After(u32, Fault),
    /// Nothing to so many requests, then this fault to every one.
    From(u32, Fault),
}

impl Weather {
    /// What happens to the next request.
    pub(super) fn draw(&mut self, random: &mut fastrand::Rng) -> Option<Fault> {
        match self {
            Self::Fair | Self::Next(_, 0) => None,
            Self::Only(fault) | Self::From(0, fault) => Some(*fault),
            Self::Next(fault, left) => {
                *left -= 1;
                Some(*fault)
            }
            Self::After(0, fault) => {
                let fault = *fault;
                *self = Self::Fair;
                Some(fault)
            }
            Self::After(left, _) | Self::From(left, _) => {
                *left -= 1;
                None
            }
            Self::Mixed(percent) if random.u8(0..100) < *percent => random.choice(Fault::ALL),
            Self::Mixed(_) => None,
        }
    }
}
